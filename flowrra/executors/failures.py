"""What a failed attempt leaves: the text of its error, its traceback, and the delay before the next attempt."""

from __future__ import annotations

import random
import traceback
from types import TracebackType

from flowrra.task import Task

MAX_BACKOFF_DELAY = 24 * 3600.0
MAX_ERROR_LENGTH = 4_096
MAX_TRACEBACK_LENGTH = 16_384


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
