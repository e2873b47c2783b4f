"""The scheduler: claims what is due and submits it, at the due time."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, TypedDict, Unpack

from flowrra.executors.base import BaseTaskExecutor
from flowrra.forks import tell_of_forks
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.models import (
    LOCAL,
    MOST_ATTEMPTS,
    Run,
    ScheduledTask,
    ScheduleType,
    check,
    following,
    local,
    micros,
)
from flowrra.submission import SubmitOptions
from flowrra.task import TaskResult

logger = logging.getLogger(__name__)

LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
RESULTS = ("submitted", "missed", "collapsed", "skipped", "failed")
BATCH = 100
MOST_LISTED_RUNS = 1_000
# Seconds: less than a claim lasts, so that nobody else submits meanwhile.
SUBMIT_TIMEOUT = 20.0
STORE_RETRY = 1.0
STOP_TIMEOUT = 5.0
# Seconds for all that is done between two waits: longer than a submit and the store's own time-outs.
TURN_TIMEOUT = 45.0
# Of a schedule with max_running, so many of the latest runs are looked at.
LOOK_BACK = 100

Submit = Callable[..., Awaitable[Any]]
SubmitRun = Callable[[str, tuple[Any, ...], dict[str, Any], SubmitOptions], Awaitable[str]]
GetResult = Callable[[str], Awaitable[TaskResult | None]]


class ScheduleExtras(TypedDict, total=False):
    """Options of a schedule that Flowrra 0.1 doesn't have; see :class:`ScheduledTask`."""

    timezone: str | None
    misfire_grace: float
    max_running: int | None


class Scheduler:
    """Submits tasks by the clock. Any number of schedulers may share a store: each due time is submitted once.

    Args:
        backend: The schedule store.
        registry: The tasks.
        check_interval: Seconds after which changes made by other processes are noticed.
        io_executor, cpu_executor: What runs the tasks, unless a submit callback is set.
        timezone: The zone that cron expressions are read in; None is the server's.
        now, sleep: The clock, in seconds since 1970, and a wait on it, in seconds.

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
        now: Callable[[], float] = time.time,
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
        self._now, self._sleep = now, sleep
        self.forked()
        tell_of_forks(self)
        self._callback: Submit | None = None
        self._submit_run: SubmitRun | None = None
        self._get_result: GetResult | None = None
        self._look_round_at = 0.0
        self._changed = asyncio.Event()
        self._stopping = False
        self._runs: dict[str, dict[str, int]] = {}
        self._lag = [0] * (len(LAG_BOUNDS) + 1)
        self._lag_sum = 0.0
        self._store_errors = {"claim": 0, "settle": 0}

    def forked(self) -> None:
        """It claims what is due by a name of its own, and does not run in a process that was forked from its own."""
        self._owner = uuid.uuid4().hex
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it submits what is due."""
        task = self._loop_task
        return task is not None and not task.done() and not task.get_loop().is_closed()

    def set_submit_callback(self, callback: Submit) -> None:
        """Submit by ``await callback(task_func, *args, **kwargs)`` rather than to the executors."""
        self._callback = callback

    def use_app(self, submit: SubmitRun, get_result: GetResult) -> None:
        """Submit to an app, with the ids, retries and priorities of the schedules."""
        self._submit_run, self._get_result = submit, get_result

    async def start(self) -> None:
        """Start; a no-op if it runs. ValueError if there is nothing to submit to."""
        if self.is_running:
            return
        if not (self._callback or self._submit_run or self.io_executor or self.cpu_executor):
            raise ValueError("The scheduler requires either a submit callback or an executor")
        self._changed = asyncio.Event()
        self._stopping = False
        self._look_round_at = 0.0
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
        await asyncio.wait({task}, timeout=STOP_TIMEOUT)
        await self.backend.close()

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
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task whenever a cron expression matches.

        Args:
            task_name: Of a registered task.
            cron: Five fields, or ``@daily`` and the like.
            args, kwargs: What the task is called with; JSON-safe.
            enabled: Whether it is submitted at all.
            description: For people.
            max_retries, retry_delay: Of each task, the delay in seconds.
            priority: Higher first among what is due together, unlike that of a submit.
            task_id: The schedule's id; one is made up by default.
            extras: ``timezone``, ``misfire_grace`` and ``max_running`` of :class:`ScheduledTask`.

        Returns:
            The id of the new schedule; or of the one with this task, time and arguments, which is left as it is.

        Raises:
            ValueError: The task is not registered, the expression or an option is wrong, or the id already exists.
        """
        CronExpression(cron)
        task = self._define(ScheduleType.CRON, task_name, cron, args, kwargs, task_id, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task)

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
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task every ``interval`` seconds, the first time after one; otherwise as :meth:`schedule_cron`."""
        if not 0 < interval < float("inf"):
            raise ValueError(f"interval must be positive, not {interval!r}")
        task = self._define(ScheduleType.INTERVAL, task_name, str(interval), args, kwargs, task_id, extras)
        task.enabled, task.description, task.priority = enabled, description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task)

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
        **extras: Unpack[ScheduleExtras],
    ) -> str:
        """Submit a task once, at a time that is local if it is naive; otherwise as :meth:`schedule_cron`."""
        at = local(micros(run_at))
        text = (
            at.astimezone() if at.fold else at
        ).isoformat()  # only an offset tells the second pass of a doubled hour
        task = self._define(ScheduleType.ONE_TIME, task_name, text, args, kwargs, task_id, extras)
        task.description, task.priority = description, priority
        task.max_retries, task.retry_delay = max_retries, retry_delay
        return await self._create(task)

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
        if not self.registry.is_registered(task_name):
            raise ValueError(f"Task '{task_name}' is not registered")
        task = ScheduledTask(
            task_id or str(uuid.uuid4()), task_name, kind, schedule, tuple(args), dict(kwargs or {}), **extras
        )
        check(task)
        if task.max_running is not None and self._callback is not None:
            raise ValueError("max_running needs to know when tasks end, which a submit callback doesn't tell")
        return task

    async def _create(self, task: ScheduledTask) -> str:
        sought = (task.task_name, task.schedule_type, task.schedule, task.args, task.kwargs)
        # Named only where there is one: a user's own store need not know of zones.
        zone: dict[str, Any] = {} if task.timezone is None else {"timezone": task.timezone}
        if (same := await self.backend.find_by_definition(*sought, **zone)) is not None:
            return same.id
        task.next_run_at = self._first_run(task)
        try:
            await self.backend.create(task)
        except ValueError:  # either somebody else was faster, or the id is another's
            if (same := await self.backend.find_by_definition(*sought, **zone)) is None:
                raise
            return same.id
        self._know(task.task_name)
        self._changed.set()
        return task.id

    def _micros(self) -> int:
        return round(self._now() * 1_000_000)

    def _first_run(self, task: ScheduledTask) -> datetime | None:
        if task.schedule_type is ScheduleType.ONE_TIME:
            return local(micros(datetime.fromisoformat(task.schedule)))
        due = following(task, self._micros(), self.zone)
        return None if due is None else local(due)

    async def unschedule(self, task_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        return await self.backend.delete(task_id)

    async def enable_task(self, task_id: str) -> None:
        """Enable a schedule; one that repeats is due next from now on. ValueError if it is not found."""
        await self._set_enabled(task_id, True)

    async def disable_task(self, task_id: str) -> None:
        """Disable a schedule. ValueError if it is not found."""
        await self._set_enabled(task_id, False)

    async def _set_enabled(self, task_id: str, enabled: bool) -> None:
        task = await self.backend.get(task_id)
        if task is None:
            raise ValueError(f"Scheduled task '{task_id}' not found")
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
        run = await self.backend.begin_run(schedule_id, self._micros(), self._owner)
        if run is None:
            raise ValueError(f"Scheduled task '{schedule_id}' not found")
        try:
            await self._submit(run)
        except Exception as error:
            self._count(run.schedule.task_name, "failed")
            await self._settle([run], {run.id: _text(error)})
            raise
        self._observe(run)
        await self._settle([run], {})
        return run.id

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
        found = await self.backend.figures(self._micros())
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
        return {
            "runs": {name: counts.copy() for name, counts in self._runs.copy().items()},
            "lag": {"bounds": LAG_BOUNDS, "counts": tuple(self._lag), "sum": self._lag_sum},
            "store_errors": self._store_errors.copy(),
        }

    def _know(self, task_name: str) -> None:
        self._runs.setdefault(task_name, dict.fromkeys(RESULTS, 0))

    def _count(self, task_name: str, result: str, count: int = 1) -> None:
        self._know(task_name)
        self._runs[task_name][result] += count

    # ── firing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while not self._stopping:
            self._changed.clear()
            try:
                unsettled = self._store_errors["settle"]
                async with asyncio.timeout(TURN_TIMEOUT):
                    await self._look_round()
                    delay = await self._fire_due()
                if unsettled == self._store_errors["settle"]:
                    self.store_error = None
            except Exception as error:
                self._store_errors["claim"] += 1
                self.store_error = _text(error)
                logger.exception("schedules could not be read or claimed")
                delay = STORE_RETRY
            delay = min(delay, self.check_interval)
            self.expected_at = time.monotonic() + max(0.0, delay) + TURN_TIMEOUT
            if delay > 0:
                await self._wait(delay)

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
                self._know(name)
        for task in await self.backend.list_broken(BATCH):
            try:
                next_run = self._first_run(task)
            except (ValueError, TypeError, KeyError, OverflowError, OSError):
                continue  # as before; the reason is in its row
            if await self.backend.mend(task.id, next_run):
                logger.info("broken schedule was mended schedule=%s", task.id)
        self._look_round_at = time.monotonic() + self.check_interval

    async def _fire_due(self) -> float:
        """Submit what is due; the seconds until something is due next."""
        now = self._micros()
        # Others may know the tasks that this process doesn't.
        known = self.registry.list_tasks()
        claims = await self.backend.claim(now, self.zone, self._owner, BATCH, known)
        for result, counts in (("missed", claims.missed), ("collapsed", claims.collapsed)):
            for name, count in counts.items():
                self._count(name, result, count)
                logger.warning("due times were %s task=%s count=%d", result, name, count)
        if claims.runs:
            await self._submit_all(claims.runs)
        if claims.more:
            return 0.0
        due = await self.backend.next_due(known)
        return self.check_interval if due is None else max(0.0, due / 1_000_000 - self._now())

    async def _submit_all(self, runs: list[Run]) -> None:
        outcomes = await asyncio.gather(*(self._submit_unless_full(run) for run in runs), return_exceptions=True)
        errors: dict[str, str] = {}
        skipped: set[str] = set()
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                errors[run.id] = _text(outcome)
                if run.attempts >= MOST_ATTEMPTS:
                    self._count(run.schedule.task_name, "failed")
                logger.error(
                    "run was not submitted schedule=%s attempt=%d of %d error=%s",
                    run.schedule.id,
                    run.attempts,
                    MOST_ATTEMPTS,
                    errors[run.id],
                )
            elif outcome:
                self._observe(run)
            else:
                skipped.add(run.id)
                self._count(run.schedule.task_name, "skipped")
                logger.warning("run was skipped: max_running=%d schedule=%s", run.schedule.max_running, run.schedule.id)
        await self._settle(runs, errors, skipped)

    async def _submit_unless_full(self, run: Run) -> bool:
        """Whether it was submitted: not if as many tasks of its schedule as may run haven't ended."""
        most = run.schedule.max_running
        if most is not None and self._callback is None and await self._count_unfinished(run, most) >= most:
            return False
        await self._submit(run)
        return True

    async def _count_unfinished(self, run: Run, most: int) -> int:
        unfinished = 0
        for other in await self.backend.list_runs(run.schedule.id, LOOK_BACK, ("claimed", "submitted")):
            # What is being submitted elsewhere goes first if it is due first.
            waiting = other["result"] == "claimed" and other["due"] < run.due
            running = other["result"] == "submitted" and not await self._has_ended(run, other["id"])
            unfinished += other["id"] != run.id and (waiting or running)
            if unfinished == most:
                break
        return unfinished

    async def _has_ended(self, run: Run, task_id: str) -> bool:
        """Also if nothing is known of it (any more)."""
        if self._get_result is not None:
            record = await self._get_result(task_id)
        else:
            record = await self._executor(run.schedule.task_name).get_result(task_id)
        return record is None or record.is_complete

    async def _settle(self, runs: list[Run], errors: dict[str, str], skipped: Collection[str] = frozenset()) -> None:
        """Record what became of runs. If that fails they are submitted again after a while, which changes nothing:
        their tasks exist."""
        try:
            await self.backend.settle(runs, self._micros(), errors, skipped)
        except Exception as error:
            self._store_errors["settle"] += 1
            self.store_error = _text(error)
            logger.exception("runs could not be settled")

    def _observe(self, run: Run) -> None:
        lag = max(0.0, self._now() - run.due / 1_000_000)
        self._lag[bisect_left(LAG_BOUNDS, lag)] += 1
        self._lag_sum += lag
        self._count(run.schedule.task_name, "submitted")

    async def _submit(self, run: Run) -> None:
        task = run.schedule
        options = SubmitOptions(
            priority=-task.priority, task_id=run.id, max_retries=task.max_retries, retry_delay=task.retry_delay
        )
        async with asyncio.timeout(SUBMIT_TIMEOUT):
            if self._callback is not None:
                await self._callback(self.registry.get_or_raise(task.task_name), *task.args, **task.kwargs)
            elif self._submit_run is not None:
                await self._submit_run(task.task_name, task.args, task.kwargs, options)
            else:
                await self._submit_to_executor(task, options)

    async def _submit_to_executor(self, task: ScheduledTask, options: SubmitOptions) -> None:
        definition = self.registry.definition(task.task_name)
        await self._executor(task.task_name).accept_once(definition, task.args, task.kwargs, options)

    def _executor(self, task_name: str) -> BaseTaskExecutor:
        executor = self.cpu_executor if self.registry.definition(task_name).cpu_bound else self.io_executor
        if executor is None:
            raise ValueError(f"The scheduler has no executor for task '{task_name}'")
        return executor


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


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
