"""The scheduler: keeps schedules, and submits their tasks when they are due."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, TypedDict, Unpack

from flowrra import codec
from flowrra.executors.base import BaseTaskExecutor
from flowrra.forks import tell_of_forks
from flowrra.ranges import SOME_SECONDS, Range, shown
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.clock import SharedClock
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.dispatcher import Dispatcher
from flowrra.scheduler.due_times import first_run
from flowrra.scheduler.figures import LAG_BOUNDS, RESULTS, SchedulerStats, ScheduleRun, ScheduleRunStats, listed_run
from flowrra.scheduler.local_time import LOCAL, local, micros
from flowrra.scheduler.models import ScheduledTask, ScheduleType, call_arguments, check
from flowrra.scheduler.target import Executors, GetResult, Submit, SubmitRun, Target

__all__ = ["LAG_BOUNDS", "RESULTS", "ScheduleExtras", "Scheduler"]

logger = logging.getLogger(__name__)

LISTED_RUNS = Range(0, 1_000, is_whole=True)
# Seconds for the end of the loop, and for closing the store.
STOP_TIMEOUT = 5.0


class ScheduleExtras(TypedDict, total=False):
    """Options of a schedule that Flowrra 0.1 doesn't have; see :class:`ScheduledTask`."""

    timezone: str | None
    misfire_grace: float
    misfire: str
    max_running: int | None


class Scheduler:
    """Submits tasks by the clock. Any number of schedulers may share a store: each due time is submitted once.

    Args:
        backend: The schedule store.
        registry: The tasks.
        check_interval: Seconds after which changes made by other processes are noticed.
        io_executor, cpu_executor: What runs the tasks, unless a submit callback is set.
        timezone: The zone that cron expressions are read in; None is the server's.
        now: The clock, in seconds since 1970; None is the store's, the broker's, or else the host's.
        sleep: A wait on it, in seconds.
    """

    def __init__(
        self,
        backend: BaseSchedulerBackend,
        registry: TaskRegistry,
        check_interval: float = 60.0,
        io_executor: BaseTaskExecutor | None = None,
        cpu_executor: BaseTaskExecutor | None = None,
        *,
        timezone: tzinfo | None = None,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        SOME_SECONDS.check("check_interval", check_interval)
        self.backend = backend
        self.registry = registry
        self.io_executor = io_executor
        self.cpu_executor = cpu_executor
        self.zone = LOCAL if timezone is None else timezone
        self._target = Target(registry, self._own_executors)
        self._clock = SharedClock(time.time, self._shared_time) if now is None else SharedClock(now, _no_time)
        self._dispatcher = Dispatcher(backend, registry, self._target, self._clock, self.zone, check_interval, sleep)
        self._loop_task: asyncio.Task[None] | None = None
        tell_of_forks(self)

    def _own_executors(self) -> Mapping[str, BaseTaskExecutor]:
        both = {"io": self.io_executor, "cpu": self.cpu_executor}
        return {kind: executor for kind, executor in both.items() if executor is not None}

    async def _shared_time(self) -> float | None:
        """The time of the store's clock; of the broker's where that has none, and None without either."""
        found = await self.backend.clock()
        return await self._target.clock() if found is None else found

    def forked(self) -> None:
        """It claims what is due by a name of its own, and does not run in a process that was forked from its own."""
        self._dispatcher.forked()
        self._loop_task = None

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_running(self) -> bool:
        """Whether it submits what is due."""
        task = self._loop_task
        return task is not None and not task.done() and not task.get_loop().is_closed()

    @property
    def check_interval(self) -> float:
        """Seconds after which changes made by other processes are noticed; it may be set."""
        return self._dispatcher.check_interval

    @check_interval.setter
    def check_interval(self, seconds: float) -> None:
        SOME_SECONDS.check("check_interval", seconds)
        self._dispatcher.check_interval = seconds

    @property
    def expected_at(self) -> float | None:
        """Until when, on the monotonic clock, its loop has to turn; None before its start."""
        return self._dispatcher.expected_at

    @property
    def store_error(self) -> str | None:
        """Why the store can't be used just now, or None."""
        return self._dispatcher.store_error

    def set_submit_callback(self, callback: Submit) -> None:
        """Submit by ``await callback(task_func, *args, **kwargs)`` rather than to the executors."""
        self._target.callback = callback

    def use_app(self, submit: SubmitRun, get_result: GetResult, executors: Executors) -> None:
        """Submit to an app, with the ids, retries and priorities of the schedules."""
        self._target.use_app(submit, get_result, executors)

    async def start(self) -> None:
        """Start; a no-op if it runs. ValueError if there is nothing to submit to."""
        if self.is_running:
            return
        if not self._target.is_there:
            raise ValueError("The scheduler requires either a submit callback or an executor")
        self._dispatcher.begin()
        self._loop_task = asyncio.create_task(self._dispatcher.run(), name="flowrra-scheduler")

    async def stop(self) -> None:
        """Stop, and close the store; a no-op if it doesn't run."""
        task, self._loop_task = self._loop_task, None
        if task is None or task.get_loop().is_closed():  # the latter without a stop
            return
        self._dispatcher.end()
        await asyncio.wait({task}, timeout=STOP_TIMEOUT)
        task.cancel()
        closing = asyncio.create_task(self._close_store(), name="flowrra-scheduler-close")
        await asyncio.wait({task, closing}, timeout=STOP_TIMEOUT)
        if not closing.done():
            closing.cancel()
            logger.warning("schedule store was not closed within %g s, and is left to itself", STOP_TIMEOUT)

    async def _close_store(self) -> None:
        try:
            await self.backend.close()
        except (Exception, SystemExit):
            logger.exception("schedule store could not be closed")

    # ── schedules ───────────────────────────────────────────────────────────────────────────────────────────

    async def schedule_cron(
        self,
        task_name: str,
        cron: str,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        priority: int = 0,
        task_id: str | None = None,
        *,
        replace: bool = False,
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task whenever a cron expression matches.

        Args:
            task_name: Of a registered task.
            cron: Five fields, or ``@daily`` and the like.
            args, kwargs: What the task is called with, of the types that travel through a server.
            enabled: Whether it is submitted at all.
            description: For people.
            max_retries, retry_delay: Of each run, the delay in seconds; by default what the task has when the schedule
                is made.
            priority: Higher first among what is due together, unlike that of a submit.
            task_id: The schedule's id; one is made up by default.
            replace: Whether the schedule ``task_id``, if there is one, becomes this one. It is due anew only if its
                task, time or arguments are others; if they are not, one that was disabled stays so.
            extras: ``timezone``, ``misfire_grace``, ``misfire`` and ``max_running`` of :class:`ScheduledTask`.

        Returns:
            The id of the new schedule; or of the one with this task, time and arguments, which is left as it is unless
            it is to be replaced.

        Raises:
            TypeError: A value is of the wrong type.
            ValueError: The task is not registered, the expression or a value is wrong, or the id already exists.
        """
        if not isinstance(cron, str):
            raise TypeError(f"cron must be text, five fields or a macro, not {shown(cron)}")
        CronExpression(cron)
        task = self._define(ScheduleType.CRON, task_name, cron, args, kwargs, task_id, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        _set_retries(task, max_retries, retry_delay)
        return await self._keep(task, task_id, replace)

    async def schedule_interval(
        self,
        task_name: str,
        interval: float,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        priority: int = 0,
        task_id: str | None = None,
        *,
        replace: bool = False,
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task every ``interval`` seconds, the first time after one; otherwise as :meth:`schedule_cron`."""
        SOME_SECONDS.check("interval", interval)
        task = self._define(ScheduleType.INTERVAL, task_name, str(interval), args, kwargs, task_id, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        _set_retries(task, max_retries, retry_delay)
        return await self._keep(task, task_id, replace)

    async def schedule_once(
        self,
        task_name: str,
        run_at: datetime,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        description: str | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        priority: int = 0,
        task_id: str | None = None,
        *,
        replace: bool = False,
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task once, at a time that is local if it is naive; otherwise as :meth:`schedule_cron`."""
        if not isinstance(run_at, datetime):
            raise TypeError(f"run_at must be a datetime, not {shown(run_at)}")
        try:
            at = local(micros(run_at))
            at.astimezone(UTC)  # the last hours of the last year are none there
        except (OverflowError, ValueError, OSError) as error:
            raise ValueError(f"run_at is no time that this system knows: {shown(run_at)}") from error
        # Only an offset tells the second pass of a doubled hour.
        text = (at.astimezone() if at.fold else at).isoformat()
        task = self._define(ScheduleType.ONE_TIME, task_name, text, args, kwargs, task_id, extras)
        task.description, task.priority = description, priority
        _set_retries(task, max_retries, retry_delay)
        return await self._keep(task, task_id, replace)

    def _define(
        self,
        kind: ScheduleType,
        task_name: str,
        schedule: str,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
        task_id: str | None,
        extras: ScheduleExtras,
    ) -> ScheduledTask:
        if unknown := extras.keys() - ScheduleExtras.__annotations__.keys():  # a schedule has more than may be given
            raise TypeError(f"a schedule can't be given {', '.join(sorted(unknown))}")
        if not self.registry.is_registered(task_name):
            raise ValueError(f"Task '{task_name}' is not registered")
        task_id = str(uuid.uuid4()) if task_id is None else task_id
        task = ScheduledTask(task_id, task_name, kind, schedule, *call_arguments(args, kwargs), **extras)
        definition = self.registry.definition(task_name)
        task.max_retries, task.retry_delay = definition.max_retries, definition.retry_delay
        if self.backend.keeps_text:  # what could not be rebuilt from it is refused now, and not when it is due
            codec.encode_call(task.args, task.kwargs, task_name, definition.func)
        if task.max_running is not None and self._target.callback is not None:
            raise ValueError("max_running needs to know when tasks end, which a submit callback doesn't tell")
        return task

    async def _keep(self, task: ScheduledTask, task_id: str | None, replace: bool) -> str:
        if replace and task_id is None:
            raise ValueError("replace needs the task_id of the schedule that is to be replaced")
        check(task)
        task.next_run_at = await self._first_run(task)
        found = await (self.backend.create_or_replace(task) if replace else self.backend.find_or_create(task))
        self._dispatcher.figures.know(task.task_name)
        self._dispatcher.wake()
        return found

    async def _first_run(self, task: ScheduledTask) -> datetime | None:
        await self._clock.look()
        return first_run(task, self._clock.micros(), self.zone)

    async def unschedule(self, task_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        return await self.backend.delete(task_id)

    async def enable_task(self, task_id: str) -> None:
        """Enable a schedule; one that repeats is due next from now on. ValueError if it is not found, or was
        to run once and is over."""
        if (task := await self.backend.get(task_id)) is None:
            raise ValueError(f"Scheduled task '{task_id}' not found")
        if not task.enabled and task.schedule_type is ScheduleType.ONE_TIME and task.next_run_at is None:
            raise ValueError(
                f"Scheduled task '{task_id}' was due once, at {task.schedule}, and that is over: "
                "trigger it, or schedule it for another time"
            )
        await self.backend.set_enabled(task_id, True, await self._first_run(task))
        self._dispatcher.wake()

    async def disable_task(self, task_id: str) -> None:
        """Disable a schedule. ValueError if it is not found."""
        await self.backend.set_enabled(task_id, False, None)

    async def trigger(self, schedule_id: str) -> str:
        """Run a schedule now, enabled or not, besides its due times; counted as a run, whatever else is running.

        Returns:
            The task's id, unless a submit callback gives it one of its own.

        Raises:
            ValueError: The schedule is not found.
            Exception: What the submission raised; it isn't tried again, nor if whoever called gives up meanwhile.
        """
        return await self._dispatcher.trigger(schedule_id)

    async def get_scheduled_task(self, task_id: str) -> ScheduledTask | None:
        """One schedule."""
        return await self.backend.get(task_id)

    async def list_scheduled_tasks(self) -> list[ScheduledTask]:
        """All schedules, the oldest first."""
        return await self.backend.list_all()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def list_runs(self, schedule_id: str | None = None, limit: int = 100) -> list[ScheduleRun]:
        """The latest runs; see ``FlowrraManager.list_schedule_runs``."""
        LISTED_RUNS.check("limit", limit)
        return [listed_run(row) for row in await self.backend.list_runs(schedule_id, limit)]

    async def stats(self) -> SchedulerStats:
        """The figures of ``FlowrraManager.get_scheduler_stats``."""
        await self._clock.look()
        # What nobody here could submit is broken, not late. A process without tasks looks on.
        known = [each.name for each in self.registry.definitions()] or None
        found = await self.backend.figures(self._clock.micros(), known)
        by_task = await self.backend.count_by_task()
        unknown = sum(count for name, count in by_task.items() if not self.registry.is_registered(name))
        return {
            "running": self.is_running,
            "check_interval": self.check_interval,
            "total_schedules": found["total"],
            "enabled_schedules": found["enabled"],
            "disabled_schedules": found["total"] - found["enabled"],
            "overdue_schedules": found["overdue"],
            "broken_schedules": found["broken"] + unknown,
            "next_run_at": None if found["next"] is None else local(found["next"]).astimezone(),
            "timezone": None if self.zone is LOCAL else str(self.zone),
            "store": self.backend.address,
        }

    def run_stats(self) -> ScheduleRunStats:
        """What this process did: the figures of ``FlowrraManager.get_schedule_run_stats``."""
        return self._dispatcher.figures.all(self.is_running)


def _set_retries(task: ScheduledTask, max_retries: int | None, retry_delay: float | None) -> None:
    """Retries other than those of the schedule's task, as far as they are given."""
    if max_retries is not None:
        task.max_retries = max_retries
    if retry_delay is not None:
        task.retry_delay = retry_delay


async def _no_time() -> None:
    """There is no shared clock."""
