"""The alerts. A condition that is met fires after its time; one whose figures can't be read stays as it was.

What counts events of a window is over when the window is, whatever became of the process: it is kept by nothing.
"""

from __future__ import annotations

from deploy.prometheus.promql import BROKER, QUEUE, SCHEDULE, duration, is_lost, once
from deploy.prometheus.recordings import remembered_targets
from deploy.prometheus.rule import Alert
from deploy.prometheus.scaled import Scaled

# What keeps a condition: its process can't be asked, none of its job can be asked, or nobody tells any more of
# the queue, the broker or the schedules that somebody told of.
_OF_JOB = (
    'and on (job) (up == 0 or flowrra_collector_success{collector="tasks"} == 0) unless on (job) flowrra_tasks_running'
)
_OF_QUEUE = f"and on ({QUEUE}) flowrra:queue:known unless on ({QUEUE}) flowrra:queue_pending_tasks"
_OF_SCHEDULER = (
    "and on (job, instance, store) flowrra:scheduler:known unless on (job, instance, store) flowrra:scheduler:answering"
)


def _of_takers(ratio: float) -> str:
    """Workers tell whether slots are busy, and anybody what waits: where nothing does, it matters no more. Nor does it
    where the broker knows of no worker, or of some that have free slots."""
    return (
        f"and on ({QUEUE}) flowrra:queue:known unless on ({QUEUE}) flowrra:queue_busy:ratio\n"
        f"unless on ({QUEUE}) flowrra:queue_wanted_tasks == 0\n"
        f"unless on ({BROKER}) flowrra:worker_processes == 0\n"
        f"unless on ({BROKER}, executor) flowrra:worker_busy:ratio < {ratio}"
    )


def _of_process(collector: str | None = None) -> str:
    return f"and {is_lost(collector)}"


def _of_broker(figure: str) -> str:
    return f"and on ({BROKER}) flowrra:broker:known unless on ({BROKER}) {figure}"


def _as_last_told(count: str, window: str) -> str:
    """A counter; of a process that is gone or can't be asked, as it was: a deploy takes nothing back that was lost."""
    return f"({count} or last_over_time({count}[{window}]) unless on (job, instance) process_start_time_seconds)"


def _of_young(count: str, seconds: float, window: str) -> str:
    """The most that a counter was where each process of the window began within it: what such a one has begun with is
    no increase, and a restart takes it back."""
    started = f"min_over_time(process_start_time_seconds[{window}]) > time() - {seconds:g}"
    return f"max_over_time({count}[{window}]) and on (job, instance) ({started})"


# Where a queue, a broker or a store is, in descriptions: shared ones have a server, others an instance.
_SERVER = "{{ or $labels.server $labels.instance }}"
_STORE = "{{ or $labels.store $labels.instance }}"
# What a stop that was asked for brings about is none of its process's faults.
_STOPPING = "unless on (job, instance) flowrra_app_stopping == 1"
_QUEUE = f"Queue {{{{ $labels.queue }}}} ({{{{ $labels.executor }}}}) at {_SERVER}"
_PROCESS = "{{ $labels.instance }} of job {{ $labels.job }}"


def targets(t: Scaled) -> list[Alert]:
    """Whether there is anything to go by."""
    return [
        Alert(
            "FlowrraTargetDown",
            "critical",
            f"Flowrra's {_PROCESS} can't be scraped",
            "Nothing is known of this process: what it said last may not be so any more.",
            "flowrra:target:up == 0",
            "",
            "flowrra-overview",
            t.TARGET_DOWN_FOR,
        ),
        Alert(
            "FlowrraTargetsMissing",
            "critical",
            "Prometheus has no target of job {{ $labels.job }} any more",
            "There were some within the last day. Either all processes are gone, or Prometheus looks for them no more.",
            f"group by (job) ({remembered_targets(t)})\nunless on (job) up",
            "",
            "flowrra-overview",
            t.TARGETS_MISSING_FOR,
        ),
        Alert(
            "FlowrraCollectorFailing",
            "warning",
            f"Collector {{{{ $labels.collector }}}} fails on {_PROCESS}",
            "Its figures are absent, and what follows from them isn't known.",
            "flowrra_collector_success == 0\nor\nflowrra_registered_collector_success == 0",
            _of_process(),
            "flowrra-exporter",
            t.COLLECTOR_FAILING_FOR,
        ),
        Alert(
            "FlowrraSeriesDropped",
            "warning",
            f"{_PROCESS} leaves out {{{{ $value }}}} series",
            "Tasks or schedules beyond the limit have no figures of their own, and no alerts.",
            f"flowrra_exporter_series_dropped > {t.SERIES_DROPPED}",
            _of_process(),
            "flowrra-exporter",
            t.SERIES_DROPPED_FOR,
        ),
    ]


def processes(t: Scaled) -> list[Alert]:
    """Whether each process gets on."""
    is_blocked = 'flowrra_healthy == 0 and on (job, instance) flowrra_collector_success{collector="health"} == 0'
    # An observer has no health of its own: it sees the broker, or it doesn't.
    failing = 'min by (job, instance) (flowrra_collector_success{collector=~"queue|workers"}) == 0'
    is_observer = 'and on (job, instance) flowrra_exporter_info{mode="observer"}'
    unseen = f'label_replace({failing} {is_observer}, "component", "broker", "", "")'
    known = once("flowrra:queue_info:known", 'server!=""', "job, instance", "server", "namespace")
    heartbeat = "flowrra_executor_heartbeat_timestamp_seconds"
    return [
        Alert(
            "FlowrraAppNotRunning",
            "critical",
            f"The app of {_PROCESS} isn't running",
            "The process lives and is scraped, but its app has stopped, or never started: it runs no task.",
            f"flowrra_app_running == 0\n{_STOPPING}",
            _of_process("app"),
            "flowrra-overview",
            t.APP_NOT_RUNNING_FOR,
        ),
        Alert(
            "FlowrraProcessRestarting",
            "critical",
            f"{_PROCESS} is started again and again",
            "It started {{ $value | humanize }} times lately: it crashes, memory runs out, or liveness ends it, as "
            "for a loop that is blocked. What it had in hand is done anew each time.",
            f"changes(process_start_time_seconds[{t.text('PROCESS_RESTARTS_WINDOW')}]) > {t.PROCESS_RESTARTS}\n"
            "and on (job, instance) flowrra:target:up",
            "",
            "flowrra-exporter",
        ),
        Alert(
            "FlowrraDependencyDown",
            "critical",
            f"{_PROCESS} can't use its {{{{ $labels.component }}}}",
            "Without the broker or the backend of results nothing is submitted or told; without the schedules' store, "
            "or a scheduler that turns, nothing that is due is submitted.",
            f'flowrra_component_healthy{{component=~"broker|backend|scheduler"}} == 0\n{_STOPPING}\nor\n{unseen}',
            _of_process("health"),
            "flowrra-overview",
            t.DEPENDENCY_DOWN_FOR,
        ),
        Alert(
            "FlowrraWorkersDead",
            "critical",
            f"{{{{ $labels.component }}}} of {_PROCESS} is dead",
            "Tasks wait in this process although slots are free, or the executor has ended.",
            f'flowrra_component_healthy{{component=~".+_executor"}} == 0\n{_STOPPING}',
            _of_process("health"),
            "flowrra-queues",
            t.WORKERS_DEAD_FOR,
        ),
        Alert(
            "FlowrraWorkersRestarting",
            "warning",
            f"Workers of {_PROCESS} die and are replaced",
            "{{ $value | humanize }} workers ({{ $labels.executor }}) died lately: a task kills its worker process, or "
            "memory runs out.",
            f"increase(flowrra_executor_worker_restarts_total[{t.text('WORKER_RESTARTS_WINDOW')}]) > "
            f"{t.WORKER_RESTARTS}",
            "",
            "flowrra-queues",
        ),
        Alert(
            "FlowrraExecutorStuck",
            "critical",
            f"Executor {{{{ $labels.executor }}}} of {_PROCESS} is stuck",
            "Each slot is held by a task that should have ended long ago, and others wait.",
            "flowrra_executor_stuck == 1",
            _of_process("executors"),
            "flowrra-queues",
            t.EXECUTOR_STUCK_FOR,
        ),
        Alert(
            "FlowrraHeartbeatLost",
            "critical",
            f"{_PROCESS} has given no sign of life to its broker for {{{{ $value | humanizeDuration }}}}",
            "Its leases have ended: its tasks run elsewhere as well, or wait for a broker that is away.",
            # As of the scrape: with the scrape interval that Prometheus has by itself, it may be a minute ago.
            f"timestamp({heartbeat}) - {heartbeat} > {t.HEARTBEAT_LOST:g}",
            _of_process("runtime"),
            "flowrra-queues",
            t.HEARTBEAT_LOST_FOR,
        ),
        Alert(
            "FlowrraEventLoopBlocked",
            "critical",
            f"The event loop of {_PROCESS} doesn't turn",
            "Something blocks it: no io task goes on, nothing is taken from the broker, and most figures are absent.",
            # With its broker, so that it can be told what follows for the queues there.
            f"({is_blocked})\n* on (job, instance) group_left (server, namespace) {known}\n"
            f"or\n(({is_blocked}) unless on (job, instance) {known})",
            _of_process(),
            "flowrra-exporter",
            t.EVENT_LOOP_BLOCKED_FOR,
        ),
        Alert(
            "FlowrraEventLoopStalls",
            "warning",
            f"The event loop of {_PROCESS} is blocked again and again",
            "It stood still for more than a second {{ $value | humanize }} times lately: a task does blocking work.",
            f"increase(flowrra_event_loop_stalls_total[{t.text('EVENT_LOOP_STALLS_WINDOW')}]) > {t.EVENT_LOOP_STALLS}",
            "",
            "flowrra-exporter",
        ),
        Alert(
            "FlowrraTasksAbandoned",
            "critical",
            f"{_PROCESS} stopped, and lost {{{{ $value | humanize }}}} tasks",
            "They were accepted and cancelled by the stop: in memory, or since they could not be given back in time.",
            "sum by (job, instance, executor) (increase(flowrra_executor_abandoned_tasks_total"
            f"[{t.text('ABANDONED_WINDOW')}])) > {t.ABANDONED_TASKS}",
            "",
            "flowrra-queues",
        ),
        Alert(
            "FlowrraClockSkew",
            "critical",
            f"The clocks of {_PROCESS} and its broker differ by {{{{ $value | humanizeDuration }}}}",
            "That is more than a lease. Ages, delays and schedules of this host are wrong by as much.",
            f"abs(flowrra_broker_clock_offset_seconds) > {t.CLOCK_SKEW_LEASES:g} * flowrra_broker_lease_seconds",
            _of_process("queue"),
            "flowrra-queues",
            t.CLOCK_SKEW_FOR,
        ),
    ]


def queues(t: Scaled) -> list[Alert]:
    """Whether what waits is begun, and its broker fit to keep it."""
    age = "time() - flowrra:queue_oldest_pending_timestamp_seconds"
    is_paused = f"unless on ({QUEUE}) flowrra:queue_paused == 1"
    # Where none of those who take from a queue is scraped, what they told the broker says it, of all its queues.
    all_busy = (
        f"flowrra:queue:known * on ({BROKER}, executor) group_left () (flowrra:worker_busy:ratio >= 1) "
        f"unless on ({QUEUE}) flowrra:queue_busy:ratio"
    )
    is_busy = f"unless on ({QUEUE}) (flowrra:queue_busy:ratio >= 1 or ({all_busy}))"
    # Somebody has told of it for the whole window.
    half = duration(t.NO_PROGRESS_WINDOW / 2)
    before = f"last_over_time(flowrra:queue_taken_tasks_total[{half}] offset {t.text('NO_PROGRESS_WINDOW')})"
    is_known = f"and on ({QUEUE}) {before}"
    # Where nothing waits and nothing is held, workers may be away, as by an autoscaler.
    unfinished = " or ".join(
        f'sum by ({BROKER}) (flowrra:{figure}{{server!=""}}) > 0'
        for figure in ("queue_wanted_tasks", "queue_in_flight_tasks")
    )
    window = t.text("SATURATION_WINDOW")
    return [
        Alert(
            "FlowrraNoWorkers",
            "critical",
            "No worker process lives at {{ $labels.server }} ({{ $labels.namespace }})",
            "Tasks are accepted and wait: nobody takes them.",
            f"flowrra:worker_processes == 0\nand on ({BROKER}) ({unfinished})",
            _of_broker("flowrra:worker_processes"),
            "flowrra-queues",
            t.NO_WORKERS_FOR,
        ),
        Alert(
            "FlowrraNoProgress",
            "critical",
            f"{_QUEUE} gets on nowhere",
            "Tasks have waited for {{ $value | humanizeDuration }}, and none was taken: nobody takes from this queue, "
            "or those who do have free slots, and don't.",
            f"{age} > {t.NO_PROGRESS_WINDOW:g}\n"
            f"and on ({QUEUE}) flowrra:queue_taken_tasks:increase == 0\n{is_known}\n{is_paused}\n{is_busy}",
            _OF_QUEUE,
            "flowrra-queues",
            t.NO_PROGRESS_FOR,
        ),
        Alert(
            "FlowrraSaturated",
            "warning",
            f"{_QUEUE} has no free slot, and more waits",
            "{{ $value | humanizePercentage }} of the slots of those who take from it are busy.",
            f"avg_over_time(flowrra:queue_busy:ratio[{window}]) >= {t.SATURATION_RATIO}\n"
            f"and on ({QUEUE}) avg_over_time(flowrra:queue_wanted_tasks[{window}]) >= 1",
            _of_takers(t.SATURATION_RATIO),
            "flowrra-queues",
            t.SATURATION_FOR,
        ),
        Alert(
            "FlowrraOldestTaskTooOld",
            "warning",
            f"{_QUEUE}: a task has waited for {{{{ $value | humanizeDuration }}}}",
            "More comes in than is done, or its priority never has its turn.",
            f"{age} > {t.OLDEST_TASK_AGE:g}\n{is_paused}",
            _OF_QUEUE,
            "flowrra-queues",
            t.OLDEST_TASK_FOR,
        ),
        Alert(
            "FlowrraDeadTasks",
            "warning",
            f"{_QUEUE} has {{{{ $value }}}} dead tasks",
            "They could not be read, or their workers died again and again. They stay until somebody decides.",
            f"flowrra:queue_dead_tasks > {t.DEAD_TASKS}",
            _OF_QUEUE,
            "flowrra-queues",
            t.DEAD_TASKS_FOR,
        ),
        Alert(
            "FlowrraUnknownTasks",
            "warning",
            f"{_QUEUE} has {{{{ $value }}}} tasks that no worker knows",
            "Their names are registered in no worker that takes from it. They wait for one, and are given up then.",
            f"flowrra:queue_unknown_tasks > {t.UNKNOWN_TASKS}",
            _OF_QUEUE,
            "flowrra-queues",
            t.UNKNOWN_TASKS_FOR,
        ),
        Alert(
            "FlowrraBrokerFull",
            "critical",
            "The broker at {{ $labels.server }} has used {{ $value | humanizePercentage }} of its memory",
            "When it is full, tasks are refused, or dropped if its policy is to evict.",
            f"flowrra:broker_memory:ratio > {t.BROKER_MEMORY_RATIO}",
            # Not of the ratio, which is absent as well once there is no limit any more.
            _of_broker("flowrra:broker_memory_used_bytes"),
            "flowrra-queues",
            t.BROKER_FULL_FOR,
        ),
        Alert(
            "FlowrraBrokerUnfit",
            "warning",
            "The broker at {{ $labels.server }} is unfit to keep tasks: {{ $labels.reason }}",
            "Tasks run, and may be lost: when its memory is full, or when it restarts.",
            'flowrra:broker_unfit{reason!="clock"} == 1',
            _of_broker("flowrra:broker_unfit"),
            "flowrra-queues",
            t.BROKER_UNFIT_FOR,
        ),
    ]


def tasks(t: Scaled) -> list[Alert]:
    """Whether attempts end as they should."""

    def failing(long: str, short: str, burn: float) -> str:
        limit = round(burn * t.FAILURE_BUDGET, 6)
        return (
            f"flowrra:task_failures:ratio_rate{long} > {limit}\n"
            f"and on (job, task) flowrra:task_failures:ratio_rate{short} > {limit}\n"
            f"and on (job, task) flowrra:task_failures:increase{long} >= {t.FAILURES_AT_LEAST}"
        )

    # A worker that takes over what a whole fleet left behind has counted it before it is scraped.
    redelivered = "flowrra_tasks_redelivered_total"
    within = t.text("REDELIVERY_WINDOW")
    again = f"({_of_young(redelivered, t.REDELIVERY_WINDOW, within)}) or increase({redelivered}[{within}])"
    window = t.text("RETRY_WINDOW")
    retried, started = (f"sum by (job, task) (rate(flowrra_tasks_{n}_total[{window}]))" for n in ("retried", "started"))
    failures = "Job {{ $labels.job }}: {{ $value | humanizePercentage }} of task {{ $labels.task }} fail"
    return [
        Alert(
            "FlowrraTasksFailing",
            "critical",
            failures,
            "At this rate a month's budget of failures is gone within two days.",
            failing("1h", "5m", t.FAST_BURN),
            _OF_JOB,
            "flowrra-tasks",
            variant="_fast",
        ),
        Alert(
            "FlowrraTasksFailing",
            "warning",
            failures,
            "At this rate a month's budget of failures is gone within five days.",
            failing("6h", "30m", t.SLOW_BURN),
            _OF_JOB,
            "flowrra-tasks",
            variant="_slow",
        ),
        Alert(
            "FlowrraRetryStorm",
            "warning",
            "Job {{ $labels.job }}: {{ $value | humanizePercentage }} of attempts at {{ $labels.task }} are retried",
            "Most of the work is done again and again; what the task depends on may be away.",
            f"{retried}\n/\n({started} > 0) > {t.RETRY_RATIO}\n"
            f"and on (job, task) sum by (job, task) (increase(flowrra_tasks_retried_total[{window}])) "
            f">= {t.RETRIES_AT_LEAST}",
            _OF_JOB,
            "flowrra-tasks",
        ),
        Alert(
            "FlowrraTaskHung",
            "warning",
            f"Task {{{{ $labels.task }}}} has run for {{{{ $value | humanizeDuration }}}} on {_PROCESS}",
            "It holds a slot. If it may take that long, raise the threshold; else give it a time limit.",
            f"time() - flowrra_task_oldest_running_timestamp_seconds > {t.TASK_HUNG_AGE:g}",
            _of_process("tasks"),
            "flowrra-tasks",
            t.TASK_HUNG_FOR,
        ),
        Alert(
            "FlowrraRedeliveries",
            "warning",
            "Job {{ $labels.job }}: {{ $value | humanize }} tasks {{ $labels.task }} were delivered again",
            "The workers that had them were killed, or cut off from the broker for longer than a lease.",
            f"sum by (job, task) ({again}) > {t.REDELIVERIES}",
            "",
            "flowrra-tasks",
        ),
    ]


def schedules(t: Scaled) -> list[Alert]:
    """Whether what is due is submitted."""
    count, window = 'flowrra_scheduler_runs_total{result="missed"}', t.text("SCHEDULES_MISSED_WINDOW")
    # A scheduler that comes back misses at once what was due: its count begins above 0, where there was none.
    # Not as of the window's first moment, in which its process may have been down.
    # An address that another process has by now may have two within the window.
    asked = f'max by (job, instance) (sum_over_time(flowrra_collector_success{{collector="scheduler"}}[{window}]))'
    is_new = f"count_over_time({count}[{window}]) < on (job, instance) group_left () {asked}"
    young = _of_young(count, t.SCHEDULES_MISSED_WINDOW, window)
    begun = f"({_as_last_told(count, window)} and ({is_new})) or ({young})"
    missed = f"({begun}) or increase({count}[{window}])"
    runs, changes = "flowrra:schedule_last_run_timestamp_seconds", "flowrra:schedule_updated_timestamp_seconds"
    period = f"{t.SCHEDULE_PERIODS:g} * flowrra:schedule_period_seconds"
    # A schedule that was just made or enabled had nothing to do before.
    idle = f"time() - ({runs} > {changes} or {changes} or {runs})"
    return [
        Alert(
            "FlowrraScheduleMissed",
            "warning",
            "Job {{ $labels.job }}: {{ $value | humanize }} runs of {{ $labels.task }} were missed",
            "They came up too late, past the grace of their schedules, and don't happen any more.",
            f"sum by (job, task) ({missed}) > {t.SCHEDULES_MISSED}",
            "",
            "flowrra-scheduler",
        ),
        Alert(
            "FlowrraScheduleNotRun",
            "critical",
            "Schedule {{ $labels.schedule }} of {{ $labels.task }} has not run for {{ $value | humanizeDuration }}",
            f"That is twice its period, and more. Its store is {_STORE}.",
            f"{idle} > on ({SCHEDULE}) {period}",
            _OF_SCHEDULER,
            "flowrra-scheduler",
            t.SCHEDULE_NOT_RUN_FOR,
        ),
        Alert(
            "FlowrraSchedulerStalled",
            "critical",
            f"No scheduler takes what is due in {_STORE}",
            "The next schedule has been due for {{ $value | humanizeDuration }}: no scheduler runs, or it hangs.",
            f"time() - flowrra:scheduler_next_run_timestamp_seconds > {t.SCHEDULER_STALLED_AGE:g}",
            _OF_SCHEDULER,
            "flowrra-scheduler",
            t.SCHEDULER_STALLED_FOR,
        ),
        Alert(
            "FlowrraSchedulesBroken",
            "warning",
            f"{{{{ $value }}}} schedules in {_STORE} can't run",
            "Their task is registered in no process, or what is written of them can't be read.",
            f"flowrra:scheduler_broken_schedules > {t.SCHEDULES_BROKEN}",
            _OF_SCHEDULER,
            "flowrra-scheduler",
            t.SCHEDULES_BROKEN_FOR,
        ),
    ]


def groups(t: Scaled) -> dict[str, list[Alert]]:
    """All alerts, by the name of their group."""
    return {
        "flowrra-targets": targets(t),
        "flowrra-processes": processes(t),
        "flowrra-queues": queues(t),
        "flowrra-tasks": tasks(t),
        "flowrra-schedules": schedules(t),
    }
