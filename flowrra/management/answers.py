"""The answers of FlowrraManager, as types.

What holds for all of them, and where it comes from:

* durations, intervals and histogram bounds are in **seconds**, the base unit of Prometheus and OpenTelemetry;
* datetimes are aware and in UTC, as ISO 8601 and RFC 3339 want a timestamp to be, so that they can be compared between
  hosts; only those of :class:`Schedule` are naive and local, as Flowrra 0.1 published them;
* what is counted is cumulative since the start of the process, as a Prometheus counter, and never falls;
* a figure that can't be had is None, which is not 0;
* queues are described in the words of message brokers: a task that a worker holds is *in flight*, one that was given up
  is *dead* (a dead letter).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NotRequired, TypedDict

from flowrra.scheduler.figures import SchedulerStats as SchedulerStats
from flowrra.scheduler.figures import ScheduleRun as ScheduleRun
from flowrra.scheduler.figures import ScheduleRunStats as ScheduleRunStats
from flowrra.telemetry import Histogram as Histogram

# ── the app at a glance ─────────────────────────────────────────────────────────────────────────────────────────


class AppStats(TypedDict):
    """The app itself.

    Attributes:
        running: Whether it has started and not been stopped.
    """

    running: bool


class ExecutorStats(TypedDict):
    """What runs the tasks of one kind in this process.

    Attributes:
        running: Whether it takes or accepts tasks.
        workers: Slots: how many tasks it can run at a time; 0 in a process that leaves them to others.
        busy: Slots that run a task.
        waiting: Tasks that are in this process already and wait for a free slot: with a broker, what was taken ahead.
        stuck: Whether each slot is held by a task that should have ended long ago, while others wait.
        draining: Whether it begins no more tasks, by request.
        queues: The names of the queues at the broker that it takes tasks from; None in memory: from all, which are its
            own.
    """

    running: bool
    workers: int
    busy: int
    waiting: int
    stuck: bool
    draining: bool
    queues: list[str] | None


class Executors(TypedDict):
    """The executors by kind of task.

    Attributes:
        io: For tasks that run on the event loop; None if there is no such task.
        cpu: For tasks that run in worker processes; None if there is no such task.
    """

    io: ExecutorStats | None
    cpu: ExecutorStats | None


class TaskCounts(TypedDict):
    """How many tasks there are.

    Attributes:
        registered: Names that tasks can be submitted by.
        pending: Submitted tasks that are due and wait for a worker; None while the broker doesn't tell.
        pending_error: Why it doesn't tell; only there while ``pending`` is None.
    """

    registered: int
    pending: int | None
    pending_error: NotRequired[str]


class SchedulerSummary(TypedDict):
    """The scheduler and its schedules, in short.

    Attributes:
        enabled: True: the app has a scheduler.
        running: Whether it runs in this process.
        schedules: The same as ``total_schedules``.
        total_schedules: How many schedules there are; None while the store doesn't tell.
        enabled_schedules: How many of them are enabled; None while the store doesn't tell.
        error: Why the store doesn't tell; only there while it doesn't.
    """

    enabled: bool
    running: bool
    schedules: int | None
    total_schedules: int | None
    enabled_schedules: int | None
    error: NotRequired[str]


class PausedWork(TypedDict):
    """Of what nothing is begun, by request.

    Attributes:
        queues: The names of the queues, of either kind of task.
        tasks: The names of the tasks, in whatever queue.
    """

    queues: list[str]
    tasks: list[str]


class Stats(TypedDict):
    """The app at a glance.

    Attributes:
        app: The app itself.
        executors: What runs its tasks in this process.
        tasks: How many there are.
        paused: What is paused; None if the broker didn't tell within half a second.
        scheduler: Its schedules; None if it has no scheduler.
    """

    app: AppStats
    executors: Executors
    tasks: TaskCounts
    paused: PausedWork | None
    scheduler: SchedulerSummary | None


# ── queues and workers ──────────────────────────────────────────────────────────────────────────────────────────


class QueueStats(TypedDict):
    """A queue of one kind of task.

    Attributes:
        pending: Tasks that are due and wait for a worker.
        delayed: Tasks that are not due yet: a retry, a countdown, an eta.
        in_flight: Tasks that a worker holds.
        taken: Tasks that workers have taken so far, since the queue was made or the process started; None if that isn't
            known.
        dead: Tasks that were given up.
        unknown: Tasks that wait for a worker that knows their names, such as during a deploy.
        oldest_pending_at: Since when the longest waiting task has been due, of those whose names aren't paused; None
            if none waits.
        paused: Whether no task is taken from it.
        paused_tasks: Those of the pending ones whose names are paused; None if that isn't known.
        broker: ``memory``, or the class of the broker.
        namespace: The prefix of its keys in the broker.
        server: Host, port and database of the broker as its URL has them, without user and password; empty in memory.
        shared: Whether other processes see the same queue: then take the maximum of what they tell, else the sum.
        drain_seconds: Seconds until workers have taken all that is pending, but for paused tasks, at the rate at which
            all of them took tasks in the last five minutes, or since the queue was last seen empty; 0.0 if nothing is
            pending, None if it is paused, more is than a minute ago, nothing was taken, or the figures were not asked
            for at least 10 s ago.
        unfit: Whether the broker's server is unfit to keep tasks, by reason: ``eviction``, ``no_persistence``,
            ``replica``, ``old_version`` and ``clock``, looked at every 3 minutes; only there with a broker.
        clock_offset: Seconds by which the clock of the broker's server is ahead of this host's, looked at every 3
            minutes; only there with a broker, as what follows; None is what isn't known.
        memory_used: Bytes that the data of the broker's server takes, looked at as often.
        memory_limit: Bytes that it may take; None also if it has no limit.
        lease: Seconds after which a task runs elsewhere whose worker was not heard of.
    """

    pending: int | None
    delayed: int | None
    in_flight: int | None
    taken: int | None
    dead: int | None
    unknown: int | None
    oldest_pending_at: datetime | None
    paused: bool | None
    paused_tasks: int | None
    broker: str
    namespace: str
    server: str
    shared: bool
    drain_seconds: float | None
    unfit: NotRequired[dict[str, bool | None] | None]
    clock_offset: NotRequired[float | None]
    memory_used: NotRequired[int | None]
    memory_limit: NotRequired[int | None]
    lease: NotRequired[float | None]


class NamedQueueStats(QueueStats):
    """One queue of a list of all.

    Attributes:
        queue: Its name.
        executor: The kind of its tasks: ``io`` or ``cpu``.
    """

    queue: str
    executor: str


class Queues(TypedDict):
    """The default queues by kind of task.

    Attributes:
        io: Of tasks that run on the event loop; None if there is no such task.
        cpu: Of tasks that run in worker processes; None if there is no such task.
    """

    io: QueueStats | None
    cpu: QueueStats | None


class WorkerSlots(TypedDict):
    """The slots of one executor of a process.

    Attributes:
        slots: How many tasks it can run at a time.
        busy: How many of them run one.
    """

    slots: int
    busy: int


class Worker(TypedDict):
    """A process that runs tasks of the app.

    Attributes:
        id: Its own, made up when it starts.
        host: The name of its host.
        pid: Its process id there.
        started_at: When its app started.
        heartbeat_at: When it last told that it lives.
        version: The version of Flowrra that it runs.
        executors: Its slots, by kind: ``io``, ``cpu``.
        draining: Whether it begins no more tasks, by request.
    """

    id: str
    host: str
    pid: int
    started_at: datetime | None
    heartbeat_at: datetime
    version: str
    executors: dict[str, WorkerSlots]
    draining: bool


class BulkResult(TypedDict):
    """What one call did to many tasks.

    Attributes:
        done: For how many tasks it worked.
        left: How many are meant besides: those beyond the limit, and those that came to an end by themselves or would
            not end.
    """

    done: int
    left: int


class DeadTask(TypedDict):
    """A task that was given up. What can't be read of it is None.

    Attributes:
        executor: The kind of its queue: ``io`` or ``cpu``.
        task_id: Its id.
        task_name: The name that it was submitted by.
        reason: Why it was given up.
        dead_since: When.
        deliveries: How often workers were given it.
        args: What it was submitted with.
        kwargs: What it was submitted with by name.
        queue: The name of its queue.
    """

    executor: str
    task_id: str
    task_name: str | None
    reason: str
    dead_since: datetime
    deliveries: int | None
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    queue: str


# ── counters ────────────────────────────────────────────────────────────────────────────────────────────────────


class RunDurations(TypedDict):
    """How long attempts ran, by how they ended.

    Attributes:
        success: Of those that succeeded.
        error: Of those that raised, ran out of time, or whose process died.
    """

    success: Histogram
    error: Histogram


class TaskStats(TypedDict):
    """What happened to the tasks of one name in this process.

    Attempts are counted, of which a task with retries has several. Always: started = succeeded + failed + retried +
    cancelled + released + running.

    Attributes:
        executor: The kind of task: ``io`` or ``cpu``.
        submitted: Tasks that were submitted here.
        started: Attempts that began.
        succeeded: Attempts that returned.
        failed: Attempts that failed for good.
        retried: Attempts that failed, and that another one follows.
        cancelled: Attempts that were cancelled.
        released: Attempts that a stopping worker gave back to the queue.
        timed_out: Those of ``failed`` and ``retried`` that ran out of time.
        redelivered: Tasks that were delivered again, as the worker that had them was gone.
        cancelled_before_start: Tasks that were cancelled before an attempt began.
        running: Attempts that run now.
        retrying: Tasks that wait here for their next attempt.
        oldest_running_at: When the longest running attempt began; None if none runs.
        exceptions: Failed attempts by the class of the exception.
        run_duration: How long attempts ran.
        queue_wait: How long they had been due when they began.
    """

    executor: str
    submitted: int
    started: int
    succeeded: int
    failed: int
    retried: int
    cancelled: int
    released: int
    timed_out: int
    redelivered: int
    cancelled_before_start: int
    running: int
    retrying: int
    oldest_running_at: datetime | None
    exceptions: dict[str, int]
    run_duration: RunDurations
    queue_wait: Histogram


class Quantiles(TypedDict):
    """Durations in seconds, estimated from a histogram as Prometheus' ``histogram_quantile`` does: interpolated within
    a bucket. What lies above all bounds is given as the highest bound. None without observations.

    Attributes:
        p50: Half of them were no longer.
        p95: 95 % of them were no longer.
        p99: 99 % of them were no longer.
    """

    p50: float | None
    p95: float | None
    p99: float | None


class TaskWindowStats(TypedDict):
    """What happened to the tasks of one name in this process within the last seconds; attempts are counted.

    Attributes:
        executor: The kind of task: ``io`` or ``cpu``.
        window: Seconds that the figures cover: up to 10 s more than was asked for, or 60 s beyond five minutes; less if
            the app is younger.
        started: Attempts that began.
        finished: Attempts that ended: succeeded + failed + retried + cancelled.
        succeeded: Attempts that returned.
        failed: Attempts that failed for good.
        retried: Attempts that failed, and that another one follows.
        cancelled: Attempts that were cancelled.
        rate: Finished attempts a second.
        failure_ratio: failed / (succeeded + failed); None if there are none.
        run_duration: How long the attempts ran that succeeded, failed or were retried.
        queue_wait: How long the attempts that began had been due.
    """

    executor: str
    window: float
    started: int
    finished: int
    succeeded: int
    failed: int
    retried: int
    cancelled: int
    rate: float
    failure_ratio: float | None
    run_duration: Quantiles
    queue_wait: Quantiles


class RankedTask(TaskWindowStats):
    """A name in a list of those that are the slowest, or that fail the most.

    Attributes:
        task_name: The name.
    """

    task_name: str


class ThroughputPoint(TypedDict):
    """What happened to tasks in this process in one of several periods that follow each other; attempts a second.

    Attributes:
        at: The end of the period.
        seconds: Its length.
        finished: Attempts that ended.
        failed: Attempts that failed for good.
        retried: Attempts that failed, and that another one follows.
    """

    at: datetime
    seconds: float
    finished: float
    failed: float
    retried: float


class TaskName(TypedDict):
    """A task that held the event loop.

    Attributes:
        id: Its id.
        name: The name that it is registered under.
    """

    id: str
    name: str


class Stall(TypedDict):
    """A time in which the event loop did not turn.

    Attributes:
        at: When it was seen.
        seconds: For how long the loop had not turned by then, or in the end.
        task: The task that held it; None if it was no task.
        stack: Where its thread was, the innermost line last.
    """

    at: datetime
    seconds: float
    task: TaskName | None
    stack: str


class AbandonedTasks(TypedDict):
    """The tasks of one executor that its stops cancelled, by how they found them.

    Attributes:
        waiting: They were due, and had not begun.
        delayed: They were not due yet: a retry, a countdown, an eta.
        running: They were in an attempt.
    """

    waiting: int
    delayed: int
    running: int


class RuntimeStats(TypedDict):
    """How the app fares in this process.

    Attributes:
        stopping: Whether the app is being stopped: it begins nothing more, and what runs may finish.
        loop_lag: How late the event loop was, measured four times a second.
        stalls: How often it was late by more than 1 s.
        blocking: What holds it up now; None if nothing does.
        last_stall: What held it up the last time; None if nothing has.
        heartbeat_at: When this worker last renewed its leases at the broker, by executor; empty without a broker that
            leases tasks, and in a process that takes none.
        worker_restarts: Workers that had to be replaced, by executor.
        stuck: Whether each slot is held by a task that should have ended long ago, while others wait; by executor.
        abandoned_at_stop: Tasks that were cancelled as the app stopped, by executor; what was given back to a broker is
            not among them.
        broker_errors: Operations of the broker that failed, by operation; ``list`` counts what was left out of lists,
            as it could not be read.
        backend_errors: Operations of the result backend that failed, in the same way.
        watchers: How many watch tasks from this process; see :meth:`FlowrraManager.watch`.
        subscriber_dropped: Events that a subscriber was too slow for.
        subscriber_errors: Events that a subscriber raised on.
    """

    stopping: bool
    loop_lag: Histogram
    stalls: int
    blocking: Stall | None
    last_stall: Stall | None
    heartbeat_at: dict[str, datetime]
    worker_restarts: dict[str, int]
    stuck: dict[str, bool]
    abandoned_at_stop: dict[str, AbandonedTasks]
    broker_errors: dict[str, int]
    backend_errors: dict[str, int]
    watchers: int
    subscriber_dropped: int
    subscriber_errors: int


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────


class RegisteredTask(TypedDict):
    """A name that tasks can be submitted by, and how they run.

    Attributes:
        name: The name.
        cpu_bound: Whether they run in worker processes rather than on the event loop.
        max_retries: Attempts that may follow a failed first one.
        retry_delay: Seconds before the second attempt.
    """

    name: str
    cpu_bound: bool
    max_retries: int
    retry_delay: float


class TaskInfo(RegisteredTask):
    """All about one registered task.

    Attributes:
        module: Where its function is defined.
        qualname: The function's name there.
        description: The first line of its docstring; None if it has none.
        timeout: Seconds that an attempt may take; None is no limit.
        priority: Used by submissions that name none; lower ones run first.
        backoff: Each further delay is this many times the one before.
        jitter: The fraction, 0 to 1, by which a delay may be shorter or longer by chance.
        queue: The name of the queue that they are submitted to, unless a submission names another one.
    """

    module: str
    qualname: str
    description: str | None
    timeout: float | None
    priority: int
    backoff: float
    jitter: float
    queue: str


class TaskOutcome(TypedDict):
    """What is known of one submitted task.

    Attributes:
        task_id: Its id.
        status: ``pending``, ``running``, ``retrying``, ``success``, ``failed`` or ``cancelled``.
        result: What it returned; None until it succeeded.
        error: Type and text of the exception of its last failed attempt; None if there is none.
        completed_at: When it came to its end; None until then.
        task_name: The name that it was submitted by.
        submitted_at: When it was submitted.
        started_at: When its latest attempt began; None before the first.
        retries: How many attempts were repeated.
        traceback: Of its last failed attempt, bounded in length.
        queue: The name of the queue that it was submitted to.
    """

    task_id: str
    status: str
    result: Any
    error: str | None
    completed_at: datetime | None
    task_name: str | None
    submitted_at: datetime | None
    started_at: datetime | None
    retries: int
    traceback: str | None
    queue: str


class SubmittedTask(TypedDict):
    """A task in a list of those that have not started.

    Attributes:
        task_id: Its id.
        task_name: The name that it was submitted by.
        status: As in :class:`TaskOutcome`.
        submitted_at: When it was submitted.
        args: What it was submitted with.
        kwargs: What it was submitted with by name.
        retries: How many attempts were repeated.
        queue: The name of the queue that it was submitted to.
    """

    task_id: str
    task_name: str | None
    status: str
    submitted_at: datetime | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int
    queue: str


class TaskRecord(SubmittedTask):
    """A task in a list of those that have started.

    Attributes:
        started_at: When its latest attempt began; None if it was cancelled before.
        finished_at: When that ended; None while it runs.
        result: What it returned; None unless it succeeded.
        error: Type and text of the exception of its last failed attempt; None if there is none.
    """

    started_at: datetime | None
    finished_at: datetime | None
    result: Any
    error: str | None


class TaskProgress(TypedDict):
    """How far a task is, as it told by ``current_task().progress(done, total, message)``.

    Attributes:
        done: How much it has done, in whatever it counts.
        total: Of how much; None if that is unknown.
        message: For people.
        at: When it said so.
    """

    done: float
    total: float | None
    message: str
    at: datetime


class ListedTask(TaskRecord):
    """A task in a page of :meth:`FlowrraManager.list_tasks`.

    Attributes:
        queue: Its queue.
        worker: The id of the app that runs, or ran, its latest attempt; None before the first.
        progress: What that attempt has told of its progress; None if it has not.
        attempts_begun: How many attempts have begun.
        attempt_finished_at: When the latest of them ended, before another one maybe; None while it runs, before the
            first, and if that is unknown.
    """

    queue: str
    worker: str | None
    progress: TaskProgress | None
    attempts_begun: int
    attempt_finished_at: datetime | None


class WatchedTask(TypedDict):
    """A task as it was at a change.

    Attributes:
        task_id: Its id.
        task_name: The name that it was submitted by.
        status: As in :class:`TaskOutcome`.
        queue: Its queue.
        submitted_at: When it was submitted.
        started_at: When its latest attempt began; None before the first.
        finished_at: When that ended; None until then.
        retries: How many attempts were repeated.
        error: Type and text of the exception of its last failed attempt; None if there is none.
        worker: The id of the app that runs, or ran, its latest attempt; None before the first.
        progress: What that attempt has told of its progress; None if it has not.
        retry_of: The id of the task that it is another run of; None if it is none.
    """

    task_id: str
    task_name: str | None
    status: str
    queue: str
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    retries: int
    error: str | None
    worker: str | None
    progress: TaskProgress | None
    retry_of: str | None


class TaskEvent(TypedDict):
    """A change of a task, or that changes were missed.

    Attributes:
        id: What :meth:`FlowrraManager.watch` goes on after.
        type: ``change`` or ``missed``.
        task: The task; None if changes were missed.
        missed: How many changes were missed before, of whatever tasks: 0 with a change; None if nobody knows how many.
    """

    id: str
    type: str
    task: WatchedTask | None
    missed: int | None


class TaskPage(TypedDict):
    """A page of tasks.

    Attributes:
        tasks: The tasks, the latest submitted first.
        next: The ``cursor`` of the next page; None if this is the last.
    """

    tasks: list[ListedTask]
    next: str | None


class TaskAttempt(TypedDict):
    """An attempt of a task.

    Attributes:
        number: Which one it is, from 1.
        worker: The id of the app that runs, or ran, it; None if that is unknown.
        started_at: When it began; None if that is unknown.
        finished_at: When it ended; None while it runs, and if that is unknown.
        outcome: ``success``, ``failed`` or ``cancelled``; ``released``, if a worker that stopped gave it back;
            ``lost``, if its worker was not heard of any more; None while it runs.
        error: Type and text of the exception that it failed with; None if there is none.
        traceback: Of that exception, bounded in length.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    error: str | None
    traceback: str | None


class TaskDetails(ListedTask):
    """All about one submitted task.

    Attributes:
        traceback: Of its last failed attempt, bounded in length.
        attempts: Its attempts, oldest first; the last ten.
        retry_of: The id of the task that it is another run of; None if it is none.
        retried_as: The id of the task that is another run of it; None if there is none.
    """

    traceback: str | None
    attempts: list[TaskAttempt]
    retry_of: str | None
    retried_as: str | None


class RunningAttempt(TypedDict):
    """An attempt that runs in this process now.

    Attributes:
        task_id: The id of its task.
        task_name: The name that it is registered under.
        executor: The kind of task: ``io`` or ``cpu``.
        attempt: Its number, 1 for the first.
        started_at: When it began.
        elapsed: Seconds since then.
        timeout: Seconds that it may take; None is no limit.
        worker: The id of this process; see :class:`Worker`.
        queue: The name of its queue.
    """

    task_id: str
    task_name: str
    executor: str
    attempt: int
    started_at: datetime
    elapsed: float
    timeout: float | None
    worker: str
    queue: str


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Component(TypedDict):
    """The state of one part of an app.

    Attributes:
        healthy: Whether it can make progress.
        message: What it does, or what is wrong; begins with ``degraded:`` if it is.
        degraded: True while it is healthy, and does not get on: each slot of an executor is held by a task that should
            have ended long ago, and others wait. Only there while it is so.
    """

    healthy: bool
    message: str
    degraded: NotRequired[bool]


class Health(TypedDict):
    """Whether the app can make progress.

    Attributes:
        healthy: Whether each component is.
        degraded: Whether a component is, which is healthy all the same.
        timestamp: When that was found.
        components: By name: ``app``, ``io_executor``, ``cpu_executor`` and ``scheduler``, None if the app has none;
            ``broker`` and ``backend`` are there if they are configured and not in memory.
    """

    healthy: bool
    degraded: bool
    timestamp: datetime
    components: dict[str, Component | None]


# ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────────


class Schedule(TypedDict):
    """A schedule. Its datetimes are naive and in the server's local time.

    Attributes:
        id: Its id.
        task_name: The task that it submits.
        schedule_type: ``cron``, ``interval`` or ``one_time``.
        schedule: A cron expression, seconds, or a time in ISO format, as text.
        enabled: Whether it is submitted when it is due.
        next_run_at: When it is due next; None if it isn't any more.
        last_run_at: When it was last run; None before.
        priority: Higher first among what is due together, unlike that of tasks.
        description: For people.
        created_at: When it was made.
        updated_at: When it was last changed.
        broken: Why it can't run; None if it can.
        timezone: The zone that its cron expression is read in; None is the scheduler's.
        period: Seconds between its due times: of a cron expression the longer of the times before and after
            ``next_run_at``; None if it doesn't repeat, or isn't due any more.
    """

    id: str
    task_name: str
    schedule_type: str
    schedule: str
    enabled: bool
    next_run_at: datetime | None
    last_run_at: datetime | None
    priority: int
    description: str | None
    created_at: datetime
    updated_at: datetime
    broken: str | None
    timezone: str | None
    period: float | None


class ScheduleDetails(Schedule):
    """All about one schedule.

    Attributes:
        args: What its task is called with.
        kwargs: What its task is called with by name.
        max_retries: Of its tasks.
        retry_delay: Of its tasks, in seconds.
        misfire_grace: Seconds by which a run may be late and still happen.
        misfire: Which of the runs that came due meanwhile happen: ``latest`` or ``all``.
        max_running: How many of its tasks may be unfinished at a time; None is any number.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    max_retries: int
    retry_delay: float
    misfire_grace: float
    misfire: str
    max_running: int | None
