"""What a store of schedules can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

from flowrra.scheduler.backends.own_runs import OwnRuns
from flowrra.scheduler.local_time import LOCAL
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType


class Claims(NamedTuple):
    """Runs that are this scheduler's to submit; missed, collapsed and skipped due times by task name; whether there may
    be more."""

    runs: list[Run]
    missed: dict[str, int]
    collapsed: dict[str, int]
    skipped: dict[str, int]
    more: bool


class BaseSchedulerBackend(ABC):
    """Keeps schedules. Datetimes are naive local ones.

    The abstract methods are enough. What is claimed of the schedules is then in this process's memory: it ends with the
    process, and schedulers of others may claim it too. ``SqlSchedulerBackend`` has the claims in the store.

    Attributes:
        keeps_text: Whether it writes arguments as JSON, so that those of some classes have to be rebuilt.
        address: Which store it is, for whoever sees several processes; without user and password, and empty if it is
            this process's own.
    """

    address: str = ""
    keeps_text: ClassVar[bool] = False

    @cached_property
    def _own_runs(self) -> OwnRuns:
        return OwnRuns(self)  # made when it is asked for: a user's __init__ need not call this class's

    @abstractmethod
    async def create(self, task: ScheduledTask) -> None:
        """Keep a new schedule; ValueError if its id already exists."""

    @abstractmethod
    async def update(self, task: ScheduledTask) -> None:
        """Replace a schedule and set its ``updated_at``; ValueError if it is not found."""

    @abstractmethod
    async def delete(self, task_id: str) -> bool:
        """Forget a schedule; whether there was one."""

    @abstractmethod
    async def get(self, task_id: str) -> ScheduledTask | None:
        """One schedule."""

    @abstractmethod
    async def list_all(self) -> list[ScheduledTask]:
        """All schedules, the oldest first."""

    @abstractmethod
    async def list_enabled(self) -> list[ScheduledTask]:
        """The enabled ones, by next run."""

    @abstractmethod
    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]:
        """The due ones, the highest priority first, then by due time."""

    @abstractmethod
    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None:
        """Set when a schedule ran and runs next; ValueError if it is not found."""

    @abstractmethod
    async def clear(self) -> int:
        """Forget all schedules; how many there were."""

    @abstractmethod
    async def find_by_definition(
        self,
        task_name: str,
        schedule_type: ScheduleType,
        schedule: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        timezone: str | None = None,
    ) -> ScheduledTask | None:
        """The schedule that means the same, however it is written."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections; the next use opens them again."""

    async def set_enabled(self, task_id: str, enabled: bool, next_run: datetime | None) -> None:
        """Enable a schedule that is disabled or broken, to run next at ``next_run``, or disable one; ValueError if it
        is not found. A store that schedulers share does it in one step."""
        task = await self.get(task_id)
        if task is None:
            raise ValueError(f"Scheduled task '{task_id}' not found")
        if enabled and (not task.enabled or task.broken is not None):
            task.next_run_at, task.broken = next_run, None
        task.enabled = enabled
        await self.update(task)
        if not enabled:
            self._own_runs.withdraw(task_id)

    async def create_once(self, task: ScheduledTask) -> None:
        """Keep a new schedule; ValueError if its id, or one that means the same, already exists. A store that
        schedulers share does it in one step."""
        await self.create(task)

    async def find_or_create(self, task: ScheduledTask) -> str:
        """Keep a new schedule, unless one that means the same is there already; the id of that, or its own.

        Raises:
            ValueError: The id already exists, and means something else.
        """
        sought = (task.task_name, task.schedule_type, task.schedule, task.args, task.kwargs)
        # Named only where there is one: a user's own store need not know of zones.
        zone: dict[str, Any] = {} if task.timezone is None else {"timezone": task.timezone}
        had_failed = False
        while (same := await self.find_by_definition(*sought, **zone)) is None:
            try:
                await self.create_once(task)
            except ValueError:  # somebody else was faster, and may have deleted it again; or the id is another's
                if had_failed:
                    raise
                had_failed = True
            else:
                return task.id
        return same.id

    async def create_or_replace(self, task: ScheduledTask) -> str:
        """Keep a schedule, in the place of the one that has its id if there is one; that id."""
        had_none = False
        while not await self.replace(task):
            try:
                await self.create(task)
            except ValueError:  # somebody else was faster, and may have deleted it again; or it is refused
                if await self.get(task.id) is not None:
                    continue
                if had_none:
                    raise
                had_none = True
                continue
            break
        return task.id

    async def replace(self, task: ScheduledTask) -> bool:
        """Have the schedule of this id become that one; whether there was one. If its task, time and arguments are the
        same, it stays due when it is, and disabled if it is."""
        raise NotImplementedError("This schedule store can't replace; inherit from SqlSchedulerBackend")

    async def claim(
        self, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None = None
    ) -> Claims:
        """Claim what is due (microseconds since 1970), each due time for one scheduler, whoever else asks; of the known
        tasks only, if these are given."""
        runs, left_out, more = await self._own_runs.claim(now, zone, owner, limit, known)
        return Claims(runs, **left_out, more=more)

    async def begin_run(self, schedule_id: str, now: int, owner: str) -> Run | None:
        """Claim a run that is due now, whatever the schedule says, and is tried once; None if there is no schedule."""
        raise NotImplementedError("This schedule store has no runs; inherit from SqlSchedulerBackend")

    async def clock(self) -> float | None:
        """The time of the server's clock, in seconds since 1970; None if it has none but the host's."""
        return None

    async def catch_up_with_clock(self, now: int, zone: tzinfo = LOCAL) -> int:
        """After the clock was put back: let no interval wait for longer than it lasts, no cron expression for a time
        that others come before, and no claim last longer than one does; how many schedules were changed."""
        return 0

    async def renew(self, claimed: Collection[str], running: Collection[str], owner: str, now: int) -> None:
        """Keep claimed runs, by their ids, from being taken over while their submission takes its time, and say that
        the process lives that has the tasks of others in its memory."""
        self._own_runs.renew(claimed, now)

    async def settle(
        self, runs: Sequence[Run], now: int, errors: dict[str, str], skipped: Collection[str] = frozenset()
    ) -> None:
        """Record what was submitted, and by id what was skipped, and what failed and why; the latter is claimed again
        later, while it may still happen."""
        self._own_runs.settle(runs, now, errors, skipped)

    async def next_due(self, known: Collection[str] | None = None) -> int | None:
        """When :meth:`claim` has something to take next, of a schedule or a run, in microseconds since 1970."""
        return await self._own_runs.next_due(known)

    async def figures(self, now: int, known: Collection[str] | None = None) -> dict[str, Any]:
        """``total, enabled, overdue, broken`` as numbers and ``next`` in microseconds since 1970, or None; what is
        overdue or next, of the known tasks only, if these are given."""
        return await self._own_runs.figures(now, known)

    async def count_by_task(self) -> dict[str, int]:
        """How many enabled schedules that aren't broken there are for each task."""
        return await self._own_runs.count_by_task()

    async def list_broken(self, limit: int) -> list[ScheduledTask]:
        """Enabled schedules that are marked as broken or have no due time, and whose rows can be read (by now)."""
        return [task for task in await self.list_enabled() if task.next_run_at is None][:limit]

    async def repair(self, task_id: str, next_run: datetime | None) -> bool:
        """Set when a schedule runs next that :meth:`list_broken` told of, and remove its mark; whether it was so
        still: somebody else may have repaired, disabled or deleted it meanwhile."""
        task = await self.get(task_id)
        if task is None or not task.enabled or task.next_run_at is not None:
            return False
        await self.update(replace(task, next_run_at=next_run))
        return True

    async def list_runs(
        self, schedule_id: str | None, limit: int, results: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """The latest runs, those with one of these results if any are given, the newest first."""
        rows = sorted(self._own_runs.rows.values(), key=itemgetter("due"), reverse=True)
        found = (row for row in rows if schedule_id in (None, row["schedule_id"]))
        return [dict(row) for row in found if not results or row["result"] in results][:limit]
