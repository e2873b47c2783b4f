"""FlowrraManager: statistics, task queries and health of an app, for programs that show or watch it.

All methods are coroutines, and may be called from any thread and any event loop. They are of three kinds:

* **plain numbers**: they read what is in memory, never wait, and need no loop; they answer even while the app's loop is
  blocked (:meth:`~FlowrraManager.get_task_stats`, :meth:`~FlowrraManager.get_runtime_stats`,
  :meth:`~FlowrraManager.get_schedule_run_stats`, :meth:`~FlowrraManager.list_registered_tasks`,
  :meth:`~FlowrraManager.get_task_info`);
* **I/O**: they may ask a broker, a result backend or a schedule store (the other queries);
* **loop-bound**: they are carried out on the app's loop and wait for it (:meth:`~FlowrraManager.cancel_task`, and what
  reads or changes schedules).

What they answer is described by the types of :mod:`flowrra.management.answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

from flowrra.app import Flowrra
from flowrra.management import queues, stats, tasks
from flowrra.management.answers import (
    DeadTask,
    Health,
    Queues,
    RegisteredTask,
    RuntimeStats,
    Schedule,
    ScheduleDetails,
    SchedulerStats,
    ScheduleRun,
    ScheduleRunStats,
    Stats,
    SubmittedTask,
    TaskInfo,
    TaskOutcome,
    TaskRecord,
    TaskStats,
    Worker,
)
from flowrra.management.health import health
from flowrra.management.schedules import schedule, schedule_details
from flowrra.scheduler.scheduler import ScheduleExtras, Scheduler
from flowrra.task import TaskStatus


class ScheduleOptions(ScheduleExtras, total=False):
    """Options of a schedule besides those that ``create_schedule_*`` name."""

    max_retries: int
    retry_delay: float
    task_id: str | None
    replace: bool


class FlowrraManager:
    """Queries and steers one app.

    Args:
        app: The app; it need not be running.

    Attributes:
        app: The same.
    """

    def __init__(self, app: Flowrra) -> None:
        self.app = app

    # ── statistics ──────────────────────────────────────────────────────────────────────────────────────────

    async def get_stats(self) -> Stats:
        """The app at a glance. JSON-safe.

        What this process knows is always there. What a broker or a store doesn't tell within half a second is None,
        and an error beside it says why.
        """
        return await stats.stats(self.app)

    async def get_queue_stats(self) -> Queues:
        """The queues of both kinds of task. A figure that can't be had is None.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.queues(self.app)

    async def get_task_stats(self) -> dict[str, TaskStats]:
        """What happened to the tasks of each registered name in this process, cumulative. Plain numbers."""
        return stats.task_stats(self.app)

    async def get_runtime_stats(self) -> RuntimeStats:
        """How the app itself fares in this process, cumulative. Plain numbers."""
        return stats.runtime_stats(self.app)

    async def set_histogram_bounds(
        self,
        *,
        run_duration: tuple[float, ...] | None = None,
        queue_wait: tuple[float, ...] | None = None,
        loop_lag: tuple[float, ...] | None = None,
    ) -> None:
        """Count in other buckets: upper bounds in seconds, ascending. To be called before the app starts.

        Raises:
            RuntimeError: Tasks were counted already.
            ValueError: The bounds are not finite, positive and ascending.
        """
        self.app.telemetry.set_bounds(run_duration, queue_wait)
        if loop_lag is not None:
            self.app.loop_monitor.set_bounds(loop_lag)

    async def list_workers(self) -> list[Worker]:
        """The app processes that are known to live and run tasks: those that announce themselves through the broker,
        gone 15 s after a kill and at once after a stop; without one, this process, if the app runs and takes tasks.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.workers(self.app)

    # ── registered tasks ────────────────────────────────────────────────────────────────────────────────────

    async def list_registered_tasks(self) -> list[RegisteredTask]:
        """Every registered task. JSON-safe, plain numbers."""
        return [tasks.registered_task(definition) for definition in self.app.registry.definitions()]

    async def get_task_info(self, task_name: str) -> TaskInfo | None:
        """All about one registered task; None if it is unknown. Plain numbers."""
        definition = next((each for each in self.app.registry.definitions() if each.name == task_name), None)
        return None if definition is None else tasks.task_info(definition)

    # ── submitted tasks ─────────────────────────────────────────────────────────────────────────────────────

    async def get_task_result(self, task_id: str) -> TaskOutcome | None:
        """What is known of a submitted task, in whatever state it is; None if it is unknown.

        Raises:
            BackendError: The results could not be read.
        """
        record = await self.app.get_result(task_id)
        return None if record is None else tasks.task_outcome(record)

    async def list_pending_tasks(self, limit: int | None = None) -> list[SubmittedTask]:
        """Tasks that have not started, delayed ones among them, the latest submitted first.

        Raises:
            BackendError: The results could not be read.
            ValueError: ``limit`` is negative.
        """
        return await tasks.list_submitted(self.app, limit)

    async def list_retrying_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that failed and wait for their next attempt; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.RETRYING, limit)

    async def list_running_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that run now; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.RUNNING, limit)

    async def list_completed_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that succeeded; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.SUCCESS, limit)

    async def list_failed_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that failed for good; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.FAILED, limit)

    async def list_cancelled_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that were cancelled; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.CANCELLED, limit)

    async def cancel_task(self, task_id: str) -> bool:
        """Cancel a task; see :meth:`flowrra.Flowrra.cancel_task`. Carried out on the app's loop.

        Returns:
            True if this call cancelled it.
        """
        return await self.app.cancel_task(task_id)

    async def list_dead_tasks(self, limit: int | None = None) -> list[DeadTask]:
        """Tasks that were given up: delivered again and again without an outcome, unreadable, or known to no worker;
        the latest first. Only a broker on Redis keeps any.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``limit`` is negative.
        """
        return await queues.dead_tasks(self.app, limit)

    async def requeue_dead_task(self, task_id: str) -> bool:
        """Run a dead task after all, as if it had never been delivered.

        Returns:
            True if it is pending now; False if no dead task has that id.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.requeue_dead_task(self.app, task_id)

    async def delete_dead_task(self, task_id: str) -> bool:
        """Forget a dead task; its record stays for as long as that of any failed one.

        Returns:
            True if there was one of that id.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.delete_dead_task(self.app, task_id)

    # ── health ──────────────────────────────────────────────────────────────────────────────────────────────

    async def health_check(self) -> Health:
        """Whether the app can make progress: its loop turns, its workers take what waits, its broker answers."""
        return await health(self.app)

    # ── schedules ───────────────────────────────────────────────────────────────────────────────────────────

    async def list_schedules(self, enabled_only: bool = False) -> list[Schedule]:
        """The schedules, the oldest first, or the enabled ones, the next to run first; none without a scheduler."""
        if (scheduler := self.app.scheduler) is None:
            return []
        store = scheduler.backend
        found = await self.app.run_on_app_loop(store.list_enabled if enabled_only else store.list_all)
        return [schedule(task) for task in found]

    async def get_schedule(self, schedule_id: str) -> ScheduleDetails | None:
        """All about one schedule; None if there is none."""
        if (scheduler := self.app.scheduler) is None:
            return None
        task = await self.app.run_on_app_loop(lambda: scheduler.backend.get(schedule_id))
        return None if task is None else schedule_details(task)

    async def get_scheduler_stats(self) -> SchedulerStats | None:
        """The schedules of the store in numbers; None without a scheduler."""
        return None if self.app.scheduler is None else await self.app.run_on_app_loop(self.app.scheduler.stats)

    async def get_schedule_run_stats(self) -> ScheduleRunStats | None:
        """What this process's scheduler did, cumulative; None without a scheduler. Plain numbers: asks no store."""
        return None if self.app.scheduler is None else self.app.scheduler.run_stats()

    async def list_schedule_runs(self, schedule_id: str | None = None, limit: int = 100) -> list[ScheduleRun]:
        """The latest runs of a schedule, or of all, the latest due first; none without a scheduler. The store keeps the
        latest 10,000.

        Args:
            schedule_id: Whose runs; None is everybody's.
            limit: How many at most, up to 1000.

        Raises:
            ValueError: ``limit`` is out of range.
        """
        if (scheduler := self.app.scheduler) is None:
            return []
        return await self.app.run_on_app_loop(lambda: scheduler.list_runs(schedule_id, limit))

    async def create_schedule_cron(
        self,
        task_name: str,
        cron: str,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        priority: int = 0,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """As ``Scheduler.schedule_cron``; ValueError without a scheduler, as in the methods below."""
        make = self._scheduler().schedule_cron
        return await self.app.run_on_app_loop(
            lambda: make(task_name, cron, args, kwargs, enabled, description=description, priority=priority, **options)
        )

    async def create_schedule_interval(
        self,
        task_name: str,
        interval: float,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        enabled: bool = True,
        description: str | None = None,
        priority: int = 0,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """As ``Scheduler.schedule_interval``."""
        make = self._scheduler().schedule_interval
        return await self.app.run_on_app_loop(
            lambda: make(
                task_name, interval, args, kwargs, enabled, description=description, priority=priority, **options
            )
        )

    async def create_schedule_once(
        self,
        task_name: str,
        run_at: datetime,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        description: str | None = None,
        priority: int = 0,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """As ``Scheduler.schedule_once``."""
        make = self._scheduler().schedule_once
        return await self.app.run_on_app_loop(
            lambda: make(task_name, run_at, args, kwargs, description, priority=priority, **options)
        )

    async def trigger_schedule(self, schedule_id: str) -> str:
        """Run a schedule now, besides its due times; counted and listed as a run.

        Returns:
            The task's id.

        Raises:
            ValueError: The schedule is not found, or the app has no scheduler.
            Exception: What the submission raised.
        """
        scheduler = self._scheduler()
        return await self.app.run_on_app_loop(lambda: scheduler.trigger(schedule_id))

    async def enable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.enable_task``."""
        scheduler = self._scheduler()
        await self.app.run_on_app_loop(lambda: scheduler.enable_task(schedule_id))

    async def disable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.disable_task``."""
        scheduler = self._scheduler()
        await self.app.run_on_app_loop(lambda: scheduler.disable_task(schedule_id))

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        scheduler = self._scheduler()
        return await self.app.run_on_app_loop(lambda: scheduler.unschedule(schedule_id))

    def _scheduler(self) -> Scheduler:
        if self.app.scheduler is None:
            raise ValueError("The app has no scheduler: call app.create_scheduler()")
        return self.app.scheduler
