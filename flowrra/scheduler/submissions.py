"""The runs that a scheduler has claimed and not recorded yet. Each is on its way by itself: one whose queue is full or
whose broker is away holds up no other."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from flowrra.outage import Outage
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.due_times import retry_at
from flowrra.scheduler.error_text import describe, in_ascii
from flowrra.scheduler.figures import RunFigures
from flowrra.scheduler.models import Run, named
from flowrra.scheduler.target import SUBMIT_TIMEOUT, Target

logger = logging.getLogger(__name__)

# Runs of one queue that may be on their way at a time.
MOST_UNDER_WAY = 100
# Seconds for which new runs are waited for, so that those that take no longer are recorded together.
PATIENCE = 0.1
# Seconds between two signs of life: a third of the time for which they count.
BEAT = 10.0
# Seconds for which it looks after each sign of life which tasks have ended.
LOOKING_TIMEOUT = 2.0
# Schedules of which it remembers that runs were skipped.
MOST_SKIPPING = 1_000
# Rows that a store refuses one after the other before it is taken for one that is away.
MOST_REFUSED = 3
# Of a schedule with max_running, so many of the latest runs are looked at beyond those that may be unfinished.
LOOK_BACK = 100
# Schedules of whose unfinished runs it remembers which they are.
MOST_LIMITED = 1_000


class _UnderWay(NamedTuple):
    run: Run
    cpu_bound: bool
    submission: asyncio.Task[bool]  # whether it was submitted, and not skipped


class _Ended(NamedTuple):
    run: Run
    error: str | None
    is_skipped: bool


class Submissions:
    """Submits runs and records what became of them.

    Args:
        backend: The schedule store.
        registry: The tasks.
        target: Where runs are submitted to.
        figures: Where they are counted.
        now: The time, in microseconds since 1970.
        on_end: Called when a run has ended that is to be recorded, after all that were waited for.

    Attributes:
        owner: The name under which this process claims runs.
    """

    def __init__(
        self,
        backend: BaseSchedulerBackend,
        registry: TaskRegistry,
        target: Target,
        figures: RunFigures,
        now: Callable[[], int],
        on_end: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._target = target
        self._figures = figures
        self._now = now
        self._on_end = on_end
        self._refusal = Outage(logger, "runs were not submitted")
        # By id, the schedules of which runs were skipped. They stay: one that skips every other run fills no log.
        self._skipping: dict[str, Outage] = {}
        # By schedule and run, the rows of runs that hadn't ended when they were looked at: one that takes long stays
        # unfinished however many others have come and gone since.
        self._unfinished: dict[str, dict[str, dict[str, Any]]] = {}
        self.begin()

    def begin(self) -> None:
        """Start anew, under a new name: what there was in memory has gone."""
        self.owner = uuid.uuid4().hex
        self._under_way: dict[str, _UnderWay] = {}
        # The task names of runs whose tasks this process has in memory, as far as others must know that it lives.
        self._kept_alive: dict[str, str] = {}
        self._beat_at = 0.0

    def tasks_with_room(self) -> list[str]:
        """The tasks of whose queue no more runs are under way than may be."""
        busy = Counter(each.cpu_bound for each in self._under_way.values())
        return [each.name for each in self._registry.definitions() if busy[each.cpu_bound] < MOST_UNDER_WAY]

    def next_beat(self) -> float | None:
        """Seconds until the next sign of life is due; None if none is."""
        has_any = self._under_way or self._kept_alive
        return max(0.0, self._beat_at - time.monotonic()) if has_any else None

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, runs: Iterable[Run]) -> None:
        """Submit runs; those that take long go on by themselves."""
        started = [self._start(run) for run in runs if run.id not in self._under_way]
        if not started:
            return
        _, late = await asyncio.wait(started, timeout=PATIENCE)
        for submission in late:
            submission.add_done_callback(lambda _: self._on_end())

    def _start(self, run: Run) -> asyncio.Task[bool]:
        submission = asyncio.create_task(self._submit_unless_full(run), context=contextvars.Context())
        self._under_way[run.id] = self._now_under_way(run, submission)
        return submission

    def _now_under_way(self, run: Run, submission: asyncio.Task[bool]) -> _UnderWay:
        name = (
            run.schedule.task_name
        )  # which may have been unregistered since it was claimed: that fails this run alone
        cpu_bound = self._registry.is_registered(name) and self._registry.definition(name).cpu_bound
        return _UnderWay(run, cpu_bound, submission)

    async def _submit_unless_full(self, run: Run) -> bool:
        """Whether it was submitted: not if as many tasks of its schedule as may run haven't ended."""
        most = run.schedule.max_running
        if most is not None and self._target.callback is None and await self._count_unfinished(run, most) >= most:
            return False
        # A queue in memory that is full delays its runs, for as long as it is.
        waits = self._target.is_in_memory(run.schedule.task_name)
        await self._target.submit(run, self._now(), None if waits else SUBMIT_TIMEOUT)
        self.observe(run)
        return True

    async def submit_triggered(self, run: Run) -> bool:
        """Submit a run whatever else is running; True."""
        await self._target.submit(run, self._now(), SUBMIT_TIMEOUT)
        self.observe(run)
        return True

    def observe(self, run: Run) -> None:
        """Count a run that was submitted just now."""
        self._figures.observe(run.schedule.task_name, (self._now() - run.due) / 1e6)
        if run.schedule.max_running is not None and self._target.is_in_memory(run.schedule.task_name):
            self._kept_alive[run.id] = run.schedule.task_name

    async def _count_unfinished(self, run: Run, most: int) -> int:
        """How many others of a schedule's runs haven't ended; of more than ``most`` it counts no further."""
        rows = await self._backend.list_runs(run.schedule.id, LOOK_BACK + most, ("claimed", "submitted"))
        remembered = self._remembered(run.schedule.id)
        others = {**remembered, **{str(row["id"]): row for row in rows}}
        others.pop(run.id, None)
        unfinished = 0
        for run_id, other in others.items():
            if other["result"] == "claimed":
                # What is being submitted elsewhere goes first if it is due first.
                unfinished += other["due"] < run.due
            elif await self._is_unfinished(run, other):
                remembered[run_id] = other
                unfinished += 1
            else:
                remembered.pop(run_id, None)
                self._kept_alive.pop(run_id, None)
            if unfinished == most:
                break
        return unfinished

    def _remembered(self, schedule_id: str) -> dict[str, dict[str, Any]]:
        if schedule_id not in self._unfinished and len(self._unfinished) >= MOST_LIMITED:
            del self._unfinished[next(iter(self._unfinished))]  # the oldest, which may be gone
        return self._unfinished.setdefault(schedule_id, {})

    async def _is_unfinished(self, run: Run, other: dict[str, object]) -> bool:
        """Whether a run's task waits or runs; what a process had in its memory has gone with it."""
        name = run.schedule.task_name
        if self._target.is_in_memory(name) and other["owner"] != self.owner:
            alive = other.get("alive")
            if not (isinstance(alive, int) and alive > self._now()):
                return False
        return await self._target.is_unfinished(name, str(other["id"]))

    # ── recording ───────────────────────────────────────────────────────────────────────────────────────────

    async def record(self) -> None:
        """Record what became of the runs that have ended. What can't be recorded stays under way, for the next time."""
        ended = [_ended(each) for each in list(self._under_way.values()) if each.submission.done()]
        if not ended:
            return
        try:
            await self._settle(ended)
        except Exception:  # noqa: BLE001 - a store may be a user's own; what fails below is raised
            await self._settle_each(ended)

    async def record_triggered(self, run: Run, submission: asyncio.Task[bool]) -> None:
        """Record what became of a run that was triggered. If it can't be, it is under way until :meth:`record` can."""
        under_way = self._now_under_way(run, submission)
        try:
            await self._settle([_ended(under_way)])
        except Exception:
            self._under_way[run.id] = under_way
            self._on_end()
            raise

    async def _settle_each(self, ended: Sequence[_Ended]) -> None:
        """Record runs one by one and in ASCII: a row that the store refuses holds up no other. It comes last the next
        time, and after a few of them the store is taken for one that is away."""
        refusals: list[Exception] = []
        for each in ended:
            try:
                await self._settle([each._replace(error=each.error and in_ascii(each.error))])
            except Exception as refusal:  # noqa: BLE001 - as above
                refusals.append(refusal)
                self._under_way[each.run.id] = self._under_way.pop(each.run.id)
                if len(refusals) == MOST_REFUSED:
                    break
        if refusals:
            raise refusals[0]

    async def _settle(self, ended: Sequence[_Ended]) -> None:
        now = self._now()
        errors = {each.run.id: each.error for each in ended if each.error is not None}
        skipped = {each.run.id for each in ended if each.is_skipped}
        await self._backend.settle([each.run for each in ended], now, errors, skipped)
        for run, error, is_skipped in ended:
            self._under_way.pop(run.id, None)
            if error is not None:
                self._tell_of_error(run, error, retry_at(run, now))
            elif is_skipped:
                self._figures.count(run.schedule.task_name, "skipped")
                self._tell_of_skip(run)
            elif (skipping := self._skipping.get(run.schedule.id)) is not None:
                skipping.over()
        if len(errors) + len(skipped) < len(ended) and not errors:
            self._refusal.over()

    def _tell_of_error(self, run: Run, error: str, again: int | None) -> None:
        if again is None:
            self._figures.count(run.schedule.task_name, "failed")
            text = "run failed: it can't be submitted in time %s attempts=%d error=%s"
            logger.error(text, named(run.schedule), run.attempts, error)
        else:
            self._refusal.failed(f"{error} {named(run.schedule)}")

    def _tell_of_skip(self, run: Run) -> None:
        schedule = run.schedule
        if schedule.id not in self._skipping:
            if len(self._skipping) >= MOST_SKIPPING:
                del self._skipping[next(iter(self._skipping))]  # the oldest, which may be gone
            about = f"max_running={schedule.max_running} {named(schedule)}"
            self._skipping[schedule.id] = Outage(logger, "run was skipped", about)
        self._skipping[schedule.id].failed()

    async def beat(self) -> None:
        """Give a sign of life, if it is time: what is under way is not taken over, what runs in memory still does."""
        if self.next_beat() != 0.0:
            return
        await self._backend.renew(list(self._under_way), list(self._kept_alive), self.owner, self._now())
        self._beat_at = time.monotonic() + BEAT
        await self._forget_ended()

    async def _forget_ended(self) -> None:
        """Keep alive no run whose task has ended: its schedule may never be due again. What can't be told now is told
        by the next beat."""
        try:
            async with asyncio.timeout(LOOKING_TIMEOUT):
                for run_id, name in list(self._kept_alive.items()):
                    if not self._registry.is_registered(name) or not await self._target.is_unfinished(name, run_id):
                        self._kept_alive.pop(run_id, None)
        except Exception as error:  # noqa: BLE001 - results may be kept by a user's own backend
            logger.debug("tasks of schedules could not be looked up error=%s", describe(error))

    async def finish(self, timeout: float) -> None:
        """Let what is under way end, cancel what takes longer, and record it all."""
        submissions = {each.submission for each in self._under_way.values() if not each.submission.done()}
        if submissions:
            _, late = await asyncio.wait(submissions, timeout=timeout)
            for submission in late:
                submission.cancel()
            await asyncio.wait(submissions, timeout=timeout)
        await self.record()


def _ended(under_way: _UnderWay) -> _Ended:
    submission = under_way.submission
    error: BaseException | None
    if submission.cancelled():
        error = asyncio.CancelledError("it was given up before it was queued")
    else:
        error = submission.exception()
    if error is not None:
        return _Ended(under_way.run, describe(error), False)
    return _Ended(under_way.run, None, not submission.result())
