"""Takes tasks from a leasing broker: as many as there are free slots for, and what will have begun a moment later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from flowrra.backoff import Backoff
from flowrra.brokers.base import MAX_BATCH, MAX_BATCH_BYTES, Delivery, LeasingBroker
from flowrra.exceptions import BackendError, RequestTimeoutError
from flowrra.executors.job import Job
from flowrra.executors.sources.holdings import Holdings
from flowrra.executors.sources.settler import Settler
from flowrra.executors.workers import Workers
from flowrra.supervision import Supervised, cancel_until_ended, spawn

logger = logging.getLogger(__name__)

REPLACEMENT_DELAY = 0.05
# Seconds for which an idle worker waits on the server before it looks again by itself.
IDLE_WAIT = 5.0
# Seconds that a stopping worker takes at the most for having another one woken in its place.
PASS_ON_TIMEOUT = 1.0
# Seconds after which a task that was taken ahead and is still waiting goes back, for another worker to take.
STALE_AFTER = 0.5
# Bytes of the tasks of one take, at least, after takes whose answer did not come in time.
MIN_TAKE_BYTES = 64 * 1024
# Seconds to wait for the answer to a take, in which then a single large task has to come through.
LONG_TAKE = 75.0

# Seconds: what is taken ahead is expected to have begun after that.
HORIZON = 0.05
MAX_AHEAD = 500
# Seconds: what ended in less time than that counts as if it had taken that long, as a few say little about the rate.
MIN_WINDOW = 0.0005


class ThroughputEstimate:
    """How many tasks end in a second, and so how many to take ahead of the free slots: what will have begun a moment
    later, and no more, so that slow tasks never wait behind each other while another worker is idle."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._ended = 0
        self._since = time.monotonic()

    def count(self) -> None:
        """A task has ended."""
        self._ended += 1

    def restart(self) -> None:
        """Begin a measurement: from now on there is something to do."""
        self._ended = 0
        self._since = time.monotonic()

    def slow_down(self) -> None:
        """Take nothing ahead for now: what was taken had to wait."""
        self._rate = 0.0
        self.restart()

    def ahead(self) -> int:
        """How many tasks to take ahead now."""
        if self._ended:
            rate = self._ended / max(MIN_WINDOW, time.monotonic() - self._since)
            self._rate = (self._rate + rate) / 2 if self._rate else rate
            self.restart()
        return min(MAX_AHEAD, int(self._rate * HORIZON))


class Fetcher:
    """Keeps the workers' queue filled from a broker.

    Args:
        broker: The broker.
        workers: Whose queue it is.
        holdings: What is held already.
        settler: While it can't tell outcomes, nothing more is taken.
        deliver: Called with each delivery.
        release: Called with a job that was taken ahead, and is to go back.
        note: Called with each failure of a take.
        recovered: Called when a take was answered.

    Attributes:
        is_fetching: Whether tasks are taken.
        restarts: How often something here died and was replaced.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        workers: Workers,
        holdings: Holdings,
        settler: Settler,
        deliver: Callable[[Delivery], Awaitable[None]],
        release: Callable[[Job], None],
        note: Callable[[BackendError], None],
        recovered: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._workers = workers
        self._holdings = holdings
        self._settler = settler
        self._deliver = deliver
        self._release = release
        self._note = note
        self._recovered = recovered
        self._estimate = ThroughputEstimate()
        self._loops = [self._supervised("take", self._take_all), self._supervised("stale", self._return_stale)]
        self.is_fetching = False
        self.restarts = 0
        self._take_bytes = MAX_BATCH_BYTES
        # Whether an answer to a take was lost, and tasks may be held that nobody here knows of.
        self._must_recover = False
        # What is under way with the server: a take that is seen through, and a wait for something to take.
        self._taking: asyncio.Task[Any] | None = None
        self._waiting: asyncio.Task[None] | None = None

    def _supervised(self, name: str, work: Callable[[], Any]) -> Supervised:
        def died(error: BaseException | None) -> None:
            self.restarts += 1
            logger.error("fetching died, replaced executor=%s loop=%s error=%r", self._workers.kind, name, error)

        return Supervised(work, f"flowrra-{self._workers.kind}-{name}", REPLACEMENT_DELAY, died)

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Take tasks from now on, on the running event loop."""
        self._room = asyncio.Event()
        self._take_bytes, self._must_recover = MAX_BATCH_BYTES, False
        self.is_fetching = True
        for each in self._loops:
            each.start()

    def notify(self) -> None:
        """There may be room for another task."""
        if self.is_fetching:
            self._room.set()

    def attempt_ended(self) -> None:
        """A slot becomes free."""
        self._estimate.count()
        self.notify()

    async def stop(self) -> None:
        """Take nothing more."""
        self.is_fetching = False
        waiting, self._waiting = self._waiting, None
        tasks = [each.release() for each in self._loops]
        await cancel_until_ended(*(task for task in (*tasks, waiting) if task is not None))
        if self._taking is not None:
            await asyncio.wait({self._taking})
            self._log_failure(self._taking)
        if waiting is not None:
            self._log_failure(waiting)
            await self._pass_on()

    def _log_failure(self, request: asyncio.Task[Any]) -> None:
        if not request.cancelled() and (error := request.exception()) is not None:
            logger.warning("broker not readable while stopping executor=%s error=%s", self._workers.kind, error)

    async def _pass_on(self) -> None:
        """The server may just have woken this worker, and no other one: have it wake the next, if there is work."""
        try:
            async with asyncio.timeout(PASS_ON_TIMEOUT):
                await self._broker.take(0)
        except (BackendError, TimeoutError) as error:  # the others look again by themselves
            logger.warning("broker not readable while stopping executor=%s error=%r", self._workers.kind, error)

    def abandon(self) -> None:
        """The event loop is gone."""
        self.is_fetching = False
        for each in self._loops:
            each.release()
        self._taking = self._waiting = None

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_all(self) -> None:
        backoff = Backoff()
        while True:
            room = self._room_for()
            try:
                is_woken = self._is_woken()
                if room <= 0 and not is_woken:
                    self._room.clear()
                    await self._room.wait()
                    continue
                # A take whose answer is not seen leaves its tasks to the end of their leases: see it through.
                self._taking = spawn(self._take(max(0, room)))
                deliveries, due_in = await asyncio.shield(self._taking)
                self._recovered()  # the server is back, however long there is nothing to take
                if not deliveries and room > 0:
                    await self._wait(IDLE_WAIT if due_in is None else min(IDLE_WAIT, due_in))
            except BackendError as error:
                self._note(error)
                pause = backoff.next()
                logger.warning(
                    "broker not readable, trying again executor=%s in=%.2f error=%s", self._workers.kind, pause, error
                )
                await asyncio.sleep(pause)
            else:
                backoff.reset()

    async def _wait(self, seconds: float) -> None:
        """Return when there may be something to take, at the latest after that time.

        The server is asked to wait longer than that, as it is not exact, and an answer that comes while there is no
        room is passed on by taking nothing; so is one that comes when the room has just gone.
        """
        if self._waiting is None:
            self._waiting = spawn(self._broker.wait(IDLE_WAIT))
            self._waiting.add_done_callback(lambda _: self._room.set())
        await asyncio.wait({self._waiting}, timeout=seconds)

    def _is_woken(self) -> bool:
        """Whether the server has answered since it was asked to wait. Raises what it answered."""
        if self._waiting is None or not self._waiting.done():
            return False
        waiting, self._waiting = self._waiting, None
        waiting.result()
        return True

    async def _take(self, room: int) -> tuple[list[Delivery], float | None]:
        if self._must_recover:
            await self._recover()
        timeout = LONG_TAKE if self._take_bytes == MIN_TAKE_BYTES else None
        try:
            deliveries, due_in = await self._broker.take(room, self._take_bytes, timeout=timeout)
        except BackendError as error:
            self._must_recover = True
            if isinstance(error, RequestTimeoutError):
                self._take_bytes = max(MIN_TAKE_BYTES, self._take_bytes // 2)
            raise
        self._take_bytes = min(MAX_BATCH_BYTES, 2 * self._take_bytes)
        if deliveries:
            self._estimate.restart()
            for delivery in deliveries:
                await self._deliver(delivery)
        return deliveries, due_in

    async def _recover(self) -> None:
        """Have the tasks of a lost answer back in the queue at once, and not only when their leases end."""
        count = await self._broker.recover([*self._holdings.held, *self._holdings.refused])
        self._must_recover = False
        if count:
            logger.info("tasks of a lost answer given back executor=%s count=%d", self._workers.kind, count)

    def _room_for(self) -> int:
        """How many tasks to take now."""
        if self._settler.is_failing or self._settler.backlog > 2 * MAX_BATCH:
            return 0
        workers = self._workers
        ahead, waiting = self._estimate.ahead(), workers.queue.size
        room = workers.slots + ahead - len(workers.running) - waiting
        # Many at once rather than one for each that ended, as long as there is something to do.
        return 0 if waiting and room < max(1, ahead // 2) else room

    async def _return_stale(self) -> None:
        """Give back what was taken ahead and did not begin: another worker may be idle."""
        while True:
            await asyncio.sleep(STALE_AFTER)
            horizon = time.monotonic() - STALE_AFTER
            stale = [job for job in self._workers.queue.ready() if job.taken_at < horizon]
            if not stale:
                continue
            self._estimate.slow_down()
            for job in reversed(stale):
                if self._workers.withdraw(job.task.id) is not None:
                    self._release(job)
