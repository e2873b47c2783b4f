"""What waits for workers, what was given up, and who the workers are."""

from __future__ import annotations

from typing import Any, cast

from flowrra.app import Flowrra
from flowrra.brokers.base import LeasingBroker, QueueFigures
from flowrra.executors.base import BaseTaskExecutor
from flowrra.management.answers import DeadTask, NamedQueueStats, Queues, QueueStats, Worker
from flowrra.management.tasks import check_limit
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.task import TaskStatus


def leasing_brokers(app: Flowrra) -> dict[str, LeasingBroker]:
    """The brokers that lease tasks, by the kind of task."""
    brokers = {kind: executor.broker for kind, executor in app.executors.items()}
    return {kind: broker for kind, broker in brokers.items() if isinstance(broker, LeasingBroker)}


async def queues(app: Flowrra) -> Queues:
    """The default queues of both kinds of task."""
    executors, server = app.executors, await _server(app)
    found: Queues = {"io": None, "cpu": None}
    if (io := executors.get("io")) is not None:
        found["io"] = _queue_stats(app, io, DEFAULT_QUEUE, await io.source.figures(), server)
    if (cpu := executors.get("cpu")) is not None:
        found["cpu"] = _queue_stats(app, cpu, DEFAULT_QUEUE, await cpu.source.figures(), server)
    return found


async def all_queues(app: Flowrra) -> list[NamedQueueStats]:
    """All queues of both kinds of task, the default ones first."""
    server = await _server(app)
    found: list[NamedQueueStats] = [
        {"queue": queue, "executor": kind, **_queue_stats(app, executor, queue, figures, server)}
        for kind, executor in app.executors.items()
        for queue, figures in (await executor.source.figures_by_queue()).items()
    ]
    # Names come and go: what was seen of a queue that is no more is not kept.
    for gone in app.queue_flows.copy().keys() - {_flow_key(each["executor"], each["queue"]) for each in found}:
        app.queue_flows.pop(gone, None)
    return found


def _flow_key(kind: str, queue: str) -> str:
    return kind if queue == DEFAULT_QUEUE else f"{kind}@{queue}"


async def _server(app: Flowrra) -> dict[str, Any]:
    """What the broker's server says of itself, as a part of an answer; empty without a broker."""
    # Both kinds of task have the same server.
    broker = next((executor.broker for executor in app.executors.values() if executor.broker is not None), None)
    if broker is None:
        return {}
    reasons = await app.broker_fitness.reasons()
    return {
        "unfit": {reason: None if text is None else bool(text) for reason, text in reasons.items()} or None,
        **broker.server_figures._asdict(),
        "lease": broker.lease if isinstance(broker, LeasingBroker) else None,
    }


def _queue_stats(
    app: Flowrra,
    executor: BaseTaskExecutor,
    queue: str,
    figures: QueueFigures,
    server: dict[str, Any],
) -> QueueStats:
    source = executor.source
    flow = app.queue_flows[_flow_key(executor.kind, queue)]
    stats: QueueStats = {
        "pending": figures.pending,
        "delayed": figures.delayed,
        "in_flight": figures.in_flight,
        "taken": figures.taken,
        "dead": figures.dead,
        "unknown": figures.unknown,
        "oldest_pending_at": figures.oldest_pending_at,
        "paused": figures.paused,
        "broker": source.name,
        "namespace": source.namespace,
        "server": source.server,
        "shared": source.shared,
        "drain_seconds": flow.drain_seconds(figures.pending, figures.taken, is_paused=bool(figures.paused)),
    }
    return cast(QueueStats, {**stats, **server})


async def workers(app: Flowrra) -> list[Worker]:
    """The processes that run tasks: those that announce themselves through the broker, or this one."""
    for broker in leasing_brokers(app).values():
        return cast(list[Worker], [{"draining": False, **worker} for worker in await broker.list_workers()])
    executors = app.executors.values()
    if not app.is_running or (executors and not any(executor.takes_tasks for executor in executors)):
        return []
    return [cast(Worker, {**app.announcement(), "heartbeat_at": app.loop_monitor.last_beat_at()})]


async def dead_tasks(
    app: Flowrra, limit: int | None, name: str | None = None, reason: str | None = None
) -> list[DeadTask]:
    """Tasks that were given up, the latest first: of that name, and with that text in the reason."""
    check_limit(limit)
    dead: list[dict[str, Any]] = []
    is_any = name is None and reason is None
    for kind, broker in leasing_brokers(app).items():
        for queue in await broker.queues():
            found = await broker.list_dead(limit if is_any else None, queue)
            dead += [{"executor": kind, **task, "queue": queue} for task in found]
    meant = [
        task for task in dead if name in (None, task["task_name"]) and (reason is None or reason in task["reason"])
    ]
    return cast(list[DeadTask], sorted(meant, key=lambda task: task["dead_since"], reverse=True)[:limit])


async def find_dead_task(app: Flowrra, task_id: str) -> DeadTask | None:
    """One task that was given up; None if there is none of that id."""
    for kind, broker in leasing_brokers(app).items():
        for queue in await broker.queues():
            if (task := await broker.get_dead(task_id, queue)) is not None:
                return cast(DeadTask, {"executor": kind, **task, "queue": queue})
    return None


async def _places(app: Flowrra, dead: DeadTask | None) -> list[tuple[LeasingBroker, str]]:
    """The queue of a dead task, with its broker; all queues if it isn't known."""
    brokers = leasing_brokers(app)
    if dead is not None:
        return [(brokers[dead["executor"]], dead["queue"])]
    return [(broker, queue) for broker in brokers.values() for queue in await broker.queues()]


async def requeue_dead_task(app: Flowrra, task_id: str, dead: DeadTask | None = None) -> bool:
    """Make a dead task pending again; whether there was one of that id. It is looked for, unless it is given."""
    record = await app.get_result(task_id)
    if record is not None:
        record.status, record.error, record.traceback = TaskStatus.PENDING, None, None
        record.started_at = record.finished_at = record.worker = record.progress = None
    for broker, queue in await _places(app, dead):
        if await broker.requeue_dead(task_id, record, queue):
            return True
    return False


async def delete_dead_task(app: Flowrra, task_id: str, dead: DeadTask | None = None) -> bool:
    """Forget a dead task; whether there was one of that id. It is looked for, unless it is given."""
    return any([await broker.delete_dead(task_id, queue) for broker, queue in await _places(app, dead)])


async def is_queued(app: Flowrra, task_id: str, dead: DeadTask) -> bool:
    """Whether a task that was dead waits in its queue again, or is held by a worker."""
    return any([await broker.has(task_id, queue) for broker, queue in await _places(app, dead)])
