"""FlowrraManager: statistics, task queries and health of an app, for programs that show or watch it.

All methods but :meth:`~FlowrraManager.watch`, an asynchronous generator, are coroutines. They may be called from any
thread and any event loop, and are of three kinds:

* **plain numbers**: they read what is in memory, never wait, and need no loop; they answer even while the app's loop is
  blocked (:meth:`~FlowrraManager.get_task_stats`, :meth:`~FlowrraManager.get_throughput`,
  :meth:`~FlowrraManager.get_slowest_tasks`, :meth:`~FlowrraManager.get_failing_tasks`,
  :meth:`~FlowrraManager.list_running_attempts`, :meth:`~FlowrraManager.get_runtime_stats`,
  :meth:`~FlowrraManager.get_schedule_run_stats`, :meth:`~FlowrraManager.list_registered_tasks`,
  :meth:`~FlowrraManager.get_task_info`);
* **I/O**: they may ask a broker, a result backend or a schedule store (the other queries);
* **loop-bound**: they are carried out on the app's loop and wait for it (:meth:`~FlowrraManager.cancel_task`, what
  changes this process's workers, and what reads or changes schedules).

An argument of the wrong type is a TypeError, one that can't be a ValueError: neither is asked of any server.

What they answer is described by the types of :mod:`flowrra.management.answers`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal, TypeAlias, Unpack, overload

from flowrra.app import Flowrra
from flowrra.arguments import check_id
from flowrra.backends.listing import TaskFilter
from flowrra.management import analytics, control, pools, queues, stats, tasks, watching
from flowrra.management.answers import (
    BulkResult,
    DeadTask,
    Health,
    NamedQueueStats,
    Queues,
    RankedTask,
    RegisteredTask,
    RunningAttempt,
    RuntimeStats,
    Schedule,
    ScheduleDetails,
    SchedulerStats,
    ScheduleRun,
    ScheduleRunStats,
    Stats,
    SubmittedTask,
    TaskDetails,
    TaskEvent,
    TaskInfo,
    TaskOutcome,
    TaskPage,
    TaskRecord,
    TaskStats,
    TaskWindowStats,
    ThroughputPoint,
    Worker,
)
from flowrra.management.health import health
from flowrra.management.schedules import schedule, schedule_details
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.scheduler.scheduler import ScheduleExtras, Scheduler
from flowrra.task import TaskStatus
from flowrra.telemetry import check_bounds

CountedBy: TypeAlias = Literal["status", "name"]


class ScheduleOptions(ScheduleExtras, total=False):
    """Options of a schedule besides those that ``create_schedule_*`` name."""

    max_retries: int
    retry_delay: float
    task_id: str | None
    replace: bool


def _untold(_done: int) -> None: ...


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
        """The default queues of both kinds of task. A figure that can't be had is None.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.queues(self.app)

    async def list_queues(self) -> list[NamedQueueStats]:
        """All queues of both kinds of task, the default ones first: those that this app's tasks name, and those that
        were ever submitted to, by whichever process. A figure that can't be had is None.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.all_queues(self.app)

    @overload
    async def get_task_stats(self, window: None = None) -> dict[str, TaskStats]: ...

    @overload
    async def get_task_stats(self, window: float) -> dict[str, TaskWindowStats]: ...

    async def get_task_stats(self, window: float | None = None) -> dict[str, TaskStats] | dict[str, TaskWindowStats]:
        """What happened to the tasks of each registered name in this process. Plain numbers.

        Args:
            window: Within so many seconds, 1 to 3600; None is since the start of the process, cumulative.

        Raises:
            TypeError, ValueError: The window is not a number, or out of range.
        """
        return stats.task_stats(self.app) if window is None else analytics.window_stats(self.app, window)

    async def get_slowest_tasks(self, limit: int = 10, window: float = 300) -> list[RankedTask]:
        """The names whose attempts took the longest in this process within so many seconds, by their 95th percentile.
        Plain numbers.

        Args:
            limit: How many at most.
            window: Seconds, 1 to 3600.

        Raises:
            TypeError, ValueError: The window is not a number, or out of range; ``limit`` is negative.
        """
        return analytics.slowest_tasks(self.app, limit, window)

    async def get_failing_tasks(self, limit: int = 10, window: float = 300) -> list[RankedTask]:
        """The names of which the most attempts failed in this process within so many seconds: for good first, then
        those that another one follows. Otherwise as :meth:`get_slowest_tasks`."""
        return analytics.failing_tasks(self.app, limit, window)

    async def get_throughput(
        self, window: float = 3600, points: int = 60, task_name: str | None = None
    ) -> list[ThroughputPoint]:
        """How many attempts ended a second in this process, over the last seconds: for a chart. Plain numbers.

        Args:
            window: Seconds, 1 to 3600.
            points: How many periods at most, 1 to 360. There are fewer if the app is younger, or if they were shorter
                than what is kept: 10 s within the last five minutes, else a minute.
            task_name: Of the tasks of one name; None is all.

        Returns:
            The periods, the oldest first.

        Raises:
            TaskNotFoundError: No task of that name was registered.
            TypeError, ValueError: The window or the points are not a number, or out of range.
        """
        return analytics.throughput(self.app, window, points, task_name)

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
        loop_lag = None if loop_lag is None else check_bounds(loop_lag)
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
        check_id("task_name", task_name)
        definition = next((each for each in self.app.registry.definitions() if each.name == task_name), None)
        return None if definition is None else tasks.task_info(definition)

    # ── submitted tasks ─────────────────────────────────────────────────────────────────────────────────────

    async def get_task_result(self, task_id: str) -> TaskOutcome | None:
        """What is known of a submitted task, in whatever state it is; None if it is unknown.

        Raises:
            BackendError: The results could not be read.
        """
        check_id("task_id", task_id)
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

    async def list_running_attempts(self, limit: int | None = None) -> list[RunningAttempt]:
        """What runs in this process now, the longest running first. Plain numbers: no record is asked for, and what
        other processes run is only in :meth:`list_running_tasks`.

        Raises:
            ValueError: ``limit`` is negative.
        """
        return tasks.running_attempts(self.app, limit)

    async def list_completed_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that succeeded; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.SUCCESS, limit)

    async def list_failed_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that failed for good; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.FAILED, limit)

    async def list_cancelled_tasks(self, limit: int | None = None) -> list[TaskRecord]:
        """Tasks that were cancelled; otherwise as :meth:`list_pending_tasks`."""
        return await tasks.list_records(self.app, TaskStatus.CANCELLED, limit)

    async def list_tasks(
        self,
        *,
        status: TaskStatus | str | None = None,
        name: str | None = None,
        queue: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error: str | None = None,
        worker: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> TaskPage:
        """A page of the tasks for which all of this holds, the latest submitted first.

        A page takes as long as it is large, whatever the number of tasks. The next one goes on behind it, whatever
        finishes, begins and goes meanwhile: a task that was there at the first page and still is comes once. By
        ``queue``, ``error`` and ``worker`` a page may be shorter than ``limit``, and even empty, before the last: there
        are no lists by these, and only 1,000 tasks are looked at for one page.

        Args:
            status: Their status.
            name: The name that they were submitted by.
            queue: Their queue.
            since: Submitted at that time or later; a naive time is local time.
            until: Submitted before that time.
            error: A text that the error of their last failed attempt contains, such as the class of an exception.
            worker: The id of the app that runs, or ran, their latest attempt.
            limit: Most tasks of the page.
            cursor: The ``next`` of the page before; None is the first page.

        Raises:
            BackendError: The results could not be read.
            TypeError: An argument is of the wrong type.
            ValueError: The status is none, ``limit`` is less than 1, the cursor is none, or a time is none in UTC.
        """
        known = tasks.checked_status(status)
        return await tasks.list_tasks(
            self.app, TaskFilter(known, name, queue, since, until, error, worker), limit, cursor
        )

    async def count_tasks(self, by: CountedBy = "status") -> dict[str, int]:
        """How many tasks are known, unfinished ones and those whose results are kept: of each status, or of each name
        that there are any of. Nothing is looked through for it.

        Raises:
            BackendError: The results could not be read, or the result backend can't list.
            ValueError: ``by`` is something else.
        """
        return await tasks.count_tasks(self.app, by)

    async def get_task(self, task_id: str) -> TaskDetails | None:
        """All about a submitted task, with its attempts; None if it is unknown.

        Raises:
            BackendError: The results could not be read.
        """
        return await tasks.task_details(self.app, task_id)

    async def watch(
        self,
        *,
        task: str | None = None,
        name: str | None = None,
        queue: str | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[TaskEvent, None]:
        """Changes of tasks as they happen, in order for each task: ``async for event in manager.watch(): …``.

        With results on Redis those of all processes, else those of this one. An attempt that lasts less than 20 ms does
        not show that it runs. Whoever is slower than 10,000 changes misses the oldest, and is told how many. While
        nobody watches nothing is told, nor remembered: whoever comes back within 30 s goes on where it was. An outage
        of the server is waited out.

        Args:
            task: The id of a task; None is all.
            name: The name that they were submitted by; None is any.
            queue: Their queue; None is any.
            after: The ``id`` of the last event that was seen; None begins now.

        Raises:
            BackendError: The server could not be reached at first.
            ValueError: ``after`` is no id of an event.
        """
        async with aclosing(watching.watch(self.app, task, name, queue, after)) as events:
            async for event in events:
                yield event

    async def cancel_task(self, task_id: str) -> bool:
        """Cancel a task; see :meth:`flowrra.Flowrra.cancel_task`. Carried out on the app's loop.

        Returns:
            True if this call cancelled it.
        """
        check_id("task_id", task_id)
        return await self.app.cancel_task(task_id)

    async def cancel_tasks(
        self,
        *,
        status: TaskStatus | str | None = None,
        name: str | None = None,
        queue: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        worker: str | None = None,
        limit: int = 1000,
        progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """Cancel the unfinished tasks for which all of this holds, what waits before what runs; see
        :meth:`cancel_task`. Each comes to exactly one end, whatever happens at the same time.

        Args:
            status: ``pending``, ``retrying`` or ``running``; None is all three.
            name, queue, since, until, worker: As in :meth:`list_tasks`.
            limit: Most tasks to cancel. At most 100,000 are looked at.
            progress: Is called with how many are cancelled so far, on the loop that awaits this.

        Raises:
            BackendError: The results or the broker could not be asked, or the result backend can't list.
            TypeError: An argument is of the wrong type.
            ValueError: The status is another one, ``limit`` is less than 1, or a time is none in UTC.
        """
        known = tasks.checked_status(status)
        wanted = TaskFilter(known, name, queue, since, until, worker=worker)
        return await control.cancel_tasks(self.app, wanted, limit, progress or _untold)

    async def purge_queue(
        self,
        queue: str = DEFAULT_QUEUE,
        name: str | None = None,
        limit: int = 1000,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """Cancel the tasks that wait in a queue, IO-bound and CPU-bound ones: what is due, delayed, to be retried, or
        waits for a worker that knows it. What a worker has taken goes on, and dead tasks stay.

        Args:
            queue: Its name.
            name: The name that they were submitted by; None is any. With a name 20,000 tasks are looked at.
            limit: Most tasks to cancel of each kind.
            progress: As in :meth:`cancel_tasks`.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: No queue can have that name, or ``limit`` is less than 1.
        """
        return await control.purge_queue(self.app, queue, name, limit, progress or _untold)

    async def retry_task(self, task_id: str) -> str:
        """Run a task that has finished, however it did, or was given up, anew: with its arguments, under a new id, and
        with the options that its function is registered with. Its record and that of the new run name each other. A
        task is run anew once: whoever asks again gets the same id. If the new run is refused, a dead task stays dead.

        Returns:
            The id of the new run.

        Raises:
            ResultNotFoundError: Nothing is known of that id; also a ValueError.
            ValueError: The task has not finished, or was requeued or deleted meanwhile.
            TypeError: Its arguments don't fit its function any more.
            TaskNotFoundError: This app has no task of that name.
            ExecutorNotRunningError: The app is not started.
            BackendError: The server could not be reached; if it did not answer, the new run may be queued, and a call
                again goes on with the same id.
        """
        return await control.retry_task(self.app, task_id)

    async def list_dead_tasks(
        self, limit: int | None = None, *, name: str | None = None, reason: str | None = None
    ) -> list[DeadTask]:
        """Tasks that were given up: delivered again and again without an outcome, unreadable, or known to no worker;
        the latest first. Only a broker on Redis keeps any.

        Args:
            limit: Most tasks; None is all.
            name: The name that they were submitted by; None is any.
            reason: A text that the reason contains.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``limit`` is negative.
        """
        return await queues.dead_tasks(self.app, limit, name, reason)

    async def get_dead_task(self, task_id: str) -> DeadTask | None:
        """One task that was given up; None if none of that id was.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.find_dead_task(self.app, task_id)

    async def requeue_dead_task(self, task_id: str) -> bool:
        """Run a dead task after all, as if it had never been delivered.

        Returns:
            True if it is pending now; False if no dead task has that id, or it is being run anew.

        Raises:
            BackendError: The broker or the results could not be asked.
        """
        return await queues.requeue_dead_task(self.app, task_id)

    async def requeue_dead_tasks(
        self,
        *,
        name: str | None = None,
        reason: str | None = None,
        limit: int = 1000,
        progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """:meth:`requeue_dead_task` for those of that name, and with that text in the reason, the latest first;
        ``progress`` as in :meth:`cancel_tasks`.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``limit`` is less than 1.
        """
        return await control.requeue_dead_tasks(self.app, name, reason, limit, progress or _untold)

    async def delete_dead_tasks(
        self,
        *,
        name: str | None = None,
        reason: str | None = None,
        limit: int = 1000,
        progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """:meth:`delete_dead_task` for those of that name, and with that text in the reason, the latest first;
        ``progress`` as in :meth:`cancel_tasks`.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``limit`` is less than 1.
        """
        return await control.delete_dead_tasks(self.app, name, reason, limit, progress or _untold)

    async def delete_dead_task(self, task_id: str) -> bool:
        """Forget a dead task; its record stays for as long as that of any failed one.

        Returns:
            True if there was one of that id.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await queues.delete_dead_task(self.app, task_id)

    # ── pauses, slots and drains ────────────────────────────────────────────────────────────────────────────

    async def pause_queue(self, queue: str = DEFAULT_QUEUE) -> bool:
        """Begin no more tasks of a queue, of both kinds, until :meth:`resume_queue`. Running tasks go on, and
        submissions are accepted.

        On Redis the pause is kept at the broker, and holds for all workers: at once as a rule, 5 s later at most for
        what a worker has taken ahead. With a broker of your own, or without one, it is this process's.

        Returns:
            True if this call paused it; False if it was paused.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: No queue can have that name, or the app has no tasks.
        """
        return await pools.pause_queue(self.app, queue, True)

    async def resume_queue(self, queue: str = DEFAULT_QUEUE) -> bool:
        """Begin tasks of a queue again; otherwise as :meth:`pause_queue`.

        Returns:
            True if it was paused.
        """
        return await pools.pause_queue(self.app, queue, False)

    async def pause_task(self, task_name: str) -> bool:
        """Begin no more tasks of a name, in whatever queue, until :meth:`resume_task`; otherwise as
        :meth:`pause_queue`. They count as pending, and are not given up.

        Returns:
            True if this call paused them; False if they were paused.
        """
        return await pools.pause_task(self.app, task_name, True)

    async def resume_task(self, task_name: str) -> bool:
        """Begin tasks of a name again; otherwise as :meth:`pause_queue`.

        Returns:
            True if they were paused.
        """
        return await pools.pause_task(self.app, task_name, False)

    async def resize_workers(self, executor: str, n: int, worker: str | None = None) -> int:
        """Change how many tasks run at once. With fewer slots, what runs goes on to its end; with more, what waits
        begins at once. A worker that is started anew has what its configuration says.

        Args:
            executor: The kind of task, ``io`` or ``cpu``.
            n: The slots of each worker.
            worker: An id of :meth:`list_workers`, or ``"all"``; None is this process. Other processes are told through
                the broker on Redis, and obey at once as a rule, 5 s later at most.

        Returns:
            How many workers were told.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: ``n`` is out of range, there is no such executor or worker, or this process takes no tasks.
        """
        return await pools.resize_workers(self.app, executor, n, worker)

    async def drain_worker(self, worker: str | None = None) -> bool:
        """Have a worker begin no more tasks, of either kind, until :meth:`resume_worker`: what it has taken ahead goes
        back to the broker, what runs goes on to its end, and the process stays up. In memory, tasks wait meanwhile.

        Args:
            worker: An id of :meth:`list_workers`; None is this process. One at a time: ``"all"`` is none.

        Returns:
            False if it drained already, as far as it has told: it is told all the same, as that may be 5 s ago.

        Raises:
            BackendError: The broker could not be asked.
            ValueError: There is no such worker, or this process takes no tasks.
        """
        return await pools.drain_worker(self.app, worker, True)

    async def resume_worker(self, worker: str | None = None) -> bool:
        """Have a worker begin tasks again; otherwise as :meth:`drain_worker`.

        Returns:
            False if it didn't drain, as far as it has told; it is told all the same.
        """
        return await pools.drain_worker(self.app, worker, False)

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
        return [schedule(task, scheduler.zone) for task in found]

    async def get_schedule(self, schedule_id: str) -> ScheduleDetails | None:
        """All about one schedule; None if there is none."""
        check_id("schedule_id", schedule_id)
        if (scheduler := self.app.scheduler) is None:
            return None
        task = await self.app.run_on_app_loop(lambda: scheduler.backend.get(schedule_id))
        return None if task is None else schedule_details(task, scheduler.zone)

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
            TypeError: ``limit`` is no integer.
            ValueError: ``limit`` is out of range.
        """
        if schedule_id is not None:
            check_id("schedule_id", schedule_id)
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
        check_id("schedule_id", schedule_id)
        scheduler = self._scheduler()
        return await self.app.run_on_app_loop(lambda: scheduler.trigger(schedule_id))

    async def enable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.enable_task``."""
        check_id("schedule_id", schedule_id)
        scheduler = self._scheduler()
        await self.app.run_on_app_loop(lambda: scheduler.enable_task(schedule_id))

    async def disable_schedule(self, schedule_id: str) -> None:
        """As ``Scheduler.disable_task``."""
        check_id("schedule_id", schedule_id)
        scheduler = self._scheduler()
        await self.app.run_on_app_loop(lambda: scheduler.disable_task(schedule_id))

    async def delete_schedule(self, schedule_id: str) -> bool:
        """Forget a schedule; whether there was one."""
        check_id("schedule_id", schedule_id)
        scheduler = self._scheduler()
        return await self.app.run_on_app_loop(lambda: scheduler.unschedule(schedule_id))

    def _scheduler(self) -> Scheduler:
        if self.app.scheduler is None:
            raise ValueError("The app has no scheduler: call app.create_scheduler()")
        return self.app.scheduler
