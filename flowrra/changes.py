"""Changes of tasks, for those who watch: each has a number, by which a reader knows what it has missed."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from flowrra.task import TaskResult

# Changes that are remembered: a reader that is slower loses the oldest.
MOST_CHANGES = 10_000
# Changes that a reader gets before others of its event loop have their turn.
AT_ONCE = 100


class Change(NamedTuple):
    """A change of a task, or that some were missed.

    Attributes:
        id: What to go on after.
        record: The task's record as it was then, without its arguments and its result; None if changes were missed.
        missed: How many were missed before; None if nobody knows how many.
    """

    id: str
    record: TaskResult | None
    missed: int | None = 0


class Changes:
    """The changes of the tasks of this process, while somebody watches. It belongs to a publisher of events.

    Args:
        source: Begins the ids of changes: those of another process mean nothing here.
    """

    def __init__(self, source: str | None) -> None:
        self._source = source
        self._latest: deque[tuple[int, TaskResult]] = deque(maxlen=MOST_CHANGES)
        self._number = 0
        # Up to that number nobody knows how many changes there were.
        self._forgotten = 0
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        # Those that were told that there is news, and have not looked since.
        self._told: set[asyncio.Event] = set()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def add(self, record: TaskResult) -> None:
        """Remember the state of a task; never waits."""
        self._number += 1
        self._latest.append((self._number, _shortened(record)))
        if len(self._told) == len(self._watchers):
            return
        for news, loop in self._watchers.copy().items():
            if news in self._told:
                continue
            self._told.add(news)
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # it was closed, and nobody there can leave any more
                self._leave(news)

    def _join(self, news: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        self._watchers[news] = loop

    def _leave(self, news: asyncio.Event) -> None:
        self._watchers.pop(news, None)
        self._told.discard(news)

    def forget(self) -> None:
        """Nobody watches from now on: what comes is not remembered."""
        self._number += 1
        self._forgotten = self._number
        self._latest.clear()

    async def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        """The changes from now on, or after one.

        Raises:
            ValueError: ``after`` is no id of a change.
        """
        news = asyncio.Event()
        known = None if after is None else self._number_of(after)
        self._join(news, asyncio.get_running_loop())
        try:
            last, is_known = known or (self._number, True)
            if not is_known:
                yield Change(self._id(last), None, None)
            while True:
                news.clear()
                self._told.discard(news)  # before it looks: what comes from now on is told again
                if last < self._forgotten:
                    last = self._forgotten
                    yield Change(self._id(last), None, None)
                some = self._after(last)
                if some and some[0][0] > last + 1:
                    yield Change(self._id(some[0][0] - 1), None, some[0][0] - last - 1)
                for last, record in some:
                    yield Change(self._id(last), record)
                if not some:
                    await news.wait()
        finally:
            self._leave(news)

    def _after(self, last: int) -> list[tuple[int, TaskResult]]:
        """The next changes after that number."""
        while True:
            try:
                first = self._latest[0][0] if self._latest else 0
                start = max(0, last + 1 - first)
                return list(itertools.islice(self._latest, start, start + AT_ONCE))
            except (RuntimeError, IndexError):  # the app's thread changed it in this very moment
                continue

    def _id(self, number: int) -> str:
        return f"{number}@{self._source}"

    def _number_of(self, change_id: str) -> tuple[int, bool]:
        """The number of a change, and whether all since then can be told; of one of elsewhere, the latest."""
        number, at, source = change_id.partition("@")
        if not at or not number.isascii() or not number.isdigit():
            raise ValueError(f"after must be the id of a change, not {change_id!r:.100}")
        is_known = source == str(self._source) and int(number) <= self._number
        return (int(number) if is_known else self._number), is_known


def _shortened(record: TaskResult) -> TaskResult:
    """A record without what may be large."""
    return TaskResult(
        record.task_id,
        record.status,
        record.task_name,
        None,
        record.error,
        record.submitted_at,
        record.started_at,
        record.finished_at,
        record.retries,
        worker=record.worker,
        retry_of=record.retry_of,
        progress=record.progress,
        queue=record.queue,
    )
