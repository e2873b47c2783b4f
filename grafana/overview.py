"""The overview: the fleet on one screen, what is wrong first."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import BAD, GOOD, PLAIN, UNKNOWN, WARNING
from grafana.frame import Frame
from grafana.links import TO_EXPORTER, TO_QUEUES, TO_SCHEDULER, TO_TASKS, TO_THE_TASK
from grafana.outcomes import failing, failure_ratio, outcomes
from grafana.panels import (
    NONE,
    Column,
    Panel,
    Query,
    Text,
    Threshold,
    figure,
    graph,
    how_many,
    runbook,
    table,
)

OF_THE_WORST = 10
# Rows of the grid for the lists: what the screen has left.
LISTED = 11


def whether_well() -> list[Panel]:
    """Whether everything is there and can work."""
    targets, apps = q.targets(), q.targets_with_app()
    healthy = f"sum({q.series(catalog.HEALTHY)})"
    servers = q.series(catalog.COMPONENT_HEALTHY, 'component=~"broker|backend"')
    return [
        how_many(
            "Targets up",
            "Exporters that Prometheus could scrape just now. Of one that it could not, nothing below is known.",
            q.n_of_m(f"sum({targets})", f"count({targets})", "none"),
            links=[runbook("FlowrraTargetDown"), TO_EXPORTER],
        ),
        how_many(
            "Apps healthy",
            "Apps of which every component is well, of all that there should be. One that is down isn't.",
            q.n_of_m(healthy, f"count({apps})", "no answer"),
            links=[runbook("FlowrraAppNotRunning"), TO_EXPORTER],
        ),
        figure(
            "Event loops blocked",
            "Apps that don't answer, though their exporter does: something holds their event loop. What the loop "
            "would have told, such as what waits, is not known.",
            q.or_none(f"count({q.blocked()})", q.series(catalog.HEALTHY)),
            thresholds=limits.ANY,
            texts=NONE,
            links=[runbook("FlowrraEventLoopBlocked"), TO_EXPORTER],
        ),
        figure(
            "Worker processes",
            "Live processes that take tasks, as the brokers know them. None as soon as one of the brokers has none: "
            "nothing runs there.",
            q.sum_unless_none(q.by_broker(catalog.WORKER_PROCESSES)),
            base=BAD,
            thresholds=[Threshold(1, GOOD)],
            texts={"0": Text("none", BAD)},
            links=[runbook("FlowrraNoWorkers"), TO_QUEUES],
        ),
        figure(
            "Broker and results",
            "Whether every app reaches its broker and its result backend. Meanwhile nothing gets on, and nothing is "
            "lost.",
            q.or_none(f"min({servers})", q.series(catalog.COMPONENT_HEALTHY, 'component="app"'), 2),
            texts={"0": Text("out of reach", BAD), "1": Text("in reach", GOOD), "2": Text("in memory", UNKNOWN)},
            links=[runbook("FlowrraDependencyDown"), TO_QUEUES],
        ),
        figure(
            "Collectors failing",
            "Sources that a scrape could not have in time; their figures are absent.",
            q.or_none(f"count({q.series(catalog.COLLECTOR_SUCCESS)} == 0)", q.series(catalog.COLLECTOR_SUCCESS)),
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            links=[runbook("FlowrraCollectorFailing"), TO_EXPORTER],
        ),
    ]


def whether_on_time() -> list[Panel]:
    """Whether the work is done, and in time."""
    pending = q.queued(catalog.QUEUE_PENDING)
    schedules = q.series(catalog.COLLECTOR_SUCCESS, 'collector="scheduler"')
    return [
        failing(TO_TASKS),
        figure(
            "Oldest waiting",
            "For how long the task that waits longest has been due, of those that may be begun.",
            q.or_none(f"max(time() - {q.oldest_to_take()})", pending),
            unit=units.Seconds,
            thresholds=limits.OLDEST_WAITING,
            texts={"0": Text("nothing to take", GOOD)},
            links=[runbook("FlowrraOldestTaskTooOld"), TO_QUEUES],
        ),
        figure(
            "Waiting",
            "Tasks that could run now, and wait for a free worker.",
            f"sum({pending})",
            base=PLAIN,
            links=[TO_QUEUES],
        ),
        figure(
            "Stuck executors",
            "Executors whose slots are all held by tasks that should have ended long ago, while others wait.",
            q.or_none(f"(sum({q.series(catalog.EXECUTOR_STUCK)}) > 0)", q.series(catalog.EXECUTOR_STUCK)),
            thresholds=limits.ANY,
            texts=NONE,
            links=[runbook("FlowrraExecutorStuck"), TO_QUEUES],
        ),
        figure(
            "Dead tasks",
            "Tasks that were set aside: they can't be read, or workers died of them again and again.",
            f"sum({q.queued(catalog.QUEUE_DEAD)})",
            thresholds=limits.ANY,
            texts=NONE,
            links=[runbook("FlowrraDeadTasks"), TO_QUEUES],
        ),
        figure(
            "Schedules overdue",
            "Schedules that should have run a minute ago: no scheduler gets to them.",
            q.or_none(f"sum({q.overdue()})", f"({schedules} == 1)", -1),
            thresholds=limits.ANY,
            texts={**NONE, **limits.NO_SCHEDULER},
            links=[runbook("FlowrraSchedulerStalled"), TO_SCHEDULER],
        ),
    ]


def course() -> list[Panel]:
    """How it came to that."""
    return [
        outcomes(width=8, links=[TO_TASKS]),
        graph(
            "Waiting, by queue",
            "Tasks that could run now. Rising for long, there are too few workers.",
            Query(q.queued(catalog.QUEUE_PENDING), q.QUEUE_LEGEND),
            links=[TO_QUEUES],
        ),
        graph(
            "Busy slots",
            "Of the slots that run tasks, how many do. All of them, and tasks wait.",
            Query(
                q.ratio(
                    q.total(catalog.EXECUTOR_BUSY_WORKERS, "job", "executor"),
                    q.total(catalog.EXECUTOR_WORKERS, "job", "executor"),
                ),
                "{{job}}: {{executor}}",
            ),
            unit=units.PercentUnit,
            most=1,
            thresholds=limits.BUSY,
            links=[runbook("FlowrraSaturated"), TO_QUEUES],
        ),
    ]


def lists() -> list[Panel]:
    """Where it is."""
    by_process = "job, instance"
    busy = q.total(catalog.EXECUTOR_BUSY_WORKERS, "job", "instance")
    slots = q.total(catalog.EXECUTOR_WORKERS, "job", "instance")
    loop = f"(0 * {q.blocked()} or 0 * {q.series(catalog.HEALTHY)} + 1)"
    failures, runs = (
        q.increase(metric, "task", within=q.WHOLE) for metric in (catalog.TASKS_FAILED, catalog.TASKS_STARTED)
    )
    failed = failure_ratio("task", within=q.WHOLE)
    worst = f"topk({OF_THE_WORST}, 1000000 * {failures} + {runs})"
    return [
        table(
            "Targets",
            "Exporters and their apps, those that are down first. An observer has no app of its own.",
            {"job": "Job", "instance": "Instance"},
            Column("Target", f"max by ({by_process}) {q.targets()}", texts=limits.DOWN_OR_UP, width=80),
            Column("App", q.least(catalog.HEALTHY, "job", "instance"), texts=limits.UNHEALTHY_OR_HEALTHY, width=90),
            Column("Event loop", f"min by ({by_process}) {loop}", texts=limits.BLOCKED_OR_TURNING, width=90),
            Column("Busy", q.ratio(busy, slots), units.PercentUnit, width=80),
            Column("Attempts", q.rate_now(catalog.TASKS_STARTED, "job", "instance"), units.OpsPerSecond, width=100),
            worst=["Target", "App"],
            ascending=True,
            width=13,
            height=LISTED,
            links=[runbook("FlowrraTargetDown"), TO_EXPORTER],
        ),
        table(
            "Tasks",
            f"The {OF_THE_WORST} names that failed most within the range shown, then those that ran most.",
            {"task": "Task"},
            Column("Failed", f"{failures} and on (task) {worst}", width=80),
            Column("Of all", f"{failed} and on (task) {worst}", units.PercentUnit, limits.FAILURES, width=80),
            Column("Attempts", f"{runs} and on (task) {worst}", width=90),
            worst=["Failed", "Attempts"],
            width=11,
            height=LISTED,
            key_links={"Task": TO_THE_TASK},
            links=[TO_TASKS],
        ),
    ]


FRAME = Frame(
    "flowrra-overview",
    "Overview",
    "Flowrra apps as their exporters see them: the fleet on one screen, what is wrong first.",
    {"": [*whether_well(), *whether_on_time(), *course(), *lists()]},
)
