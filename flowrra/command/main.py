"""Runs the command; an error is one line on standard error, without the passwords of URLs.

Exit status: 0 done; 1 not done, not found or unhealthy; 2 used wrongly; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from flowrra.command import queues, schedules, tasks, watching, worker, workers  # noqa: F401 - each adds its commands
from flowrra.command.group import PROGRAM, flowrra
from flowrra.exceptions import FlowrraError, ResultNotFoundError, TaskNotFoundError
from flowrra.printable import printable
from flowrra.urls import without_credentials

# Characters of an error's line.
MOST_OF_AN_ERROR = 1000
NOT_DONE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, the process's own by default; returns the exit status."""
    # Its own warnings are no answers; `worker` gives it a handler.
    logging.getLogger("flowrra").addHandler(logging.NullHandler())
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except OSError as error:
        # What the interpreter would flush at its end can't be written, either.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as click has it, where it comes earlier: who reads has seen enough
            return NOT_DONE
        return _fail(str(error), NOT_DONE)
    return status


def _open_closed_streams() -> None:
    """What the caller has closed (``>&-``) is there and leads nowhere, for us and for what we call."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return int(flowrra.main(args=arguments, prog_name=PROGRAM, standalone_mode=False) or 0)
    except click.ClickException as error:
        return _fail(error.format_message(), USAGE_ERROR)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except TaskNotFoundError as error:
        return _fail(f"{error}: expected a task of the app that --app names", NOT_DONE)
    except ResultNotFoundError as error:
        return _fail(str(error), NOT_DONE)
    except FlowrraError as error:
        return _fail(str(error), NOT_DONE)
    except (TypeError, ValueError) as error:  # what the Management API refuses
        return _fail(str(error), USAGE_ERROR)


def _fail(message: str, status: int) -> int:
    click.echo(f"{PROGRAM}: {printable(without_credentials(message))[:MOST_OF_AN_ERROR]}", err=True)
    return status
