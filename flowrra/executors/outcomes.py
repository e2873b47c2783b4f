"""Decides what became of an attempt, writes it on the task's record, says it in the log, and counts it. Nothing here
waits, and whatever a task's errors and data do, there is an outcome."""

from __future__ import annotations

import asyncio
import random
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from flowrra.exceptions import Reject, SerializationError, TaskNotFoundError, TaskTimeoutError
from flowrra.executors import attempt_log
from flowrra.executors.job import Interrupt, Job
from flowrra.middleware import AttemptOutcome
from flowrra.ranges import MAX_DELAY
from flowrra.registry import ExceptionTypes
from flowrra.task import CANCELLED, FAILED, PENDING, RETRYING, SUCCESS, AttemptEnd, Task, TaskResult

MAX_BACKOFF_DELAY = 24 * 3600.0
MAX_ERROR_LENGTH = 4_096
MAX_TRACEBACK_LENGTH = 16_384
# Why an attempt is over that is no failure, and no success.
_REASONS = {
    Interrupt.CANCEL: "by request",
    Interrupt.STOP: "the app stopped",
    Interrupt.TEARDOWN: "all that ran on the app's event loop was cancelled, without stopping the app",
}


def decide(job: Job, value: Any, error: BaseException | None, can_release: bool, worker: str | None) -> None:
    """Write on the record what became of an attempt, and on the job when the next one is, if there is to be one.

    Args:
        job: Whose attempt it was.
        value: What it returned.
        error: What it ended with; None if it returned.
        can_release: Whether a stopping worker can return the task, for another one to run it.
        worker: The id of this process, for the log.
    """
    if error is None:
        record = job.record
        record.status, record.result, record.finished_at = SUCCESS, value, datetime.now(UTC)
        return
    try:
        seen = _judge(job, error, can_release)
    except BaseException as failure:  # noqa: BLE001 - its class, and what the task did to itself, are user code
        fail_unwritable(job, failure, "its failure could not be judged", worker)
        return
    if job.record.status is RETRYING:
        attempt_log.retrying(job, worker)
    elif job.record.status is FAILED:
        attempt_log.failed(job, seen, worker)


def fail_unwritable(job: Job, error: BaseException, what: str, worker: str | None) -> None:
    """Make an outcome that can't be written down a failure that says so.

    Args:
        job: Whose attempt it was.
        error: Why it can't be written.
        what: What can't be written, as the beginning of a sentence.
        worker: The id of this process, for the log.
    """
    record = job.record
    if record.status is RETRYING:
        record.retries -= 1
        record.attempts = record.attempts[:-1]
    record.status, record.result, record.finished_at = FAILED, None, datetime.now(UTC)
    record.error = describe(SerializationError(f"{what}: {describe(error)}"))
    job.exception, job.timed_out = SerializationError.__name__, False
    attempt_log.failed(job, error, worker)


def _judge(job: Job, error: BaseException, can_release: bool) -> BaseException:
    """Write on the record what an error makes of its task. Returns the error as the user should see it."""
    record, now = job.record, datetime.now(UTC)
    if job.interrupt in (Interrupt.STOP, Interrupt.TEARDOWN) and can_release:
        record.end_attempt(AttemptEnd.RELEASED, now)
        record.status, record.started_at, record.worker = PENDING, None, None
        return error
    if job.interrupt in _REASONS:
        record.status, record.finished_at = CANCELLED, now
        record.error = f"cancelled while running: {_REASONS[job.interrupt]}"
        return error
    seen = _as_seen(job, error)
    job.exception, job.timed_out = class_name(seen), seen is not error
    record.error, record.traceback = describe(seen), format_traceback(seen)
    if _is_worth_a_retry(job, seen):
        _plan_retry(job)
    else:
        record.status, record.finished_at = FAILED, now
    return seen


def _plan_retry(job: Job) -> None:
    task, record = job.task, job.record
    delay = min(retry_delay(task), MAX_DELAY)
    record.end_attempt(AttemptEnd.FAILED, datetime.now(UTC))
    task.current_retry += 1
    record.status, record.retries = RETRYING, task.current_retry
    job.retry_after = delay


def _as_seen(job: Job, error: BaseException) -> BaseException:
    """The error as the user should see it: a cancellation by the time limit is a time-out."""
    if job.interrupt is Interrupt.TIMEOUT and isinstance(error, asyncio.CancelledError):
        timeout = TaskTimeoutError(job.task.id, job.task.timeout)
        timeout.__cause__ = error
        return timeout
    return error


def _is_worth_a_retry(job: Job, error: BaseException) -> bool:
    task, retry_on = job.task, job.definition.retry_on
    if task.current_retry >= task.max_retries:
        return False
    leaves = [leaf for leaf in _leaves(error) if not _is_final(leaf, task)]
    return bool(leaves) and (isinstance(error, retry_on) or any(_matches(leaf, retry_on) for leaf in leaves))


def _is_final(error: BaseException, task: Task) -> bool:
    # That a task of this name is not found: it was unregistered meanwhile.
    return isinstance(error, Reject) or (isinstance(error, TaskNotFoundError) and error.task_name == task.name)


def _matches(error: BaseException, retry_on: ExceptionTypes) -> bool:
    # A cancellation that nobody here asked for is a failure like any other.
    return isinstance(error, retry_on) or (retry_on is Exception and isinstance(error, asyncio.CancelledError))


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and the groups in it, each once; of what is no group, itself."""
    leaves: dict[int, BaseException] = {}
    seen = {id(error)}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseExceptionGroup):
            leaves[id(each)] = each
            continue
        # Not through the class of the group, which is user code.
        for inner in BaseExceptionGroup.exceptions.__get__(each):
            if id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)
    return list(leaves.values())


def cancelled_while_waiting(record: TaskResult, reason: str) -> str:
    """What the record of a task says that is cancelled while it waits, for its first attempt or another one."""
    return f"cancelled before {'its next attempt' if record.attempts_begun else 'it ran'}: {reason}"


def count_unsuccessful(job: Job, seconds: float) -> None:
    """Count an attempt that did not succeed, by the outcome that its record states.

    Args:
        job: Whose attempt it was.
        seconds: How long it took.
    """
    telemetry, status = job.telemetry, job.record.status
    if status is CANCELLED:
        telemetry.count_cancelled()
    elif status is PENDING:
        telemetry.count_released()
    elif status is RETRYING:
        telemetry.count_retried(seconds, job.exception, job.timed_out)
    else:
        telemetry.count_failed(seconds, job.exception, job.timed_out)


def of_attempt(job: Job, seconds: float) -> AttemptOutcome:
    """The outcome of an attempt that was counted, for those who are told of it."""
    record = job.record
    return AttemptOutcome(
        status="released" if record.status is PENDING else record.status.value,  # type: ignore[arg-type]  # it has ended
        seconds=seconds,
        exception=job.exception if record.status in (FAILED, RETRYING) else None,
        error=record.error,
    )


# ── what a failure leaves ───────────────────────────────────────────────────────────────────────────────────────


class RemoteTraceback(Exception):
    """The cause of an exception that comes from another process: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the worker process:\n{self.text}"

    @classmethod
    def of(cls, error: BaseException) -> RemoteTraceback | None:
        """The one that an exception was caused by, directly or through one other."""
        cause = error.__cause__
        causes = (cause, None if cause is None else cause.__cause__)
        return next((each for each in causes if isinstance(each, cls)), None)


def retry_delay(task: Task) -> float:
    """Seconds until the next attempt: ``retry_delay * backoff**n``, by chance up to ``jitter`` of it more or less."""
    delay = task.retry_delay
    if task.backoff != 1.0 and delay:
        try:
            # As floats: integers would grow to any length, and take any time.
            delay = min(delay * float(task.backoff) ** task.current_retry, max(delay, MAX_BACKOFF_DELAY))
        except OverflowError:
            delay = max(delay, MAX_BACKOFF_DELAY)
    if task.jitter:
        delay *= random.uniform(1 - task.jitter, 1 + task.jitter)  # noqa: S311 - spreads load, guards nothing
    return delay


def class_name(error: BaseException) -> str:
    """The name of an exception's class, whatever its metaclass says."""
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def describe(error: BaseException) -> str:
    """``ExceptionType: message``, whatever the exception's own ``str`` does."""
    try:
        # Exactly a str: one derived from it may do anything when it is used.
        message = str.__str__(str(error))
    except BaseException as failure:  # noqa: BLE001 - it is user code, and may raise anything
        message = f"<its str() raised {class_name(failure)}>"
    name = class_name(error)
    return bounded(f"{name}: {message}" if message else name, MAX_ERROR_LENGTH)


def format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it: each line, and the whole, bounded in length, the middle left out if need
    be. Of an exception from another process: the one there."""
    try:
        remote = RemoteTraceback.of(error)
        if remote is not None:
            return remote.text if remote is error.__cause__ else f"{remote.text}{describe(error)}\n"
        lines = traceback.format_exception(error)
    except BaseException as failure:  # noqa: BLE001 - it is user code, and may raise anything
        return f"<the traceback could not be formatted: {class_name(failure)}>"
    text = "".join(bounded(line, MAX_ERROR_LENGTH) for line in lines)
    if len(text) <= MAX_TRACEBACK_LENGTH:
        return text
    half = MAX_TRACEBACK_LENGTH // 2
    return f"{text[:half]}\n  …\n{text[-half:]}"


def format_stack(tb: TracebackType | None, *, without: str) -> str:
    """A traceback without its exception, and without the frames of one file; its inner part if it is too long."""
    frames = [frame for frame in traceback.extract_tb(tb) if frame.filename != without]
    text = "".join(traceback.format_list(frames))
    return "Traceback (most recent call last):\n" + text[-MAX_TRACEBACK_LENGTH:]


def bounded(text: str, length: int) -> str:
    """The text, cut to a length."""
    return text if len(text) <= length else text[:length] + "…"
