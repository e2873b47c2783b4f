"""Queues and workers: what waits, where, for how long, and who takes it."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import BAD, GOOD, PLAIN, WARNING
from grafana.frame import Frame
from grafana.links import TO_TASKS
from grafana.panels import NONE, Column, Panel, Query, Text, Threshold, figure, graph, runbook, table

BROKER_LEGEND = "{{job}}{{server}} {{namespace}}"


def now() -> list[Panel]:
    """How it is just now, over all queues that are chosen."""
    pending = q.queued(catalog.QUEUE_PENDING)
    stuck = q.series(catalog.EXECUTOR_STUCK)
    paused = f"sum({q.queued(catalog.QUEUE_PAUSED, own='max')})"
    return [
        figure(
            "Oldest waiting",
            "For how long the task that waits longest has been due, of those that may be begun.",
            q.or_none(f"max(time() - {q.oldest_to_take()})", pending),
            unit=units.Seconds,
            thresholds=limits.OLDEST_WAITING,
            texts={"0": Text("nothing to take", GOOD)},
            links=[runbook("FlowrraOldestTaskTooOld"), runbook("FlowrraNoProgress")],
        ),
        figure("Waiting", "Tasks that could run now.", f"sum({pending})", base=PLAIN, width=4),
        figure(
            "Worker processes",
            "Live processes that take tasks, as the brokers know them: gone 15 s after a kill. None as soon as one of "
            "the brokers has none.",
            q.sum_unless_none(q.by_broker(catalog.WORKER_PROCESSES)),
            base=BAD,
            thresholds=[Threshold(1, GOOD)],
            texts={"0": Text("none", BAD)},
            width=3,
            links=[runbook("FlowrraNoWorkers")],
        ),
        figure(
            "Busy slots",
            "Of the slots of those who take from a queue, how many run a task: of the queue of which most do.",
            q.busiest(),
            unit=units.PercentUnit,
            thresholds=limits.BUSY,
            width=3,
            links=[runbook("FlowrraSaturated")],
        ),
        figure(
            "Stuck executors",
            "Executors whose slots are all held by tasks that should have ended long ago, while others wait.",
            q.or_none(f"(sum({stuck}) > 0)", stuck),
            thresholds=limits.ANY,
            texts=NONE,
            width=4,
            links=[runbook("FlowrraExecutorStuck")],
        ),
        figure(
            "Dead tasks",
            "Tasks that were set aside: they can't be read, or workers died of them again and again.",
            f"sum({q.queued(catalog.QUEUE_DEAD)})",
            thresholds=limits.ANY,
            texts=NONE,
            width=3,
            links=[runbook("FlowrraDeadTasks")],
        ),
        figure(
            "Paused queues",
            "Queues of which nothing is begun, by request.",
            paused,
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            width=3,
        ),
    ]


def by_queue() -> list[Panel]:
    """All queues, those that hold the oldest task first."""
    return [
        table(
            "Queues",
            "Each queue once, however many processes see it; the one with the oldest task first. Queues in memory are "
            "added up by job.",
            {"server": "Server", "namespace": "Namespace", "job": "Job", "executor": "Executor", "queue": "Queue"},
            Column("Oldest", f"time() - {q.oldest()}", units.Seconds, limits.OLDEST_WAITING),
            Column("Waiting", q.queued(catalog.QUEUE_PENDING)),
            Column("Drained in", q.queued(catalog.QUEUE_DRAIN, own="max"), units.Seconds),
            Column("Delayed", q.queued(catalog.QUEUE_DELAYED)),
            Column("In flight", q.queued(catalog.QUEUE_IN_FLIGHT)),
            Column("Unknown", q.queued(catalog.QUEUE_UNKNOWN), thresholds=[Threshold(1, WARNING)]),
            Column("Dead", q.queued(catalog.QUEUE_DEAD), thresholds=limits.ANY),
            Column("Paused", q.queued(catalog.QUEUE_PAUSED, own="max"), texts=limits.PAUSED),
            worst=["Oldest", "Waiting"],
        )
    ]


def queues() -> list[Panel]:
    """How queues grew and shrank."""
    return [
        _by_queue(
            "Waiting, by queue",
            "Tasks that could run now. Rising for long, workers are too few.",
            catalog.QUEUE_PENDING,
        ),
        graph(
            "Oldest waiting, by queue",
            "For how long the task that waits longest has been due. Nothing while nothing waits.",
            Query(f"time() - {q.oldest()}", q.QUEUE_LEGEND),
            unit=units.Seconds,
            thresholds=limits.OLDEST_WAITING,
            links=[runbook("FlowrraOldestTaskTooOld")],
        ),
        _by_queue(
            "Time to drain",
            "Until all that waits has been taken, at the rate of the last five minutes. Nothing while a queue grows.",
            catalog.QUEUE_DRAIN,
            units.Seconds,
            own="max",
        ),
        graph(
            "Taken",
            "Tasks that workers take. While it stands still and tasks wait, the queue gets on nowhere.",
            Query(q.taken(), q.QUEUE_LEGEND),
            unit=units.OpsPerSecond,
            links=[runbook("FlowrraNoProgress")],
        ),
        graph(
            "In flight and delayed",
            "Tasks that workers hold, and tasks that wait for a later time: countdowns and retries.",
            Query(q.queued(catalog.QUEUE_IN_FLIGHT), f"in flight: {q.QUEUE_LEGEND}"),
            Query(q.queued(catalog.QUEUE_DELAYED), f"delayed: {q.QUEUE_LEGEND}"),
        ),
        graph(
            "Dead and unknown",
            "Tasks that were set aside, and tasks that wait for a worker that knows their name.",
            Query(q.queued(catalog.QUEUE_DEAD), f"dead: {q.QUEUE_LEGEND}"),
            Query(q.queued(catalog.QUEUE_UNKNOWN), f"unknown: {q.QUEUE_LEGEND}"),
            links=[runbook("FlowrraDeadTasks"), runbook("FlowrraUnknownTasks")],
        ),
    ]


def _by_queue(title: str, description: str, metric: Metric, unit: str = units.Short, own: str = "sum") -> Panel:
    return graph(title, description, Query(q.queued(metric, own), q.QUEUE_LEGEND), unit=unit)


def _of_all_workers(metric: Metric) -> str:
    return f"sum by (executor) ({q.by_broker(metric, 'executor')})"


def workers() -> list[Panel]:
    """Who takes the tasks."""
    busy, slots = catalog.EXECUTOR_BUSY_WORKERS, catalog.EXECUTOR_WORKERS
    return [
        graph(
            "Slots",
            "Slots that run a task, of all there are. All of them busy, and tasks wait. Those of all workers are what "
            "these tell their broker, also where nobody scrapes them.",
            Query(q.total(busy, "executor"), "{{executor}}: busy"),
            Query(q.total(slots, "executor"), "{{executor}}: slots"),
            Query(_of_all_workers(catalog.WORKER_BUSY_SLOTS), "{{executor}}: busy, all workers"),
            Query(_of_all_workers(catalog.WORKER_SLOTS), "{{executor}}: slots, all workers"),
            links=[runbook("FlowrraSaturated"), TO_TASKS],
        ),
        graph(
            "Busy slots, by process",
            "Of the slots of a process, how many run a task. One that stays idle while others are busy takes nothing.",
            Query(q.ratio(q.total(busy, "job", "instance"), q.total(slots, "job", "instance")), "{{job}} {{instance}}"),
            unit=units.PercentUnit,
            most=1,
            thresholds=limits.BUSY,
        ),
        graph(
            "Worker processes, by broker",
            "Live processes that take tasks, as the broker knows them: gone 15 s after a kill.",
            Query(q.by_broker(catalog.WORKER_PROCESSES), BROKER_LEGEND),
            links=[runbook("FlowrraNoWorkers")],
        ),
        graph(
            "Taken ahead",
            "Tasks that are in a process already and wait for a free slot there.",
            Query(q.total(catalog.EXECUTOR_WAITING_TASKS, "job", "instance"), "{{job}} {{instance}}"),
        ),
        graph(
            "Stuck, draining, paused",
            "Executors whose slots are all held by tasks that should have ended long ago, those that begin nothing by "
            "request, tasks that wait as their names are paused, and apps that are being stopped.",
            Query(q.total(catalog.EXECUTOR_STUCK, "executor"), "{{executor}}: stuck"),
            Query(q.total(catalog.EXECUTOR_DRAINING, "executor"), "{{executor}}: draining"),
            Query(q.queued(catalog.QUEUE_PAUSED_TASKS), f"paused tasks: {q.QUEUE_LEGEND}"),
            Query(q.total(catalog.APP_STOPPING), "stopping"),
            colors={"io: stuck": BAD, "cpu: stuck": BAD},
            links=[runbook("FlowrraExecutorStuck")],
        ),
        graph(
            "Died and replaced",
            "Workers that died and were replaced, and tasks that another worker had taken and not settled.",
            Query(q.increase(catalog.EXECUTOR_WORKER_RESTARTS), "workers"),
            Query(q.increase(catalog.TASKS_REDELIVERED), "redelivered tasks"),
            links=[runbook("FlowrraWorkersRestarting"), runbook("FlowrraRedeliveries")],
        ),
    ]


def broker() -> list[Panel]:
    """Where the tasks are kept."""
    used, limit = q.by_broker(catalog.BROKER_MEMORY_USED), q.by_broker(catalog.BROKER_MEMORY_LIMIT)
    # As of the scrape: between two of them it looks as old as that is ago.
    renewed = q.series(catalog.EXECUTOR_HEARTBEAT)
    heartbeat = f"max by (job, instance) (timestamp({renewed}) - {renewed})"
    return [
        graph(
            "Memory of the broker",
            "Of the memory that the broker's server may take, how much its data takes. Nothing if it has no limit.",
            Query(f"{used} / {limit}", BROKER_LEGEND),
            unit=units.PercentUnit,
            most=1,
            thresholds=limits.BROKER_MEMORY,
            links=[runbook("FlowrraBrokerFull")],
        ),
        graph(
            "Last renewal of leases",
            "For how long a process has not renewed the leases of its tasks; it does so every 5 s, or each quarter of "
            "a lease. Once a lease has run out, another worker runs the task as well.",
            Query(heartbeat, "{{job}} {{instance}}"),
            unit=units.Seconds,
            thresholds=limits.HEARTBEAT,
            links=[runbook("FlowrraHeartbeatLost")],
        ),
        graph(
            "Clocks",
            "By how much the clock of the broker's server is ahead of a process's. Bad once it is more than a lease.",
            Query(q.most(catalog.BROKER_CLOCK_OFFSET, "job", "instance"), "{{job}} {{instance}}"),
            Query(q.by_broker(catalog.BROKER_LEASE), f"lease of {BROKER_LEGEND}"),
            unit=units.Seconds,
            least=None,
            links=[runbook("FlowrraClockSkew")],
        ),
        graph(
            "Errors of broker and result backend",
            "Operations that failed. While it lasts, nothing is lost, and nothing gets on.",
            Query(q.rate(catalog.BROKER_ERRORS, "operation"), "broker: {{operation}}"),
            Query(q.rate(catalog.BACKEND_ERRORS, "operation"), "backend: {{operation}}"),
            unit=units.OpsPerSecond,
        ),
        graph(
            "Unfit broker, by reason",
            "1 while the broker's server is not fit to keep tasks: it drops keys, keeps nothing on disk, is a replica, "
            "is too old, or has another time.",
            Query(q.by_broker(catalog.BROKER_UNFIT, "reason"), f"{BROKER_LEGEND}: {{{{reason}}}}"),
            unit=units.BoolYesNo,
            most=1,
            links=[runbook("FlowrraBrokerUnfit")],
        ),
        graph(
            "Tasks lost at a stop",
            "Tasks that an app had accepted, and that its stop cancelled. A process that has ended is not scraped any "
            "more: its log and exit status say what its last stop has lost.",
            Query(q.increase(catalog.EXECUTOR_ABANDONED_TASKS, "executor", "state"), "{{executor}}, {{state}}"),
            links=[runbook("FlowrraTasksAbandoned")],
        ),
    ]


FRAME = Frame(
    "flowrra-queues",
    "Queues and workers",
    "What waits, where and for how long, and who takes it.",
    {
        "": [*now(), *by_queue()],
        "How queues grew": queues(),
        "Who takes from them": workers(),
        "Where they are kept": broker(),
    },
)
