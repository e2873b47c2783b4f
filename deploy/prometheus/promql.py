"""Pieces of PromQL that several rules need."""

from __future__ import annotations

# What a queue is told apart by. One that processes share has a server and a namespace, one of a process's own has an
# instance: in memory, and where an app doesn't tell its server.
QUEUE = "job, instance, server, namespace, executor, queue"
BROKER = "server, namespace"
SCHEDULE = "job, instance, store, schedule, task"


def duration(seconds: float) -> str:
    """Seconds as Prometheus writes them: ``90s``, ``5m``, ``6h``, ``500ms``."""
    for unit, name in ((3600.0, "h"), (60.0, "m"), (1.0, "s")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds * 1000:.0f}ms"


def of_queues(operator: str, figure: str) -> str:
    """A figure of the queues: once for each that is shared, and for each process that has one of its own.

    Args:
        operator: ``max`` or ``min``: processes that share a queue tell the same, but for the time of their scrapes.
        figure: The figure, by job, instance, executor and queue.
    """
    where = f"{figure} * on (job, instance, executor, queue) group_left (server, namespace) flowrra_queue_info"
    return (
        f"{operator} by (server, namespace, executor, queue) ({where}{{server!=''}})\n"
        f"or\n{operator} by (job, instance, executor, queue) ({where}{{server=''}})"
    ).replace("''", '""')


def of_takers(figure: str) -> str:
    """A figure of the executors, by queue: summed up over the processes that take from it; else of its own process.

    A process that doesn't tell from which queues it takes, takes from all that it tells of: they are its own.

    Args:
        figure: The figure, by job, instance and executor.
    """
    executor = "on (job, instance, executor)"
    taken_from = f"(flowrra_executor_queue_info or flowrra_queue_info unless {executor} flowrra_executor_queue_info)"
    taken = f"group by (job, instance, executor, queue) {taken_from} * {executor} group_left () ({figure})"
    places = "on (job, instance) group_left (server, namespace) group by (job, instance, server, namespace)"
    where = f"{taken} * {places} (flowrra_queue_info"
    return (
        f'sum by (server, namespace, executor, queue) ({where}{{server!=""}}))\n'
        f'or\nsum by (job, instance, executor, queue) ({where}{{server=""}}))'
    )


def of_brokers(figure: str, *by: str) -> str:
    """A figure that all processes of a broker's namespace see alike, once for each and for further labels."""
    labels = ", ".join((BROKER, *by))
    return (
        f"max by ({labels}) (\n  {figure}\n  * on (job, instance) group_left (server, namespace)\n"
        f'  group by (job, instance, server, namespace) (flowrra_queue_info{{server!=""}})\n)'
    )


def of_schedules(operator: str, figure: str) -> str:
    """A figure of the schedules: once for each store that is shared, and for each process that has one of its own."""
    where = f"{figure} * on (job, instance) group_left (store) flowrra_scheduler_info"
    return (
        f"{operator} by (store, schedule, task) ({where}{{store!=''}})\n"
        f"or\n{operator} by (job, instance, schedule, task) ({where}{{store=''}})"
    ).replace("''", '""')


def is_lost(collector: str | None = None) -> str:
    """The instances that can't be asked; or whose collector of that name, the source of a figure, fails."""
    failing = f' or flowrra_collector_success{{collector="{collector}"}} == 0' if collector else ""
    return f"on (job, instance) (up == 0{failing})"
