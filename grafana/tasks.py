"""Tasks by name: which ones hurt. A name in the table leads to the dashboard of that task alone."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import PLAIN, WARNING
from grafana.frame import Frame
from grafana.links import TO_QUEUES, TO_THE_TASK
from grafana.outcomes import failing_and_retried, failure_ratio, outcomes
from grafana.panels import NONE, Column, Panel, Query, Threshold, figure, graph, runbook, table

OTHERS = "all others"
SUCCESS = 'outcome="success"'


def now() -> list[Panel]:
    """What happens just now, over all names that are chosen."""
    running = q.series(catalog.TASKS_RUNNING)
    return [
        *failing_and_retried(),
        figure(
            "Redelivered",
            "Tasks within the range shown that another worker had taken and not settled: it died, or lost its lease.",
            q.of_range(q.increase(catalog.TASKS_REDELIVERED, within=q.WHOLE)),
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            links=[runbook("FlowrraRedeliveries")],
        ),
        figure(
            "Longest running",
            "For how long the attempt that runs longest has been running. One that only grows hangs.",
            q.or_none(q.age(catalog.TASK_OLDEST_RUNNING), running),
            unit=units.Seconds,
            thresholds=limits.LONGEST_RUNNING,
            texts={"0": NONE["0"]},
            links=[runbook("FlowrraTaskHung")],
        ),
        figure("Running", "Attempts that run right now.", q.total(catalog.TASKS_RUNNING), base=PLAIN),
        figure(
            "Attempts", "Attempts that start in a second.", q.rate_now(catalog.TASKS_STARTED),
            unit=units.OpsPerSecond, base=PLAIN,
        ),
    ]  # fmt: skip


def by_name() -> list[Panel]:
    """All names, those that failed most first."""
    run, wait = catalog.TASK_RUN_DURATION, catalog.TASK_QUEUE_WAIT
    return [
        table(
            "Tasks by name",
            "Each name that is chosen, over the range shown: those that failed most first. A click on a heading sorts "
            "by it, one on a name shows it alone. Run times are those of successful attempts.",
            {"task": "Task"},
            Column("Failed", q.increase(catalog.TASKS_FAILED, "task", within=q.WHOLE)),
            Column("Of all", failure_ratio("task", within=q.WHOLE), units.PercentUnit, limits.FAILURES),
            Column("Retried", q.increase(catalog.TASKS_RETRIED, "task", within=q.WHOLE)),
            Column("Out of time", q.increase(catalog.TASKS_TIMED_OUT, "task", within=q.WHOLE)),
            Column("Redelivered", q.increase(catalog.TASKS_REDELIVERED, "task", within=q.WHOLE)),
            Column("Attempts", q.increase(catalog.TASKS_STARTED, "task", within=q.WHOLE)),
            Column("Run, 95 %", q.quantile(0.95, run, SUCCESS, by=("task",), within=q.WHOLE), units.Seconds),
            Column("Wait, 95 %", q.quantile(0.95, wait, by=("task",), within=q.WHOLE), units.Seconds),
            Column("Running", q.total(catalog.TASKS_RUNNING, "task")),
            Column("Longest", q.age(catalog.TASK_OLDEST_RUNNING, "task"), units.Seconds, limits.LONGEST_RUNNING),
            worst=["Failed", "Retried", "Attempts"],
            height=11,
            key_links={"Task": TO_THE_TASK},
        )
    ]


def outcome() -> list[Panel]:
    """What became of attempts: the names that stand out, and all others as one."""
    return [
        outcomes(width=8),
        _rates("Failed for good, by task", "Attempts that failed and are not repeated.", catalog.TASKS_FAILED),
        _rates("Retried, by task", "Attempts that failed and are followed by another one.", catalog.TASKS_RETRIED),
        _rates("Started, by task", "Attempts that began.", catalog.TASKS_STARTED),
        _rates("Submitted, by task", "Tasks that these processes submitted.", catalog.TASKS_SUBMITTED),
        graph(
            "Exceptions, by class",
            "The most frequent classes of exceptions that ended attempts, whatever the task.",
            Query(_of_most(catalog.TASK_EXCEPTIONS, "exception"), "{{exception}}"),
            unit=units.OpsPerSecond,
        ),
    ]


def _of_most(metric: Metric, label: str) -> str:
    grown = q.increase(metric, label, within=q.WHOLE)
    return f"{q.rate(metric, label)} and on ({label}) topk({q.MOST_LINES}, {grown} > 0)"


def _rates(title: str, description: str, metric: Metric) -> Panel:
    """A counter by task, in a second."""
    return graph(
        title,
        f"{description} The names with most of them in the range shown, and all others as one.",
        Query(q.of_foremost(q.rate(metric, "task"), metric), "{{task}}"),
        Query(q.of_others(q.rate(metric, "task"), metric), OTHERS),
        unit=units.OpsPerSecond,
        colors={OTHERS: "#9e9e9e"},
    )


def times() -> list[Panel]:
    """How long it took."""
    run, wait = catalog.TASK_RUN_DURATION, catalog.TASK_QUEUE_WAIT
    busy = f"sum by (task) (rate({q.series(run, suffix='_sum')}{q.AROUND}))"
    running = q.total(catalog.TASKS_RUNNING, "task")
    return [
        graph(
            "Run time, 95th percentile, by task",
            "19 of 20 successful attempts took less than this. The slowest names in the range shown.",
            Query(q.slowest(0.95, run, SUCCESS), "{{task}}"),
            unit=units.Seconds,
        ),
        graph(
            "Wait for a worker, 95th percentile, by task",
            "19 of 20 tasks found a free worker within this time after they became due. The names that waited longest.",
            Query(q.slowest(0.95, wait), "{{task}}"),
            unit=units.Seconds,
            links=[TO_QUEUES],
        ),
        graph(
            "Worker time, by task",
            "How many workers a task keeps busy: its attempts in a second times how long they take.",
            Query(q.of_foremost(busy, run, "_sum"), "{{task}}"),
            Query(q.of_others(busy, run, "_sum"), OTHERS),
            stacked=True,
            colors={OTHERS: "#9e9e9e"},
        ),
        graph(
            "Running, by task",
            "Attempts that run. The names that took most workers' time in the range shown, and all others as one.",
            Query(q.of_foremost(running, run, "_sum"), "{{task}}"),
            Query(q.of_others(running, run, "_sum"), OTHERS),
            stacked=True,
            colors={OTHERS: "#9e9e9e"},
        ),
        graph(
            "Waiting for another attempt",
            "Tasks that failed, and wait for their next attempt.",
            Query(q.total(catalog.TASKS_RETRYING), "waiting"),
            colors={"waiting": WARNING},
        ),
        graph(
            "Cancelled",
            "Tasks that were cancelled while they ran, and while they waited.",
            Query(q.rate(catalog.TASKS_CANCELLED), "while running"),
            Query(q.rate(catalog.TASKS_CANCELLED_BEFORE_START), "before start"),
            unit=units.OpsPerSecond,
        ),
    ]


FRAME = Frame(
    "flowrra-tasks",
    "Tasks",
    "Tasks by name, those that hurt first.",
    {"": [*now(), *by_name()], "What became of them": outcome(), "How long it took": times()},
)
