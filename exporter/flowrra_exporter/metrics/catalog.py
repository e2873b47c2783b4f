"""Every metric that the exporter can serve, once: name, type, unit, help, labels, bounds, scope,
OpenTelemetry name.

Names follow https://prometheus.io/docs/practices/naming/ (base units, ``_total``, timestamps rather than
ages); OpenTelemetry names follow https://opentelemetry.io/docs/specs/semconv/general/metrics/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricType = Literal["gauge", "counter", "histogram", "info"]
Scope = Literal["process", "shared", "exporter"]

# What the app counts with by default, in seconds.
RUN_DURATION_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
QUEUE_WAIT_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
SCHEDULER_LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
LOOP_LAG_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: The name as Prometheus stores it (with ``_total`` or ``_info``).
        type: Its type in OpenMetrics.
        help: What it says.
        otel_name: Its name over OTLP.
        labels: The names of its labels.
        unit: The Prometheus base unit that the name ends with, or empty.
        bounds: A histogram's default upper bounds in seconds; what is served has those that the app counted with.
        scope: Whether each process has its own figure (sum them), or all see the same one through a shared broker (take
            the maximum), or whether it is about the exporter itself. An observer serves no figures of a process.
        otel_unit: What is counted, in braces, for a metric without a base unit; empty for what is 0 or 1.
    """

    name: str
    type: MetricType
    help: str
    otel_name: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    bounds: tuple[float, ...] | None = None
    scope: Scope = "process"
    otel_unit: str = ""

    @property
    def family_name(self) -> str:
        """The OpenMetrics family name: without the suffix that OpenMetrics gives to the samples."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        return self.name.removesuffix(suffix)

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names of the samples in both formats."""
        if self.type == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


BUILD_INFO = Metric(
    "flowrra_build_info",
    "info",
    "The versions of flowrra and Python that run the app. Absent for an app that isn't flowrra's.",
    "flowrra.build.info",
    ("version", "python_version"),
)
EXPORTER_INFO = Metric(
    "flowrra_exporter_info",
    "info",
    "The version of the exporter, and its mode: 'command' if it runs the app, 'library' inside a program, 'observer' "
    "if others run the app.",
    "flowrra.exporter.info",
    ("version", "mode"),
    scope="exporter",
)

APP_RUNNING = Metric(
    "flowrra_app_running", "gauge", "1 if the app was started and not stopped, else 0.", "flowrra.app.running"
)
APP_STOPPING = Metric(
    "flowrra_app_stopping",
    "gauge",
    "1 while the app is being stopped: it begins nothing more, and what runs may finish. Else 0.",
    "flowrra.app.stopping",
)
TASKS_PENDING = Metric(
    "flowrra_tasks_pending",
    "gauge",
    "Tasks that wait to be run, over all executors.",
    "flowrra.tasks.pending",
    scope="shared",
    otel_unit="{task}",
)
HEALTHY = Metric(
    "flowrra_healthy",
    "gauge",
    "1 if every component is healthy; 0 if one isn't, or if the app's event loop doesn't answer.",
    "flowrra.healthy",
)
COMPONENT_HEALTHY = Metric(
    "flowrra_component_healthy",
    "gauge",
    "1 if the component is healthy, else 0. A component that isn't configured is absent.",
    "flowrra.component.healthy",
    ("component",),
)

EXECUTOR_RUNNING = Metric(
    "flowrra_executor_running",
    "gauge",
    "1 if the executor is running, else 0.",
    "flowrra.executor.running",
    ("executor",),
)
EXECUTOR_WORKERS = Metric(
    "flowrra_executor_workers",
    "gauge",
    "Slots of the executor: how many tasks it can run at once. 0 in a process that only submits tasks.",
    "flowrra.executor.workers",
    ("executor",),
    otel_unit="{worker}",
)
EXECUTOR_BUSY_WORKERS = Metric(
    "flowrra_executor_busy_workers",
    "gauge",
    "Slots of the executor that run a task right now.",
    "flowrra.executor.busy_workers",
    ("executor",),
    otel_unit="{worker}",
)
EXECUTOR_WAITING_TASKS = Metric(
    "flowrra_executor_waiting_tasks",
    "gauge",
    "Tasks that are in this process already and wait for a free slot: with a broker, what was taken ahead.",
    "flowrra.executor.waiting_tasks",
    ("executor",),
    otel_unit="{task}",
)
EXECUTOR_STUCK = Metric(
    "flowrra_executor_stuck",
    "gauge",
    "1 while each slot of the executor is held by a task that should have ended long ago, and others wait; else 0. "
    "Long ago: past its time limit, or after ten times its longest run and a minute. The app counts as healthy.",
    "flowrra.executor.stuck",
    ("executor",),
)
EXECUTOR_DRAINING = Metric(
    "flowrra_executor_draining",
    "gauge",
    "1 if the executor begins no more tasks, by request, and finishes those that run, else 0.",
    "flowrra.executor.draining",
    ("executor",),
)
EXECUTOR_QUEUE_INFO = Metric(
    "flowrra_executor_queue_info",
    "info",
    "A queue at the broker that the executor takes tasks from. Absent in memory, where it takes from all, as they are "
    "its own, and for an app that doesn't tell.",
    "flowrra.executor.queue.info",
    ("executor", "queue"),
)
EXECUTOR_HEARTBEAT = Metric(
    "flowrra_executor_heartbeat_timestamp_seconds",
    "gauge",
    "When this process last renewed the leases of its tasks at the broker, as a Unix time; it does so every 5 s, or "
    "each quarter of a lease. Absent without leases, and where no tasks are taken.",
    "flowrra.executor.heartbeat.timestamp",
    ("executor",),
    "seconds",
)
EXECUTOR_WORKER_RESTARTS = Metric(
    "flowrra_executor_worker_restarts_total",
    "counter",
    "Workers that died and were replaced.",
    "flowrra.executor.worker.restarts",
    ("executor",),
    otel_unit="{restart}",
)
EXECUTOR_ABANDONED_TASKS = Metric(
    "flowrra_executor_abandoned_tasks_total",
    "counter",
    "Tasks that the app had accepted, and that its stop cancelled: they waited, were delayed or ran. What a broker "
    "takes back is not among them. After a stop a process is hardly scraped: its log and exit status say it, too.",
    "flowrra.executor.abandoned",
    ("executor", "state"),
    otel_unit="{task}",
)

TASKS_REGISTERED = Metric(
    "flowrra_tasks_registered",
    "gauge",
    "Task functions that the app knows.",
    "flowrra.tasks.registered",
    ("executor",),
    otel_unit="{function}",
)

QUEUE_INFO = Metric(
    "flowrra_queue_info",
    "info",
    "Where a queue of the executor lives. With broker 'memory' each process has its own (sum them); any "
    "other is shared, and all processes of one server and namespace see the same figures (take the maximum). The "
    "server is its host, port and database; empty in memory, and where the app doesn't tell.",
    "flowrra.queue.info",
    ("executor", "queue", "broker", "namespace", "server"),
    scope="shared",
)
QUEUE_PENDING = Metric(
    "flowrra_queue_pending_tasks",
    "gauge",
    "Tasks in the queue that could run now.",
    "flowrra.queue.pending",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_DELAYED = Metric(
    "flowrra_queue_delayed_tasks",
    "gauge",
    "Tasks that wait for a later time: countdowns and retries.",
    "flowrra.queue.delayed",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_IN_FLIGHT = Metric(
    "flowrra_queue_in_flight_tasks",
    "gauge",
    "Tasks that a worker has taken and not yet settled.",
    "flowrra.queue.in_flight",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_DEAD = Metric(
    "flowrra_queue_dead_tasks",
    "gauge",
    "Messages set aside because they can't be read or were redelivered too often.",
    "flowrra.queue.dead",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_UNKNOWN = Metric(
    "flowrra_queue_unknown_tasks",
    "gauge",
    "Tasks that wait for a worker that knows their name, such as during a deploy.",
    "flowrra.queue.unknown",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_PAUSED = Metric(
    "flowrra_queue_paused",
    "gauge",
    "1 if nothing of the queue is begun, by request, else 0.",
    "flowrra.queue.paused",
    ("executor", "queue"),
    scope="shared",
)
QUEUE_PAUSED_TASKS = Metric(
    "flowrra_queue_paused_tasks",
    "gauge",
    "Those of the pending tasks that nobody begins, by request, as their names are paused. Absent where that isn't "
    "known.",
    "flowrra.queue.paused_tasks",
    ("executor", "queue"),
    "tasks",
    scope="shared",
)
QUEUE_OLDEST_PENDING = Metric(
    "flowrra_queue_oldest_pending_timestamp_seconds",
    "gauge",
    "When the task that waits longest became due, as a Unix time, but for tasks whose names are paused. Absent while "
    "nothing else waits.",
    "flowrra.queue.oldest_pending.timestamp",
    ("executor", "queue"),
    "seconds",
    scope="shared",
)
QUEUE_DRAIN = Metric(
    "flowrra_queue_drain_seconds",
    "gauge",
    "Until workers have taken all tasks that are pending, but for those whose names are paused, at the rate of the "
    "last five minutes; 0 if none is. Absent while the queue grows, is paused or nothing is taken, and until it was "
    "looked at twice.",
    "flowrra.queue.drain",
    ("executor", "queue"),
    "seconds",
    scope="shared",
)

QUEUE_TAKEN = Metric(
    "flowrra_queue_taken_tasks_total",
    "counter",
    "Tasks that workers have taken from the queue: it stands still while the queue gets on nowhere.",
    "flowrra.queue.taken",
    ("executor", "queue"),
    scope="shared",
    otel_unit="{task}",
)

BROKER_UNFIT = Metric(
    "flowrra_broker_unfit",
    "gauge",
    "1 if the broker's server is unfit to keep tasks for this reason, 0 if not: eviction, no_persistence, replica, "
    "old_version or clock (off from this host's by more than a quarter of the lease). Looked at every 3 minutes; "
    "absent where the server doesn't tell, and without a server. See docs/redis.md.",
    "flowrra.broker.unfit",
    ("reason",),
    scope="shared",
)

BROKER_CLOCK_OFFSET = Metric(
    "flowrra_broker_clock_offset_seconds",
    "gauge",
    "By how much the clock of the broker's server is ahead of the clock of this process's host. Looked at every 3 "
    "minutes; absent where the server doesn't tell, and without a server.",
    "flowrra.broker.clock_offset",
    unit="seconds",
    scope="exporter",
)
BROKER_LEASE = Metric(
    "flowrra_broker_lease_seconds",
    "gauge",
    "For how long a worker that isn't heard of keeps its tasks; then they run elsewhere. Absent without leases.",
    "flowrra.broker.lease",
    unit="seconds",
    scope="shared",
)
BROKER_MEMORY_USED = Metric(
    "flowrra_broker_memory_used_bytes",
    "gauge",
    "Memory that the data of the broker's server takes. Looked at every 3 minutes; absent where it doesn't tell.",
    "flowrra.broker.memory.used",
    unit="bytes",
    scope="shared",
)
BROKER_MEMORY_LIMIT = Metric(
    "flowrra_broker_memory_limit_bytes",
    "gauge",
    "Memory that the data of the broker's server may take: what comes beyond it is refused, or other keys are dropped. "
    "Absent where it has no limit, or doesn't tell.",
    "flowrra.broker.memory.limit",
    unit="bytes",
    scope="shared",
)

WORKER_PROCESSES = Metric(
    "flowrra_worker_processes",
    "gauge",
    "Live processes that take tasks from the broker: gone at once after a stop, 15 s after a kill. Without a broker "
    "this process, if the app runs.",
    "flowrra.worker.processes",
    scope="shared",
    otel_unit="{process}",
)

WORKER_SLOTS = Metric(
    "flowrra_worker_slots",
    "gauge",
    "Slots of the processes that take tasks from the broker, but for those that begin no more by request, as each told "
    "it with its last heartbeat.",
    "flowrra.worker.slots",
    ("executor",),
    scope="shared",
    otel_unit="{worker}",
)
WORKER_BUSY_SLOTS = Metric(
    "flowrra_worker_busy_slots",
    "gauge",
    "Those of them that ran a task then.",
    "flowrra.worker.busy_slots",
    ("executor",),
    scope="shared",
    otel_unit="{worker}",
)

TASKS_SUBMITTED = Metric(
    "flowrra_tasks_submitted_total",
    "counter",
    "Tasks that this process submitted.",
    "flowrra.tasks.submitted",
    ("task",),
    otel_unit="{task}",
)
TASKS_STARTED = Metric(
    "flowrra_tasks_started_total",
    "counter",
    "Attempts that were started. Each ends as one of succeeded, failed, retried, cancelled, released.",
    "flowrra.tasks.started",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_SUCCEEDED = Metric(
    "flowrra_tasks_succeeded_total",
    "counter",
    "Attempts that returned a result.",
    "flowrra.tasks.succeeded",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_FAILED = Metric(
    "flowrra_tasks_failed_total",
    "counter",
    "Attempts that failed for good: no other attempt follows.",
    "flowrra.tasks.failed",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_RETRIED = Metric(
    "flowrra_tasks_retried_total",
    "counter",
    "Attempts that failed and are followed by another one.",
    "flowrra.tasks.retried",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_CANCELLED = Metric(
    "flowrra_tasks_cancelled_total",
    "counter",
    "Attempts that were cancelled while they ran.",
    "flowrra.tasks.cancelled",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_RELEASED = Metric(
    "flowrra_tasks_released_total",
    "counter",
    "Attempts that a stopping worker gave back to the queue.",
    "flowrra.tasks.released",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_TIMED_OUT = Metric(
    "flowrra_tasks_timed_out_total",
    "counter",
    "Attempts that ran into their time limit. They are counted as failed or retried, too.",
    "flowrra.tasks.timed_out",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_REDELIVERED = Metric(
    "flowrra_tasks_redelivered_total",
    "counter",
    "Attempts at a task that another worker had taken and not settled.",
    "flowrra.tasks.redelivered",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_CANCELLED_BEFORE_START = Metric(
    "flowrra_tasks_cancelled_before_start_total",
    "counter",
    "Tasks that were cancelled while they waited, for their first attempt or for another one.",
    "flowrra.tasks.cancelled_before_start",
    ("task",),
    otel_unit="{task}",
)
TASK_EXCEPTIONS = Metric(
    "flowrra_task_exceptions_total",
    "counter",
    "Exceptions that ended attempts, by class name.",
    "flowrra.task.exceptions",
    ("task", "exception"),
    otel_unit="{exception}",
)
TASKS_RUNNING = Metric(
    "flowrra_tasks_running",
    "gauge",
    "Attempts that run in this process right now.",
    "flowrra.tasks.running",
    ("task",),
    otel_unit="{attempt}",
)
TASKS_RETRYING = Metric(
    "flowrra_tasks_retrying",
    "gauge",
    "Tasks of this process that wait for their next attempt.",
    "flowrra.tasks.retrying",
    ("task",),
    otel_unit="{task}",
)
TASK_OLDEST_RUNNING = Metric(
    "flowrra_task_oldest_running_timestamp_seconds",
    "gauge",
    "When the attempt that runs longest was started, as a Unix time. Absent while none runs.",
    "flowrra.task.oldest_running.timestamp",
    ("task",),
    "seconds",
)
TASK_RUN_DURATION = Metric(
    "flowrra_task_run_duration_seconds",
    "histogram",
    "How long attempts ran.",
    "flowrra.task.run.duration",
    ("task", "outcome"),
    "seconds",
    RUN_DURATION_BOUNDS,
)
TASK_QUEUE_WAIT = Metric(
    "flowrra_task_queue_wait_seconds",
    "histogram",
    "How long tasks waited for a free worker after they became due. A deliberate delay isn't waiting.",
    "flowrra.task.queue.wait",
    ("task",),
    "seconds",
    QUEUE_WAIT_BOUNDS,
)

SCHEDULER_INFO = Metric(
    "flowrra_scheduler_info",
    "info",
    "Where the schedules are kept: host, port and database, or host and path. All processes of one store see the same "
    "schedules. Empty in memory, and where the app doesn't tell; absent if it has no scheduler.",
    "flowrra.scheduler.info",
    ("store",),
    scope="shared",
)
SCHEDULER_RUNNING = Metric(
    "flowrra_scheduler_running",
    "gauge",
    "1 if the scheduler is running, else 0. Absent if the app has none.",
    "flowrra.scheduler.running",
)
SCHEDULER_SCHEDULES = Metric(
    "flowrra_scheduler_schedules",
    "gauge",
    "Schedules in the store, by state: enabled or disabled.",
    "flowrra.scheduler.schedules",
    ("state",),
    scope="shared",
    otel_unit="{schedule}",
)
SCHEDULER_OVERDUE = Metric(
    "flowrra_scheduler_overdue_schedules",
    "gauge",
    "Enabled schedules whose due time has passed without a run.",
    "flowrra.scheduler.overdue",
    scope="shared",
    otel_unit="{schedule}",
)
SCHEDULER_BROKEN = Metric(
    "flowrra_scheduler_broken_schedules",
    "gauge",
    "Schedules that can't run as they are: their task isn't registered, or their expression can't be read.",
    "flowrra.scheduler.broken",
    scope="shared",
    otel_unit="{schedule}",
)
SCHEDULER_NEXT_RUN = Metric(
    "flowrra_scheduler_next_run_timestamp_seconds",
    "gauge",
    "When the next enabled schedule is due, as a Unix time. Absent if none is.",
    "flowrra.scheduler.next_run.timestamp",
    unit="seconds",
    scope="shared",
)
SCHEDULER_RUNS = Metric(
    "flowrra_scheduler_runs_total",
    "counter",
    "Due times that this process dealt with, by result: submitted, missed (past the grace time), collapsed (into a "
    "later one), skipped (too many run already), failed (the submit was refused; it is tried again).",
    "flowrra.scheduler.runs",
    ("task", "result"),
    otel_unit="{run}",
)
SCHEDULER_LAG = Metric(
    "flowrra_scheduler_lag_seconds",
    "histogram",
    "How long after the due time a task was submitted.",
    "flowrra.scheduler.lag",
    unit="seconds",
    bounds=SCHEDULER_LAG_BOUNDS,
)
SCHEDULER_STORE_ERRORS = Metric(
    "flowrra_scheduler_store_errors_total",
    "counter",
    "Operations on the schedules' store that failed.",
    "flowrra.scheduler.store.errors",
    ("operation",),
    otel_unit="{error}",
)
SCHEDULE_INFO = Metric(
    "flowrra_schedule_info",
    "info",
    "What a schedule is for and when it runs: 'cron 0 3 * * *', 'interval 60'. Both are cut off at 100 characters. For "
    "the same schedules as the times of their next runs.",
    "flowrra.schedule.info",
    ("schedule", "task", "description", "runs"),
    scope="shared",
)
SCHEDULE_NEXT_RUN = Metric(
    "flowrra_schedule_next_run_timestamp_seconds",
    "gauge",
    "When the schedule is due next, as a Unix time. Enabled cron and interval schedules only, the 200 oldest; with "
    "more than 2,000 enabled schedules none.",
    "flowrra.schedule.next_run.timestamp",
    ("schedule", "task"),
    "seconds",
    scope="shared",
)
SCHEDULE_LAST_RUN = Metric(
    "flowrra_schedule_last_run_timestamp_seconds",
    "gauge",
    "When the schedule ran last, as a Unix time, be it that the run was skipped. Absent if it never did, and as the "
    "time of its next run is.",
    "flowrra.schedule.last_run.timestamp",
    ("schedule", "task"),
    "seconds",
    scope="shared",
)

SCHEDULE_UPDATED = Metric(
    "flowrra_schedule_updated_timestamp_seconds",
    "gauge",
    "When the schedule was made, changed or enabled last, as a Unix time: what it should have run before says nothing.",
    "flowrra.schedule.updated.timestamp",
    ("schedule", "task"),
    "seconds",
    scope="shared",
)
SCHEDULE_PERIOD = Metric(
    "flowrra_schedule_period_seconds",
    "gauge",
    "Time between two runs of the schedule: of a cron expression the longer of those before and after its next run.",
    "flowrra.schedule.period",
    ("schedule", "task"),
    "seconds",
    scope="shared",
)

EVENT_LOOP_LAG = Metric(
    "flowrra_event_loop_lag_seconds",
    "histogram",
    "How late the app's event loop ran a timer.",
    "flowrra.event_loop.lag",
    unit="seconds",
    bounds=LOOP_LAG_BOUNDS,
)
EVENT_LOOP_STALLS = Metric(
    "flowrra_event_loop_stalls_total",
    "counter",
    "Times that something blocked the app's event loop.",
    "flowrra.event_loop.stalls",
    otel_unit="{stall}",
)
WATCHERS = Metric(
    "flowrra_watchers",
    "gauge",
    "Programs and pages that watch tasks change, from this process. While there are any, each change is told.",
    "flowrra.watchers",
    otel_unit="{watcher}",
)
EVENT_SUBSCRIBER_DROPPED = Metric(
    "flowrra_event_subscriber_dropped_total",
    "counter",
    "Events dropped because a subscriber was too slow, be it at the app's stop.",
    "flowrra.event_subscriber.dropped",
    otel_unit="{event}",
)
EVENT_SUBSCRIBER_ERRORS = Metric(
    "flowrra_event_subscriber_errors_total",
    "counter",
    "Exceptions raised by event subscribers.",
    "flowrra.event_subscriber.errors",
    otel_unit="{error}",
)
BROKER_ERRORS = Metric(
    "flowrra_broker_errors_total",
    "counter",
    "Broker operations that failed.",
    "flowrra.broker.errors",
    ("operation",),
    otel_unit="{error}",
)
BACKEND_ERRORS = Metric(
    "flowrra_backend_errors_total",
    "counter",
    "Result backend operations that failed.",
    "flowrra.backend.errors",
    ("operation",),
    otel_unit="{error}",
)

COLLECTOR_SUCCESS = Metric(
    "flowrra_collector_success",
    "gauge",
    "1 if the collector had its figures in time; 0 if not: then they are absent from this scrape.",
    "flowrra.collector.success",
    ("collector",),
    scope="exporter",
)
COLLECTOR_DURATION = Metric(
    "flowrra_collector_duration_seconds",
    "gauge",
    "How long the collector took.",
    "flowrra.collector.duration",
    ("collector",),
    "seconds",
    scope="exporter",
)
REGISTERED_SUCCESS = Metric(
    "flowrra_registered_collector_success",
    "gauge",
    "1 if what is registered with prometheus_client and of this class was collected in time; 0 if not: then what it "
    "hasn't yielded is absent. Counters and the like are all 'prometheus_client'.",
    "flowrra.registered_collector.success",
    ("collector",),
    scope="exporter",
)
REGISTERED_DURATION = Metric(
    "flowrra_registered_collector_duration_seconds",
    "gauge",
    "How long the slowest of this class took that is registered with prometheus_client.",
    "flowrra.registered_collector.duration",
    ("collector",),
    "seconds",
    scope="exporter",
)
REGISTERED_DROPPED = Metric(
    "flowrra_registered_series_dropped",
    "gauge",
    "Time series of what is registered with prometheus_client that are left out of this scrape, by reason: see "
    "docs/own_metrics.md.",
    "flowrra.registered_series.dropped",
    ("collector", "reason"),
    scope="exporter",
    otel_unit="{series}",
)
EXPORTER_SERIES = Metric(
    "flowrra_exporter_series",
    "gauge",
    "Time series in this scrape.",
    "flowrra.exporter.series",
    scope="exporter",
    otel_unit="{series}",
)
EXPORTER_SERIES_DROPPED = Metric(
    "flowrra_exporter_series_dropped",
    "gauge",
    "Time series left out of this scrape: --max-series was reached, or a registered metric can't be served.",
    "flowrra.exporter.series.dropped",
    scope="exporter",
    otel_unit="{series}",
)
LOG_RECORDS_DROPPED = Metric(
    "flowrra_exporter_log_records_dropped_total",
    "counter",
    "Log records that were not written, because nobody read the log or its disk was full. Only where flowrra-exporter "
    "writes the log.",
    "flowrra.exporter.log.records.dropped",
    scope="exporter",
    otel_unit="{record}",
)
BACKGROUND_ERRORS = Metric(
    "flowrra_exporter_background_errors_total",
    "counter",
    "Failures of what the exporter does beside serving; each is tried again. 'web_config' is the reading of the web "
    "configuration when its files have changed.",
    "flowrra.exporter.background.errors",
    ("work",),
    scope="exporter",
    otel_unit="{error}",
)
WEB_CONFIG_IN_ORDER = Metric(
    "flowrra_exporter_web_config_in_order",
    "gauge",
    "1 if the web configuration was in order when its files were last read; 0 if what they said before stays in force.",
    "flowrra.exporter.web_config.in_order",
    scope="exporter",
)

OTEL_EXPORTS = Metric(
    "flowrra_otel_exports_total",
    "counter",
    "Pushes of the metrics over OTLP: 'success' if the receiver took all of it, 'partial' if all but some points, "
    "else 'failure'.",
    "flowrra.otel.exports",
    ("result",),
    scope="exporter",
    otel_unit="{export}",
)
OTEL_POINTS = Metric(
    "flowrra_otel_points_total",
    "counter",
    "Points pushed over OTLP: 'accepted', 'rejected' by a receiver that took their request, or 'dropped' since it "
    "refused every request with them.",
    "flowrra.otel.points",
    ("result",),
    scope="exporter",
    otel_unit="{point}",
)
OTEL_LAST_EXPORT = Metric(
    "flowrra_otel_last_export_timestamp_seconds",
    "gauge",
    "When the receiver last took a push over OTLP, whole or in part, as a Unix time. Absent until then.",
    "flowrra.otel.last_export.timestamp",
    unit="seconds",
    scope="exporter",
)

# All of the above, in the order in which they are defined.
CATALOG: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

# Every name that belongs to the exporter in either format; the user's own metrics can't have them.
RESERVED_NAMES = frozenset(
    name for metric in CATALOG for name in (metric.name, metric.family_name, *metric.sample_names)
)
