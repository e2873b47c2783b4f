"""The runs of a schedule store that keeps no more than schedules, as a user may write one: in this process's memory."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Any, Protocol

from flowrra.forks import tell_of_forks
from flowrra.scheduler.due_times import fire, latest_start, retry_at
from flowrra.scheduler.error_text import describe
from flowrra.scheduler.local_time import local, micros
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType, named

logger = logging.getLogger(__name__)

# Microseconds: a run that was claimed and not submitted for so long belongs to whoever takes it next.
LEASE = 30_000_000
# Runs that are remembered after they have ended.
MOST_RUNS = 1_000


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
    """A run that was not submitted yet, and when it may be claimed (again)."""

    run: Run
    lease: int


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
        self._unreadable: dict[str, str] = {}
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
        due = [task for task in await self._store.list_due(local(now)) if self._can_run(task, known)]
        for task in due[:limit]:
            await self._move_on(task, now, zone, owner, left_out)
        runs: list[Run] = []
        waiting = [each for each in self._claimed.values() if each.lease <= now and _is_of(each.run.schedule, known)]
        for each in waiting[:limit]:
            if (run := await self._taken(each.run, now, left_out)) is not None:
                self._claimed[run.id] = _Claimed(run, now + LEASE)
                self.rows[run.id] |= {"attempts": run.attempts, "owner": owner}
                runs.append(run)
        return runs, left_out, len(due) > limit or len(waiting) > limit

    async def _move_on(
        self, task: ScheduledTask, now: int, zone: tzinfo, owner: str, left_out: dict[str, dict[str, int]]
    ) -> None:
        """Have a schedule wait for its next due time, and its runs for being submitted."""
        assert task.next_run_at is not None  # noqa: S101 - it is due
        try:
            firing = fire(task, micros(task.next_run_at), now, zone)
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            self._unreadable[task.id] = task.schedule
            logger.error("schedule can't run, set aside until it is changed %s error=%s", named(task), describe(error))
            return
        last = local(now) if firing.due else task.last_run_at
        if firing.following is not None and last is not None:
            await self._store.update_run_times(task.id, last, local(firing.following))
        else:  # it has had its only run, or none of them
            following = None if firing.following is None else local(firing.following)
            moved = replace(task, last_run_at=last, next_run_at=following, enabled=following is not None)
            await self._store.update(moved)
        _add(left_out["collapsed"], task.task_name, firing.collapsed)
        _add(left_out["missed"], task.task_name, len(firing.missed))
        for at in firing.missed:
            self._note(Run(f"{task.id}@{at}", task, at, 1, at), owner, "missed")
        for at in firing.due:
            run = Run(f"{task.id}@{at}", task, at, 0, latest_start(task, at))
            if run.id not in self.rows:  # else it was dealt with before the schedule became due there once more
                self._claimed[run.id] = _Claimed(run, now)
                self._note(run, owner, "claimed")

    async def _taken(self, run: Run, now: int, left_out: dict[str, dict[str, int]]) -> Run | None:
        """The next try of a run, of the schedule as it is now; None if it is not to happen any more."""
        task = run.schedule if run.attempts == 0 else await self._store.get(run.schedule.id)
        if task is None or not (task.enabled or task.schedule_type is ScheduleType.ONE_TIME):
            result = "skipped"
        elif now > run.until:
            result = "missed"
        else:
            return replace(run, schedule=task, attempts=run.attempts + 1)
        del self._claimed[run.id]
        self.rows[run.id]["result"] = result
        _add(left_out[result], run.schedule.task_name, 1)
        return None

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
                self._claimed[run.id] = _Claimed(run, again)
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
        return self._unreadable.get(task.id) != task.schedule

    async def next_due(self, known: Collection[str] | None) -> int | None:
        """When there is something to claim next."""
        waiting = [each.lease for each in self._claimed.values() if _is_of(each.run.schedule, known)]
        return min([*await self._due_times(known), *waiting], default=None)

    async def _due_times(self, known: Collection[str] | None) -> list[int]:
        tasks = [task for task in await self._store.list_enabled() if self._can_run(task, known)]
        return [micros(task.next_run_at) for task in tasks if task.next_run_at is not None]

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


def _is_of(task: ScheduledTask, known: Collection[str] | None) -> bool:
    return known is None or task.task_name in known


def _add(counts: dict[str, int], task_name: str, count: int) -> None:
    if count:
        counts[task_name] = counts.get(task_name, 0) + count
