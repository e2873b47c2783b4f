"""The scheduler: claims what is due and submits it, at the due time."""

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
from flowrra.ranges import SOME_SECONDS, shown
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.clock import SharedClock
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.figures import LAG_BOUNDS, RESULTS, RunFigures
from flowrra.scheduler.models import (
    LOCAL,
    ScheduledTask,
    ScheduleType,
    check,
    check_arguments,
    following,
    local,
    micros,
)
from flowrra.scheduler.submissions import Submissions, describe
from flowrra.scheduler.target import SUBMIT_TIMEOUT, Executors, GetResult, Submit, SubmitRun, Target

__all__ = ["LAG_BOUNDS", "RESULTS", "ScheduleExtras", "Scheduler"]

logger = logging.getLogger(__name__)

BATCH = 100
MOST_LISTED_RUNS = 1_000
STORE_RETRY = 1.0
STOP_TIMEOUT = 5.0
# Seconds that a broker has to tell the time.
CLOCK_TIMEOUT = 0.5
# Seconds that a stop leaves to submissions that are under way.
FINISH_TIMEOUT = 1.0
# Seconds for all that is done between two waits: longer than the store's own time-outs.
TURN_TIMEOUT = 45.0


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

    Attributes:
        expected_at: Until when, on the monotonic clock, its loop has to turn; None before its start.
        store_error: Why the store can't be used just now, or None.
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
        self.backend = backend
        self.registry = registry
        self.check_interval = check_interval
        self.io_executor = io_executor
        self.cpu_executor = cpu_executor
        self.zone = LOCAL if timezone is None else timezone
        self.expected_at: float | None = None
        self.store_error: str | None = None
        self._sleep = sleep
        self._target = Target(registry, self._own_executors)
        self._clock = SharedClock(time.time, self._shared_time) if now is None else SharedClock(now, _no_time)
        self._figures = RunFigures()
        self._submissions = Submissions(
            backend, registry, self._target, self._figures, self._clock.micros, lambda: self._changed.set()
        )
        self.forked()
        tell_of_forks(self)
        self._look_round_at = 0.0
        self._changed = asyncio.Event()
        self._stopping = False

    def _own_executors(self) -> Mapping[str, BaseTaskExecutor]:
        both = {"io": self.io_executor, "cpu": self.cpu_executor}
        return {kind: executor for kind, executor in both.items() if executor is not None}

    async def _shared_time(self) -> float | None:
        """The time of the store's clock; of the broker's where that has none, and None without either."""
        if (found := await self.backend.clock()) is not None:
            return found
        for broker in self._target.brokers():
            async with asyncio.timeout(CLOCK_TIMEOUT):
                return await broker.clock()
        return None

    def forked(self) -> None:
        """It claims what is due by a name of its own, and does not run in a process that was forked from its own."""
        self._submissions.begin()
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it submits what is due."""
        task = self._loop_task
        return task is not None and not task.done() and not task.get_loop().is_closed()

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
        self._changed = asyncio.Event()
        self._stopping = False
        self._look_round_at = 0.0
        self._submissions.begin()
        self.expected_at = time.monotonic() + TURN_TIMEOUT
        self._loop_task = asyncio.create_task(self._run(), name="flowrra-scheduler")

    async def stop(self) -> None:
        """Stop, and close the store; a no-op if it doesn't run."""
        task, self._loop_task = self._loop_task, None
        if task is None:
            return
        if task.get_loop().is_closed():  # without it
            return
        self._stopping = True
        self._changed.set()
        # What was submitted is to be recorded: after a restart it would be submitted again.
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
        except Exception:
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
        max_retries: int = 3,
        retry_delay: float = 1.0,
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
            max_retries, retry_delay: Of each task, the delay in seconds.
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
        task = self._define(ScheduleType.CRON, task_name, cron, args, kwargs, task_id, replace, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task, replace)

    async def schedule_interval(
        self,
        task_name: str,
        interval: float,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        max_retries: int = 3,
        retry_delay: float = 1.0,
        priority: int = 0,
        task_id: str | None = None,
        *,
        replace: bool = False,
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task every ``interval`` seconds, the first time after one; otherwise as :meth:`schedule_cron`."""
        SOME_SECONDS.check("interval", interval)
        task = self._define(ScheduleType.INTERVAL, task_name, str(interval), args, kwargs, task_id, replace, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task, replace)

    async def schedule_once(
        self,
        task_name: str,
        run_at: datetime,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        description: str | None = None,
        max_retries: int = 3,
        retry_delay: float = 1.0,
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
        except (OverflowError, ValueError, OSError) as error:
            raise ValueError(f"run_at is no time that this system knows: {shown(run_at)}") from error
        text = (
            at.astimezone() if at.fold else at
        ).isoformat()  # only an offset tells the second pass of a doubled hour
        task = self._define(ScheduleType.ONE_TIME, task_name, text, args, kwargs, task_id, replace, extras)
        task.description, task.priority = description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task, replace)

    def _define(
        self,
        kind: ScheduleType,
        task_name: str,
        schedule: str,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
        task_id: str | None,
        replace: bool,
        extras: ScheduleExtras,
    ) -> ScheduledTask:
        if not self.registry.is_registered(task_name):
            raise ValueError(f"Task '{task_name}' is not registered")
        if replace and task_id is None:
            raise ValueError("replace needs the task_id of the schedule that is to be replaced")
        kwargs = {} if kwargs is None else kwargs
        check_arguments(args, kwargs)
        task_id = str(uuid.uuid4()) if task_id is None else task_id
        task = ScheduledTask(task_id, task_name, kind, schedule, tuple(args), dict(kwargs), **extras)
        if self.backend.keeps_text:  # what could not be rebuilt from it is refused now, and not when it is due
            codec.encode_call(task.args, task.kwargs, task_name, self.registry.get(task_name))
        if task.max_running is not None and self._target.callback is not None:
            raise ValueError("max_running needs to know when tasks end, which a submit callback doesn't tell")
        return task

    async def _create(self, task: ScheduledTask, replace: bool) -> str:
        check(task)
        await self._clock.look()
        task.next_run_at = self._first_run(task)
        found = await self._replace(task) if replace else await self._find_or_create(task)
        self._figures.know(task.task_name)
        self._changed.set()
        return found

    async def _find_or_create(self, task: ScheduledTask) -> str:
        sought = (task.task_name, task.schedule_type, task.schedule, task.args, task.kwargs)
        # Named only where there is one: a user's own store need not know of zones.
        zone: dict[str, Any] = {} if task.timezone is None else {"timezone": task.timezone}
        if (same := await self.backend.find_by_definition(*sought, **zone)) is not None:
            return same.id
        try:
            await self.backend.create_once(task)
        except ValueError:  # either somebody else was faster, or the id is another's
            if (same := await self.backend.find_by_definition(*sought, **zone)) is None:
                raise
            return same.id
        return task.id

    async def _replace(self, task: ScheduledTask) -> str:
        while not await self.backend.replace(task):
            try:
                await self.backend.create(task)
            except ValueError:  # somebody else was faster
                continue
            break
        return task.id

    def _first_run(self, task: ScheduledTask) -> datetime | None:
        if task.schedule_type is ScheduleType.ONE_TIME:
            return local(micros(datetime.fromisoformat(task.schedule)))
        due = following(task, self._clock.micros(), self.zone)
        return None if due is None else local(due)

    async def unschedule(self, task_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        return await self.backend.delete(task_id)

    async def enable_task(self, task_id: str) -> None:
        """Enable a schedule; one that repeats is due next from now on. ValueError if it is not found, or was
        to run once and is over."""
        await self._set_enabled(task_id, True)

    async def disable_task(self, task_id: str) -> None:
        """Disable a schedule. ValueError if it is not found."""
        await self._set_enabled(task_id, False)

    async def _set_enabled(self, task_id: str, enabled: bool) -> None:
        task = await self.backend.get(task_id)
        if task is None:
            raise ValueError(f"Scheduled task '{task_id}' not found")
        if enabled and not task.enabled and task.schedule_type is ScheduleType.ONE_TIME and task.next_run_at is None:
            raise ValueError(
                f"Scheduled task '{task_id}' was due once, at {task.schedule}, and that is over: "
                "trigger it, or schedule it for another time"
            )
        await self._clock.look()
        await self.backend.set_enabled(task_id, enabled, self._first_run(task) if enabled else None)
        self._changed.set()

    async def trigger(self, schedule_id: str) -> str:
        """Run a schedule now, enabled or not, besides its due times; counted as a run, whatever else is running.

        Returns:
            The task's id, unless a submit callback gives it one of its own.

        Raises:
            ValueError: The schedule is not found.
            Exception: What the submission raised; it isn't tried again.
        """
        await self._clock.look()
        run = await self.backend.begin_run(schedule_id, self._clock.micros(), self._submissions.owner)
        if run is None:
            raise ValueError(f"Scheduled task '{schedule_id}' not found")
        try:
            await self._target.submit(run, self._clock.micros(), SUBMIT_TIMEOUT)
        except Exception as error:
            self._figures.count(run.schedule.task_name, "failed")
            await self._recorded(self.backend.settle([run], self._clock.micros(), {run.id: describe(error)}))
            raise
        self._submissions.observe(run)
        await self._recorded(self.backend.settle([run], self._clock.micros(), {}))
        return run.id

    async def _recorded(self, recording: Awaitable[None]) -> bool:
        """Whether runs could be recorded. If not, that is tried again, or they are submitted again and found known."""
        try:
            await recording
        except Exception as error:
            self._figures.store_errors["settle"] += 1
            self.store_error = describe(error)
            logger.exception("runs could not be settled")
            return False
        return True

    async def list_runs(self, schedule_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The latest runs; see ``FlowrraManager.list_schedule_runs``."""
        if not 0 <= limit <= MOST_LISTED_RUNS:
            raise ValueError(f"limit must be from 0 to {MOST_LISTED_RUNS}, it is {limit}")
        return [_run_seen(row) for row in await self.backend.list_runs(schedule_id, limit)]

    async def get_scheduled_task(self, task_id: str) -> ScheduledTask | None:
        """One schedule."""
        return await self.backend.get(task_id)

    async def list_scheduled_tasks(self) -> list[ScheduledTask]:
        """All schedules, the oldest first."""
        return await self.backend.list_all()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def stats(self) -> dict[str, Any]:
        """The figures of ``FlowrraManager.get_scheduler_stats``."""
        await self._clock.look()
        found = await self.backend.figures(self._clock.micros())
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
        }

    def run_stats(self) -> dict[str, Any]:
        """What this process did: the figures of ``FlowrraManager.get_schedule_run_stats``."""
        return {"running": self.is_running, **self._figures.all()}

    # ── firing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
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
                await self._look_round()
                is_more = await self._fire_due()
                is_recorded = await self._recorded(self._submissions.record()) and is_recorded
                delay = 0.0 if is_more else await self._next_due_in()
        except Exception as error:
            self._figures.store_errors["claim"] += 1
            self.store_error = describe(error)
            logger.exception("schedules could not be read or claimed")
            return STORE_RETRY
        if not is_recorded:
            return min(delay, STORE_RETRY)
        self.store_error = None
        beat = self._submissions.next_beat()
        return delay if beat is None else min(delay, beat)

    async def _follow_clock(self) -> None:
        await self._clock.look()
        if not self._clock.was_put_back:
            return
        if count := await self.backend.catch_up_with_clock(self._clock.micros()):
            logger.warning("the clock was put back: intervals start anew schedules=%d", count)
        self._clock.was_put_back = False

    async def _wait(self, delay: float) -> None:
        """Until something changed, at most for so many seconds."""
        waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._sleep(delay))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _look_round(self) -> None:
        """At the start, and then at every check interval: which tasks there are schedules for, to count each of them
        from 0 on, and which broken ones were mended."""
        if time.monotonic() < self._look_round_at:
            return
        for name in await self.backend.count_by_task():
            if self.registry.is_registered(name):
                self._figures.know(name)
        for task in await self.backend.list_broken(BATCH):
            try:
                next_run = self._first_run(task)
            except (ValueError, TypeError, KeyError, OverflowError, OSError):
                continue  # as before; the reason is in its row
            if await self.backend.mend(task.id, next_run):
                logger.info("broken schedule was mended schedule=%s", task.id)
        self._look_round_at = time.monotonic() + self.check_interval

    async def _fire_due(self) -> bool:
        """Submit what is due; whether there may be more."""
        # Others may know the tasks that this process doesn't, and have room in the queues that are full here.
        known = self._submissions.tasks_with_room()
        claims = await self.backend.claim(self._clock.micros(), self.zone, self._submissions.owner, BATCH, known)
        for result in ("missed", "collapsed", "skipped"):
            for name, count in getattr(claims, result).items():
                self._figures.count(name, result, count)
                logger.warning("due times were %s task=%s count=%d", result, name, count)
        await self._submissions.start(claims.runs)
        return claims.more

    async def _next_due_in(self) -> float:
        due = await self.backend.next_due(self._submissions.tasks_with_room())
        return self.check_interval if due is None else max(0.0, due / 1e6 - self._clock.now())


async def _no_time() -> None:
    """There is no shared clock."""


def _run_seen(row: dict[str, Any]) -> dict[str, Any]:
    due, fired = _instant(row["due"]), _instant(row["fired"])
    return {
        "schedule_id": row["schedule_id"],
        "task_id": row["id"],
        "due": due,
        "fired": fired,
        "lag": None if fired is None or due is None else max(0.0, (fired - due).total_seconds()),
        "result": row["result"],
        "attempts": row["attempts"],
        "error": row["error"],
    }


def _instant(at: int | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at / 1_000_000, UTC)
