"""Tasks: those that are registered, and the records of those that were submitted."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Awaitable, Mapping
from typing import TypeVar, cast

from flowrra.app import Flowrra
from flowrra.arguments import check_id
from flowrra.backends.listing import Page, TaskFilter
from flowrra.exceptions import BackendError
from flowrra.executors.workers import wall_clock
from flowrra.management.answers import (
    ListedTask,
    RegisteredTask,
    RunningAttempt,
    SubmittedTask,
    TaskAttempt,
    TaskDetails,
    TaskInfo,
    TaskOutcome,
    TaskPage,
    TaskProgress,
    TaskRecord,
)
from flowrra.ranges import COUNT, Range, shown
from flowrra.registry import TaskDefinition
from flowrra.signatures import function_of
from flowrra.task import Attempt, TaskResult, TaskStatus

Answer = TypeVar("Answer")


# How many tasks a list may have.
LIMIT = Range(0, sys.maxsize, is_whole=True)


def check_limit(limit: int | None) -> None:
    """Refuse a number of tasks that no list can have; None is all.

    Raises:
        TypeError: It is no integer.
        ValueError: It is negative.
    """
    if limit is not None:
        LIMIT.check("limit", limit)


def checked_status(status: TaskStatus | str | None) -> TaskStatus | None:
    """The status of that name; None is any.

    Raises:
        ValueError: There is no such status.
    """
    if status is None:
        return None
    try:
        return TaskStatus(status)
    except ValueError:
        raise ValueError(f"status must be {', '.join(TaskStatus)} or None, not {shown(status)}") from None


def registered_task(definition: TaskDefinition) -> RegisteredTask:
    """A registered task in a list."""
    return {
        "name": definition.name,
        "cpu_bound": definition.cpu_bound,
        "max_retries": definition.max_retries,
        "retry_delay": definition.retry_delay,
    }


def task_info(definition: TaskDefinition) -> TaskInfo:
    """All about a registered task."""
    written = function_of(definition.func)
    return {
        **registered_task(definition),
        "module": written.__module__,
        "qualname": written.__qualname__,
        "description": definition.description,
        "timeout": definition.timeout,
        "priority": definition.priority,
        "backoff": definition.backoff,
        "jitter": definition.jitter,
        "queue": definition.queue,
    }


def task_outcome(record: TaskResult) -> TaskOutcome:
    """What is known of one submitted task."""
    return {
        "task_id": record.task_id,
        "status": record.status,
        "result": record.result,
        "error": record.error,
        "completed_at": record.finished_at if record.is_complete else None,
        "task_name": record.task_name,
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "retries": record.retries,
        "traceback": record.traceback,
        "queue": record.queue,
    }


def running_attempts(app: Flowrra, limit: int | None) -> list[RunningAttempt]:
    """What runs in this process, the longest running first."""
    check_limit(limit)
    running = [
        (job.started_at, kind, job) for kind, executor in app.executors.items() for job in executor.running_jobs()
    ]
    running.sort(key=lambda each: each[0])
    now = time.monotonic()
    return [
        {
            "task_id": job.task.id,
            "task_name": job.definition.name,
            "executor": kind,
            "attempt": job.task.attempt,
            "started_at": wall_clock(started_at),
            "elapsed": max(0.0, now - started_at),
            "timeout": job.task.timeout,
            "worker": app.id,
            "queue": job.task.queue,
        }
        for started_at, kind, job in running[:limit]
    ]


async def list_submitted(app: Flowrra, limit: int | None) -> list[SubmittedTask]:
    """Tasks that have not started."""
    return [_submitted_task(record) for record in await _records(app, TaskStatus.PENDING, limit)]


async def list_records(app: Flowrra, status: TaskStatus, limit: int | None) -> list[TaskRecord]:
    """Tasks in a state that they come to after their start."""
    return [_task_record(record) for record in await _records(app, status, limit)]


async def _records(app: Flowrra, status: TaskStatus, limit: int | None) -> list[TaskResult]:
    check_limit(limit)
    return await _answer("listed", app.results.list_by_status(status, limit), [])


async def _answer(done: str, asking: Awaitable[Answer], nothing: Answer | None = None) -> Answer:
    """What a result backend answers; ``nothing``, if there is that, from one that doesn't do it, as lists are optional.

    Raises:
        BackendError: The results could not be read, whatever a backend of a user's own raises; or it doesn't do that.
    """
    try:
        return await asking
    except NotImplementedError as error:
        if nothing is None:
            why = f": {error}" if str(error) else ""
            raise BackendError(f"The tasks can't be {done} with this result backend{why}") from error
        return nothing
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"The tasks could not be {done}: {type(error).__name__}: {error}") from error


async def list_tasks(app: Flowrra, wanted: TaskFilter, limit: int, cursor: str | None) -> TaskPage:
    """A page of the tasks that are meant."""
    COUNT.check("limit", limit)
    page = await find(app, wanted, limit, cursor, Page([], None))
    return {"tasks": [_listed_task(record) for record in page.records], "next": page.cursor}


async def find(app: Flowrra, wanted: TaskFilter, limit: int, cursor: str | None, nothing: Page | None = None) -> Page:
    """A page of the records that are meant; ``nothing``, if there is that, from a backend that can't list.

    Raises:
        BackendError: The results could not be read.
        TypeError, ValueError: The cursor is none.
    """
    wanted.first(cursor)  # what is no cursor is the caller's mistake, and no failure of the backend
    return await _answer("listed", app.results.find(wanted, limit, cursor), nothing)


async def count_tasks(app: Flowrra, by: str) -> dict[str, int]:
    """How many tasks are known, by status or by name."""
    if by not in ("status", "name"):
        raise ValueError(f"by must be 'status' or 'name', not {by!r:.100}")
    counts: Counter[str] = Counter() if by == "name" else Counter(dict.fromkeys(map(str, TaskStatus), 0))
    found: Mapping[tuple[TaskStatus, str | None], int] = await _answer("counted", app.results.count())
    for (status, name), count in found.items():
        counts[str(status) if by == "status" else name or ""] += count
    return dict(counts)


async def task_details(app: Flowrra, task_id: str) -> TaskDetails | None:
    """All about a submitted task; None if it is unknown."""
    check_id("task_id", task_id)
    record = await app.get_result(task_id)
    if record is None:
        return None
    return {
        **_listed_task(record),
        "traceback": record.traceback,
        "attempts": [_attempt(attempt) for attempt in record.attempts] + _latest_attempt(record),
        "retry_of": record.retry_of,
        "retried_as": await app.results.retried_as(task_id),
    }


def _attempt(attempt: Attempt) -> TaskAttempt:
    return cast(TaskAttempt, {**attempt._asdict(), "outcome": attempt.outcome.value})


def _latest_attempt(record: TaskResult) -> list[TaskAttempt]:
    """The attempt that a record itself tells of, unless it is among those that have ended, or never began."""
    if not record.tells_of_attempt:
        return []
    return [
        {
            "number": record.attempt_number,
            "worker": record.worker,
            "started_at": record.started_at,
            "finished_at": record.finished_at,
            "outcome": record.status.value if record.is_complete else None,
            "error": record.error,
            "traceback": record.traceback,
        }
    ]


def _listed_task(record: TaskResult) -> ListedTask:
    return {
        **_task_record(record),
        "queue": record.queue,
        "worker": record.worker,
        "progress": task_progress(record),
        "attempts_begun": record.attempts_begun,
        "attempt_finished_at": record.attempt_finished_at,
    }


def task_progress(record: TaskResult) -> TaskProgress | None:
    """What its latest attempt has told of its progress."""
    return None if record.progress is None else cast(TaskProgress, record.progress._asdict())


def _submitted_task(record: TaskResult) -> SubmittedTask:
    return {
        "task_id": record.task_id,
        "task_name": record.task_name,
        "status": record.status.value,
        "submitted_at": record.submitted_at,
        "args": record.args,
        "kwargs": record.kwargs,
        "retries": record.retries,
        "queue": record.queue,
    }


def _task_record(record: TaskResult) -> TaskRecord:
    return {
        **_submitted_task(record),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "result": record.result if record.is_success else None,
        "error": record.error,
    }
