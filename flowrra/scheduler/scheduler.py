"""The scheduler: claims what is due and submits it, at the due time."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from datetime import datetime, tzinfo
from typing import Any

from flowrra.executors.base import BaseTaskExecutor
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.models import LOCAL, Run, ScheduledTask, ScheduleType, following, local, micros
from flowrra.submission import SubmitOptions

logger = logging.getLogger(__name__)

LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
RESULTS = ("submitted", "missed", "collapsed", "skipped", "failed")
BATCH = 100
# Seconds: less than a claim lasts, so that nobody else submits meanwhile.
SUBMIT_TIMEOUT = 20.0
STORE_RETRY = 1.0

Submit = Callable[..., Awaitable[Any]]
SubmitRun = Callable[[str, tuple[Any, ...], dict[str, Any], SubmitOptions], Awaitable[str]]


class Scheduler:
    """Submits tasks by the clock. Any number of schedulers may share a store: each due time is submitted once.

    Args:
        backend: The schedule store.
        registry: The tasks.
        check_interval: Seconds after which changes made by other processes are noticed.
        io_executor, cpu_executor: What runs the tasks, unless a submit callback is set.
        timezone: The zone that cron expressions are read in; None is the server's.
        now: The clock, in seconds since 1970.
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
    ) -> None:
        self.backend = backend
        self.registry = registry
        self.check_interval = check_interval
        self.io_executor = io_executor
        self.cpu_executor = cpu_executor
        self.zone = LOCAL if timezone is None else timezone
        self.turned_at: float | None = None
        self.store_error: str | None = None
        self._now = now
        self._owner = uuid.uuid4().hex
        self._callback: Submit | None = None
        self._submit_run: SubmitRun | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._runs: dict[str, dict[str, int]] = {}
        self._lag = [0] * (len(LAG_BOUNDS) + 1)
        self._lag_sum = 0.0
        self._store_errors = {"claim": 0, "settle": 0}

    @property
    def is_running(self) -> bool:
        """Whether it submits what is due."""
        return self._loop_task is not None and not self._loop_task.done()

    def set_submit_callback(self, callback: Submit) -> None:
        """Submit by ``await callback(task_func, *args, **kwargs)`` rather than to the executors."""
        self._callback = callback

    def use_app(self, submit: SubmitRun) -> None:
        """Submit to an app, with the ids, retries and priorities of the schedules."""
        self._submit_run = submit

    async def start(self) -> None:
        """Start; a no-op if it runs. ValueError if there is nothing to submit to."""
        if self.is_running:
            return
        if not (self._callback or self._submit_run or self.io_executor or self.cpu_executor):
            raise ValueError("The scheduler requires either a submit callback or an executor")
        self._changed = asyncio.Event()
        self._loop_task = asyncio.create_task(self._run(), name="flowrra-scheduler")

    async def stop(self) -> None:
        """Stop, and close the store; a no-op if it doesn't run."""
        task, self._loop_task = self._loop_task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.backend.close()

    # ── schedules ───────────────────────────────────────────────────────────────────────────────────────────

    async def schedule_cron(self, task_name: str, cron: str, *args: Any, **options: Any) -> str:
        """Submit a task whenever a cron expression matches; see :meth:`_schedule` for the options."""
        CronExpression(cron)
        return await self._schedule(ScheduleType.CRON, task_name, cron, *args, **options)

    async def schedule_interval(self, task_name: str, interval: float, *args: Any, **options: Any) -> str:
        """Submit a task every so many seconds."""
        if not 0 < interval < float("inf"):
            raise ValueError(f"interval must be positive, not {interval!r}")
        return await self._schedule(ScheduleType.INTERVAL, task_name, str(interval), *args, **options)

    async def schedule_once(
        self,
        task_name: str,
        run_at: datetime,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Submit a task once; a naive time is local."""
        run_at = local(micros(run_at))
        return await self._schedule(ScheduleType.ONE_TIME, task_name, run_at.isoformat(), args, kwargs, **options)

    async def _schedule(
        self,
        kind: ScheduleType,
        task_name: str,
        schedule: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        max_retries: int = 3,
        retry_delay: float = 1.0,
        priority: int = 0,
        task_id: str | None = None,
        **options: Any,
    ) -> str:
        """The id of a new schedule, or of the one that means the same; ValueError if the task isn't registered or the
        id is another's. ``options``: ``timezone`` and ``misfire_grace`` of :class:`ScheduledTask`."""
        if not self.registry.is_registered(task_name):
            raise ValueError(f"Task '{task_name}' is not registered")
        args, kwargs = tuple(args), kwargs or {}
        sought = (task_name, kind, schedule, args, kwargs)
        if (same := await self.backend.find_by_definition(*sought)) is not None:
            return same.id
        task = ScheduledTask(task_id or str(uuid.uuid4()), *sought, enabled, description=description, **options)
        task.max_retries, task.retry_delay, task.priority = max_retries, retry_delay, priority
        task.next_run_at = self._first_run(task)
        try:
            await self.backend.create(task)
        except ValueError:
            if (same := await self.backend.find_by_definition(*sought)) is None:
                raise
            return same.id
        self._changed.set()
        return task.id

    def _first_run(self, task: ScheduledTask) -> datetime | None:
        if task.schedule_type is ScheduleType.ONE_TIME:
            return datetime.fromisoformat(task.schedule)
        due = following(task, round(self._now() * 1_000_000), self.zone)
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
        if enabled and not task.enabled:
            task.next_run_at, task.broken = self._first_run(task), None
        task.enabled = enabled
        await self.backend.update(task)
        self._changed.set()

    async def get_scheduled_task(self, task_id: str) -> ScheduledTask | None:
        """One schedule."""
        return await self.backend.get(task_id)

    async def list_scheduled_tasks(self) -> list[ScheduledTask]:
        """All schedules, the oldest first."""
        return await self.backend.list_all()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def stats(self) -> dict[str, Any]:
        """The figures of ``FlowrraManager.get_scheduler_stats``."""
        found = await self.backend.figures(round(self._now() * 1_000_000))
        return {
            "running": self.is_running,
            "check_interval": self.check_interval,
            "total_schedules": found["total"],
            "enabled_schedules": found["enabled"],
            "disabled_schedules": found["total"] - found["enabled"],
            "overdue_schedules": found["overdue"],
            "broken_schedules": found["broken"],
            "next_run_at": None if found["next"] is None else local(found["next"]).astimezone(),
        }

    def run_stats(self) -> dict[str, Any]:
        """What this process did: the figures of ``FlowrraManager.get_schedule_run_stats``."""
        return {
            "runs": {name: counts.copy() for name, counts in self._runs.copy().items()},
            "lag": {"bounds": LAG_BOUNDS, "counts": tuple(self._lag), "sum": self._lag_sum},
            "store_errors": self._store_errors.copy(),
        }

    def _count(self, task_name: str, result: str, count: int = 1) -> None:
        self._runs.setdefault(task_name, dict.fromkeys(RESULTS, 0))[result] += count

    # ── firing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                delay = await self._fire_due()
                self.store_error = None
            except Exception as error:
                self._store_errors["claim"] += 1
                self.store_error = f"{type(error).__name__}: {error}"
                logger.exception("schedules could not be read or claimed")
                delay = STORE_RETRY
            self.turned_at = time.monotonic()
            if delay > 0:
                await self._wait(min(delay, self.check_interval))

    async def _wait(self, delay: float) -> None:
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _fire_due(self) -> float:
        """Submit what is due; the seconds until something is due next."""
        now = round(self._now() * 1_000_000)
        claims = await self.backend.claim(now, self.zone, self._owner, BATCH)
        for result, counts in (("missed", claims.missed), ("collapsed", claims.collapsed)):
            for name, count in counts.items():
                self._count(name, result, count)
                logger.warning("due times were %s task=%s count=%d", result, name, count)
        if claims.runs:
            await self._submit_all(claims.runs)
        if claims.more:
            return 0.0
        due = await self.backend.next_due()
        return self.check_interval if due is None else max(0.0, due / 1_000_000 - self._now())

    async def _submit_all(self, runs: list[Run]) -> None:
        outcomes = await asyncio.gather(*(self._submit(run) for run in runs), return_exceptions=True)
        errors: dict[str, str] = {}
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                errors[run.id] = f"{type(outcome).__name__}: {outcome}"
                self._count(run.schedule.task_name, "failed")
                logger.error("run was not submitted schedule=%s error=%s", run.schedule.id, errors[run.id])
            else:
                self._observe(run)
        await self.backend.settle(runs, round(self._now() * 1_000_000), errors)

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
        executor = self.cpu_executor if definition.cpu_bound else self.io_executor
        if executor is None:
            raise ValueError(f"The scheduler has no executor for task '{task.task_name}'")
        await executor.accept_once(definition, task.args, task.kwargs, options)
