"""What the Management API says of a task, in words: its status, when it waited and ran, what it was given and gave."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.parts import bar, detail, name
from flowrra_exporter.web.failures import MaskedRepr

Record = Mapping[str, Any]

STATUSES = ("pending", "running", "retrying", "success", "failed", "cancelled")
UNFINISHED = ("pending", "running", "retrying")
# The colour of each; what isn't listed has none.
_LEVELS = {
    "success": "good",
    "submitted": "good",
    "enabled": "good",
    "running": "busy",
    "retrying": "busy",
    "claimed": "busy",
    "skipped": "busy",
    "failed": "bad",
    "lost": "bad",
    "missed": "bad",
}
# The most characters of an error in a list, and of what a task was given, returned or raised on its own page.
_MOST_IN_A_LIST = 200
MOST_TEXT = 20_000
# So much beyond a bound is looked through for passwords, which end where one that was cut off would not.
_MARGIN = 2_000


class _Values(MaskedRepr):
    """Writes a value, and no more than so many of those within it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 4_000
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxdeque = 200
        self._left = 2_000

    def repr1(self, x: Any, level: int) -> str:
        self._left -= 1
        return "…" if self._left < 0 else super().repr1(x, level)


def named(record: Record) -> str:
    """The name of a task."""
    return str(record.get("task_name") or "unknown")


def status(word: str) -> Html:
    """A status in its colour."""
    return element("span", word, class_=f"state {_LEVELS.get(word, 'idle')}")


def moment_of(value: Any) -> datetime | None:
    """A moment in UTC; a naive one is local time, as the datetimes of schedules are."""
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def when(value: Any, now: datetime, none: str = words.UNKNOWN) -> Html:
    """A moment and how long ago it was, or how far ahead it is."""
    then = moment_of(value)
    if then is None:
        return join([none])
    ahead = (then - now).total_seconds()
    distance = f"in {words.duration(ahead)}" if ahead >= 1 else words.ago(then, now)
    return join([words.moment(then, now), detail(distance)])


def between(start: Any, end: Any) -> str:
    """How long it took from one moment to another; not known unless both are."""
    first, last = moment_of(start), moment_of(end)
    return words.UNKNOWN if first is None or last is None else words.duration(max(0.0, (last - first).total_seconds()))


def ran(record: Record, now: datetime) -> str:
    """For how long its latest attempt ran, or has been running."""
    started = record.get("started_at")
    if started is None:
        return element("span", "not yet" if record["status"] in UNFINISHED else "never", class_="nothing")
    # Its end is not the task's where that was cancelled while it waited for another one.
    return between(started, now if record["status"] == "running" else record.get("attempt_finished_at"))


def attempts(record: Record) -> int:
    """How many attempts have begun."""
    return int(record["attempts_begun"])


def progress(record: Record, with_message: bool) -> Html:
    """How far it is, if it has told; what it says of it with ``with_message`` alone."""
    told = record.get("progress")
    if told is None:
        return Html("")
    done, total = told["done"], told.get("total")
    figures = f"{done:,g}" if total is None else f"{done:,g} of {total:,g}"
    filled = [bar(done / total)] if total else []
    message = told.get("message") if with_message else None
    said = [": ", name(bounded(str(message), _MOST_IN_A_LIST))] if message else []
    return join([*filled, detail(figures, *said)])


def error_in_a_list(record: Record) -> Html:
    """The beginning of the error of its last failed attempt."""
    error = record.get("error")
    return Html("") if not error else element("code", name(bounded(str(error), _MOST_IN_A_LIST)), class_="error")


def bounded(text: str, most: int = MOST_TEXT) -> str:
    """A text without passwords, cut off at a length."""
    masked = mask_secrets(text[: most + _MARGIN])
    return masked if len(masked) <= most else f"{masked[:most]}…"


def value(given: Any) -> str:
    """A value as Python writes it, bounded. It's made by the user's code, which may fail in any way."""
    try:
        return bounded(_Values().repr(given))
    except Exception as error:  # noqa: BLE001 - said in the place of the value
        return f"<{type(given).__name__} whose repr() raised {type(error).__name__}>"


def block(text: str, label: str) -> Html:
    """Lines as they stand, which scroll if they are many, by keyboard too."""
    return element("pre", element("code", text), tabindex="0", role="group", aria_label=label, dir="ltr")
