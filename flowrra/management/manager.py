"""FlowrraManager: statistics, task queries and health of an app, for programs that show or watch it.

All methods are coroutines, and may be called from any thread and any event loop. They are of three kinds:

* **plain numbers**: they read what is in memory, never wait, and need no loop; they answer even while the app's loop is
  blocked (:meth:`~FlowrraManager.get_task_stats`, :meth:`~FlowrraManager.get_runtime_stats`,
  :meth:`~FlowrraManager.list_registered_tasks`, :meth:`~FlowrraManager.get_task_info`);
* **I/O**: they may ask a broker or a result backend, on the calling loop (the other queries);
* **loop-bound**: they are carried out on the app's loop and wait for it (:meth:`~FlowrraManager.cancel_task`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

from flowrra.app import Flowrra
from flowrra.backends.base import BaseResultBackend
from flowrra.brokers.base import LeasingBroker
from flowrra.exceptions import BackendError
from flowrra.executors.base import BaseTaskExecutor
from flowrra.loop_monitor import Blockade
from flowrra.management.health import PING_TIMEOUT, check_health
from flowrra.registry import TaskDefinition
from flowrra.scheduler.figures import SchedulerStats, ScheduleRun, ScheduleRunStats
from flowrra.scheduler.models import ScheduledTask
from flowrra.scheduler.scheduler import ScheduleExtras, Scheduler
from flowrra.task import TaskResult, TaskStatus

KINDS = ("io", "cpu")
# How many names are read before other threads, such as the app's, get the interpreter lock: about half a millisecond.
_NAMES_IN_ONE_GO = 128

_Figure = TypeVar("_Figure")


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

    async def get_stats(self) -> dict[str, Any]:
        """The app at a glance. JSON-safe.

        Returns:
            ``app`` with ``running``; ``executors`` with ``io`` and ``cpu``, each ``running``, ``workers`` (slots, 0 in
            a process that takes no tasks) and ``busy``, or None if it has no task; ``tasks`` with ``registered`` and
            ``pending`` (due and waiting for a worker); ``scheduler``, None if there is none.

            What this process knows is always there. ``pending`` is None while a broker doesn't tell within half a
            second; then ``tasks`` has ``pending_error``, too, which says why. So it is with the scheduler's numbers of
            schedules and ``error``, while their store doesn't tell.
        """
        executors = self.app.executors
        counts, scheduler = await asyncio.gather(
            asyncio.gather(*(_in_time(_pending(executor)) for executor in executors.values())),
            _scheduler_summary(self),
        )
        return {
            "app": {"running": self.app.is_running},
            "executors": {kind: _executor_stats(executors.get(kind)) for kind in KINDS},
            "tasks": {"registered": len(self.app.registry), **_pending_stats(counts)},
            "scheduler": scheduler,
        }

    async def get_queue_stats(self) -> dict[str, dict[str, Any] | None]:
        """The queues of both kinds of task.

        Returns:
            For ``io`` and ``cpu``, None if it has no task, else ``pending`` (due and waiting for a worker), ``delayed``
            (a retry, countdown or eta that is not due yet), ``in_flight`` (being run), ``dead``, ``unknown`` (waiting
            for a worker that knows their names, such as during a deploy), ``oldest_pending_at``
            (aware UTC datetime since when the longest waiting task has been due), ``paused``, ``broker``,
            ``namespace``, and ``shared`` (whether other processes see the same queue); with a broker also ``unfit``
            (whether its server is unfit to keep tasks, by reason: ``eviction``, ``no_persistence``, ``replica``,
            ``old_version``, ``clock``; looked at every 3 minutes). A figure that can't be had is None.

        Raises:
            BackendError: The broker could not be asked.
        """
        executors = self.app.executors
        queues = {kind: await _queue_stats(executors.get(kind)) for kind in KINDS}
        if self.app.config.broker is not None:
            unfit = await self._unfit()
            queues = {kind: figures and {**figures, "unfit": unfit} for kind, figures in queues.items()}
        return queues

    async def _unfit(self) -> dict[str, bool | None] | None:
        reasons = await self.app.broker_fitness.reasons()
        return {reason: None if text is None else bool(text) for reason, text in reasons.items()} or None

    async def get_task_stats(self) -> dict[str, dict[str, Any]]:
        """What happened to the tasks of each registered name in this process, cumulative. Plain numbers.

        Returns:
            For each name: ``executor``; the counters ``submitted, started, succeeded, failed, retried, cancelled,
            released, timed_out, redelivered, cancelled_before_start``; ``running`` and ``retrying`` now;
            ``oldest_running_at`` (aware UTC datetime or None); ``exceptions`` by class name; ``run_duration`` (by
            outcome, ``success`` and ``error``) and ``queue_wait``, histograms in seconds of ``bounds``, ``counts`` (per
            bucket, the last for what is above) and ``sum``. Always: started = succeeded + failed + retried + cancelled
            + released + running.
        """
        oldest: dict[str, datetime] = {}
        for executor in self.app.executors.values():
            oldest.update(executor.oldest_running_at())
        stats: dict[str, dict[str, Any]] = {}
        for name, telemetry in self.app.telemetry.tasks.copy().items():
            stats[name] = telemetry.snapshot(oldest.get(name))
            if len(stats) % _NAMES_IN_ONE_GO == 0:
                time.sleep(0)  # noqa: ASYNC251  # releases the interpreter lock; waits for nothing
        return stats

    async def get_runtime_stats(self) -> dict[str, Any]:
        """How the app itself fares in this process, cumulative. Plain numbers.

        Returns:
            ``loop_lag`` (histogram of how late the app's loop was, in seconds); ``stalls`` (lags above 1 s);
            ``blocking`` (None, or for how many ``seconds`` the loop has not turned, the ``task`` that holds it as
            ``id`` and ``name`` or None, and its ``stack``); ``worker_restarts`` by executor; ``broker_errors`` and
            ``backend_errors`` by operation (``list``: left out of lists, as it can't be read);
            ``subscriber_dropped`` and ``subscriber_errors``.
        """
        app, executors = self.app, self.app.executors
        return {
            "loop_lag": app.loop_monitor.lag(),
            "stalls": app.loop_monitor.stalls,
            "blocking": _blockade(app.loop_monitor.blockade()),
            "last_stall": _blockade(app.loop_monitor.last_stall),
            "worker_restarts": {kind: executor.worker_restarts for kind, executor in executors.items()},
            "broker_errors": {
                **_add_up(executor.broker_errors for executor in executors.values()),
                **_left_out([broker for _, broker in self._leasing_brokers()]),
            },
            "backend_errors": {
                **_add_up(executor.backend_errors for executor in executors.values()),
                **_left_out([app.results]),
            },
            "subscriber_dropped": app.events.dropped,
            "subscriber_errors": app.events.errors,
        }

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

    async def list_workers(self) -> list[dict[str, Any]]:
        """The app processes that are known to live and run tasks: those that announce themselves through the broker,
        gone 15 s after a kill and at once after a stop; without one, this process, if the app runs and takes tasks.

        Returns:
            For each: ``id, host, pid, started_at, heartbeat_at`` (aware UTC datetimes), ``version``, and ``executors``
            with ``slots`` and ``busy``.

        Raises:
            BackendError: The broker could not be asked.
        """
        broker = next((broker for _, broker in self._leasing_brokers()), None)
        if broker is not None:
            return await broker.list_workers()
        executors = self.app.executors.values()
        if not self.app.is_running or (executors and not any(executor.takes_tasks for executor in executors)):
            return []
        return [{**self.app.announcement(), "heartbeat_at": self.app.loop_monitor.last_beat_at()}]

    def _leasing_brokers(self) -> list[tuple[str, LeasingBroker]]:
        return [
            (kind, executor.broker)
            for kind, executor in self.app.executors.items()
            if isinstance(executor.broker, LeasingBroker)
        ]

    # ── registered tasks ────────────────────────────────────────────────────────────────────────────────────

    async def list_registered_tasks(self) -> list[dict[str, Any]]:
        """Every registered task: ``name, cpu_bound, max_retries, retry_delay`` (seconds). JSON-safe, plain numbers."""
        return [_registered_task(definition) for definition in self.app.registry.definitions()]

    async def get_task_info(self, task_name: str) -> dict[str, Any] | None:
        """One registered task: what :meth:`list_registered_tasks` says, its ``module`` and ``qualname``, the
        ``description`` from its docstring, and the options ``timeout, priority, backoff, jitter``. None if unknown.
        """
        definition = next((each for each in self.app.registry.definitions() if each.name == task_name), None)
        if definition is None:
            return None
        return {
            **_registered_task(definition),
            "module": definition.func.__module__,
            "qualname": definition.func.__qualname__,
            "description": definition.description,
            "timeout": definition.timeout,
            "priority": definition.priority,
            "backoff": definition.backoff,
            "jitter": definition.jitter,
        }

    # ── submitted tasks ─────────────────────────────────────────────────────────────────────────────────────

    async def get_task_result(self, task_id: str) -> dict[str, Any] | None:
        """What is known of a submitted task, in whatever state it is.

        Returns:
            ``task_id, status, result, error, completed_at`` (aware UTC datetime once it is complete, else None), and
            ``task_name, submitted_at, started_at, retries, traceback``; None if the task is unknown.

        Raises:
            BackendError: The results could not be read.
        """
        record = await self.app.get_result(task_id)
        if record is None:
            return None
        return {
            "task_id": record.task_id,
            "status": record.status,
            "result": record.result,
            "error": record.error,
            "completed_at": record.finished_at if record.is_complete else None,
            "task_name": record.task_name,
            "submitted_at": record.submitted_at,
            "started_at": record.started_at,
            "retries": record.retries,
            "traceback": record.traceback,
        }

    async def list_pending_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that have not started, delayed ones among them, the latest submitted first.

        Returns:
            For each: ``task_id, task_name, status, submitted_at, args, kwargs, retries``.

        Raises:
            BackendError: The results could not be read.
            ValueError: ``limit`` is negative.
        """
        return [_waiting_task(record) for record in await self._list(TaskStatus.PENDING, limit)]

    async def list_retrying_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that failed and wait for their next attempt; as :meth:`list_running_tasks`."""
        return [_started_task(record) for record in await self._list(TaskStatus.RETRYING, limit)]

    async def list_running_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that run now, the latest submitted first.

        Returns:
            For each: ``task_id, task_name, status, submitted_at, started_at, finished_at, args, kwargs, result`` (of a
            success), ``error`` (of a failure), ``retries``.

        Raises:
            As :meth:`list_pending_tasks`.
        """
        return [_started_task(record) for record in await self._list(TaskStatus.RUNNING, limit)]

    async def list_completed_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that succeeded; as :meth:`list_running_tasks`."""
        return [_started_task(record) for record in await self._list(TaskStatus.SUCCESS, limit)]

    async def list_failed_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that failed for good; as :meth:`list_running_tasks`."""
        return [_started_task(record) for record in await self._list(TaskStatus.FAILED, limit)]

    async def list_cancelled_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that were cancelled; as :meth:`list_running_tasks`."""
        return [_started_task(record) for record in await self._list(TaskStatus.CANCELLED, limit)]

    async def _list(self, status: TaskStatus, limit: int | None) -> list[TaskResult]:
        _check_limit(limit)
        try:
            return await self.app.results.list_by_status(status, limit)
        except NotImplementedError:  # listing is optional for a result backend
            return []
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"The tasks could not be listed: {type(error).__name__}: {error}") from error

    async def cancel_task(self, task_id: str) -> bool:
        """Cancel a task; see :meth:`flowrra.Flowrra.cancel_task`. Carried out on the app's loop.

        Returns:
            True if this call cancelled it.
        """
        return await self.app.cancel_task(task_id)

    async def list_dead_tasks(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Tasks that were given up: delivered again and again without an outcome, unreadable, or known to no worker;
        the latest first. Only a broker on Redis keeps any.

        Returns:
            For each: ``executor, task_id, task_name, reason, dead_since`` (aware UTC datetime), ``deliveries, args,
            kwargs``; what can't be read of one is None.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``limit`` is negative.
        """
        _check_limit(limit)
        dead = [
            {"executor": kind, **task}
            for kind, broker in self._leasing_brokers()
            for task in await broker.list_dead(limit)
        ]
        return sorted(dead, key=lambda task: task["dead_since"], reverse=True)[:limit]

    async def requeue_dead_task(self, task_id: str) -> bool:
        """Run a dead task after all, as if it had never been delivered.

        Returns:
            True if it is pending now; False if no dead task has that id.

        Raises:
            BackendError: The broker could not be asked.
        """
        record = await self.app.get_result(task_id)
        if record is not None:
            record.status, record.error, record.traceback = TaskStatus.PENDING, None, None
            record.started_at = record.finished_at = None
        for _, broker in self._leasing_brokers():
            if await broker.requeue_dead(task_id, record):
                return True
        return False

    async def delete_dead_task(self, task_id: str) -> bool:
        """Forget a dead task; its record stays for as long as that of any failed one.

        Returns:
            True if there was one of that id.

        Raises:
            BackendError: The broker could not be asked.
        """
        return any([await broker.delete_dead(task_id) for _, broker in self._leasing_brokers()])

    # ── health ──────────────────────────────────────────────────────────────────────────────────────────────

    async def health_check(self) -> dict[str, Any]:
        """Whether the app can make progress: its loop turns, its workers take what waits, its broker answers.

        Returns:
            ``healthy``; ``timestamp`` (aware UTC datetime); ``components`` with ``app``, ``io_executor``,
            ``cpu_executor`` and ``scheduler``, each ``healthy`` and ``message``, or None if there is none; and
            ``broker`` and ``backend`` if they are configured and not in memory.
        """
        components = await check_health(self.app)
        return {
            "healthy": all(component["healthy"] for component in components.values() if component is not None),
            "timestamp": datetime.now(UTC),
            "components": components,
        }

    # ── schedules ───────────────────────────────────────────────────────────────────────────────────────────

    async def list_schedules(self, enabled_only: bool = False) -> list[dict[str, Any]]:
        """The schedules; none without a scheduler."""
        if (scheduler := self.app.scheduler) is None:
            return []
        store = scheduler.backend
        found = await self.app.on_own_loop(store.list_enabled if enabled_only else store.list_all)
        return [_schedule(task) for task in found]

    async def get_schedule(self, schedule_id: str) -> dict[str, Any] | None:
        """One schedule, with its ``args, kwargs, max_retries, retry_delay, timezone, misfire_grace, misfire`` and
        ``max_running`` as well; None if there is none."""
        if (scheduler := self.app.scheduler) is None:
            return None
        task = await self.app.on_own_loop(lambda: scheduler.backend.get(schedule_id))
        return None if task is None else {**_schedule(task), **{name: getattr(task, name) for name in _MORE}}

    async def get_scheduler_stats(self) -> SchedulerStats | None:
        """``running, check_interval``, the numbers ``total_schedules``, ``enabled_``, ``disabled_``, ``overdue_`` and
        ``broken_schedules``, and ``next_run_at`` (aware, or None); None without a scheduler."""
        return None if self.app.scheduler is None else await self.app.on_own_loop(self.app.scheduler.stats)

    async def get_schedule_run_stats(self) -> ScheduleRunStats | None:
        """Whether this process's scheduler is ``running``, and what it did, cumulative: ``runs`` by task name and
        result, ``lag`` (histogram in seconds), ``store_errors`` by operation; None without a scheduler. Asks no
        store."""
        return None if self.app.scheduler is None else self.app.scheduler.run_stats()

    async def list_schedule_runs(self, schedule_id: str | None = None, limit: int = 100) -> list[ScheduleRun]:
        """The latest runs of a schedule, or of all, the latest due first; the store keeps the latest 10,000.

        Args:
            schedule_id: Whose runs; None is everybody's.
            limit: How many at most, up to 1000.

        Returns:
            For each: ``schedule_id``; ``task_id``; ``due`` and ``fired`` (aware UTC datetimes, the latter None unless
            it was submitted); ``lag`` between them in seconds, or None; ``result`` (``claimed`` while it is being
            submitted, then ``submitted``, ``missed``, ``skipped`` or ``failed``); ``attempts`` to submit it; and the
            latest ``error``, or None. None at all without a scheduler.

        Raises:
            ValueError: ``limit`` is out of range.
        """
        if (scheduler := self.app.scheduler) is None:
            return []
        return await self.app.on_own_loop(lambda: scheduler.list_runs(schedule_id, limit))

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
        schedule = self._scheduler().schedule_cron
        return await self.app.on_own_loop(
            lambda: schedule(
                task_name, cron, args, kwargs, enabled, description=description, priority=priority, **options
            )
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
        schedule = self._scheduler().schedule_interval
        return await self.app.on_own_loop(
            lambda: schedule(
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
        schedule = self._scheduler().schedule_once
        return await self.app.on_own_loop(
            lambda: schedule(task_name, run_at, args, kwargs, description, priority=priority, **options)
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
        return await self.app.on_own_loop(lambda: scheduler.trigger(schedule_id))

    async def enable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.enable_task``."""
        scheduler = self._scheduler()
        await self.app.on_own_loop(lambda: scheduler.enable_task(schedule_id))

    async def disable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.disable_task``."""
        scheduler = self._scheduler()
        await self.app.on_own_loop(lambda: scheduler.disable_task(schedule_id))

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        scheduler = self._scheduler()
        return await self.app.on_own_loop(lambda: scheduler.unschedule(schedule_id))

    def _scheduler(self) -> Scheduler:
        if self.app.scheduler is None:
            raise ValueError("The app has no scheduler: call app.create_scheduler()")
        return self.app.scheduler


_LISTED = [
    "id",
    "task_name",
    "schedule",
    "enabled",
    "next_run_at",
    "last_run_at",
    "priority",
    "description",
    "created_at",
    "updated_at",
]
_MORE = ("args", "kwargs", "max_retries", "retry_delay", "timezone", "misfire_grace", "misfire", "max_running")


def _schedule(task: ScheduledTask) -> dict[str, Any]:
    found = {name: getattr(task, name) for name in _LISTED}
    return {**found, "schedule_type": task.schedule_type.value, "broken": task.broken}


async def _in_time(asking: Coroutine[Any, Any, _Figure]) -> tuple[_Figure | None, str]:
    """The figure that a server tells; or None, and why it doesn't."""
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            return await asking, ""
    except TimeoutError:
        return None, f"no answer within {PING_TIMEOUT} s"
    except Exception as error:  # noqa: BLE001 - a broker may be a user's own; whatever it raises is the answer
        return None, str(error) or type(error).__name__


def _pending_stats(counts: Sequence[tuple[int | None, str]]) -> dict[str, Any]:
    known = [count for count, _ in counts if count is not None]
    if len(known) == len(counts):
        return {"pending": sum(known)}
    return {"pending": None, "pending_error": "; ".join(dict.fromkeys(error for _, error in counts if error))}


async def _scheduler_summary(manager: FlowrraManager) -> dict[str, Any] | None:
    scheduler = manager.app.scheduler
    if scheduler is None:
        return None
    stats, error = await _in_time(manager.get_scheduler_stats())
    total = None if stats is None else stats["total_schedules"]
    return {
        "enabled": True,
        "running": scheduler.is_running,
        "schedules": total,
        "total_schedules": total,
        "enabled_schedules": None if stats is None else stats["enabled_schedules"],
        **({"error": error} if error else {}),
    }


def _executor_stats(executor: BaseTaskExecutor | None) -> dict[str, Any] | None:
    if executor is None:
        return None
    return {"running": executor.is_running, "workers": executor.workers, "busy": executor.busy_workers}


async def _pending(executor: BaseTaskExecutor) -> int:
    """Tasks that are due and wait for a worker, in the broker or already in this process.

    What was taken ahead from a leasing broker counts as in flight there: all processes must see the same.
    """
    if isinstance(executor.broker, LeasingBroker):
        return await executor.broker.size()
    return executor.pending_count() + (0 if executor.broker is None else await executor.broker.size())


async def _queue_stats(executor: BaseTaskExecutor | None) -> dict[str, Any] | None:
    if executor is None:
        return None
    broker = executor.broker
    if isinstance(broker, LeasingBroker):
        figures = await broker.figures()
        return {
            **figures._asdict(),
            "paused": False,
            "broker": type(broker).__name__,
            "namespace": broker.namespace,
            "shared": True,
        }
    return {
        "pending": await _pending(executor),
        # With a broker that knows only what is due, this process has but its own part of them.
        "delayed": executor.delayed_count() if broker is None else None,
        "in_flight": executor.busy_workers if broker is None else None,
        "dead": 0 if broker is None else None,
        "unknown": 0 if broker is None else None,
        "oldest_pending_at": executor.oldest_pending_at() if broker is None else None,
        "paused": False if broker is None else None,
        "broker": "memory" if broker is None else type(broker).__name__,
        "namespace": "flowrra",
        "shared": broker is not None,
    }


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, it is {limit}")


def _registered_task(definition: TaskDefinition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "cpu_bound": definition.cpu_bound,
        "max_retries": definition.max_retries,
        "retry_delay": definition.retry_delay,
    }


def _waiting_task(record: TaskResult) -> dict[str, Any]:
    return {
        "task_id": record.task_id,
        "task_name": record.task_name,
        "status": record.status.value,
        "submitted_at": record.submitted_at,
        "args": record.args,
        "kwargs": record.kwargs,
        "retries": record.retries,
    }


def _started_task(record: TaskResult) -> dict[str, Any]:
    return {
        **_waiting_task(record),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "result": record.result if record.is_success else None,
        "error": record.error,
    }


def _blockade(blockade: Blockade | None) -> dict[str, Any] | None:
    return None if blockade is None else blockade._asdict()


def _left_out(sources: Sequence[BaseResultBackend | LeasingBroker]) -> dict[str, int]:
    """What lists left out, as it could not be read; nothing for what is read from no server."""
    kinds = [kind for source in sources for kind in source.set_aside]
    return {"list": sum(kind.count for kind in kinds)} if kinds else {}


def _add_up(counters: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for operation, count in counter.copy().items():
            total[operation] = total.get(operation, 0) + count
    return total
