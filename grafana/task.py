"""One task alone: how often, how well, how long, how late."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import BAD, OUTCOMES, PLAIN, WARNING
from grafana.frame import Frame
from grafana.links import TO_QUEUES
from grafana.outcomes import failing_and_retried, failure_ratio, outcomes
from grafana.panels import NONE, Panel, Query, Threshold, figure, graph, heatmap, runbook

SUCCESS = 'outcome="success"'


def now() -> list[Panel]:
    """How it is just now."""
    running = q.series(catalog.TASKS_RUNNING)
    return [
        *failing_and_retried(),
        figure(
            "Longest running",
            "For how long the attempt that runs longest has been running. One that only grows hangs.",
            q.or_none(q.age(catalog.TASK_OLDEST_RUNNING), running),
            unit=units.Seconds,
            thresholds=limits.LONGEST_RUNNING,
            texts=NONE,
            links=[runbook("FlowrraTaskHung")],
        ),
        figure("Running", "Attempts that run right now.", q.total(catalog.TASKS_RUNNING), base=PLAIN),
        figure(
            "Waiting for another attempt",
            "Tasks that failed, and wait for their next attempt.",
            q.total(catalog.TASKS_RETRYING),
            texts=NONE,
            thresholds=[Threshold(1, WARNING)],
        ),
        figure(
            "Attempts",
            "Attempts that start in a second.",
            q.rate_now(catalog.TASKS_STARTED),
            unit=units.OpsPerSecond,
            base=PLAIN,
        ),
    ]


def course() -> list[Panel]:
    """How it was."""
    return [
        outcomes(width=8),
        graph(
            "Failure ratio",
            "Of the tasks that finished, how many failed with no further attempt.",
            Query(failure_ratio(), "failed"),
            unit=units.PercentUnit,
            most=1,
            colors=OUTCOMES,
            thresholds=limits.FAILURES,
            links=[runbook("FlowrraTasksFailing")],
        ),
        graph(
            "Exceptions, by class",
            "What ended attempts. They count as failed or retried.",
            Query(q.rate(catalog.TASK_EXCEPTIONS, "exception"), "{{exception}}"),
            unit=units.OpsPerSecond,
        ),
        heatmap(
            "Run time",
            "How long attempts ran, whatever became of them. A dot is an attempt with a trace: a click shows it.",
            q.buckets(catalog.TASK_RUN_DURATION),
        ),
        heatmap(
            "Wait for a worker",
            "How long tasks had been due when a worker took them. A deliberate delay is not waiting.",
            q.buckets(catalog.TASK_QUEUE_WAIT),
        ),
        graph(
            "Run time, median and 95th percentile",
            "Half of the successful attempts, and 19 of 20, took less than this. A dot is an attempt with a trace.",
            Query(q.quantile(0.5, catalog.TASK_RUN_DURATION, SUCCESS), "median"),
            Query(q.quantile(0.95, catalog.TASK_RUN_DURATION, SUCCESS), "95 %"),
            unit=units.Seconds,
            exemplars=True,
        ),
        graph(
            "Wait for a worker, median and 95th percentile",
            "Half of them, and 19 of 20, found a free worker within this time.",
            Query(q.quantile(0.5, catalog.TASK_QUEUE_WAIT), "median"),
            Query(q.quantile(0.95, catalog.TASK_QUEUE_WAIT), "95 %"),
            unit=units.Seconds,
            links=[TO_QUEUES],
        ),
        graph(
            "Out of time, redelivered",
            "Attempts that ran into their time limit, and attempts at a task that another worker had taken and not "
            "settled.",
            Query(q.rate(catalog.TASKS_TIMED_OUT), "timed out"),
            Query(q.rate(catalog.TASKS_REDELIVERED), "redelivered"),
            unit=units.OpsPerSecond,
            colors=OUTCOMES,
            links=[runbook("FlowrraRedeliveries")],
        ),
        graph(
            "Attempts, by process",
            "Attempts that began. Of one that takes none while others do, see whether it is well.",
            Query(q.rate(catalog.TASKS_STARTED, "job", "instance"), "{{job}} {{instance}}"),
            unit=units.OpsPerSecond,
            stacked=True,
        ),
        graph(
            "Submitted and succeeded",
            "Tasks that these processes submitted, and attempts that returned a result. In between, a backlog grows.",
            Query(q.rate(catalog.TASKS_SUBMITTED), "submitted"),
            Query(q.rate(catalog.TASKS_SUCCEEDED), "succeeded"),
            unit=units.OpsPerSecond,
            colors={"submitted": PLAIN, **OUTCOMES},
        ),
        graph(
            "Cancelled",
            "Attempts that were cancelled, and tasks that were before one began.",
            Query(q.rate(catalog.TASKS_CANCELLED), "while running"),
            Query(q.rate(catalog.TASKS_CANCELLED_BEFORE_START), "before start"),
            unit=units.OpsPerSecond,
            colors={"while running": BAD},
        ),
    ]


FRAME = Frame(
    "flowrra-task",
    "Task",
    "One task alone: how often it runs, how well, how long, and how long it waits.",
    {"": [*now(), *course()]},
    single=("task",),
)
