"""The loop of a scheduler: it claims what is due, has it submitted and recorded, and waits until there is more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import tzinfo
from typing import Any

from flowrra.outage import Outage
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.clock import SharedClock
from flowrra.scheduler.due_times import first_run
from flowrra.scheduler.error_text import describe
from flowrra.scheduler.figures import RunFigures
from flowrra.scheduler.models import named
from flowrra.scheduler.submissions import Submissions
from flowrra.scheduler.target import Target

logger = logging.getLogger(__name__)

# Schedules or runs that are taken from the store at a time.
BATCH = 100
# Seconds after which a store that failed is asked again.
STORE_RETRY = 1.0
# Seconds that a stop leaves to submissions that are under way.
FINISH_TIMEOUT = 1.0
# Seconds for all that is done between two waits: longer than the store's own time-outs.
TURN_TIMEOUT = 45.0


class Dispatcher:
    """Claims due times from a store and submits their runs.

    Args:
        backend: The schedule store.
        registry: The tasks.
        target: Where runs are submitted to.
        clock: The time that due times are compared with.
        zone: The zone of cron expressions that have none of their own.
        check_interval: Seconds after which changes made by other processes are noticed.
        sleep: A wait on the clock, in seconds.

    Attributes:
        check_interval: The same.
        figures: What was done, in numbers.
        expected_at: Until when, on the monotonic clock, the loop has to turn; None before its start.
        store_error: Why the store can't be used just now, or None.
    """

    def __init__(
        self,
        backend: BaseSchedulerBackend,
        registry: TaskRegistry,
        target: Target,
        clock: SharedClock,
        zone: tzinfo,
        check_interval: float,
        sleep: Callable[[float], Awaitable[Any]],
    ) -> None:
        self.check_interval = check_interval
        self.figures = RunFigures()
        self.expected_at: float | None = None
        self.store_error: str | None = None
        self._backend = backend
        self._registry = registry
        self._target = target
        self._clock = clock
        self._zone = zone
        self._sleep = sleep
        self._submissions = Submissions(backend, registry, target, self.figures, clock.micros, self.wake)
        self._claiming = Outage(logger, "schedules could not be read or claimed", level=logging.ERROR)
        self._settling = Outage(logger, "runs could not be settled", level=logging.ERROR)
        # By task and what became of its due times. They stay: one that begins anew at every other run fills no log.
        self._left_out: dict[tuple[str, str], Outage] = {}
        # What is being recorded of triggered runs, whoever waits for it.
        self._recordings: set[asyncio.Task[bool]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._refresh_at = 0.0

    def forked(self) -> None:
        """Claim by a name of its own, in a process that was forked from its own."""
        self._submissions.begin()

    def begin(self) -> None:
        """Prepare for :meth:`run`, on the running loop."""
        self._changed = asyncio.Event()
        self._stopping = False
        self._refresh_at = 0.0
        self._submissions.begin()
        self.expected_at = time.monotonic() + TURN_TIMEOUT

    def wake(self) -> None:
        """Look for what is due before its time."""
        self._changed.set()

    def end(self) -> None:
        """Have :meth:`run` end once what was submitted is recorded: after a restart it would be submitted again."""
        self._stopping = True
        self._changed.set()

    async def trigger(self, schedule_id: str) -> str:
        """As ``Scheduler.trigger``."""
        await self._clock.look()
        run = await self._backend.begin_run(schedule_id, self._clock.micros(), self._submissions.owner)
        if run is None:
            raise ValueError(f"Scheduled task '{schedule_id}' not found")
        submission = asyncio.create_task(self._submissions.submit_triggered(run))
        try:
            await submission
        finally:  # also if its caller gave up meanwhile: what isn't recorded is submitted again
            recording = asyncio.create_task(self._recorded(self._submissions.record_triggered(run, submission)))
            self._recordings.add(recording)
            recording.add_done_callback(self._recordings.discard)
            await asyncio.shield(recording)
        return run.id

    async def run(self) -> None:
        """Submit what is due, until :meth:`end`."""
        while not self._stopping:
            self._changed.clear()
            delay = min(await self._turn(), self.check_interval)
            self.expected_at = time.monotonic() + max(0.0, delay) + TURN_TIMEOUT
            if delay > 0:
                await self._wait(delay)
        await self._recorded(self._submissions.finish(FINISH_TIMEOUT))

    async def _turn(self) -> float:
        """Do what is to be done now; the seconds until there is more."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._follow_clock()
                is_recorded = await self._recorded(self._submissions.record())
                await self._submissions.beat()
                await self._refresh_schedules()
                is_more = await self._fire_due()
                is_recorded = await self._recorded(self._submissions.record()) and is_recorded
                delay = 0.0 if is_more else await self._next_due_in()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a store may be a user's own; logged as an outage
            self.figures.store_errors["claim"] += 1
            self.store_error = describe(error)
            self._claiming.failed(self.store_error, error)
            return STORE_RETRY
        self._claiming.over()
        if not is_recorded:
            return min(delay, STORE_RETRY)
        self.store_error = None
        beat = self._submissions.next_beat()
        return delay if beat is None else min(delay, beat)

    async def _follow_clock(self) -> None:
        await self._clock.look()
        if not self._clock.was_put_back:
            return
        if count := await self._backend.catch_up_with_clock(self._clock.micros(), self._zone):
            logger.warning(
                "the clock was put back: schedules that waited for its time are due anew schedules=%d", count
            )
        self._clock.was_put_back = False

    async def _wait(self, delay: float) -> None:
        """Until something changed, at most for so many seconds."""
        waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._sleep(delay))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _refresh_schedules(self) -> None:
        """At the start, and then at every check interval: which tasks there are schedules for, to count each of them
        from 0 on, and which broken ones were repaired, or have no due time as another version has written them."""
        if time.monotonic() < self._refresh_at:
            return
        for name in await self._backend.count_by_task():
            if self._registry.is_registered(name):
                self.figures.know(name)
        for task in await self._backend.list_broken(BATCH):
            try:
                is_marked = task.broken is not None
                given = None if is_marked else task.next_run_at
                next_run = given or first_run(task, self._clock.micros(), self._zone)
            except (ValueError, TypeError, KeyError, OverflowError, OSError):
                continue  # as before; the reason is in its row
            if await self._backend.repair(task.id, next_run):
                what = "broken schedule was repaired" if is_marked else "schedule without a due time has one now"
                logger.info("%s %s", what, named(task))
        self._refresh_at = time.monotonic() + self.check_interval

    async def _fire_due(self) -> bool:
        """Submit what is due; whether there may be more."""
        # Others may know the tasks that this process doesn't, and have room in the queues that are full here.
        known = self._submissions.tasks_with_room()
        claims = await self._backend.claim(self._clock.micros(), self._zone, self._submissions.owner, BATCH, known)
        for result in ("missed", "collapsed", "skipped"):
            for name, count in getattr(claims, result).items():
                self.figures.count(name, result, count)
                self._tell_of_left_out(name, result, count)
        left_out = {*claims.missed, *claims.collapsed, *claims.skipped}
        self._end_left_out({run.schedule.task_name for run in claims.runs} - left_out)
        await self._submissions.start(claims.runs)
        return claims.more

    def _tell_of_left_out(self, name: str, result: str, count: int) -> None:
        key = name, result
        if key not in self._left_out:
            self._left_out[key] = Outage(logger, f"due times were {result}", f"task={name}")
        self._left_out[key].failed(times=count)

    def _end_left_out(self, names: set[str]) -> None:
        for (name, _), outage in self._left_out.items():
            if name in names:
                outage.over()

    async def _next_due_in(self) -> float:
        due = await self._backend.next_due(self._submissions.tasks_with_room())
        return self.check_interval if due is None else max(0.0, due / 1e6 - self._clock.now())

    async def _recorded(self, recording: Awaitable[None]) -> bool:
        """Whether runs could be recorded. If not, that is tried again, or they are submitted again and found known."""
        try:
            await recording
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a store may be a user's own; logged as an outage
            self.figures.store_errors["settle"] += 1
            self.store_error = describe(error)
            self._settling.failed(self.store_error, error)
            return False
        self._settling.over()
        return True
