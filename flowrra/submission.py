"""The options of one submission: what ``app.options(...)`` holds until ``submit`` is called on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flowrra import ranges
from flowrra.queue_names import checked_queue

MAX_HEADERS_SIZE = 8192


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How one submission differs from the task's own options.

    Attributes:
        priority: Lower numbers run first; None is the task's own.
        countdown: Seconds until the task becomes due.
        eta: When the task becomes due; a naive time is local time.
        task_id: An id of the caller's choice; submitting one that exists is a no-op.
        timeout: Seconds that one attempt may take; None is the task's own limit.
        headers: Text that travels with the task; at most 8192 bytes in all.
        max_retries, retry_delay: None is the task's own.
        remember: Seconds for which a broker refuses the same ``task_id``, even when its result has gone.
        retry_of: The id of the task that this one is another run of.
        queue: The name of the queue; None is the task's own.

    Raises:
        TypeError, ValueError: A value is of the wrong type or out of range.
    """

    priority: int | None = None
    countdown: float | None = None
    eta: datetime | None = None
    task_id: str | None = None
    timeout: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    max_retries: int | None = None
    retry_delay: float | None = None
    remember: float = 0.0
    retry_of: str | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        if self.priority is not None:
            ranges.PRIORITY.check("priority", self.priority)
        if self.countdown is not None and self.eta is not None:
            raise ValueError("Give either countdown or eta, not both")
        if self.countdown is not None:
            ranges.SECONDS.check("countdown", self.countdown)
        if self.eta is not None:
            _check_eta(self.eta)
        if self.task_id is not None and (type(self.task_id) is not str or not self.task_id):
            raise ValueError(f"task_id must be a non-empty text, not {ranges.shown(self.task_id)}")
        if self.task_id is not None:
            self.task_id.encode()  # one that can't be sent would spoil those that are sent with it
        if self.timeout is not None:
            ranges.SOME_SECONDS.check("timeout", self.timeout)
        check_headers(self.headers)
        if self.max_retries is not None:
            ranges.RETRIES.check("max_retries", self.max_retries)
        if self.retry_delay is not None:
            ranges.SECONDS.check("retry_delay", self.retry_delay)
        ranges.SECONDS.check("remember", self.remember)
        if self.queue is not None:
            checked_queue(self.queue)

    @property
    def delay(self) -> float:
        """Seconds from now until the task becomes due; 0 if it is due already."""
        if self.countdown is not None:
            return self.countdown
        if self.eta is not None:
            return max(0.0, _seconds_until(self.eta))
        return 0.0


def _seconds_until(eta: datetime) -> float:
    return (eta.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _check_eta(eta: object) -> None:
    if not isinstance(eta, datetime):
        raise TypeError(f"eta must be a datetime, not {ranges.shown(eta)}")
    try:
        seconds = _seconds_until(eta)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"eta must be a time that exists in UTC too, not {eta!r}: {error}") from None
    if seconds > ranges.SECONDS.most:
        raise ValueError(f"eta must be at most {ranges.SECONDS.most:g} seconds ahead, not {seconds:g} ({eta!r})")


def check_headers(headers: dict[Any, Any]) -> None:
    """Refuse headers that are no text, or too large to travel with every attempt.

    Raises:
        TypeError, ValueError: They are.
    """
    if not isinstance(headers, dict):
        raise TypeError(f"A task's headers must be a dict of text to text, not {headers!r}")
    size = 0
    for key, value in headers.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"A task's headers must be text to text, not {key!r}: {value!r}")
        size += len(key.encode(errors="surrogatepass")) + len(value.encode(errors="surrogatepass"))
    if size > MAX_HEADERS_SIZE:
        raise ValueError(f"A task's headers must be at most {MAX_HEADERS_SIZE} bytes in all, not {size}")


NO_OPTIONS = SubmitOptions()

Submit = Callable[[Any, tuple[Any, ...], dict[str, Any], SubmitOptions], Awaitable[str]]


class Submission:
    """Submission options bound to an app; see :meth:`flowrra.Flowrra.options`."""

    __slots__ = ("_options", "_submit")

    def __init__(self, submit: Submit, options: SubmitOptions) -> None:
        self._submit = submit
        self._options = options

    async def submit(self, task_func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> str:
        """Submit a task with these options; see :meth:`flowrra.Flowrra.submit`."""
        return await self._submit(task_func, args, kwargs, self._options)
