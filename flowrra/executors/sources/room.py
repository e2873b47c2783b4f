"""How many tasks to take: as many as there are free slots for, and what will have begun a moment later. Those who take
for the same workers share that fairly."""

from __future__ import annotations

import time
from collections.abc import Callable

from flowrra.executors.workers import Workers

# Seconds: what is taken ahead is expected to have begun after that.
HORIZON = 0.05
MAX_AHEAD = 500
# Seconds that a measurement takes at least: of tasks that began together many end at once, however slow they are.
MIN_WINDOW = 0.01


class ThroughputEstimate:
    """How many tasks end in a second, and so how many to take ahead of the free slots: what will have begun a moment
    later, and no more, so that slow tasks never wait behind each other while another worker is idle."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._ended = 0
        self._since = self._last_end = time.monotonic()

    def count(self) -> None:
        """A task has ended."""
        self._ended += 1
        self._last_end = time.monotonic()

    def skip_pause(self) -> None:
        """There was nothing to do since the last task ended: measure as if that time had not been."""
        now = time.monotonic()
        self._since += now - self._last_end
        self._last_end = now

    def _restart(self) -> None:
        self._ended = 0
        self._since = self._last_end = time.monotonic()

    def slow_down(self) -> None:
        """Take nothing ahead for now: what was taken had to wait."""
        self._rate = 0.0
        self._restart()

    def ahead(self) -> int:
        """How many tasks to take ahead now."""
        elapsed = time.monotonic() - self._since
        if self._ended and elapsed >= MIN_WINDOW:
            rate = self._ended / elapsed
            self._rate = (self._rate + rate) / 2 if self._rate else rate
            self._restart()
        return min(MAX_AHEAD, int(self._rate * HORIZON))


class Room:
    """The room for tasks of an executor, and whose turn it is to fill it.

    Whoever wants tasks gets a share, and comes behind the others then. Who has found nothing wants none until it looks
    again. So the only one with work gets all the room, and of several none waits for more than one turn of each other.

    Args:
        workers: Whose room it is.

    Attributes:
        estimate: How many tasks are taken ahead.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.estimate = ThroughputEstimate()
        # Who wants tasks, in the order of their turns: by the function that tells them that there may be room.
        self._wanting: dict[Callable[[], None], None] = {}
        # Tasks that were asked for, and have not come yet.
        self._coming = 0

    def open(self, tell: Callable[[], None]) -> None:
        """Want tasks from now on, with nothing under way.

        Args:
            tell: Says who wants tasks; called when there may be room for them.
        """
        self._coming = 0
        self._wanting.setdefault(tell)

    def leave(self, tell: Callable[[], None]) -> None:
        """Want no tasks; it may be the next one's turn."""
        self._wanting.pop(tell, None)
        self.notify()

    def share(self, tell: Callable[[], None]) -> int:
        """How many tasks to take now. If there are any, one's turn is over; if not, it comes."""
        self._wanting.setdefault(tell)
        workers, ahead = self._workers, self.estimate.ahead()
        waiting = workers.queue.size + self._coming
        room = workers.slots + ahead - len(workers.running) - waiting
        # Many at once rather than one for each that ended, as long as there is something to do.
        if room <= 0 or (waiting and room < ahead // 2):
            return 0
        others = len(self._wanting) - 1
        if not others:
            self._wanting.clear()
            return room
        if room <= others and next(iter(self._wanting)) != tell:
            return 0
        del self._wanting[tell]
        return max(-(-room // (others + 1)), min(room, ahead // 2))

    def arrived(self) -> None:
        """Tasks have come. If there was nothing to do, it says nothing of their speed that none has ended."""
        if not self._workers.running and not self._workers.queue.size:
            self.estimate.skip_pause()

    def reserve(self, count: int) -> None:
        """So many tasks are asked for: nobody else is to fill their room."""
        self._coming += count
        self.notify()

    def release(self, count: int) -> None:
        """What was asked for has come, or doesn't."""
        self._coming -= count
        self.notify()

    def notify(self) -> None:
        """There may be room: tell whose turn it is."""
        for tell in self._wanting:
            tell()
            return
