"""Results in the memory of one process, bounded by number, by age and by size."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.listing import Page, Place, TaskFilter, page_of, place_of
from flowrra.backends.memory_lists import LISTED_AT_ONCE, FinishedLists
from flowrra.backends.record_size import RECORD_SIZE, SMALL, is_small, record_size
from flowrra.copying import SCALARS, copied
from flowrra.exceptions import BackendError
from flowrra.forks import tell_of_forks
from flowrra.ranges import check_wait
from flowrra.task import COMPLETE_STATUSES, TaskResult, TaskStatus

DEFAULT_MAX_RESULTS = 100_000
DEFAULT_MAX_AGE = 24 * 3600.0
DEFAULT_MAX_BYTES = 128 * 1024 * 1024


class InMemoryBackend(BaseResultBackend):
    """Keeps unfinished tasks for as long as they last, and finished ones up to a number, an age and a size.

    Readable, and waitable, from any thread and any event loop. What is kept is a copy of what the task returned, and
    what is read is a copy of that; only what :mod:`flowrra.copying` shares is the same object everywhere.

    Args:
        max_results: Finished records that are kept; the oldest go first.
        max_age: Seconds that a finished record is kept.
        max_bytes: About how much memory the finished records may take, with their arguments and results; the oldest go
            first, and the latest is kept however large it is. Whoever waits for a task gets its result in any case.

    Raises:
        ValueError: One of them is not positive.
    """

    def __init__(
        self,
        max_results: int = DEFAULT_MAX_RESULTS,
        max_age: float = DEFAULT_MAX_AGE,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if max_results < 1:
            raise ValueError(f"max_results must be at least 1, not {max_results!r}")
        if not max_age > 0:
            raise ValueError(f"max_age must be positive (seconds), not {max_age!r}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        self._max_results = max_results
        self._max_age = max_age
        self._max_bytes = max_bytes
        # Those of unfinished tasks, in the order of their submission, and of finished ones.
        self._unfinished: dict[str, TaskResult] = {}
        self._records: dict[str, TaskResult] = {}
        # The places of the unfinished ones when a first page was asked for.
        self._sorted_unfinished: list[Place] = []
        # Takes on the record of a new task: what store() does, without a coroutine, as it is on every task's way.
        self.hold = self._unfinished.__setitem__
        # When each finished one was finished (monotonic), in that order.
        self._finished: dict[str, float] = {}
        # The ids under which finished ones were run anew.
        self._retried: dict[str, str] = {}
        self._lists = FinishedLists(self._records)
        self._latest = self._lists.latest
        # By how much those of them that aren't small are larger. Their sum may go astray when two threads change it at
        # once, and is made anew from time to time.
        self._excess: dict[str, int] = {}
        self._excess_sum = 0
        # How many finished ones there is room for, beside that.
        self._room = 0
        self._make_room()
        # When the oldest of them may be too old.
        self._expires_at = time.monotonic() + max_age
        self._lock = threading.Lock()
        # Held while they change: waits begin and end in any thread. The garbage collector ends some, also in the middle
        # of such a change, and in the same thread.
        self._waiters_lock = threading.RLock()
        self._waiters: dict[str, list[asyncio.Future[TaskResult]]] = {}
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: what has not finished is the parent's, and nobody would ever complete it here."""
        self._lock = threading.Lock()
        self._lists.forked()
        self._waiters_lock = threading.RLock()
        self._waiters.clear()
        self._unfinished.clear()

    async def store(self, task_id: str, result: TaskResult) -> None:
        self.keep(task_id, result)

    def keep(self, task_id: str, result: TaskResult) -> None:
        """The same as :meth:`store`, without a coroutine: it is on every task's way."""
        if result.status in COMPLETE_STATUSES:
            if task_id in self._finished:
                self._drop([task_id])
            # Asked here first, as a call takes longer: most tasks return a number or nothing.
            if (
                type(result.result) not in SMALL or result.args or result.kwargs or result.error or result.attempts
            ) and not is_small(result):
                self._take_in(task_id, result)
            self._records[task_id] = result
            # Before it leaves the unfinished, lest another thread find it nowhere.
            self._latest.append(result)
            self._unfinished.pop(task_id, None)
            if len(self._latest) >= LISTED_AT_ONCE:
                self._lists.list_latest()
            now = self._finished[task_id] = time.monotonic()
            if len(self._finished) > self._room or now >= self._expires_at:
                self._expire()
            if task_id in self._waiters:
                self._wake(task_id, result)
        else:
            if task_id in self._finished:
                self._drop([task_id])
                # Whoever goes through the pages may still come there.
                insort(self._sorted_unfinished, place_of(result))
            self._unfinished[task_id] = result

    def _take_in(self, task_id: str, record: TaskResult) -> None:
        """Make the result the record's own, and weigh the record."""
        if type(record.result) not in SCALARS:
            # What the task, or what it left running, does to its object from now on is not its result.
            record.result = copied(record.result)
        self._excess[task_id] = excess = record_size(record) - RECORD_SIZE
        self._excess_sum += excess
        self._make_room()

    async def get(self, task_id: str) -> TaskResult | None:
        if time.monotonic() >= self._expires_at:
            self._expire()
        # As _record() does, without a call: every result that is waited for is read here.
        record = self._unfinished.get(task_id) or self._records.get(task_id)
        return None if record is None else record.copy()

    def _record(self, task_id: str) -> TaskResult | None:
        # A finished one is there before it is among the unfinished no more.
        return self._unfinished.get(task_id) or self._records.get(task_id)

    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        check_wait("timeout", timeout)
        waiter: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        self._add_waiter(task_id, waiter)
        try:
            # Looked up after the waiter is in place: whatever completes from here on wakes it.
            record = self._records.get(task_id)
            if record is not None:
                return record.copy()
            async with asyncio.timeout(timeout):
                return (await waiter).copy()
        finally:
            self._forget_waiter(task_id, waiter)

    def _add_waiter(self, task_id: str, waiter: asyncio.Future[TaskResult]) -> None:
        with self._waiters_lock:
            waiters = self._waiters.setdefault(task_id, [])
            waiters.append(waiter)
            # Once more: of another waiter, the garbage collector may just have ended the wait, and taken the list away.
            self._waiters[task_id] = waiters

    def _forget_waiter(self, task_id: str, waiter: asyncio.Future[TaskResult]) -> None:
        with self._waiters_lock:
            waiters = self._waiters.get(task_id)
            if waiters is not None and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[task_id]

    def _wake(self, task_id: str, outcome: TaskResult | BackendError) -> None:
        with self._waiters_lock:
            waiters = self._waiters.pop(task_id, ())
        for waiter in waiters:
            _settle_waiter(waiter, outcome)

    def _expire(self) -> None:
        """Drop finished records beyond the number, the size or the age that is kept.

        A hundredth of the number or the size at once, and a hundred times in the age: to take the first of a dict costs
        the more, the more were taken before.
        """
        with self._lock:
            too_many = len(self._finished) - self._max_results
            too_large = len(self._finished) * RECORD_SIZE + self._excess_sum - self._max_bytes
            if too_many > 0 or too_large > 0:
                self._drop(
                    self._oldest(
                        max(too_many, self._max_results // 100) if too_many > 0 else 0,
                        too_large + self._max_bytes // 100 if too_large > 0 else 0,
                    )
                )
            now = time.monotonic()
            if now >= self._expires_at:
                horizon = now - self._max_age
                finished = self._finished.copy()
                self._drop([task_id for task_id, _ in takewhile(lambda entry: entry[1] < horizon, finished.items())])
                self._excess_sum = sum(self._excess.copy().values())
                self._make_room()
                oldest = next(iter(self._finished.copy().values()), now)
                self._expires_at = max(oldest + self._max_age, now + self._max_age / 100)

    def _oldest(self, count: int, size: int) -> list[str]:
        """The oldest finished records, as many as have at least that number and that size; all but the latest."""
        while True:
            oldest: list[str] = []
            left = size
            try:
                for task_id in islice(self._finished, max(0, len(self._finished) - 1)):
                    if len(oldest) >= count and left <= 0:
                        break
                    oldest.append(task_id)
                    left -= RECORD_SIZE + self._excess.get(task_id, 0)
            except RuntimeError:  # another thread stored or deleted one meanwhile
                continue
            return oldest

    def _drop(self, task_ids: list[str]) -> None:
        # The latest are held by more than their id.
        self._lists.list_latest()
        for task_id in task_ids:
            self._forget_finished(task_id)

    def _forget_finished(self, task_id: str) -> None:
        record = self._records.pop(task_id, None)
        if record is not None:
            self._lists.forget(record)
        if self._retried:
            self._retried.pop(task_id, None)
        self._finished.pop(task_id, None)
        if (excess := self._excess.pop(task_id, 0)) > 0:
            self._excess_sum -= excess
            self._make_room()

    def _make_room(self) -> None:
        self._room = min(self._max_results, (self._max_bytes - self._excess_sum) // RECORD_SIZE)

    async def delete(self, task_id: str) -> bool:
        was_there = task_id in self._records
        self._drop([task_id])
        return self._unfinished.pop(task_id, None) is not None or was_there

    async def clear(self) -> int:
        count = len(self)
        self._records.clear()
        self._unfinished.clear()
        self._retried.clear()
        self._finished.clear()
        self._excess.clear()
        self._excess_sum = 0
        self._make_room()
        self._lists.clear()
        return count

    # ── lists ───────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, wanted: TaskFilter, limit: int, cursor: str | None = None) -> Page:
        if cursor is None:
            self._sort_unfinished()
        page = page_of(self._behind(wanted.first(cursor), wanted), wanted, limit)
        return page._replace(records=[record.copy() for record in page.records])

    async def count(self) -> Mapping[tuple[TaskStatus, str | None], int]:
        counts = Counter((record.status, record.task_name) for record in self._unfinished.copy().values())
        counts.update(self._lists.counts())
        return counts

    async def claim_retry(self, task_id: str, new_id: str) -> str:
        return self._retried.setdefault(task_id, new_id)

    async def release_retry(self, task_id: str, new_id: str) -> None:
        if self._retried.get(task_id) == new_id:
            del self._retried[task_id]

    async def retried_as(self, task_id: str) -> str | None:
        return self._retried.get(task_id)

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        wanted = TaskFilter(status=TaskStatus(status))
        self._sort_unfinished()
        records = (record for _, record in self._behind(None, wanted) if wanted.matches(record))
        return [record.copy() for record in islice(records, offset, None if limit is None else offset + limit)]

    def _behind(self, first: Place | None, wanted: TaskFilter) -> Iterator[tuple[Place, TaskResult]]:
        """The records behind a place, the latest submitted first, of what may be wanted."""
        if time.monotonic() >= self._expires_at:
            self._expire()
        before = None
        for place in heapq.merge(
            self._unfinished_behind(first, wanted), self._lists.behind(first, wanted), reverse=True
        ):
            record = self._record(place[1])
            # One may have finished meanwhile, and stand twice, or have gone, or its id may stand for another by now.
            if record is not None and place != before and place == place_of(record):
                before = place
                yield place, record

    def _unfinished_behind(self, first: Place | None, wanted: TaskFilter) -> Iterator[Place]:
        if set(wanted.statuses) <= set(COMPLETE_STATUSES):
            return
        sorted_places = self._sorted_unfinished
        behind = len(sorted_places) if first is None else bisect_left(sorted_places, first)
        for at in range(behind - 1, -1, -1):
            place = sorted_places[at]
            if place[0] < wanted.last:
                return
            record = self._record(place[1])
            if record is not None and wanted.matches(record):
                yield place

    def _sort_unfinished(self) -> None:
        """Put the unfinished in their places, once for all pages: those that come later are on none of them."""
        self._sorted_unfinished = sorted(map(place_of, self._unfinished.copy().values()))

    async def close(self) -> None:
        """Fail whoever still waits: nothing will complete any more."""
        for task_id in list(self._waiters):
            self._wake(task_id, BackendError(f"The app stopped while task '{task_id}' was waited for"))

    def __len__(self) -> int:
        return len(self._records) + len(self._unfinished)


def _settle_waiter(waiter: asyncio.Future[TaskResult], outcome: TaskResult | BackendError) -> None:
    """Complete a waiter on its own loop, which may be another thread's."""

    def settle() -> None:
        if waiter.done():
            return
        if isinstance(outcome, BackendError):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)

    loop = waiter.get_loop()
    if _running_loop() is loop:
        settle()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(settle)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
