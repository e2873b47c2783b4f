"""The command that runs an app's tasks, in one process or several; without HTTP unless the exporter serves it, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import click

from flowrra.app import Flowrra
from flowrra.command.apps import described, load_app
from flowrra.command.group import flowrra
from flowrra.command.log_writer import log_to_stderr
from flowrra.command.processes import Processes, end_with_parent
from flowrra.command.reload import RELOADED, SourceWatch
from flowrra.config import QUEUES_AS_TEXT, Queues, read_queues
from flowrra.ranges import Range
from flowrra.urls import quoted, without_credentials

logger = logging.getLogger(__name__)

# What serves a worker registers itself by this name, as flowrra knows no exporter: see flowrra_exporter.worker.
SERVICES = "flowrra.worker_services"
_HIGHEST_PORT = 65535
# What the exporter takes, too, so that a worker's flags don't depend on whether it is served.
_SECONDS = Range(0, 1e9, is_open=True, unit="seconds")


def _seconds(_context: click.Context, parameter: click.Parameter, value: float) -> float:
    """The value of an option that is a time.

    Raises:
        BadParameter: It is not above 0, or none, as NaN is; or more than the exporter takes.
    """
    try:
        _SECONDS.check(parameter.opts[0], value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@flowrra.command("worker")
@click.argument("target", metavar="MODULE:APP", envvar="FLOWRRA_APP")
@click.option("--queues", metavar="A,B", help="Queues to take from, in order, or shares: mail=3,default=1.")
@click.option("--io-workers", type=click.IntRange(1), metavar="N", help="Async tasks that run at once.")
@click.option("--cpu-workers", type=click.IntRange(1), metavar="N", help="Processes for CPU-bound tasks.")
@click.option("--shutdown-timeout", callback=_seconds, type=float, default=30.0, show_default=True, metavar="SECONDS")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Processes that do so, each with these workers.")
@click.option(
    "--exporter",
    metavar="ADDRESS",
    help="Serve metrics, probes and console, as at :9464; of several processes each at the next port.",
)
@click.option("--reload", is_flag=True, help="Start anew when the app's source changes: for development.")
@click.option("--process-number", type=click.IntRange(0), default=0, hidden=True, help="Of several, from 0.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when standard input does.")
@log_to_stderr()
def worker(
    target: str,
    queues: str | None,
    shutdown_timeout: float,
    processes: int | None,
    exporter: str | None,
    reload: bool,
    process_number: int,
    with_parent: bool,
    **slots: int | None,
) -> int:
    """Runs the tasks of an app until SIGTERM or Ctrl-C, and lets them finish. Exit status 1 if tasks were lost."""
    changes: dict[str, Any] = {name: number for name, number in slots.items() if number is not None}
    if queues is not None:
        changes["queues"] = _read_queues(queues)
    if with_parent:
        end_with_parent()
    elif processes is not None or reload:
        flags = {"queues": queues, "shutdown_timeout": shutdown_timeout, **slots}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None]
        command = ["-m", "flowrra", "worker", target, "--with-parent", *words, *["--reload"] * reload]
        addresses = [[]] * (processes or 1) if exporter is None else _addresses(exporter, processes or 1)
        commands = [[*command, *address] for address in addresses]
        return asyncio.run(Processes(commands, shutdown_timeout, reloads=reload).run())

    def run() -> int:
        return _run(target, changes, shutdown_timeout, exporter, process_number)

    return _run_until_change(run, shutdown_timeout) if reload else run()


def _addresses(first: str, count: int) -> list[list[str]]:
    """The options of each process: a port that is given counts up, as two processes can't answer at one. Other ports
    are settings of the exporter's own, which is told the number to count them up by.

    Raises:
        UsageError: There is no such port.
    """
    host, _, port = first.rpartition(":")
    if not (port.isascii() and port.isdigit()) or int(port) + count - 1 > _HIGHEST_PORT:
        raise click.UsageError(
            f"--exporter: got {quoted(first)}; expected host:port, such as ':9464', with {count} ports from there on"
        )
    step = 0 if int(port) == 0 else 1  # at 0 each takes a free one
    return [[f"--exporter={host}:{int(port) + step * at}", f"--process-number={at}"] for at in range(count)]


def _run_until_change(run: Callable[[], int], shutdown_timeout: float) -> int:
    """Run it until a source file changes; what can't be started waits until one does."""
    watch = SourceWatch(shutdown_timeout)
    watch.start()
    try:
        status = run()
    except (click.ClickException, ValueError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        watch.look_for_mend(error)
        logger.error("%s; waiting for a change of the source", without_credentials(message))
        watch.wait()
        return RELOADED
    return RELOADED if watch.has_changed else status


def _run(target: str, changes: dict[str, Any], shutdown_timeout: float, exporter: str | None, number: int) -> int:
    def load() -> Flowrra:
        app = load_app(target)
        app.configure_executor(**changes)
        return app

    if exporter is not None:
        return int(_exporter()(load, target, exporter, shutdown_timeout, number))
    app = load()
    try:
        app.run(shutdown_timeout=shutdown_timeout)
    except Exception as error:
        if not app.has_started:
            raise click.UsageError(f"Starting the app failed: {described(error)}") from error
        logger.exception("exit status 1: stopping the app failed")
        status = 1
    else:
        status = 0
    if app.lost_at_stop:
        logger.error("exit status 1: the stop cancelled %d tasks that the app had accepted", app.lost_at_stop)
        status = 1
    return status


def _exporter() -> Callable[[Callable[[], Flowrra], str, str, float, int], int]:
    """What runs a worker and serves it.

    Raises:
        UsageError: It is not installed.
    """
    for service in entry_points(group=SERVICES, name="exporter"):
        try:
            return service.load()  # type: ignore[no-any-return]
        except ModuleNotFoundError as error:
            raise click.UsageError(
                f"--exporter: {error.name} is not installed; run: pip install 'flowrra[exporter]'"
            ) from error
    raise click.UsageError("--exporter: the exporter is not installed; run: pip install 'flowrra[exporter]'")


def _read_queues(text: str) -> Queues:
    try:
        return read_queues(text)
    except ValueError:
        raise click.UsageError(f"--queues must be {QUEUES_AS_TEXT}, not {quoted(text)}") from None
