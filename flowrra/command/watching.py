"""The command that prints changes of tasks as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import Any, Self, cast

import click

from flowrra.command.apps import Session
from flowrra.command.group import app_command, name_option, queue_option
from flowrra.command.output import described_progress, print_json, shown
from flowrra.command.terminal import Tell, has_bars, progress_bar
from flowrra.exceptions import ResultNotFoundError
from flowrra.management import FlowrraManager
from flowrra.management.answers import TaskEvent, WatchedTask
from flowrra.task import TaskStatus

# Seconds without a change after which a task is looked at: it may have come to its end before it was watched.
_LOOK_EVERY = 1.0


@app_command("watch")
@click.option("--task", metavar="ID", help="Only that task, until it has finished: exit status 0 if it succeeded.")
@name_option
@queue_option
def watch(session: Session, task: str | None, **wanted: Any) -> int:
    """Prints changes of tasks as they happen, until Ctrl-C."""

    async def follow(manager: FlowrraManager) -> int:
        async with aclosing(manager.watch(task=task, **wanted)) as events:
            if task is not None:
                return await _follow_one(session, manager, task, events)
            async for event in events:
                _print_event(session, event)
        return 0

    return session.ask(follow, results=True)


async def _follow_one(
    session: Session, manager: FlowrraManager, task_id: str, events: AsyncGenerator[TaskEvent, None]
) -> int:
    """Print a task's changes until it has finished; on a terminal, how far it is becomes a bar."""
    status = None
    with _Bar() as bar:
        async with aclosing(_changes_of_one(manager, task_id, events)) as changes:
            async for event in changes:
                task = event["task"]
                if session.as_json or not bar.shows(task):
                    _print_event(session, event)
                status = task and task["status"]
    return 0 if status == TaskStatus.SUCCESS else 1


async def _changes_of_one(
    manager: FlowrraManager, task_id: str, events: AsyncGenerator[TaskEvent, None]
) -> AsyncGenerator[TaskEvent, None]:
    """What a task is like now, and what is told of it until it has finished.

    Raises:
        ResultNotFoundError: Nothing is known of it.
    """
    last: TaskEvent | None = None
    next_event = asyncio.ensure_future(anext(events))
    try:
        while last is None or last["task"] is None or last["task"]["finished_at"] is None:
            if next_event.done():
                event = next_event.result()
                next_event = asyncio.ensure_future(anext(events))
            else:
                event = await _look(manager, task_id)
            if last is None or event["task"] != last["task"]:
                yield event
                last = event
            await asyncio.wait({next_event}, timeout=_LOOK_EVERY)
    finally:
        next_event.cancel()
        await asyncio.wait({next_event})


async def _look(manager: FlowrraManager, task_id: str) -> TaskEvent:
    """What a task is like now, as if it had changed."""
    found = await manager.get_task(task_id)
    if found is None:
        raise ResultNotFoundError(task_id)
    task = cast(WatchedTask, {key: found[key] for key in WatchedTask.__annotations__})  # type: ignore[literal-required]
    return {"id": "", "type": "change", "task": task, "missed": 0}


class _Bar:
    """How far a task is, on a terminal."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._tell: Tell | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def shows(self, task: WatchedTask | None) -> bool:
        """Whether the bar tells of this state. If it doesn't, it is closed."""
        progress = task and task["progress"]
        if task is None or task["finished_at"] is not None or not progress or not progress["total"] or not has_bars():
            self._shown.close()
            self._tell = None
            return False
        if self._tell is None:
            label = f"{shown(task['task_id'])}  {shown(task['task_name'])}"
            self._tell = self._shown.enter_context(progress_bar(label, progress["total"], fewest=0))
        self._tell(progress["done"])
        return True


def _print_event(session: Session, event: TaskEvent) -> None:
    if session.as_json:
        return print_json(event, indent=None)
    task = event["task"]
    if task is None:
        return click.echo(f"{shown(event['missed'])} changes were missed")
    at = task["finished_at"] or task["started_at"] or task["submitted_at"]
    told = task["error"] or described_progress(task["progress"])
    line = (shown(each) for each in (at, task["task_id"], task["task_name"], task["status"], told or ""))
    return click.echo("  ".join(line).rstrip())
