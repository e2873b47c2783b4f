"""The command line:

Parses flags, runs the command, turns errors into one line on standard error and status 2.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flowrra_exporter._version import __version__
from flowrra_exporter.errors import UsageError
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.settings import OPTIONS, Option, Settings, load_settings

if TYPE_CHECKING:
    import click

PROGRAM = "flowrra-exporter"
USAGE_ERROR = 2
_EXTRA = ("aiohttp", "click", "prometheus_client", "opentelemetry")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (the process's own by default); returns the exit status."""
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _fail(f"{error.name} is not installed; run: pip install 'flowrra[exporter]'")


def _run(arguments: Sequence[str] | None) -> int:
    import click

    try:
        return int(_parser().main(args=arguments, prog_name=PROGRAM, standalone_mode=False) or 0)
    except click.Abort:
        return _fail("aborted")
    except click.ClickException as error:
        return _fail(error.format_message())


def _parser() -> click.Command:
    import click

    target = click.Argument(["target"], metavar="MODULE:APP")
    command = click.Command(
        PROGRAM,
        params=[*(_click_option(option) for option in OPTIONS), target],
        callback=_start,
        help="Runs the Flowrra app MODULE:APP, and serves its metrics and health. MODULE:APP is an app, or a "
        "function that returns one. Each flag is also an environment variable: --web.listen-address is "
        "FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS.",
    )
    return click.version_option(__version__, prog_name=PROGRAM)(command)


def _click_option(option: Option) -> click.Option:
    import click

    names = [option.flag, option.name]
    if option.switch:
        return click.Option(names, is_flag=True, help=option.help)
    return click.Option(names, multiple=True, metavar=option.metavar, help=option.help)


def _start(target: str, **given: Any) -> int:
    """Runs the command; `given` has each flag's texts, for a switch whether it was given."""
    debug = bool(given["debug"])
    switches = {option.name: ("true",) if given[option.name] else () for option in OPTIONS if option.switch}
    texts = {**given, **switches}
    try:
        settings = load_settings(texts, os.environ)
        debug = settings.debug
        return _execute(target, settings)
    except UsageError as error:
        if debug:
            sys.stderr.write(mask_secrets("".join(traceback.format_exception(error))))
        return _fail(str(error))


def _execute(target: str, settings: Settings) -> int:
    from flowrra_exporter.command import Command

    return Command(target, settings).run()


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)  # noqa: T201  # the one line for the user
    return USAGE_ERROR
