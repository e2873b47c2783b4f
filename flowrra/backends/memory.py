"""Results in the memory of one process, bounded by number and by age."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from itertools import islice, takewhile

from flowrra.backends.base import BaseResultBackend
from flowrra.exceptions import BackendError
from flowrra.task import COMPLETE_STATUSES, TaskResult, TaskStatus

DEFAULT_MAX_RESULTS = 100_000
DEFAULT_MAX_AGE = 24 * 3600.0


class InMemoryBackend(BaseResultBackend):
    """Keeps unfinished tasks for as long as they last, and finished ones up to a number and an age.

    Readable, and waitable, from any thread and any event loop. What is read is a copy.

    Args:
        max_results: Finished records that are kept; the oldest go first.
        max_age: Seconds that a finished record is kept.

    Raises:
        ValueError: One of them is not positive.
    """

    def __init__(self, max_results: int = DEFAULT_MAX_RESULTS, max_age: float = DEFAULT_MAX_AGE) -> None:
        if max_results < 1:
            raise ValueError(f"max_results must be at least 1, not {max_results!r}")
        if not max_age > 0:
            raise ValueError(f"max_age must be positive (seconds), not {max_age!r}")
        self._max_results = max_results
        self._max_age = max_age
        self._records: dict[str, TaskResult] = {}
        # Takes on the record of a new task: what store() does, without a coroutine, as it is on every task's way.
        self.hold = self._records.__setitem__
        # When each finished one was finished (monotonic), in that order.
        self._finished: dict[str, float] = {}
        # When the oldest of them may be too old.
        self._expires_at = time.monotonic() + max_age
        self._lock = threading.Lock()
        self._waiters: dict[str, list[asyncio.Future[TaskResult]]] = {}

    async def store(self, task_id: str, result: TaskResult) -> None:
        self.keep(task_id, result)

    def keep(self, task_id: str, result: TaskResult) -> None:
        """The same as :meth:`store`, without a coroutine: it is on every task's way."""
        self._records[task_id] = result
        if result.status in COMPLETE_STATUSES:
            now = self._finished[task_id] = time.monotonic()
            if len(self._finished) > self._max_results or now >= self._expires_at:
                self._expire()
            if task_id in self._waiters:
                self._wake(task_id, result)

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
        """Drop finished records beyond the number or the age that is kept.

        A hundredth of the number at once, and a hundred times in the age: to take the first of a dict costs the more,
        the more were taken before.
        """
        if len(self._finished) <= self._max_results and time.monotonic() < self._expires_at:
            return
        with self._lock:
            if len(self._finished) > self._max_results:
                excess = len(self._finished) - self._max_results
                self._drop(self._first_finished(max(excess, self._max_results // 100)))
            now = time.monotonic()
            if now >= self._expires_at:
                horizon = now - self._max_age
                finished = self._finished.copy()
                self._drop([task_id for task_id, _ in takewhile(lambda entry: entry[1] < horizon, finished.items())])
                oldest = next(iter(self._finished.copy().values()), now)
                self._expires_at = max(oldest + self._max_age, now + self._max_age / 100)

    def _first_finished(self, count: int) -> list[str]:
        while True:
            try:
                return list(islice(self._finished, count))
            except RuntimeError:  # another thread stored or deleted one meanwhile
                continue

    def _drop(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            self._finished.pop(task_id, None)
            self._records.pop(task_id, None)

    async def delete(self, task_id: str) -> bool:
        self._finished.pop(task_id, None)
        return self._records.pop(task_id, None) is not None

    async def clear(self) -> int:
        count = len(self._records)
        self._records.clear()
        self._finished.clear()
        return count

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
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
