"""The overview dashboard: is it well, what does it do, how long does that take, what waits, and what holds it up.

``make dashboards`` writes it to grafana/dashboards/flowrra-overview.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

from grafana.panels import Query, Threshold, figure, graph, variables
from grafana.queries import age, increase, least, mean, once, quantile, queued, rate, ratio, series, since, total, until

OUTPUT = Path(__file__).parent / "dashboards" / "flowrra-overview.json"
UNHEALTHY_OR_HEALTHY = {"0": ("unhealthy", "red"), "1": ("healthy", "green")}
SUCCESS = 'outcome="success"'
BY_TASK: tuple[str, ...] = ("task",)

Panel = stat.Panel | timeseries.Panel


def now() -> list[Panel]:
    """What to look at first."""
    finished = f"({rate(catalog.TASKS_SUCCEEDED)} + {rate(catalog.TASKS_FAILED)})"
    return [
        figure(
            "Health",
            "Whether every component of every chosen process is healthy. An event loop that doesn't answer isn't.",
            Query(least(catalog.HEALTHY)),
            unit=units.Short,
            width=4,
            texts=UNHEALTHY_OR_HEALTHY,
            no_value="no answer",
        ),
        figure(
            "Apps running",
            "Processes whose app was started and not stopped.",
            Query(total(catalog.APP_RUNNING)),
            unit=units.Short,
            width=4,
        ),
        figure(
            "Throughput",
            "Attempts that started in a second.",
            Query(rate(catalog.TASKS_STARTED)),
            unit=units.OpsPerSecond,
            width=4,
        ),
        figure(
            "Failed for good",
            "Of the tasks that finished, how many failed with no further attempt. Nothing while none finishes.",
            Query(ratio(rate(catalog.TASKS_FAILED), finished)),
            unit=units.PercentUnit,
            width=4,
            thresholds=[Threshold(0.01, "yellow"), Threshold(0.05, "red")],
        ),
        figure(
            "Waiting",
            "Tasks that could run now, and wait for a free worker.",
            Query(f"sum({queued(catalog.QUEUE_PENDING)})"),
            unit=units.Short,
            width=4,
        ),
        figure(
            "Oldest waiting",
            "For how long the task that waits longest has been due. Nothing while nothing waits.",
            Query(f"max({age(catalog.QUEUE_OLDEST_PENDING, 'executor')})"),
            unit=units.Seconds,
            width=4,
            thresholds=[Threshold(30, "yellow"), Threshold(300, "red")],
            no_value="nothing waits",
        ),
    ]


def tasks() -> list[Panel]:
    """What was done, and what became of it."""
    outcomes = {
        "succeeded": catalog.TASKS_SUCCEEDED,
        "failed": catalog.TASKS_FAILED,
        "retried": catalog.TASKS_RETRIED,
        "cancelled": catalog.TASKS_CANCELLED,
        "released": catalog.TASKS_RELEASED,
    }
    return [
        graph(
            "Attempts by outcome",
            "Every attempt ends as one of these. 'failed' is final, 'retried' is followed by another attempt, "
            "'released' was given back by a stopping worker.",
            *(Query(rate(metric), outcome) for outcome, metric in outcomes.items()),
            unit=units.OpsPerSecond,
            stacked=True,
        ),
        graph(
            "Submitted, by task",
            "Tasks that these processes submitted in a second.",
            Query(rate(catalog.TASKS_SUBMITTED, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Succeeded, by task",
            "Attempts that returned a result, in a second. Below what is submitted, a backlog grows.",
            Query(rate(catalog.TASKS_SUCCEEDED, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Failed for good, by task",
            "Attempts that failed and are not repeated, in a second.",
            Query(rate(catalog.TASKS_FAILED, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Retried, by task",
            "Attempts that failed and are followed by another one, in a second.",
            Query(rate(catalog.TASKS_RETRIED, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Exceptions, by class",
            "The ten most frequent exceptions that ended attempts.",
            Query(f"topk(10, {rate(catalog.TASK_EXCEPTIONS, 'task', 'exception')})", "{{exception}} in {{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Out of time, by task",
            "Attempts that ran into their time limit, in a second. They count as failed or retried, too.",
            Query(rate(catalog.TASKS_TIMED_OUT, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Cancelled",
            "Tasks that were cancelled while they ran, and while they waited, in a second.",
            Query(rate(catalog.TASKS_CANCELLED), "while running"),
            Query(rate(catalog.TASKS_CANCELLED_BEFORE_START), "before start"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Redelivered, by task",
            "Attempts at a task that another worker had taken and not settled: a worker died, or lost its lease.",
            Query(rate(catalog.TASKS_REDELIVERED, "task"), "{{task}}"),
            unit=units.OpsPerSecond,
        ),
    ]


def times() -> list[Panel]:
    """How long it took."""
    run, wait = catalog.TASK_RUN_DURATION, catalog.TASK_QUEUE_WAIT
    return [
        graph(
            "Run time, 95th percentile, by task",
            "19 of 20 successful attempts took less than this.",
            Query(quantile(0.95, run, SUCCESS, by=BY_TASK), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Run time, mean, by task",
            "How long successful attempts took on average.",
            Query(mean(run, SUCCESS, by=BY_TASK), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Longest running, by task",
            "For how long the attempt that runs longest has been running. One that only grows hangs.",
            Query(age(catalog.TASK_OLDEST_RUNNING, "task"), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Wait for a worker, 95th percentile, by task",
            "19 of 20 tasks found a free worker within this time after they became due.",
            Query(quantile(0.95, wait, by=BY_TASK), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Wait for a worker, mean, by task",
            "How long tasks waited for a free worker on average. A deliberate delay is not waiting.",
            Query(mean(wait, by=BY_TASK), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Worker time, by task",
            "How many workers a task keeps busy on average: its attempts in a second times how long they take.",
            Query(
                f"sum by (task) (rate({series(run, suffix='_sum')}[$__rate_interval]))",
                "{{task}}",
            ),
            unit=units.Short,
            stacked=True,
        ),
    ]


def queues() -> list[Panel]:
    """What can be done at once, and what waits."""
    return [
        graph(
            "Workers",
            "Slots that run a task, of all there are. All of them busy, and tasks wait.",
            Query(total(catalog.EXECUTOR_BUSY_WORKERS, "executor"), "{{executor}}: busy"),
            Query(total(catalog.EXECUTOR_WORKERS, "executor"), "{{executor}}: slots"),
            unit=units.Short,
        ),
        graph(
            "Queues",
            "Tasks that could run now, wait for a later time, run, wait for a worker that knows them, were set aside.",
            Query(queued(catalog.QUEUE_PENDING), "{{executor}}: pending"),
            Query(queued(catalog.QUEUE_DELAYED), "{{executor}}: delayed"),
            Query(queued(catalog.QUEUE_IN_FLIGHT), "{{executor}}: in flight"),
            Query(queued(catalog.QUEUE_UNKNOWN), "{{executor}}: unknown"),
            Query(queued(catalog.QUEUE_DEAD), "{{executor}}: dead"),
            unit=units.Short,
        ),
        graph(
            "Oldest waiting",
            "For how long the task that waits longest has been due. Nothing while nothing waits.",
            Query(age(catalog.QUEUE_OLDEST_PENDING, "executor"), "{{executor}}"),
            unit=units.Seconds,
        ),
        graph(
            "Running, by task",
            "Attempts that run right now.",
            Query(total(catalog.TASKS_RUNNING, "task"), "{{task}}"),
            unit=units.Short,
            stacked=True,
        ),
        graph(
            "Waiting for another attempt, by task",
            "Tasks that failed, and wait for their next attempt.",
            Query(total(catalog.TASKS_RETRYING, "task"), "{{task}}"),
            unit=units.Short,
            stacked=True,
        ),
        graph(
            "Worker processes, by job",
            "Live processes that take tasks, as the broker knows them: gone 15 s after a kill. Without a broker each "
            "process knows itself alone.",
            Query(f"max by (job) ({series(catalog.WORKER_PROCESSES)})", "{{job}}"),
            unit=units.Short,
        ),
        graph(
            "Errors of broker and result backend",
            "Operations that failed, in a second. While it lasts, nothing is lost, and nothing gets on.",
            Query(rate(catalog.BROKER_ERRORS, "operation"), "broker: {{operation}}"),
            Query(rate(catalog.BACKEND_ERRORS, "operation"), "backend: {{operation}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Unfit broker, by reason",
            "1 while the broker's server is not fit to keep tasks: it drops keys, keeps nothing on disk, is a replica, "
            "is too old, or has another time. The log and the health check say what to do.",
            Query(f"max by (job, reason) ({series(catalog.BROKER_UNFIT)})", "{{job}}: {{reason}}"),
            unit=units.BoolYesNo,
            most=1,
        ),
        graph(
            "Worker restarts",
            "Workers that died and were replaced. More than none deserves a look at the log.",
            Query(increase(catalog.EXECUTOR_WORKER_RESTARTS, "executor"), "{{executor}}"),
            unit=units.Short,
        ),
    ]


def schedules() -> list[Panel]:
    """What is due when, and what became of what was due."""
    lag = catalog.SCHEDULER_LAG
    return [
        graph(
            "Runs, by result",
            "Due times that were dealt with in a second. Missed ones were past their grace time, collapsed ones are "
            "part of a later run, skipped ones had too many running already, failed ones are tried again.",
            Query(rate(catalog.SCHEDULER_RUNS, "result"), "{{result}}"),
            unit=units.OpsPerSecond,
            stacked=True,
        ),
        graph(
            "Lag",
            "How long after the due time tasks were submitted.",
            Query(quantile(0.5, lag), "median"),
            Query(quantile(0.99, lag), "99th percentile"),
            unit=units.Seconds,
        ),
        graph(
            "Schedules",
            "Schedules in the store. Overdue ones should have run already: no scheduler gets to them. Broken ones "
            "can't run as they are.",
            Query(once(catalog.SCHEDULER_SCHEDULES, "state"), "{{state}}"),
            Query(once(catalog.SCHEDULER_OVERDUE), "overdue"),
            Query(once(catalog.SCHEDULER_BROKEN), "broken"),
            unit=units.Short,
        ),
        graph(
            "Time to the next run, by schedule",
            "Enabled cron and interval schedules. Below 0 a schedule is overdue.",
            Query(until(catalog.SCHEDULE_NEXT_RUN, "schedule", "task"), "{{task}} {{schedule}}"),
            unit=units.Seconds,
        ),
        graph(
            "Time since the last run, by schedule",
            "Enabled cron and interval schedules that ran before. Longer than its interval, and a schedule has missed "
            "one.",
            Query(since(catalog.SCHEDULE_LAST_RUN, "schedule", "task"), "{{task}} {{schedule}}"),
            unit=units.Seconds,
        ),
        graph(
            "Scheduler",
            "Processes whose scheduler runs, and operations on the schedules' store that failed.",
            Query(total(catalog.SCHEDULER_RUNNING), "running"),
            Query(increase(catalog.SCHEDULER_STORE_ERRORS, "operation"), "{{operation}} failed"),
            unit=units.Short,
        ),
    ]


def event_loop() -> list[Panel]:
    """What holds the app up."""
    lag = catalog.EVENT_LOOP_LAG
    return [
        graph(
            "Event loop lag",
            "How late the app's event loop ran a timer. Above some tens of milliseconds a task blocks the loop: a "
            "call that isn't awaited, or a long computation.",
            Query(quantile(0.5, lag), "median"),
            Query(quantile(0.99, lag), "99th percentile"),
            unit=units.Seconds,
        ),
        graph(
            "Event loop stalls",
            "Times that something blocked the app's event loop for more than a second, by process.",
            Query(increase(catalog.EVENT_LOOP_STALLS, "instance"), "{{instance}}"),
            unit=units.Short,
        ),
        graph(
            "Event subscribers",
            "Events that subscribers failed on, and that were dropped because a subscriber was too slow.",
            Query(rate(catalog.EVENT_SUBSCRIBER_ERRORS), "failed"),
            Query(rate(catalog.EVENT_SUBSCRIBER_DROPPED), "dropped"),
            unit=units.OpsPerSecond,
        ),
    ]


def processes() -> list[Panel]:
    """The processes, and the exporter itself."""
    return [
        graph(
            "Components",
            "1 while a component is healthy in every process.",
            Query(least(catalog.COMPONENT_HEALTHY, "component"), "{{component}}"),
            unit=units.BoolYesNo,
            most=1,
        ),
        graph(
            "Collectors",
            "1 while a collector has its figures in every process; otherwise its metrics are absent.",
            Query(least(catalog.COLLECTOR_SUCCESS, "collector"), "{{collector}}"),
            unit=units.BoolYesNo,
            most=1,
        ),
        graph(
            "Time to collect, by collector",
            "How long the slowest process took to collect.",
            Query(f"max by (collector) ({series(catalog.COLLECTOR_DURATION)})", "{{collector}}"),
            unit=units.Seconds,
        ),
        graph(
            "Time series",
            "Time series of a scrape, and those left out of it, by process.",
            Query(total(catalog.EXPORTER_SERIES, "instance"), "{{instance}}: served"),
            Query(total(catalog.EXPORTER_SERIES_DROPPED, "instance"), "{{instance}}: left out"),
            unit=units.Short,
        ),
        graph(
            "CPU",
            "Cores that a process uses. Near 1 its event loop has no room left.",
            Query(
                f"sum by (instance) (rate({series('process_cpu_seconds_total')}[$__rate_interval]))",
                "{{instance}}",
            ),
            unit=units.Short,
        ),
        graph(
            "Memory",
            "Resident memory of a process.",
            Query(f"sum by (instance) ({series('process_resident_memory_bytes')})", "{{instance}}"),
            unit=units.BytesIEC,
        ),
    ]


ROWS = {
    "Now": now,
    "Tasks": tasks,
    "Times": times,
    "Workers and queues": queues,
    "Schedules": schedules,
    "Event loop": event_loop,
    "Processes": processes,
}


def overview() -> build.Dashboard:
    """The whole dashboard."""
    dashboard = (
        build.Dashboard("Flowrra / Overview")
        .uid("flowrra-overview")
        .description("Flowrra apps as their exporters see them.")
        .tags(["flowrra"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    for variable in variables():
        dashboard.with_variable(variable)
    number = 0
    for title, panels in ROWS.items():
        number += 1
        dashboard.with_row(build.Row(title).id(number))
        for panel in panels():
            number += 1
            dashboard.with_panel(panel.id(number))
    return dashboard


def render() -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(overview().build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(render(), encoding="utf-8")
