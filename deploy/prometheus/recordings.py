"""The series that alerts and dashboards share: which targets are Flowrra's, and what processes share, once.

What was known of a target outlives its being down, as ``…:known``: a series that refers to itself as it was before.
"""

from __future__ import annotations

from deploy.prometheus.promql import (
    BROKER,
    duration,
    is_lost,
    of_brokers,
    of_queues,
    of_schedules,
    of_stores,
    of_takers,
    once,
)
from deploy.prometheus.rule import Recording
from deploy.prometheus.scaled import Scaled

# Figures of a queue by the name that they are recorded by, with how those of several processes become one.
_OF_QUEUES = {
    "flowrra_queue_pending_tasks": "max",
    "flowrra_queue_delayed_tasks": "max",
    "flowrra_queue_in_flight_tasks": "max",
    "flowrra_queue_dead_tasks": "max",
    "flowrra_queue_unknown_tasks": "max",
    "flowrra_queue_paused": "max",
    "flowrra_queue_oldest_pending_timestamp_seconds": "min",
    "flowrra_queue_drain_seconds": "max",
}
_OF_SCHEDULES = {
    "flowrra_schedule_last_run_timestamp_seconds": "max",
    "flowrra_schedule_next_run_timestamp_seconds": "max",
    "flowrra_schedule_updated_timestamp_seconds": "max",
    "flowrra_schedule_period_seconds": "max",
}


def recorded(metric: str) -> str:
    """What a shared figure of the catalog is recorded by, once."""
    return "flowrra:" + metric.removeprefix("flowrra_")


def remembered_targets(thresholds: Scaled) -> str:
    """The targets that were Flowrra's within the last day."""
    step = duration(300 / thresholds.scale)
    return f"last_over_time(flowrra:target:up[{thresholds.text('TARGETS_MISSED_WINDOW')}:{step}])"


def targets(thresholds: Scaled) -> list[Recording]:
    """Which of Prometheus' targets are Flowrra's: all of a job of which one is, or was within a day."""
    known = f"flowrra_exporter_info or flowrra:target:up or {remembered_targets(thresholds)}"
    return [Recording("flowrra:target:up", f"up and on (job) ({known})")]


def shared_figures(thresholds: Scaled) -> list[Recording]:
    """What processes share, counted by what they share it through."""
    taken = "flowrra:queue_taken_tasks_total"
    # Those that begin nothing by request are none that could.
    takes = "flowrra_executor_workers > 0 unless flowrra_executor_draining == 1"
    answering = 'on (job, instance) flowrra_collector_success{collector="scheduler"} == 1'
    memory = "flowrra_broker_memory_used_bytes / flowrra_broker_memory_limit_bytes"
    return [
        Recording("flowrra:queue_info:known", _known("flowrra_queue_info", "flowrra:queue_info:known", "queue")),
        Recording("flowrra:queue:known", _places("flowrra:queue_info:known", "server", f"{BROKER}, executor, queue")),
        Recording("flowrra:broker:known", f'group by ({BROKER}) (flowrra:queue_info:known{{server!=""}})'),
        *(Recording(recorded(metric), of_queues(operator, metric)) for metric, operator in _OF_QUEUES.items()),
        # The queue's own count, whoever tells it: one that has just begun to tell has no past.
        Recording(taken, of_queues("max", "flowrra_queue_taken_tasks_total")),
        Recording("flowrra:queue_taken_tasks:increase", f"increase({taken}[{thresholds.text('NO_PROGRESS_WINDOW')}])"),
        Recording("flowrra:queue_wanted_tasks", of_queues("max", _wanted())),
        # Of the processes that take from a queue.
        Recording("flowrra:queue_workers", of_takers(takes)),
        Recording(
            "flowrra:queue_busy_workers",
            of_takers(f"flowrra_executor_busy_workers and {takes}"),
        ),
        Recording("flowrra:queue_busy:ratio", "flowrra:queue_busy_workers / flowrra:queue_workers"),
        Recording("flowrra:worker_processes", of_brokers("flowrra_worker_processes")),
        # Of all workers of a broker, also of those that nobody scrapes.
        Recording(
            "flowrra:worker_busy:ratio",
            f"{of_brokers('flowrra_worker_busy_slots', 'executor')}\n/\n"
            f"{of_brokers('(flowrra_worker_slots > 0)', 'executor')}",
        ),
        Recording("flowrra:broker_memory_used_bytes", of_brokers("flowrra_broker_memory_used_bytes")),
        Recording("flowrra:broker_memory:ratio", of_brokers(f"({memory})")),
        Recording("flowrra:broker_unfit", of_brokers("flowrra_broker_unfit", "reason")),
        Recording(
            "flowrra:scheduler_info:known",
            _known("flowrra_scheduler_info", "flowrra:scheduler_info:known", "scheduler"),
        ),
        Recording("flowrra:scheduler:known", _places("flowrra:scheduler_info:known", "store", "store")),
        Recording(
            "flowrra:scheduler:answering",
            _places(f"(flowrra_scheduler_info{{}} and {answering})", "store", "store"),
        ),
        Recording(
            "flowrra:scheduler_next_run_timestamp_seconds",
            # Of the tasks that a process knows: what one of them finds overdue, is.
            of_stores("min", "flowrra_scheduler_next_run_timestamp_seconds"),
        ),
        Recording("flowrra:scheduler_broken_schedules", of_stores("min", f"({_broken()})")),
        *(Recording(recorded(metric), of_schedules(operator, metric)) for metric, operator in _OF_SCHEDULES.items()),
    ]


def work(thresholds: Scaled) -> list[Recording]:
    """What the processes of a job do together."""
    names = dict(zip(("1h", "5m"), thresholds.FAST_BURN_WINDOWS, strict=True))
    names |= dict(zip(("6h", "30m"), thresholds.SLOW_BURN_WINDOWS, strict=True))
    rules = []
    for name, seconds in sorted(names.items(), key=lambda window: window[1]):
        failed, succeeded = (f"rate(flowrra_tasks_{end}_total[{duration(seconds)}])" for end in ("failed", "succeeded"))
        ended = f"sum by (job, task) ({failed} + {succeeded})"
        rules.append(
            Recording(f"flowrra:task_failures:ratio_rate{name}", f"sum by (job, task) ({failed})\n/\n({ended} > 0)")
        )
    for name in ("1h", "6h"):
        failed = f"increase(flowrra_tasks_failed_total[{duration(names[name])}])"
        rules.append(Recording(f"flowrra:task_failures:increase{name}", f"sum by (job, task) ({failed})"))
    return rules


def _wanted() -> str:
    """What a free worker would begin: all that is pending, but for what waits by request."""
    unpaused = "flowrra_queue_pending_tasks - flowrra_queue_paused_tasks or flowrra_queue_pending_tasks"
    return f"(({unpaused}) unless flowrra_queue_paused == 1 or flowrra_queue_pending_tasks * 0)"


def _broken() -> str:
    """Schedules that can't run, as each process has them: but for those whose task another one of the store knows."""
    # Stores in memory are each process's own.
    info = once("flowrra_scheduler_info", 'store!=""', "job, instance", "store")
    store = f"* on (job, instance) group_left (store) {info}"
    tasks = "flowrra_tasks_running"
    # An observer tells of no tasks: what it doesn't know isn't known.
    # A schedule that is marked, as its row can't be read, has no next run: whoever knows its task, it is broken.
    next_runs = "flowrra_schedule_next_run_timestamp_seconds"
    unknown = f"({next_runs} and on (job, instance) {tasks} unless on (job, instance, task) {tasks})"
    elsewhere = f"count by (job, instance) ({unknown} {store} and on (store, task) ({tasks} {store}))"
    broken = "flowrra_scheduler_broken_schedules"
    return f"{broken} - on (job, instance) group_left () {elsewhere} or {broken}"


def _known(info: str, record: str, collector: str) -> str:
    return f"{info}\nor\n({record} and {is_lost(collector)})"


def _places(info: str, label: str, by: str) -> str:
    """Where something is: by what is shared, or the process that has its own."""
    own = ", ".join(("job", "instance", *(part for part in by.split(", ") if part not in (label, "namespace"))))

    def where(matcher: str) -> str:
        return info.replace("{}", f"{{{matcher}}}") if "{}" in info else f"{info}{{{matcher}}}"

    return f"""group by ({by}) ({where(f'{label}!=""')})\nor\ngroup by ({own}) ({where(f'{label}=""')})"""
