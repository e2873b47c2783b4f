"""The queue inside a process: priorities, first in first out within one, delays, and a bound.

Not a :class:`~flowrra.brokers.base.BaseBroker`: what waits here is known to this process alone. It belongs to one event
loop, whose thread alone changes it; the sizes may be read from any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class JobQueue(Generic[Item]):
    """Items by priority (lower numbers first), in order of arrival within one.

    Attributes:
        size: How many items are ready.
        reserved: How many more are about to be put.
        max_size: The bound on both.

    Args:
        max_size: Items that may wait before :meth:`wait_for_room` waits. Delayed items don't count, and neither
            :meth:`put` nor a delayed item that falls due is ever refused, so that a retry can't be stuck behind it.
        on_due: Called without arguments whenever delayed items have become ready.
    """

    def __init__(self, max_size: int, on_due: Callable[[], None]) -> None:
        self.max_size = max_size
        self.reserved = 0
        self._on_due = on_due
        # An OrderedDict takes from its front, and from anywhere by key, in constant time.
        self._lanes: dict[int, OrderedDict[str, Item]] = {}
        self._priorities: list[int] = []
        self.size = 0
        self._delayed: dict[str, tuple[float, int, Item]] = {}
        self._due_times: list[tuple[float, int, str]] = []
        self._sequence = 0
        self._timer: asyncio.TimerHandle | None = None
        self._room: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return self.size

    @property
    def delayed(self) -> int:
        """How many items wait for their time."""
        return len(self._delayed)

    def put(self, key: str, priority: int, item: Item) -> None:
        """Add an item that is ready now."""
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = OrderedDict()
            insort(self._priorities, priority)
        lane[key] = item
        self.size += 1

    def take(self) -> Item | None:
        """Remove and return the next ready item; None if there is none."""
        if not self._priorities:
            return None
        priority = self._priorities[0]
        lane = self._lanes[priority]
        _, item = lane.popitem(last=False)
        self.size -= 1
        if not lane:
            del self._lanes[priority]
            del self._priorities[0]
        if self._room:
            self.offer_room()
        return item

    def remove(self, key: str) -> Item | None:
        """Remove and return an item, ready or delayed; None if it isn't here."""
        delayed = self._delayed.pop(key, None)
        if delayed is not None:
            self._drop_stale_due_times()
            return delayed[2]
        for priority, lane in self._lanes.items():
            if key in lane:
                item = lane.pop(key)
                self.size -= 1
                if not lane:
                    del self._lanes[priority]
                    self._priorities.remove(priority)
                self.offer_room()
                return item
        return None

    def clear(self) -> list[Item]:
        """Remove and return everything, the ready items first, in order."""
        items = []
        while (item := self.take()) is not None:
            items.append(item)
        items.extend(item for _, _, item in sorted(self._delayed.values(), key=lambda entry: entry[:2]))
        self._delayed.clear()
        self._due_times.clear()
        self._set_timer()
        return items

    def ready(self) -> list[Item]:
        """Every ready item, in order."""
        return [item for priority in self._priorities for item in self._lanes[priority].values()]

    def oldest(self) -> list[Item]:
        """The longest waiting ready item of each priority. From another thread: a moment's picture."""
        return [item for lane in self._lanes.copy().values() if (item := _first(lane)) is not None]

    # ── room ────────────────────────────────────────────────────────────────────────────────────────────────

    def _has_room(self) -> bool:
        return self.size + self.reserved < self.max_size

    async def wait_for_room(self) -> None:
        """Return once there is room for one more item, in order of arrival."""
        while not self._has_room():
            waiter = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            try:
                await waiter
            except BaseException:
                waiter.cancel()
                if waiter in self._room:
                    self._room.remove(waiter)
                elif self._has_room():  # it was woken for room that it will not use: pass it on
                    self.offer_room()
                raise

    def offer_room(self) -> None:
        """Let the next one who waits for room go on, if there is room."""
        while self._room and self._has_room():
            waiter = self._room.popleft()
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
                return

    def release_waiting(self) -> None:
        """Let everyone who waits for room go on, as the queue is about to close."""
        self.max_size = max(self.max_size, self.size + self.reserved + len(self._room) + 1)
        while self._room:
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)

    # ── delays ──────────────────────────────────────────────────────────────────────────────────────────────

    def put_later(self, key: str, delay: float, item: Item) -> None:
        """Hold an item back for ``delay`` seconds; see :meth:`take_due`."""
        due = asyncio.get_running_loop().time() + delay
        self._sequence += 1
        self._delayed[key] = (due, self._sequence, item)
        heapq.heappush(self._due_times, (due, self._sequence, key))
        if self._due_times[0][1] == self._sequence:
            self._set_timer()

    def take_due(self) -> list[Item]:
        """Remove and return the delayed items whose time has come, earliest first."""
        now = asyncio.get_running_loop().time()
        items = []
        while self._due_times and self._due_times[0][0] <= now:
            _, sequence, key = heapq.heappop(self._due_times)
            entry = self._delayed.get(key)
            if entry is not None and entry[1] == sequence:
                del self._delayed[key]
                items.append(entry[2])
        self._set_timer()
        return items

    def next_due_in(self) -> float | None:
        """Seconds until the first delayed item becomes ready; None if nothing is delayed."""
        due = min((due for due, _, _ in self._delayed.values()), default=None)
        return None if due is None else due - asyncio.get_running_loop().time()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due_times:
            # In a context of its own, as it may be set by a task whose retry is the first one due.
            self._timer = asyncio.get_running_loop().call_at(
                self._due_times[0][0], self._on_due, context=contextvars.Context()
            )

    def _drop_stale_due_times(self) -> None:
        """Keep what cancelled items leave behind in proportion to what still waits."""
        if len(self._due_times) > 2 * len(self._delayed) + 64:
            self._due_times = [(due, sequence, key) for key, (due, sequence, _) in self._delayed.items()]
            heapq.heapify(self._due_times)
            self._set_timer()


def _first(lane: OrderedDict[str, Item]) -> Item | None:
    while True:
        try:
            return next(iter(lane.values()), None)
        except RuntimeError:  # the loop's thread changed it in this very moment
            continue
