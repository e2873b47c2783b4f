"""The runs of a schedule store that keeps no more than schedules, as a user may write one: in this process's memory."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from typing import Any, Protocol

from flowrra.forks import tell_of_forks
from flowrra.scheduler.due_times import Firing, fire, latest_start, retry_at
from flowrra.scheduler.error_text import describe
from flowrra.scheduler.local_time import local, micros
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType, named

logger = logging.getLogger(__name__)

# Microseconds: a run that was claimed and not submitted for so long belongs to whoever takes it next.
LEASE = 30_000_000
# Runs that are remembered after they have ended.
MOST_RUNS = 1_000
# Microseconds after which a store is asked again for a schedule that it didn't tell of though it is due.
ASK_AGAIN = 1_000_000
# What clocks are put back by at the most, when daylight saving ends.
LONGEST_PASS = timedelta(hours=2)
# By less than that a time that a store gives back may differ from what it was given, and mean the same.
INEXACT = timedelta(seconds=1)


class Schedules(Protocol):
    """What is asked of a schedule store; see ``BaseSchedulerBackend``."""

    async def get(self, task_id: str) -> ScheduledTask | None: ...

    async def update(self, task: ScheduledTask) -> None: ...

    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None: ...

    async def list_all(self) -> list[ScheduledTask]: ...

    async def list_enabled(self) -> list[ScheduledTask]: ...

    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]: ...


@dataclass(slots=True)
class _Claimed:
    """A run that was not submitted yet, when it may be claimed (again), and whether it is not to be tried again."""

    run: Run
    lease: int
    is_withdrawn: bool = False


class OwnRuns:
    """What is claimed of a store's schedules, and what became of it.

    A schedule moves on to its next due time before its run is submitted, as in flowrra 0.1.8: what was claimed and not
    submitted ends with the process. Schedulers of several processes that share the store may each submit what is due.

    Args:
        store: Keeps the schedules.

    Attributes:
        rows: The runs by id, those that ended included, as ``BaseSchedulerBackend.list_runs`` tells of them.
    """

    def __init__(self, store: Schedules) -> None:
        self._store = store
        self._claimed: dict[str, _Claimed] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        # By the id of a schedule that can't be read, what can't be: it runs again once that is another.
        self._unreadable: dict[str, tuple[Any, ...]] = {}
        # By the id of a schedule, when it is due next. A store may keep that without its microseconds, or not which of
        # the passes of a doubled hour it is in: by what it gives back the schedule would be due again at once.
        self._following: dict[str, int] = {}
        # When the store was asked last for what is due, and of which tasks.
        self._asked: tuple[int, Collection[str] | None] | None = None
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: what was claimed is the parent's."""
        self._claimed, self.rows = {}, {}

    # ── claiming ────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(
        self, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None
    ) -> tuple[list[Run], dict[str, dict[str, int]], bool]:
        """The runs to submit now; by result and task name, how many due times were left out; whether there is more."""
        left_out: dict[str, dict[str, int]] = {"missed": {}, "collapsed": {}, "skipped": {}}
        due = await self._list_due(now, known)
        made: set[str] = set()
        is_more = False
        for task in due:
            if len(self._waiting(now, known)) >= limit:  # what is left stays in the store, where it is safe
                is_more = True
                break
            made |= await self._move_on(task, now, zone, owner, left_out)
        runs: list[Run] = []
        waiting = self._waiting(now, known)
        for each in waiting[:limit]:
            if (run := await self._taken(each, each.run.id in made, now, left_out)) is not None:
                each.run, each.lease = run, now + LEASE
                self.rows[run.id] |= {"attempts": run.attempts, "owner": owner}
                runs.append(run)
        is_more = is_more or len(waiting) > limit
        self._asked = None if is_more else (now, known)
        return runs, left_out, is_more

    async def _list_due(self, now: int, known: Collection[str] | None) -> list[ScheduledTask]:
        until = local(now)
        if until.fold:  # what was due late in the first pass of this hour looks as if it were yet to come
            until += LONGEST_PASS
        due = await self._store.list_due(until)
        return [task for task in due if self._can_run(task, known) and self._due(task) <= now]

    def _waiting(self, now: int, known: Collection[str] | None) -> list[_Claimed]:
        return [each for each in self._claimed.values() if each.lease <= now and _is_of(each.run.schedule, known)]

    def _due(self, task: ScheduledTask) -> int:
        """When a schedule is due: exactly, as far as that was told to the store and not changed there."""
        at = task.next_run_at
        assert at is not None  # noqa: S101 - it can run
        exact = self._following.get(task.id)
        if exact is None:
            return micros(at)
        shown = at if at.tzinfo is None else local(micros(at))
        return exact if abs(shown - local(exact)) < INEXACT else micros(at)

    async def _move_on(
        self, task: ScheduledTask, now: int, zone: tzinfo, owner: str, left_out: dict[str, dict[str, int]]
    ) -> set[str]:
        """Have a schedule wait for its next due time, and its runs for being submitted; the ids of these."""
        try:
            firing = fire(task, self._due(task), now, zone)
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            self._unreadable[task.id] = _timing(task)
            logger.error("schedule can't run, set aside until it is changed %s error=%s", named(task), describe(error))
            return set()
        try:
            await self._wait_for_next(task, now, firing)
        except Exception:
            if await self._store.get(task.id) is None:  # it was deleted since it was listed
                return set()
            raise
        _add(left_out["collapsed"], task.task_name, firing.collapsed)
        _add(left_out["missed"], task.task_name, len(firing.missed))
        for at in firing.missed:
            self._note(Run(f"{task.id}@{at}", task, at, 1, at), owner, "missed")
        made: set[str] = set()
        for at in firing.due:
            run = Run(f"{task.id}@{at}", task, at, 0, latest_start(task, at))
            if run.id not in self.rows:  # else it was dealt with before the schedule became due there once more
                self._claimed[run.id] = _Claimed(run, now)
                self._note(run, owner, "claimed")
                made.add(run.id)
        return made

    async def _wait_for_next(self, task: ScheduledTask, now: int, firing: Firing) -> None:
        last = local(now) if firing.due else task.last_run_at
        if firing.following is not None and last is not None:
            await self._store.update_run_times(task.id, last, local(firing.following))
        else:  # it has had its only run, or none of them
            following = None if firing.following is None else local(firing.following)
            moved = replace(task, last_run_at=last, next_run_at=following, enabled=following is not None)
            await self._store.update(moved)
        if firing.following is None:
            self._following.pop(task.id, None)
        else:
            self._following[task.id] = firing.following

    async def _taken(
        self, claimed: _Claimed, is_new: bool, now: int, left_out: dict[str, dict[str, int]]
    ) -> Run | None:
        """The next try of a run, of the schedule as it is now; None if it is not to happen any more."""
        run = claimed.run
        task = run.schedule if is_new else await self._store.get(run.schedule.id)
        is_on = task is not None and (task.enabled or task.schedule_type is ScheduleType.ONE_TIME)
        if task is None or not is_on or claimed.is_withdrawn:
            result = "skipped"
        elif now > run.until:
            result = "missed"
        else:
            return replace(run, schedule=task, attempts=run.attempts + 1)
        del self._claimed[run.id]
        self.rows[run.id]["result"] = result
        _add(left_out[result], run.schedule.task_name, 1)
        return None

    def withdraw(self, schedule_id: str) -> None:
        """Try no run of a schedule again that isn't submitted yet; one that is being submitted just now still is."""
        for claimed in self._claimed.values():
            claimed.is_withdrawn = claimed.is_withdrawn or claimed.run.schedule.id == schedule_id

    def renew(self, claimed: Collection[str], now: int) -> None:
        """Keep claimed runs, by their ids, for longer."""
        for run_id in claimed:
            if run_id in self._claimed:
                self._claimed[run_id].lease = now + LEASE

    def settle(self, runs: Sequence[Run], now: int, errors: dict[str, str], skipped: Collection[str]) -> None:
        """Note what became of runs; one that failed is claimed again later, while it may still happen."""
        for run in runs:
            error = errors.get(run.id)
            again = None if error is None else retry_at(run, now)
            if again is not None:
                claimed = self._claimed.setdefault(run.id, _Claimed(run, again))
                claimed.lease = again
                result = "claimed"
            else:
                self._claimed.pop(run.id, None)
                result = "skipped" if run.id in skipped else "submitted" if error is None else "failed"
            fired = now if result == "submitted" else None
            alive = now + LEASE if result == "submitted" else None
            if run.id in self.rows:
                self.rows[run.id] |= {"result": result, "error": error, "fired": fired, "alive": alive}

    def _note(self, run: Run, owner: str, result: str) -> None:
        row = {"id": run.id, "schedule_id": run.schedule.id, "task_name": run.schedule.task_name, "due": run.due}
        self.rows[run.id] = row | {
            "owner": owner, "attempts": 1, "result": result, "error": None, "fired": None, "alive": None,
        }  # fmt: skip
        if len(self.rows) > MOST_RUNS:
            oldest = next((each for each in self.rows if each not in self._claimed), None)
            if oldest is not None:
                del self.rows[oldest]

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    def _can_run(self, task: ScheduledTask, known: Collection[str] | None) -> bool:
        if not task.enabled or task.next_run_at is None or not _is_of(task, known):
            return False
        return self._unreadable.get(task.id) != _timing(task)

    async def next_due(self, known: Collection[str] | None) -> int | None:
        """When there is something to claim next."""
        waiting = [each.lease for each in self._claimed.values() if _is_of(each.run.schedule, known)]
        enabled = list(await self._store.list_enabled())
        if len(self._following) > len(enabled):  # some have gone
            self._following = {task.id: at for task in enabled if (at := self._following.get(task.id)) is not None}
        tasks = [task for task in enabled if self._can_run(task, known)]
        return min([*map(self._worth_asking, tasks), *waiting], default=None)

    def _worth_asking(self, task: ScheduledTask) -> int:
        """When the store is asked for a schedule: not at once if it was just now, and has told of none."""
        due = self._due(task)
        if self._asked is None or due > self._asked[0] or not _is_of(task, self._asked[1]):
            return due
        return self._asked[0] + ASK_AGAIN

    async def _due_times(self, known: Collection[str] | None) -> list[int]:
        return [self._due(task) for task in await self._store.list_enabled() if self._can_run(task, known)]

    async def figures(self, now: int, known: Collection[str] | None) -> dict[str, Any]:
        """As ``BaseSchedulerBackend.figures``."""
        tasks, due = await self._store.list_all(), await self._due_times(known)
        return {
            "total": len(tasks),
            "enabled": sum(task.enabled for task in tasks),
            "overdue": sum(at <= now for at in due),
            "broken": sum(task.enabled and not self._can_run(task, None) for task in tasks),
            "next": min(due, default=None),
        }

    async def count_by_task(self) -> dict[str, int]:
        """As ``BaseSchedulerBackend.count_by_task``."""
        counts: dict[str, int] = {}
        for task in await self._store.list_enabled():
            if self._can_run(task, None):
                _add(counts, task.task_name, 1)
        return counts


def _timing(task: ScheduledTask) -> tuple[Any, ...]:
    """What says when a schedule runs."""
    return task.schedule_type, task.schedule, task.timezone, task.next_run_at, task.misfire_grace


def _is_of(task: ScheduledTask, known: Collection[str] | None) -> bool:
    return known is None or task.task_name in known


def _add(counts: dict[str, int], task_name: str, count: int) -> None:
    if count:
        counts[task_name] = counts.get(task_name, 0) + count
