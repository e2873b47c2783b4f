"""What the log says of attempts: one line at each turn of a task, with the same fields in each.

A failure for good is an error with its traceback in ``exc_info``, so that what collects errors can group it; another
attempt to come is a warning without one; beginnings and successes are for debugging.
"""

from __future__ import annotations

import logging
import traceback

from flowrra.executors.job import Job
from flowrra.task import Task

logger = logging.getLogger(__name__)

# Characters of a traceback beyond which it is logged without what the exception itself says at such length.
MAX_LOGGED = 65_536
# Constant, as what collects errors may group them by the text before its fields are filled in.
_FIELDS = "task=%s id=%s attempt=%d queue=%s worker=%s"
_STARTED = f"task started {_FIELDS}%s"
_SUCCEEDED = f"task succeeded {_FIELDS} %s"
_RETRYING = f"task failed, will be retried {_FIELDS} %s"
_FAILED = f"task failed {_FIELDS} %s"
_GIVEN_UP = f"task given up {_FIELDS} %s"


class FailedTask(Exception):
    """Stands in the log for an exception that can't be logged itself: its text, with its traceback."""


def started(job: Job, worker: str | None) -> None:
    """An attempt begins."""
    _say(logging.DEBUG, _STARTED, job.task, job.task.attempt, worker)


def succeeded(job: Job, seconds: float, worker: str | None) -> None:
    """An attempt returned, and its outcome is recorded."""
    _say(logging.DEBUG, _SUCCEEDED, job.task, job.task.attempt, worker, f"seconds={seconds:.3f}")


def retrying(job: Job, worker: str | None) -> None:
    """An attempt failed, and another one follows, as its record says."""
    outcome = f"in={job.retry_after:.3f} error={job.record.error!r}"
    _say(logging.WARNING, _RETRYING, job.task, job.record.retries, worker, outcome)


def failed(job: Job, error: BaseException, worker: str | None) -> None:
    """A task failed for good, as its record says.

    Args:
        job: The task.
        error: What it failed with, whatever that is.
        worker: The id of this process, if it has one.
    """
    text = job.record.error
    cause = _loggable(error, text)
    _say(logging.ERROR, _FAILED, job.task, job.record.retries + 1, worker, f"error={text!r}", cause)


def given_up(task: Task, reason: str, worker: str | None) -> None:
    """A task failed for good without an attempt that says so."""
    _say(logging.ERROR, _GIVEN_UP, task, task.attempt, worker, f"error={reason!r}")


def _say(
    level: int,
    text: str,
    task: Task,
    attempt: int,
    worker: str | None,
    outcome: str = "",
    error: BaseException | None = None,
) -> None:
    fields = task.name, task.id, attempt, task.queue, worker, outcome
    try:
        logger.log(level, text, *fields, exc_info=error)
    except BaseException:  # noqa: BLE001 - a handler is user code, and must not keep an attempt from being settled
        if error is not None:
            _say(level, text, task, attempt, worker, outcome)


def _loggable(error: BaseException, text: str | None) -> BaseException:
    """The error, if whoever logs it can write it down, in bounded space; else one that stands in for it."""
    try:
        if len("".join(traceback.format_exception(error)).encode()) <= MAX_LOGGED:
            return error
    except BaseException:  # noqa: BLE001, S110 - it is user code, and may raise anything
        pass
    # Not through its class, which may say anything.
    return FailedTask(ascii(text)).with_traceback(vars(BaseException)["__traceback__"].__get__(error))
