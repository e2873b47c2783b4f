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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

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

    Items wait in lanes, the smallest lane first. A lane is a priority, unless :meth:`use_lanes` says more.
    """

    def __init__(self, max_size: int, on_due: Callable[[], None]) -> None:
        self.max_size = max_size
        self.reserved = 0
        self._on_due = on_due
        # An OrderedDict takes from its front, and from anywhere by key, in constant time.
        self._lanes: dict[Any, OrderedDict[str, Item]] = {}
        self._order: list[Any] = []
        # What is ready, and not to be taken for now.
        self._aside: dict[str, Item] = {}
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

    def put(self, key: str, lane: Any, item: Item) -> None:
        """Add an item that is ready now, at the end of a lane."""
        items = self._lanes.get(lane)
        if items is None:
            items = self._lanes[lane] = OrderedDict()
            insort(self._order, lane)
        items[key] = item
        self.size += 1

    def put_back(self, entries: Iterable[tuple[str, Any, Item]], since: Callable[[Item], float]) -> None:
        """Add items that have waited before, each to its place in its lane: by key, lane and item.

        Args:
            entries: Their keys, their lanes, and they themselves.
            since: Tells since when an item has waited.
        """
        lanes = set()
        for key, lane, item in entries:
            self.put(key, lane, item)
            lanes.add(lane)
        for lane in lanes:
            self._lanes[lane] = OrderedDict(sorted(self._lanes[lane].items(), key=lambda entry: since(entry[1])))

    def take(self) -> Item | None:
        """Remove and return the next ready item; None if there is none."""
        if not self._order:
            return None
        lane = self._order[0]
        items = self._lanes[lane]
        _, item = items.popitem(last=False)
        self.size -= 1
        if not items:
            del self._lanes[lane]
            del self._order[0]
        if self._room:
            self.offer_room()
        return item

    def take_first_of(self, choose: Callable[[list[Any]], Any]) -> Item | None:
        """:meth:`take`, but from the lane that ``choose`` returns; it is given those that have items, in order."""
        if not self._order:
            return None
        lane = choose(self._order)
        _, item = self._lanes[lane].popitem(last=False)
        self._taken_from(lane)
        return item

    def _taken_from(self, lane: Any) -> None:
        self.size -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
            self._order.remove(lane)
        self.offer_room()

    def remove(self, key: str) -> Item | None:
        """Remove and return an item, ready or delayed; None if it isn't here."""
        delayed = self._delayed.pop(key, None)
        if delayed is not None:
            self._drop_stale_due_times()
            return delayed[2]
        if key in self._aside:
            return self._aside.pop(key)
        for lane, items in self._lanes.items():
            if key in items:
                item = items.pop(key)
                self._taken_from(lane)
                return item
        return None

    def clear(self) -> list[Item]:
        """Remove and return everything, the ready items first, in order."""
        items = []
        while (item := self.take()) is not None:
            items.append(item)
        items.extend(self._aside.values())
        self._aside.clear()
        items.extend(item for _, _, item in sorted(self._delayed.values(), key=lambda entry: entry[:2]))
        self._delayed.clear()
        self._due_times.clear()
        self._set_timer()
        return items

    def __contains__(self, key: str) -> bool:
        """Whether that item waits here."""
        return key in self._delayed or key in self._aside or any(key in items for items in self._lanes.values())

    def ready(self) -> list[Item]:
        """Every ready item, in order."""
        return [item for lane in self._order for item in self._lanes[lane].values()]

    def waiting(self) -> Iterator[Item]:
        """Every item: the ready ones in order, those that were set aside, and the delayed ones. One by one: nothing may
        be put, nor taken, meanwhile."""
        for lane in self._order:
            yield from self._lanes[lane].values()
        yield from self._aside.values()
        for _, _, item in self._delayed.values():
            yield item

    def oldest(self) -> list[Item]:
        """The longest waiting ready item of each lane. From another thread: a moment's picture."""
        return [item for items in self._lanes.copy().values() if (item := _first(items)) is not None]

    def lanes(self) -> list[tuple[int, Item]]:
        """How many items are in each lane, and the longest waiting one. From another thread: a moment's picture."""
        lanes = self._lanes.copy().values()
        return [(len(items), item) for items in lanes if (item := _first(items)) is not None]

    def use_lanes(self, lane_of: Callable[[Item], Any]) -> None:
        """Sort what is ready into other lanes: into those of which :meth:`put` is given one from now on."""
        items = [(key, item) for lane in self._order for key, item in self._lanes[lane].items()]
        self._lanes.clear()
        self._order.clear()
        self.size = 0
        for key, item in items:
            self.put(key, lane_of(item), item)

    # ── what is not to be taken ─────────────────────────────────────────────────────────────────────────────

    def set_aside(self, key: str, item: Item) -> None:
        """Keep an item that is not to be taken for now; :meth:`remove` takes it out again. It takes up no room."""
        self._aside[key] = item

    def aside(self) -> list[Item]:
        """What was set aside, in order. From any thread."""
        return list(self._aside.copy().values())

    def delayed_items(self) -> list[Item]:
        """Every delayed item, in order of arrival. From any thread."""
        return [item for _, _, item in self._delayed.copy().values()]

    # ── room ────────────────────────────────────────────────────────────────────────────────────────────────

    def has_room(self) -> bool:
        """Whether there is room for one more item."""
        return self.size + self.reserved < self.max_size

    async def wait_for_room(self) -> None:
        """Return once there is room for one more item, in order of arrival."""
        while not self.has_room():
            waiter = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            try:
                await waiter
            except BaseException:
                waiter.cancel()
                if waiter in self._room:
                    self._room.remove(waiter)
                elif self.has_room():  # it was woken for room that it will not use: pass it on
                    self.offer_room()
                raise

    def offer_room(self) -> None:
        """Let the next one who waits for room go on, if there is room."""
        while self._room and self.has_room():
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
