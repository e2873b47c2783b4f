"""Takes tasks from a leasing broker: as many as there are free slots for, and what will have begun a moment later."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flowrra.backoff import Backoff
from flowrra.brokers.base import MAX_BATCH, MAX_BATCH_BYTES, Delivery, LeasingBroker
from flowrra.exceptions import BackendError, RequestRefusedError, RequestTimeoutError
from flowrra.executors.job import Job
from flowrra.executors.queue_order import QueueOrder
from flowrra.executors.records import Known
from flowrra.executors.sources.holdings import Holdings
from flowrra.executors.sources.room import Room
from flowrra.executors.sources.settler import Settler
from flowrra.executors.workers import Workers
from flowrra.outage import Outage
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

# Deliveries that are taken in at once, before the attempts that are suspended have their turn.
AT_ONCE = 50


class Fetcher:
    """Keeps the workers' queue filled from a broker.

    Args:
        broker: The broker.
        workers: Whose queue it is.
        label: Names the executor in the log.
        room: The room in it.
        holdings: What is held already.
        settler: While it can't tell outcomes, nothing more is taken.
        goes_on: Whether a delivery is of a task that is held here still, and goes on.
        look_up: Returns the records, by id, that are needed to take in what came.
        deliver: Called with each delivery and these records.
        release: Called with a job that was taken ahead, and is to go back.
        note: Called with each failure of a take.
        recovered: Called when a take was answered.
        queues: Returns the names of the queues to take from.
        order: Which of them is asked first, and for how many tasks.

    Attributes:
        is_fetching: Whether tasks are taken.
        restarts: How often something here died and was replaced.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        workers: Workers,
        label: str,
        room: Room,
        holdings: Holdings,
        settler: Settler,
        goes_on: Callable[[Delivery], bool],
        look_up: Callable[[Sequence[Delivery]], Awaitable[Known]],
        deliver: Callable[[Delivery, Known], None],
        release: Callable[[Job], None],
        note: Callable[[BackendError], None],
        recovered: Callable[[], None],
        queues: Callable[[], Sequence[str]],
        order: QueueOrder,
    ) -> None:
        self._broker = broker
        self._workers = workers
        self._label = label
        self._room = room
        self._holdings = holdings
        self._settler = settler
        self._goes_on = goes_on
        self._look_up = look_up
        self._deliver = deliver
        self._release = release
        self._note = note
        self._recovered = recovered
        self._queues = queues
        self._order = order
        # Those that had something the last time that they were asked.
        self._busy: set[str] = set()
        self._outage = Outage(logger, "broker not readable", f"executor={label}")
        self._loops = [self._supervised("take", self._take_all), self._supervised("stale", self._return_stale)]
        self.is_fetching = False
        self.restarts = 0
        self._is_failing = False
        self._take_bytes = MAX_BATCH_BYTES
        # Queues of which an answer to a take was lost, so that tasks may be held that nobody here knows of.
        self._must_recover: set[str] = set()
        # What is under way with the server: a take that is seen through, and a wait for something to take.
        self._taking: asyncio.Task[Any] | None = None
        self._waiting: asyncio.Task[str | None] | None = None

    def _supervised(self, name: str, work: Callable[[], Any]) -> Supervised:
        def died(error: BaseException | None) -> None:
            self.restarts += 1
            logger.error("fetching died, replaced executor=%s loop=%s error=%r", self._label, name, error)

        return Supervised(work, f"flowrra-{self._workers.kind}-{name}", REPLACEMENT_DELAY, died)

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Take tasks from now on, on the running event loop."""
        self._may_have_room = asyncio.Event()
        self._is_failing = False
        self._take_bytes = MAX_BATCH_BYTES
        self._must_recover.clear()
        self._busy.clear()
        self.is_fetching = True
        self._room.open(self._tell)
        for each in self._loops:
            each.start()

    def notify(self) -> None:
        """There may be room for another task, and what kept this one from taking may be over."""
        if self.is_fetching:
            self._may_have_room.set()
        self._room.notify()

    def _tell(self) -> None:
        self._may_have_room.set()

    def after_take(self, call: Callable[[], None]) -> None:
        """Call that when what is on its way here is there, if anything is."""
        if self._taking is not None and not self._taking.done():
            self._taking.add_done_callback(lambda _: call(), context=contextvars.Context())

    def attempt_ended(self) -> None:
        """A slot becomes free."""
        self._room.estimate.count()
        self._room.notify()

    async def stop(self) -> None:
        """Take nothing more."""
        self.is_fetching = False
        self._room.leave(self._tell)
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
            logger.warning("broker not readable while stopping executor=%s error=%s", self._label, error)

    async def _pass_on(self) -> None:
        """The server may just have woken this worker, and no other one: have it wake the next, if there is work."""
        try:
            async with asyncio.timeout(PASS_ON_TIMEOUT):
                for queue in self._queues():
                    await self._broker.take(0, queue=queue)
        except (BackendError, TimeoutError) as error:  # the others look again by themselves
            logger.warning("broker not readable while stopping executor=%s error=%r", self._label, error)

    def abandon(self) -> None:
        """The event loop is gone."""
        self.is_fetching = False
        self._room.leave(self._tell)
        for each in self._loops:
            each.release()
        self._taking = self._waiting = None

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_all(self) -> None:
        backoff = Backoff()
        while True:
            self._may_have_room.clear()
            try:
                woken = self._woken()
                room = self._share(woken)
                if not room and not woken:
                    await self._may_have_room.wait()
                    continue
                # Room that is kept for an answer which may not come would be missing to others.
                reserved = 0 if self._is_failing else room
                self._room.reserve(reserved)
                # A take whose answer is not seen leaves its tasks to the end of their leases: see it through.
                self._taking = spawn(self._fill(room, woken, reserved))
                taken, due_in = await asyncio.shield(self._taking)
                self._is_failing = False
                self._outage.over()
                if not taken and room:
                    await self._wait(IDLE_WAIT if due_in is None else min(IDLE_WAIT, due_in))
            except BackendError as error:
                self._is_failing = True
                self._note(error)
                self._outage.failed(str(error))
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()

    async def _wait(self, seconds: float) -> None:
        """Return when there may be something to take, at the latest after that time.

        The server is asked to wait longer than that, as it is not exact, and an answer that comes while there is no
        room is passed on by taking nothing; so is one that comes when the room has just gone.
        """
        if self._waiting is None:
            self._waiting = spawn(self._broker.wait(IDLE_WAIT, self._queues()))
            self._waiting.add_done_callback(lambda _: self._may_have_room.set())
        await asyncio.wait({self._waiting}, timeout=seconds)

    def _woken(self) -> str | None:
        """The queue of which the server has said, since it was asked to wait, that there is something. Raises what it
        said else."""
        if self._waiting is None or not self._waiting.done():
            return None
        waiting, self._waiting = self._waiting, None
        return waiting.result()

    async def _fill(self, room: int, woken: str | None, reserved: int) -> tuple[int, float | None]:
        """Take tasks into the room that was reserved for them; see :meth:`_take_round`."""
        try:
            return await self._take_round(room, woken)
        finally:
            self._room.release(reserved)

    async def _take_round(self, room: int, woken: str | None) -> tuple[int, float | None]:
        """Take from the queues whose turn it is, until there is no more room.

        Args:
            room: How many tasks to take.
            woken: The queue of which this worker alone was told that there is something. If its turn doesn't come,
                that is passed on by taking nothing.

        Returns:
            How many were taken, and in how many seconds more may be due, if none were.

        Raises:
            BackendError: Nothing was taken, and a queue could not be read.
        """
        queues, taken, due_in, failure = self._queues(), 0, None, None
        is_alone = len(queues) == 1
        for queue in queues if is_alone else self._order.next_first(queues):
            left = room - taken
            if left <= 0 and queue != woken:
                continue
            limit = left if is_alone or left <= 0 else min(left, self._order.part(queue, room, self._busy))
            try:
                count, next_in, latest = await self._take(queue, limit)
            except RequestRefusedError as error:  # it is this queue's fault: the others go on
                failure = failure or error
                continue
            taken += count
            if count and not is_alone:
                self._order.took(queue, count)
                if count < limit and _may_be_cut_short(latest, self._take_bytes):
                    room = taken  # it has more than came: whose turn is next, the next round says
            (self._busy.add if count else self._busy.discard)(queue)
            due_in = min((each for each in (due_in, next_in) if each is not None), default=None)
        if failure is None:
            self._recovered()  # the server is back, however long there is nothing to take
        elif taken:
            self._note(failure)
        else:
            raise failure
        return taken, due_in

    async def _take(self, queue: str, limit: int) -> tuple[int, float | None, Sequence[Delivery]]:
        """Take from a queue, as much as one request brings or more: while that is taken in, the next is under way.

        Returns:
            How many were taken, in how many seconds more may be due, and what the last request brought.
        """
        if queue in self._must_recover:
            await self._recover(queue)
        deliveries, due_in = await self._request(queue, limit)
        taken = len(deliveries)
        while deliveries:
            coming = None
            if len(deliveries) == MAX_BATCH and taken < limit and self._has_slots_beside(MAX_BATCH):
                coming = spawn(self._request(queue, limit - taken))
            try:
                await self._take_in(deliveries)
            except BaseException:
                self._must_recover.add(queue)  # as soon as nothing is on its way any more
                if coming is not None:
                    await asyncio.wait({coming})
                raise
            if coming is None:
                break
            deliveries, due_in = await coming
            taken += len(deliveries)
        return taken, due_in, deliveries

    def _has_slots_beside(self, count: int) -> bool:
        """Whether more slots are free than so many tasks will fill, while others have tasks that wait for something."""
        if not self.is_fetching or self._is_kept():
            return False
        workers = self._workers
        return 0 < len(workers.running) < workers.slots - workers.queue.size - count

    async def _request(self, queue: str, limit: int) -> tuple[list[Delivery], float | None]:
        timeout = LONG_TAKE if self._take_bytes == MIN_TAKE_BYTES else None
        try:
            deliveries, due_in = await self._broker.take(limit, self._take_bytes, queue=queue, timeout=timeout)
        except BackendError as error:
            self._must_recover.add(queue)
            if isinstance(error, RequestTimeoutError):
                self._take_bytes = max(MIN_TAKE_BYTES, self._take_bytes // 2)
            raise
        self._take_bytes = min(MAX_BATCH_BYTES, 2 * self._take_bytes)
        return deliveries, due_in

    async def _take_in(self, deliveries: Sequence[Delivery]) -> None:
        # At once: what runs here may end while records are read, and would seem to have come anew then.
        fresh = [delivery for delivery in deliveries if not self._goes_on(delivery)]
        known = await self._look_up(fresh)
        self._room.arrived()
        for count, delivery in enumerate(fresh, 1):
            self._deliver(delivery, known)
            # Of tasks that end at once, all are to be there before the first begins: else nothing is left to do while
            # the next ones are on their way.
            if count % AT_ONCE == 0 and self._workers.running:
                await asyncio.sleep(0)

    async def _recover(self, queue: str) -> None:
        """Have the tasks of a lost answer back in the queue at once, and not only when their leases end."""
        count = await self._broker.recover([*self._holdings.held, *self._holdings.refused], queue)
        self._must_recover.discard(queue)
        if count:
            logger.info("tasks of a lost answer given back executor=%s count=%d", self._label, count)

    def _share(self, woken: str | None) -> int:
        """How many tasks to take now. Whoever can't take any, or passes something on first, has no turn meanwhile."""
        is_kept = self._is_kept()
        room = 0 if is_kept else self._room.share(self._tell)
        if is_kept or (woken and not room):
            self._room.leave(self._tell)
        return room

    def _is_kept(self) -> bool:
        """Whether it is kept from taking anything."""
        return self._workers.is_draining or self._settler.is_failing or self._settler.backlog > 2 * MAX_BATCH

    async def _return_stale(self) -> None:
        """Give back what was taken ahead and did not begin: another worker may be idle."""
        while True:
            await asyncio.sleep(STALE_AFTER)
            horizon = time.monotonic() - STALE_AFTER
            ready, held = self._workers.queue.ready(), self._holdings.held
            stale = [job for job in ready if job.taken_at < horizon and job.task.id in held]
            if not stale:
                continue
            self._room.estimate.slow_down()
            for job in reversed(stale):
                if self._workers.withdraw(job.task.id) is not None:
                    self._release(job)


def _may_be_cut_short(deliveries: Sequence[Delivery], most_bytes: int) -> bool:
    """Whether a request brought no more because of its own bounds, so that there is likely to be more."""
    return len(deliveries) == MAX_BATCH or 2 * sum(len(each.call or "") for each in deliveries) >= most_bytes
