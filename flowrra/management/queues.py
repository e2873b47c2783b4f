"""What waits for workers, what was given up, and who the workers are."""

from __future__ import annotations

from typing import Any, cast

from flowrra.app import Flowrra
from flowrra.brokers.base import LeasingBroker
from flowrra.executors.base import BaseTaskExecutor
from flowrra.management.answers import DeadTask, Queues, QueueStats, Worker
from flowrra.management.tasks import check_limit
from flowrra.task import TaskStatus


def leasing_brokers(app: Flowrra) -> dict[str, LeasingBroker]:
    """The brokers that lease tasks, by the kind of task."""
    brokers = {kind: executor.broker for kind, executor in app.executors.items()}
    return {kind: broker for kind, broker in brokers.items() if isinstance(broker, LeasingBroker)}


async def queues(app: Flowrra) -> Queues:
    """The queues of both kinds of task."""
    executors = app.executors
    found: Queues = {"io": await _queue(executors.get("io")), "cpu": await _queue(executors.get("cpu"))}
    if app.config.broker is not None:
        reasons = await app.broker_fitness.reasons()
        unfit = {reason: None if text is None else bool(text) for reason, text in reasons.items()} or None
        for queue in (found["io"], found["cpu"]):
            if queue is not None:
                queue["unfit"] = unfit
    return found


async def _queue(executor: BaseTaskExecutor | None) -> QueueStats | None:
    if executor is None:
        return None
    source = executor.source
    figures = await source.figures()
    return {
        "pending": figures.pending,
        "delayed": figures.delayed,
        "in_flight": figures.in_flight,
        "dead": figures.dead,
        "unknown": figures.unknown,
        "oldest_pending_at": figures.oldest_pending_at,
        "paused": source.paused,
        "broker": source.name,
        "namespace": source.namespace,
        "shared": source.shared,
    }


async def workers(app: Flowrra) -> list[Worker]:
    """The processes that run tasks: those that announce themselves through the broker, or this one."""
    for broker in leasing_brokers(app).values():
        return cast(list[Worker], await broker.list_workers())
    executors = app.executors.values()
    if not app.is_running or (executors and not any(executor.takes_tasks for executor in executors)):
        return []
    return [cast(Worker, {**app.announcement(), "heartbeat_at": app.loop_monitor.last_beat_at()})]


async def dead_tasks(app: Flowrra, limit: int | None) -> list[DeadTask]:
    """Tasks that were given up, the latest first."""
    check_limit(limit)
    dead: list[dict[str, Any]] = []
    for kind, broker in leasing_brokers(app).items():
        dead += [{"executor": kind, **task} for task in await broker.list_dead(limit)]
    return cast(list[DeadTask], sorted(dead, key=lambda task: task["dead_since"], reverse=True)[:limit])


async def requeue_dead_task(app: Flowrra, task_id: str) -> bool:
    """Make a dead task pending again; whether there was one of that id."""
    record = await app.get_result(task_id)
    if record is not None:
        record.status, record.error, record.traceback = TaskStatus.PENDING, None, None
        record.started_at = record.finished_at = None
    for broker in leasing_brokers(app).values():
        if await broker.requeue_dead(task_id, record):
            return True
    return False


async def delete_dead_task(app: Flowrra, task_id: str) -> bool:
    """Forget a dead task; whether there was one of that id."""
    return any([await broker.delete_dead(task_id) for broker in leasing_brokers(app).values()])
