"""Decides what became of an attempt that did not succeed, writes it on the task's record, and counts it. Nothing here
waits."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from flowrra import telemetry as counters
from flowrra.exceptions import Reject, TaskNotFoundError, TaskTimeoutError
from flowrra.executors.failures import describe, format_traceback, retry_delay
from flowrra.executors.job import Interrupt, Job
from flowrra.task import CANCELLED, FAILED, PENDING, RETRYING

logger = logging.getLogger(__name__)


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
        record.status, record.started_at = PENDING, None
        return None
    if job.interrupt in (Interrupt.CANCEL, Interrupt.STOP):
        reason = "by request" if job.interrupt is Interrupt.CANCEL else "the app stopped"
        record.status, record.finished_at = CANCELLED, now
        record.error = f"cancelled while running: {reason}"
        return None
    error = _as_seen(job, error)
    record.error, record.traceback = describe(error), format_traceback(error)
    if _is_worth_a_retry(job, error):
        return _plan_retry(job)
    record.status, record.finished_at = FAILED, now
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
    record.status, record.retries = RETRYING, task.current_retry
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


def count_failure(job: Job, error: BaseException | None, seconds: float) -> None:
    """Count an attempt that did not succeed, by the outcome that its record states.

    Args:
        job: Whose attempt it was.
        error: What it ended with; None if it returned, and its result could not be stored.
        seconds: How long it took.
    """
    telemetry, status = job.telemetry, job.record.status
    cells = telemetry.cells
    if status is CANCELLED:
        cells[counters.CANCELLED] += 1
        return
    if status is PENDING:
        cells[counters.RELEASED] += 1
        return
    if status is RETRYING:
        cells[counters.RETRIED] += 1
        cells[counters.RETRYING] += 1
    else:
        cells[counters.FAILED] += 1
    telemetry.observe_error(seconds)
    if error is not None:
        seen = _as_seen(job, error)
        if seen is not error:
            cells[counters.TIMED_OUT] += 1
        telemetry.count_exception(seen)
