"""Commands on schedules. They are in a store, which is asked whether the app has a broker or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from flowrra.command.apps import Session, described
from flowrra.command.group import app_command
from flowrra.command.output import print_json, print_table
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager

Answer = TypeVar("Answer")


def _ask(session: Session, question: Callable[[FlowrraManager], Awaitable[Answer]]) -> Answer:
    """What the app itself answers, which is not started: its producer has no scheduler.

    Raises:
        UsageError: It has none, either.
        BackendError: The store could not be read.
    """
    if (scheduler := session.app.scheduler) is None:
        raise click.UsageError("The app has no scheduler; name it with --app if its code makes one")

    async def ask() -> Answer:
        try:
            return await question(FlowrraManager(session.app))
        except Exception:
            # The thread of a connection that could not be opened still tells this loop that it ends.
            await asyncio.sleep(0.1)
            raise
        finally:
            await scheduler.backend.close()

    try:
        return asyncio.run(ask())
    except Exception as error:
        raise BackendError(f"The schedules could not be read: {described(error)}") from error


@app_command("schedules")
@click.option("--enabled", is_flag=True, help="Only those that are enabled.")
def list_schedules(session: Session, enabled: bool) -> None:
    """Lists schedules, the oldest first."""
    schedules = _ask(session, lambda manager: manager.list_schedules(enabled))
    if session.as_json:
        return print_json(schedules)
    print_table(
        ("ID", "TASK", "SCHEDULE", "ENABLED", "NEXT RUN", "LAST RUN", "BROKEN"),
        [
            (
                each["id"],
                each["task_name"],
                f"{each['schedule_type']} {each['schedule']}",
                each["enabled"],
                each["next_run_at"],
                each["last_run_at"],
                each["broken"],
            )
            for each in schedules
        ],
    )
    return None


@app_command("runs")
@click.argument("schedule_id", metavar="[SCHEDULE]", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most runs.")
def list_runs(session: Session, schedule_id: str | None, limit: int) -> None:
    """Lists the latest runs of a schedule, or of all."""
    runs = _ask(session, lambda manager: manager.list_schedule_runs(schedule_id, limit))
    if session.as_json:
        return print_json(runs)
    print_table(
        ("SCHEDULE", "DUE", "SUBMITTED", "RESULT", "TASK", "ERROR"),
        [
            (each["schedule_id"], each["due"], each["fired"], each["result"], each["task_id"], each["error"])
            for each in runs
        ],
    )
    return None
