"""Changes of tasks, as they happen."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from flowrra.app import Flowrra
from flowrra.arguments import check_text
from flowrra.changes import Change
from flowrra.management.answers import TaskEvent, WatchedTask
from flowrra.management.tasks import task_progress
from flowrra.task import TaskResult


async def watch(
    app: Flowrra, task: str | None, name: str | None, queue: str | None, after: str | None
) -> AsyncGenerator[TaskEvent, None]:
    """The changes of the tasks for which all of that holds, and what was missed of any."""
    for argument, text in (("task", task), ("name", name), ("queue", queue), ("after", after)):
        if text is not None:
            check_text(argument, text)
    source = app.results.watch(after)
    async with aclosing(app.events.watchers.watch(after) if source is None else source) as changes:
        async for change in changes:
            if change.record is None or _is_meant(change.record, task, name, queue):
                yield _event(change)


def _is_meant(record: TaskResult, task: str | None, name: str | None, queue: str | None) -> bool:
    return task in (None, record.task_id) and name in (None, record.task_name) and queue in (None, record.queue)


def _event(change: Change) -> TaskEvent:
    record = change.record
    return {
        "id": change.id,
        "type": "missed" if record is None else "change",
        "task": None if record is None else _watched_task(record),
        "missed": change.missed,
    }


def _watched_task(record: TaskResult) -> WatchedTask:
    return {
        "task_id": record.task_id,
        "task_name": record.task_name,
        "status": record.status.value,
        "queue": record.queue,
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "retries": record.retries,
        "error": record.error,
        "worker": record.worker,
        "progress": task_progress(record),
        "retry_of": record.retry_of,
    }
