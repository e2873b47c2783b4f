"""The tasks that failed last, for the page and the JSON API: names, ids, times.

Listing them makes the app search its results, and that takes time from its tasks: it's asked at most once in
five seconds, and less often the longer the answer takes, however many look.
"""

from __future__ import annotations

import logging
import reprlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowrra_exporter.app.loop import CallTimeout, LoopUnavailable
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.logs import ThrottledWarning, mask_secrets

logger = logging.getLogger(__name__)

# The most failures that are listed.
MOST = 100
_METHOD = "list_failed_tasks"
_SPACING_SECONDS = 5.0
# For how many seconds an answer is kept, for each second that it took.
_SHARE = 50
_MAX_TEXT = 500


class MaskedRepr(reprlib.Repr):
    """Shows values in few characters. Passwords in what is written of one are masked before its middle is left out, by
    which what tells one may go."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(mask_secrets(x), level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            written = repr(x)
        except Exception:  # noqa: BLE001 - it's the user's object; this says which
            return super().repr_instance(x, level)
        return super().repr_instance(_Written(mask_secrets(written)), level)


class _Written(str):
    """A value as Python has written it."""

    __slots__ = ()
    __repr__ = str.__str__


_texts = MaskedRepr()
_texts.maxstring = _texts.maxother = 120


class Failure(NamedTuple):
    """A task that failed for good. The times are in UTC; what isn't known is None.

    ``error`` and ``arguments`` are the user's data, bounded in length: only for those who may see it.
    """

    task_id: str
    task_name: str
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    retries: int | None
    error: str
    arguments: str


class Listing(NamedTuple):
    """The failures as of a moment, the last first. ``problem`` says why there are no newer ones, if so."""

    failures: tuple[Failure, ...]
    at: datetime | None
    problem: str = ""


class Failures:
    """Lists failures.

    Args:
        management: Returns the Management API, None before there is an app.
        timeout: The time for an answer, in seconds.
    """

    def __init__(self, management: Callable[[], Management | None], timeout: float) -> None:
        self._management = management
        self._timeout = timeout
        self._latest = Listing((), None)
        self._next = 0.0
        self._failed = ThrottledWarning(logger, f"{_METHOD}() failed %d times")
        self._unreadable = ThrottledWarning(logger, "left out %d failed tasks that can't be read")

    async def latest(self) -> Listing:
        """The tasks that failed last, up to a hundred.

        Raises:
            NoSuchMethod: The app can't list them.
        """
        management = self._management()
        if management is None:
            return self._latest._replace(problem="the app is starting")
        if not management.has(_METHOD):
            raise NoSuchMethod(f"failed tasks can't be listed: there is no {_METHOD}()")
        if time.monotonic() >= self._next:
            started = time.monotonic()
            try:
                self._latest = await self._ask(management)
            except LoopUnavailable as error:  # nothing was asked, so it may be tried again at any time
                return self._latest._replace(problem=str(error))
            self._next = started + max(_SPACING_SECONDS, _SHARE * (time.monotonic() - started))
        return self._latest

    async def _ask(self, management: Management) -> Listing:
        try:
            found = await management.ask(_METHOD, self._timeout, limit=MOST)
            failures = sorted(self._readable(found), key=_last_moment, reverse=True)
        except LoopUnavailable:
            raise
        except CallTimeout as error:
            return self._latest._replace(problem=str(error))
        except Exception as error:  # noqa: BLE001 - the answer says it, and the log now and then
            self._failed.warn(error=error)
            return self._latest._replace(problem=f"{_METHOD}() failed: {type(error).__name__}")
        return Listing(tuple(failures), datetime.now(UTC))

    def _readable(self, found: Iterable[Any]) -> Iterator[Failure]:
        """Each failure for itself: what one holds is anybody's data."""
        for each in found:
            try:
                yield _failure(each)
            except Exception:
                logger.debug("a failed task can't be read", exc_info=True)
                self._unreadable.warn()


def _failure(found: Mapping[str, Any]) -> Failure:
    arguments = [_text(value) for value in found.get("args") or ()]
    named = [f"{name}={_text(value)}" for name, value in dict(found.get("kwargs") or {}).items()]
    retries = found.get("retries")
    return Failure(
        task_id=str(found["task_id"]),
        task_name=str(found.get("task_name") or "unknown"),
        submitted_at=_moment(found.get("submitted_at")),
        started_at=_moment(found.get("started_at")),
        finished_at=_moment(found.get("finished_at")),
        retries=retries if isinstance(retries, int) else None,
        error=_bounded(mask_secrets(str(found.get("error") or ""))),
        arguments=_bounded(mask_secrets(", ".join([*arguments, *named]))),
    )


def _text(value: Any) -> str:
    """The value's repr, bounded. It's made by the user's code, which may fail in any way."""
    try:
        return _texts.repr(value)
    except Exception as error:  # noqa: BLE001 - said in the place of the value
        return f"<{type(value).__name__} whose repr() raised {type(error).__name__}>"


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _moment(value: Any) -> datetime | None:
    """A naive datetime is local time, as earlier releases of flowrra have it."""
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _last_moment(failure: Failure) -> float:
    moment = failure.finished_at or failure.started_at or failure.submitted_at
    return moment.timestamp() if moment else 0.0
