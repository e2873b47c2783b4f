"""Tasks: those that are registered, and the records of those that were submitted."""

from __future__ import annotations

from flowrra.app import Flowrra
from flowrra.exceptions import BackendError
from flowrra.management.answers import RegisteredTask, SubmittedTask, TaskInfo, TaskOutcome, TaskRecord
from flowrra.registry import TaskDefinition
from flowrra.task import TaskResult, TaskStatus


def check_limit(limit: int | None) -> None:
    """Refuse a number of tasks that no list can have.

    Raises:
        ValueError: It is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, it is {limit}")


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
    return {
        **registered_task(definition),
        "module": definition.func.__module__,
        "qualname": definition.func.__qualname__,
        "description": definition.description,
        "timeout": definition.timeout,
        "priority": definition.priority,
        "backoff": definition.backoff,
        "jitter": definition.jitter,
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
    }


async def list_submitted(app: Flowrra, limit: int | None) -> list[SubmittedTask]:
    """Tasks that have not started."""
    return [_submitted_task(record) for record in await _records(app, TaskStatus.PENDING, limit)]


async def list_records(app: Flowrra, status: TaskStatus, limit: int | None) -> list[TaskRecord]:
    """Tasks in a state that they come to after their start."""
    return [_task_record(record) for record in await _records(app, status, limit)]


async def _records(app: Flowrra, status: TaskStatus, limit: int | None) -> list[TaskResult]:
    check_limit(limit)
    try:
        return await app.results.list_by_status(status, limit)
    except NotImplementedError:  # listing is optional for a result backend
        return []
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"The tasks could not be listed: {type(error).__name__}: {error}") from error


def _submitted_task(record: TaskResult) -> SubmittedTask:
    return {
        "task_id": record.task_id,
        "task_name": record.task_name,
        "status": record.status.value,
        "submitted_at": record.submitted_at,
        "args": record.args,
        "kwargs": record.kwargs,
        "retries": record.retries,
    }


def _task_record(record: TaskResult) -> TaskRecord:
    return {
        **_submitted_task(record),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "result": record.result if record.is_success else None,
        "error": record.error,
    }
