"""What waits for workers, what was given up, and who the workers are."""

from __future__ import annotations

from typing import Any, cast

from flowrra.app import Flowrra
from flowrra.arguments import check_id, check_text
from flowrra.brokers.base import LeasingBroker, QueueFigures
from flowrra.exceptions import BackendError
from flowrra.executors.base import BaseTaskExecutor
from flowrra.executors.records import BrokerRecords
from flowrra.management.answers import DeadTask, NamedQueueStats, Queues, QueueStats, Worker
from flowrra.management.tasks import check_limit
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.task import TaskResult, TaskStatus


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
        "paused_tasks": figures.paused_tasks,
        "broker": source.name,
        "namespace": source.namespace,
        "server": source.server,
        "shared": source.shared,
        "drain_seconds": flow.drain_seconds(
            figures.pending - (figures.paused_tasks or 0), figures.taken, is_paused=bool(figures.paused)
        ),
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
    for argument, text in (("name", name), ("reason", reason)):
        if text is not None:
            check_text(argument, text)
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
    check_id("task_id", task_id)
    for kind, broker in leasing_brokers(app).items():
        for queue in await broker.queues():
            if (task := await broker.get_dead(task_id, queue)) is not None:
                return cast(DeadTask, {"executor": kind, **task, "queue": queue})
    return None


def _place(app: Flowrra, dead: DeadTask) -> tuple[LeasingBroker, str]:
    """The queue of a dead task, with its broker."""
    return leasing_brokers(app)[dead["executor"]], dead["queue"]


async def _places(app: Flowrra, dead: DeadTask | None) -> list[tuple[LeasingBroker, str]]:
    """The queue of a dead task, with its broker; all queues if it isn't known."""
    if dead is not None:
        return [_place(app, dead)]
    return [(broker, queue) for broker in leasing_brokers(app).values() for queue in await broker.queues()]


async def requeue_dead_task(app: Flowrra, task_id: str, dead: DeadTask | None = None) -> bool:
    """Make a dead task pending again; whether there was one of that id. It is looked for, unless it is given.

    Raises:
        BackendError: The broker or the results could not be asked, or the record can't be stored: then it stays dead.
    """
    check_id("task_id", task_id)
    record = await app.get_result(task_id)
    dead = dead or await find_dead_task(app, task_id)
    pending = None if record is None else _pending_again(record)
    # Told first: a worker has it the moment that it is requeued, and tells what comes next. Of one that can't be read
    # nothing is told: it dies again.
    if pending is not None and dead is not None:
        await _keep_record(app, dead, pending)
    for broker, queue in await _places(app, dead):
        if await broker.requeue_dead(task_id, pending, queue):
            return True
    if record is not None and dead is not None and not await is_queued(app, task_id, dead):
        await _keep_record(app, dead, record)  # it was deleted, or run anew, meanwhile
    return False


def _pending_again(record: TaskResult) -> TaskResult:
    pending = record.copy()
    pending.status, pending.error, pending.traceback = TaskStatus.PENDING, None, None
    pending.started_at = pending.finished_at = pending.worker = pending.progress = None
    return pending


async def _keep_record(app: Flowrra, dead: DeadTask, record: TaskResult) -> None:
    """Keep the record of a dead task, unless the broker does that as it requeues the task, and publish it."""
    records = app.executors[dead["executor"]].source.records

    async def keep() -> None:
        if not await records.store(record):
            raise BackendError(f"Task '{record.task_id}' stays dead: its record could not be stored")
        records.publish(record)

    if records.has_subscribers or not isinstance(records, BrokerRecords):
        await app.run_on_app_loop(keep)


async def claim_dead_task(app: Flowrra, task_id: str, dead: DeadTask, new_id: str) -> str | None:
    """Say under which id a dead task is run anew, so that nobody requeues it as well; the id that counts, or None if it
    is dead no more."""
    broker, queue = _place(app, dead)
    return await broker.claim_dead(task_id, new_id, queue)


async def release_dead_task(app: Flowrra, task_id: str, dead: DeadTask, new_id: str) -> None:
    """Take back what was said by :func:`claim_dead_task`."""
    broker, queue = _place(app, dead)
    await broker.release_dead(task_id, new_id, queue)


async def delete_dead_task(app: Flowrra, task_id: str, dead: DeadTask | None = None) -> bool:
    """Forget a dead task; whether there was one of that id. It is looked for, unless it is given."""
    check_id("task_id", task_id)
    return any([await broker.delete_dead(task_id, queue) for broker, queue in await _places(app, dead)])


async def is_queued(app: Flowrra, task_id: str, dead: DeadTask) -> bool:
    """Whether a task that was dead waits in its queue again, or is held by a worker."""
    return any([await broker.has(task_id, queue) for broker, queue in await _places(app, dead)])
