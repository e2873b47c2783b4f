"""What a failed attempt leaves: the text of its error, its traceback, and the delay before the next attempt."""

from __future__ import annotations

import random
import traceback

from flowrra.task import Task

MAX_BACKOFF_DELAY = 24 * 3600.0
MAX_ERROR_LENGTH = 4_096
MAX_TRACEBACK_LENGTH = 16_384


def retry_delay(task: Task) -> float:
    """Seconds until the next attempt: ``retry_delay * backoff**n``, by chance up to ``jitter`` of it more or less."""
    delay = task.retry_delay
    if task.backoff != 1.0:
        try:
            delay = min(delay * task.backoff**task.current_retry, max(delay, MAX_BACKOFF_DELAY))
        except OverflowError:
            delay = max(delay, MAX_BACKOFF_DELAY)
    if task.jitter:
        delay *= random.uniform(1 - task.jitter, 1 + task.jitter)  # noqa: S311 - spreads load, guards nothing
    return delay


def describe(error: BaseException) -> str:
    """``ExceptionType: message``, whatever the exception's own ``str`` does."""
    try:
        message = str(error)
    except BaseException as failure:  # noqa: BLE001 - it is user code, and may raise anything
        message = f"<its str() raised {type(failure).__name__}>"
    name = type(error).__name__
    return bounded(f"{name}: {message}" if message else name, MAX_ERROR_LENGTH)


def format_traceback(error: BaseException) -> str:
    """The traceback as Python prints it: each line, and the whole, bounded in length, the middle left out if need
    be."""
    try:
        lines = traceback.format_exception(error)
    except BaseException as failure:  # noqa: BLE001 - it is user code, and may raise anything
        return f"<the traceback could not be formatted: {type(failure).__name__}>"
    text = "".join(bounded(line, MAX_ERROR_LENGTH) for line in lines)
    if len(text) <= MAX_TRACEBACK_LENGTH:
        return text
    half = MAX_TRACEBACK_LENGTH // 2
    return f"{text[:half]}\n  …\n{text[-half:]}"


def bounded(text: str, length: int) -> str:
    """The text, cut to a length."""
    return text if len(text) <= length else text[:length] + "…"
