"""The ``flowrra`` group of commands, and the options that all of them share."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from flowrra._version import __version__
from flowrra.command.apps import Session, app_options, choose_app
from flowrra.command.suggestions import did_you_mean
from flowrra.task import TaskStatus

PROGRAM = "flowrra"
_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Commands(click.Group):
    """A group that says what may have been meant by a mistyped word."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a suggestion."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r:.100}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    PROGRAM, cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def flowrra(ctx: click.Context) -> None:
    """Looks at the tasks of a Flowrra app, steers them, and runs them.

    The app is given behind the command, as in 'flowrra stats -A shop.tasks:app', or only the server that it uses, as in
    'flowrra stats --broker redis://localhost:6379/0'.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def app_command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command on an app: it is called with a :class:`Session` and its own parameters, and returns the
    exit status, None for 0."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(
            target: str | None,
            broker: str | None,
            backend: str | None,
            namespace: str | None,
            partitions: int | None,
            as_json: bool,
            **given: Any,
        ) -> int | None:
            app = choose_app(target, broker, backend=backend, namespace=namespace, partitions=partitions)
            return function(Session(app, as_json), **given)

        command = flowrra.command(name)(run)
        command.params += app_options()
        return command

    return decorate


def read_moment(ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    """A time in ISO format, local if it has no zone, or how long ago it is: 30s, 15m, 2h, 7d.

    Raises:
        BadParameter: It is none.
    """
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        wanted = "such as 2026-11-29T12:00, or 30s, 15m, 2h or 7d for so long ago"
        raise click.BadParameter(f"{text!r:.100} is no time, {wanted}", ctx, param) from None


STATUS = click.Choice([str(status) for status in TaskStatus])
name_option = click.option("--name", metavar="NAME", help="Tasks of that name.")
queue_option = click.option("--queue", metavar="QUEUE", help="Tasks of that queue.")
since_option = click.option(
    "--since", metavar="TIME", callback=read_moment, help="Submitted since that time, or for so long: 15m, 2h, 7d."
)
worker_option = click.option("--worker", metavar="ID", help="Tasks whose latest attempt that worker runs, or ran.")
reason_option = click.option("--reason", metavar="TEXT", help="Dead tasks whose reason contains that text.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Don't ask.")


def limit_option(default: int) -> Callable[[Any], Any]:
    """``--limit``, with a default."""
    return click.option("--limit", type=click.IntRange(1), default=default, show_default=True, help="Most tasks.")


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        UsageError: Nobody can be asked.
        Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: give --yes")
    click.confirm(question, abort=True, err=True)
