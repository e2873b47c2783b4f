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
    """

    running: bool
    workers: int
    busy: int
    waiting: int


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


class Stats(TypedDict):
    """The app at a glance.

    Attributes:
        app: The app itself.
        executors: What runs its tasks in this process.
        tasks: How many there are.
        scheduler: Its schedules; None if it has no scheduler.
    """

    app: AppStats
    executors: Executors
    tasks: TaskCounts
    scheduler: SchedulerSummary | None


# ── queues and workers ──────────────────────────────────────────────────────────────────────────────────────────


class QueueStats(TypedDict):
    """The queue of one kind of task.

    Attributes:
        pending: Tasks that are due and wait for a worker.
        delayed: Tasks that are not due yet: a retry, a countdown, an eta.
        in_flight: Tasks that a worker holds.
        dead: Tasks that were given up.
        unknown: Tasks that wait for a worker that knows their names, such as during a deploy.
        oldest_pending_at: Since when the longest waiting task has been due; None if none waits.
        paused: Whether no task is taken from it.
        broker: ``memory``, or the class of the broker.
        namespace: The prefix of its keys in the broker.
        shared: Whether other processes see the same queue: then take the maximum of what they tell, else the sum.
        unfit: Whether the broker's server is unfit to keep tasks, by reason: ``eviction``, ``no_persistence``,
            ``replica``, ``old_version`` and ``clock``, looked at every 3 minutes; only there with a broker.
    """

    pending: int | None
    delayed: int | None
    in_flight: int | None
    dead: int | None
    unknown: int | None
    oldest_pending_at: datetime | None
    paused: bool | None
    broker: str
    namespace: str
    shared: bool
    unfit: NotRequired[dict[str, bool | None] | None]


class Queues(TypedDict):
    """The queues by kind of task.

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
    """

    id: str
    host: str
    pid: int
    started_at: datetime | None
    heartbeat_at: datetime
    version: str
    executors: dict[str, WorkerSlots]


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
    """

    executor: str
    task_id: str
    task_name: str | None
    reason: str
    dead_since: datetime
    deliveries: int | None
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None


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


class RuntimeStats(TypedDict):
    """How the app fares in this process.

    Attributes:
        loop_lag: How late the event loop was, measured four times a second.
        stalls: How often it was late by more than 1 s.
        blocking: What holds it up now; None if nothing does.
        last_stall: What held it up the last time; None if nothing has.
        worker_restarts: Workers that had to be replaced, by executor.
        broker_errors: Operations of the broker that failed, by operation; ``list`` counts what was left out of lists,
            as it could not be read.
        backend_errors: Operations of the result backend that failed, in the same way.
        subscriber_dropped: Events that a subscriber was too slow for.
        subscriber_errors: Events that a subscriber raised on.
    """

    loop_lag: Histogram
    stalls: int
    blocking: Stall | None
    last_stall: Stall | None
    worker_restarts: dict[str, int]
    broker_errors: dict[str, int]
    backend_errors: dict[str, int]
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
    """

    module: str
    qualname: str
    description: str | None
    timeout: float | None
    priority: int
    backoff: float
    jitter: float


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
    """

    task_id: str
    task_name: str | None
    status: str
    submitted_at: datetime | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int


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


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Component(TypedDict):
    """The state of one part of an app.

    Attributes:
        healthy: Whether it can make progress.
        message: What it does, or what is wrong.
    """

    healthy: bool
    message: str


class Health(TypedDict):
    """Whether the app can make progress.

    Attributes:
        healthy: Whether each component is.
        timestamp: When that was found.
        components: By name: ``app``, ``io_executor``, ``cpu_executor`` and ``scheduler``, None if the app has none;
            ``broker`` and ``backend`` are there if they are configured and not in memory.
    """

    healthy: bool
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


class ScheduleDetails(Schedule):
    """All about one schedule.

    Attributes:
        args: What its task is called with.
        kwargs: What its task is called with by name.
        max_retries: Of its tasks.
        retry_delay: Of its tasks, in seconds.
        timezone: The zone that its cron expression is read in; None is the scheduler's.
        misfire_grace: Seconds by which a run may be late and still happen.
        misfire: Which of the runs that came due meanwhile happen: ``latest`` or ``all``.
        max_running: How many of its tasks may be unfinished at a time; None is any number.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    max_retries: int
    retry_delay: float
    timezone: str | None
    misfire_grace: float
    misfire: str
    max_running: int | None
