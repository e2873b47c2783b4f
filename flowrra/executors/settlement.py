"""Decides what became of an attempt, writes it on the task's record, and counts it. Nothing here waits."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from flowrra.exceptions import Reject, TaskNotFoundError, TaskTimeoutError
from flowrra.executors.failures import describe, format_traceback, retry_delay
from flowrra.executors.job import Interrupt, Job
from flowrra.task import TaskStatus
from flowrra.telemetry import CANCELLED, FAILED, RELEASED, RETRIED, RETRYING, SUCCEEDED, TIMED_OUT

logger = logging.getLogger(__name__)


def succeed(job: Job, value: Any) -> None:
    """Write an attempt's result on the record."""
    record = job.record
    record.status, record.result, record.finished_at = TaskStatus.SUCCESS, value, datetime.now(UTC)


def fail(job: Job, error: BaseException, *, can_give_back: bool) -> float | None:
    """Write on the record what became of an attempt that did not succeed.

    Args:
        job: Whose attempt it was.
        error: What it ended with.
        can_give_back: Whether a stopping worker can return the task, for another one to run it.

    Returns:
        Seconds until the next attempt; None if there is to be none.
    """
    record, now = job.record, datetime.now(UTC)
    if job.interrupt is Interrupt.STOP and can_give_back:
        record.status, record.started_at = TaskStatus.PENDING, None
        return None
    if job.interrupt in (Interrupt.CANCEL, Interrupt.STOP):
        reason = "by request" if job.interrupt is Interrupt.CANCEL else "the app stopped"
        record.status, record.finished_at = TaskStatus.CANCELLED, now
        record.error = f"cancelled while running: {reason}"
        return None
    error = _as_seen(job, error)
    record.error, record.traceback = describe(error), format_traceback(error)
    if _is_worth_a_retry(job, error):
        return _plan_retry(job)
    record.status, record.finished_at = TaskStatus.FAILED, now
    logger.warning(
        "task failed task=%s id=%s attempts=%d error=%r", job.task.name, job.task.id, job.task.attempt, record.error
    )
    return None


def _plan_retry(job: Job) -> float:
    task, record = job.task, job.record
    delay = retry_delay(task)
    logger.info(
        "task failed, will be retried task=%s id=%s attempt=%d delay=%.3f error=%r",
        task.name,
        task.id,
        task.attempt,
        delay,
        record.error,
    )
    task.current_retry += 1
    record.status, record.retries = TaskStatus.RETRYING, task.current_retry
    return delay


def _as_seen(job: Job, error: BaseException) -> BaseException:
    """The error as the user should see it: a cancellation by the time limit is a time-out."""
    if job.interrupt is Interrupt.TIMEOUT and isinstance(error, asyncio.CancelledError):
        timeout = TaskTimeoutError(job.task.id, job.task.timeout)
        timeout.__cause__ = error
        return timeout
    return error


def _is_worth_a_retry(job: Job, error: BaseException) -> bool:
    task, retry_on = job.task, job.definition.retry_on
    if task.current_retry >= task.max_retries or isinstance(error, Reject):
        return False
    if isinstance(error, TaskNotFoundError) and error.task_name == task.name:  # it was unregistered meanwhile
        return False
    # A cancellation that nobody here asked for is a failure like any other.
    return isinstance(error, retry_on) or (retry_on is Exception and isinstance(error, asyncio.CancelledError))


def count(job: Job, error: BaseException | None, seconds: float) -> None:
    """Count an attempt by the outcome that its record states.

    Args:
        job: Whose attempt it was.
        error: What it ended with; None if it returned.
        seconds: How long it took.
    """
    telemetry, status = job.telemetry, job.record.status
    cells = telemetry.cells
    if status is TaskStatus.SUCCESS:
        cells[SUCCEEDED] += 1
        telemetry.observe_success(seconds)
    elif status is TaskStatus.CANCELLED:
        cells[CANCELLED] += 1
    elif status is TaskStatus.PENDING:
        cells[RELEASED] += 1
    else:
        if status is TaskStatus.RETRYING:
            cells[RETRIED] += 1
            cells[RETRYING] += 1
        else:
            cells[FAILED] += 1
        telemetry.observe_error(seconds)
        if error is not None:
            seen = _as_seen(job, error)
            if seen is not error:
                cells[TIMED_OUT] += 1
            telemetry.count_exception(seen)
