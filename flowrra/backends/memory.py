"""Results in the memory of one process, bounded by number, by age and by size."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from itertools import islice, takewhile

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.record_size import RECORD_SIZE, SMALL, is_small, record_size
from flowrra.copying import SCALARS, copied
from flowrra.exceptions import BackendError
from flowrra.forks import tell_of_forks
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
        self._records: dict[str, TaskResult] = {}
        # Takes on the record of a new task: what store() does, without a coroutine, as it is on every task's way.
        self.hold = self._records.__setitem__
        # When each finished one was finished (monotonic), in that order.
        self._finished: dict[str, float] = {}
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
        self._waiters: dict[str, list[asyncio.Future[TaskResult]]] = {}
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: what has not finished is the parent's, and nobody would ever complete it here."""
        self._lock = threading.Lock()
        self._waiters.clear()
        for task_id in self._records.keys() - self._finished.keys():
            del self._records[task_id]

    async def store(self, task_id: str, result: TaskResult) -> None:
        self.keep(task_id, result)

    def keep(self, task_id: str, result: TaskResult) -> None:
        """The same as :meth:`store`, without a coroutine: it is on every task's way."""
        if result.status in COMPLETE_STATUSES:
            if task_id in self._finished:
                self._forget_finished(task_id)
            # Asked here first, as a call takes longer: most tasks return a number or nothing.
            if (type(result.result) not in SMALL or result.args or result.kwargs or result.error) and not is_small(
                result
            ):
                self._take_in(task_id, result)
            self._records[task_id] = result
            now = self._finished[task_id] = time.monotonic()
            if len(self._finished) > self._room or now >= self._expires_at:
                self._expire()
            if task_id in self._waiters:
                self._wake(task_id, result)
        else:
            self._records[task_id] = result

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
        record = self._records.get(task_id)
        return None if record is None else record.copy()

    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        waiter: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(task_id, []).append(waiter)
        try:
            # Looked up after the waiter is in place: whatever completes from here on wakes it.
            record = self._records.get(task_id)
            if record is not None and record.is_complete:
                return record.copy()
            async with asyncio.timeout(timeout):
                return (await waiter).copy()
        finally:
            self._forget_waiter(task_id, waiter)

    def _wake(self, task_id: str, record: TaskResult) -> None:
        for waiter in self._waiters.pop(task_id, ()):
            _settle_waiter(waiter, record)

    def _forget_waiter(self, task_id: str, waiter: asyncio.Future[TaskResult]) -> None:
        waiters = self._waiters.get(task_id)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(task_id, None)

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
                for task_id in islice(self._finished, len(self._finished) - 1):
                    if len(oldest) >= count and left <= 0:
                        break
                    oldest.append(task_id)
                    left -= RECORD_SIZE + self._excess.get(task_id, 0)
            except RuntimeError:  # another thread stored or deleted one meanwhile
                continue
            return oldest

    def _drop(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            self._forget_finished(task_id)
            self._records.pop(task_id, None)

    def _forget_finished(self, task_id: str) -> None:
        self._finished.pop(task_id, None)
        if (excess := self._excess.pop(task_id, 0)) > 0:
            self._excess_sum -= excess
            self._make_room()

    def _make_room(self) -> None:
        self._room = min(self._max_results, (self._max_bytes - self._excess_sum) // RECORD_SIZE)

    async def delete(self, task_id: str) -> bool:
        self._forget_finished(task_id)
        return self._records.pop(task_id, None) is not None

    async def clear(self) -> int:
        count = len(self._records)
        self._records.clear()
        self._finished.clear()
        self._excess.clear()
        self._excess_sum = 0
        self._make_room()
        return count

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        if time.monotonic() >= self._expires_at:
            self._expire()
        records = [record for record in self._records.copy().values() if record.status == status]
        wanted = len(records) if limit is None else offset + limit
        newest = heapq.nlargest(wanted, records, key=_submitted)
        return [record.copy() for record in newest[offset:]]

    async def close(self) -> None:
        """Fail whoever still waits: nothing will complete any more."""
        for task_id, waiters in list(self._waiters.items()):
            del self._waiters[task_id]
            for waiter in waiters:
                _settle_waiter(waiter, BackendError(f"The app stopped while task '{task_id}' was waited for"))

    def __len__(self) -> int:
        return len(self._records)


def _submitted(record: TaskResult) -> float:
    # Records of user code may be naive; timestamp() takes either kind.
    return float("-inf") if record.submitted_at is None else record.submitted_at.timestamp()


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
