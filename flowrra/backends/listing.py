"""How records are chosen and paged: the latest submitted first, from a cursor that stays right while tasks come, go and
change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from flowrra.arguments import check_text, check_time
from flowrra.task import TaskResult, TaskStatus

# Records that are looked at for one page, where what is asked for has no list of its own.
MAX_LOOKED_AT = 1000


# Where a record stands in a list: when its task was submitted, in seconds since 1970, 0 if unknown; then its id.
# The greatest come first. A plain tuple, as every finished task in memory makes one.
Place = tuple[float, str]


def place_of(record: TaskResult) -> Place:
    """The place of a record."""
    # A naive time, as of user code, is local time.
    moment = record.submitted_at
    return (0.0 if moment is None else moment.timestamp(), record.task_id)


def cursor_at(place: Place) -> str:
    """A place as text."""
    submitted, task_id = place
    return f"{submitted!r}:{task_id}"


def read_cursor(cursor: str) -> Place:
    """Read what :func:`cursor_at` wrote.

    Raises:
        TypeError: It is no text.
        ValueError: It is no cursor.
    """
    check_text("cursor", cursor)
    submitted, colon, task_id = cursor.partition(":")
    try:
        place = float(submitted)
    except ValueError:
        place = float("nan")
    microseconds = place * 1e6
    if not colon or microseconds - microseconds != 0:  # infinite, or no number
        raise ValueError(f"cursor must be the 'next' of the page before, not {cursor!r:.100}")
    return place, task_id


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are meant: those for which all of it holds.

    Attributes:
        status: Their status; None is any.
        name: The name that they were submitted by; None is any.
        queue: Their queue; None is any.
        since: Submitted at that time or later; a naive time is local time.
        until: Submitted before that time.
        error: A text that the error of their last failed attempt contains.
        worker: The id of the app that runs, or ran, their latest attempt.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A time does not exist in UTC, or a text can't be written as UTF-8.
    """

    status: TaskStatus | None = None
    name: str | None = None
    queue: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    error: str | None = None
    worker: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "queue", "error", "worker"):
            if (text := getattr(self, name)) is not None:
                check_text(name, text)
        for name in ("since", "until"):
            if (time := getattr(self, name)) is not None:
                check_time(name, time)

    @property
    def statuses(self) -> tuple[TaskStatus, ...]:
        """Those that the tasks may have."""
        return tuple(TaskStatus) if self.status is None else (self.status,)

    def matches(self, record: TaskResult) -> bool:
        """Whether a record is meant, apart from when its task was submitted."""
        return (
            (self.status is None or record.status == self.status)
            and (self.name is None or record.task_name == self.name)
            and (self.queue is None or record.queue == self.queue)
            and (self.error is None or self.error in (record.error or ""))
            and (self.worker is None or record.worker == self.worker)
        )

    def first(self, cursor: str | None) -> Place | None:
        """All that is meant stands behind this place; None if that may be anywhere.

        Raises:
            TypeError: The cursor is no text.
            ValueError: It is none.
        """
        places: list[Place] = []
        if self.until is not None:
            places.append((self.until.timestamp(), ""))
        if cursor is not None:
            places.append(read_cursor(cursor))
        return min(places, default=None)

    @property
    def last(self) -> float:
        """The earliest time of submission that is meant, in seconds since 1970."""
        return float("-inf") if self.since is None else self.since.timestamp()


class Page(NamedTuple):
    """Some records of a list.

    Attributes:
        records: The records, the latest submitted first.
        cursor: Where the next page begins; None if this is the last.
        looked_at: How many records were looked at for it.
    """

    records: list[TaskResult]
    cursor: str | None
    looked_at: int = 0


def page_of(
    found: Iterator[tuple[Place, TaskResult]], wanted: TaskFilter, limit: int, rest: Place | None = None
) -> Page:
    """A page of records that come in order. It may be short, and even empty, before the last one: only so many records
    are looked at.

    Args:
        found: The records behind the cursor, each with its place.
        wanted: Which of them are meant.
        limit: Most records.
        rest: Behind this place nothing was looked at; None if that is all there is.
    """
    records: list[TaskResult] = []
    last: Place | None = None
    looked_at = 0
    for place, record in found:
        if last is not None and (len(records) == limit or looked_at >= max(MAX_LOOKED_AT, limit)):
            return Page(records, cursor_at(last), looked_at)
        last = place
        looked_at += 1
        if wanted.matches(record):
            records.append(record)
    return Page(records, None if rest is None else cursor_at(rest), looked_at)
