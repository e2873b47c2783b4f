"""Pieces of PromQL that several rules need."""

from __future__ import annotations

# What a queue is told apart by. One that processes share has a server and a namespace, one of a process's own has an
# instance: in memory, and where an app doesn't tell its server.
QUEUE = "job, instance, server, namespace, executor, queue"
BROKER = "server, namespace"
SCHEDULE = "job, instance, store, schedule, task"
_PROCESS = "job, instance"


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
    taken = f"{_PROCESS}, executor, queue"
    shared, own = (
        f"{figure} * on ({taken}) group_left (server, namespace) "
        f"{once('flowrra_queue_info', match, taken, 'server', 'namespace')}"
        for match in ('server!=""', 'server=""')
    )
    return f"{operator} by (server, namespace, executor, queue) ({shared})\nor\n{operator} by ({taken}) ({own})"


def of_takers(figure: str) -> str:
    """A figure of the executors, by queue: summed up over the processes that take from it; else of its own process.

    A process that doesn't tell from which queues it takes, takes from all that it tells of: they are its own.

    Args:
        figure: The figure, by job, instance and executor.
    """
    executor = f"on ({_PROCESS}, executor)"
    taken_from = f"(flowrra_executor_queue_info or flowrra_queue_info unless {executor} flowrra_executor_queue_info)"
    slots = f"max by ({_PROCESS}, executor) ({figure})"
    taken = f"group by ({_PROCESS}, executor, queue) {taken_from} * {executor} group_left () {slots}"
    shared, own = (
        f"{taken} * on ({_PROCESS}) group_left (server, namespace) "
        f"{once('flowrra_queue_info', match, _PROCESS, 'server', 'namespace')}"
        for match in ('server!=""', 'server=""')
    )
    return (
        f"sum by (server, namespace, executor, queue) ({shared})\nor\nsum by (job, instance, executor, queue) ({own})"
    )


def of_brokers(figure: str, *by: str) -> str:
    """A figure that all processes of a broker's namespace see alike, once for each and for further labels."""
    labels = ", ".join((BROKER, *by))
    place = once("flowrra_queue_info", 'server!=""', _PROCESS, "server", "namespace")
    return f"max by ({labels}) (\n  {figure}\n  * on ({_PROCESS}) group_left (server, namespace)\n  {place}\n)"


def of_schedules(operator: str, figure: str) -> str:
    """A figure of the schedules: once for each store that is shared, and for each process that has one of its own."""
    return of_stores(operator, figure, "schedule", "task")


def of_stores(operator: str, figure: str, *by: str) -> str:
    """A figure by store of schedules, and for further labels: that of each process for what it has in memory."""
    shared, own = (
        f"{figure} * on ({_PROCESS}) group_left (store) {once('flowrra_scheduler_info', match, _PROCESS, 'store')}"
        for match in ('store!=""', 'store=""')
    )
    return (
        f"{operator} by ({', '.join(('store', *by))}) ({shared})\n"
        f"or\n{operator} by ({', '.join((_PROCESS, *by))}) ({own})"
    )


def once(info: str, match: str, on: str, *told: str) -> str:
    """What an info tells of each process, once: a target whose labels change, or whose address another one has by now,
    is there twice for a while. Prometheus joins nothing to two, and the rule then fails for everybody."""
    selector = f"{info}{{{match}}}" if match else info
    return f"topk by ({on}) (1, group by ({', '.join((on, *told))}) ({selector}))"


def is_lost(collector: str | None = None) -> str:
    """The instances that can't be asked; or whose collector of that name, the source of a figure, fails."""
    failing = f' or flowrra_collector_success{{collector="{collector}"}} == 0' if collector else ""
    return f"on (job, instance) (up == 0{failing})"
