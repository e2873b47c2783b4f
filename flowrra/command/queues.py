"""Commands on queues, and the state of the whole: its figures, its health."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import click

from flowrra.backends.memory import InMemoryBackend
from flowrra.command.apps import Session
from flowrra.command.bulk import act_on_many
from flowrra.command.group import app_command, confirm, limit_option, name_option, yes_option
from flowrra.command.output import print_fields, print_json, print_table, print_verdicts, shown
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager
from flowrra.management.answers import NamedQueueStats, Worker
from flowrra.management.queues import leasing_brokers

# What is added up over all queues.
_COUNTS = ("pending", "delayed", "in_flight", "dead", "unknown")


@app_command("stats")
def stats(session: Session) -> None:
    """The app at a glance: its workers, queues and tasks."""
    has_results = not isinstance(session.app.results, InMemoryBackend)

    async def look(manager: FlowrraManager) -> dict[str, Any]:
        queues, workers = await asyncio.gather(manager.list_queues(), manager.list_workers())
        return {
            "workers": _summed_up(workers),
            "queues": {key: _sum(each.get(key) for each in queues) for key in _COUNTS},
            "oldest_pending_at": min(filter(None, (each["oldest_pending_at"] for each in queues)), default=None),
            "paused": [f"{each['queue']} ({each['executor']})" for each in queues if each["paused"]],
            "tasks": await _count_tasks(manager) if has_results else None,
        }

    found = session.ask(look)
    if session.as_json:
        return print_json(found)
    slots = found["workers"]["slots"].items()
    busy = [f"{kind}: {each['busy']} of {each['slots']} slots busy" for kind, each in slots]
    print_fields(
        {
            "Workers": "; ".join([str(found["workers"]["count"]), *busy]),
            **{key.replace("_", " ").capitalize(): found["queues"][key] for key in _COUNTS},
            "Oldest pending since": found["oldest_pending_at"],
            "Paused": ", ".join(found["paused"]) or None,
            "Tasks": found["tasks"] and ", ".join(f"{count} {status}" for status, count in found["tasks"].items()),
        }
    )
    return None


async def _count_tasks(manager: FlowrraManager) -> dict[str, int] | None:
    """How many tasks there are of each status; None with a result backend that can't list."""
    try:
        return await manager.count_tasks()
    except BackendError as error:
        if isinstance(error.__cause__, NotImplementedError):
            return None
        raise


def _summed_up(workers: Sequence[Worker]) -> dict[str, Any]:
    slots: dict[str, dict[str, int]] = {}
    for worker in workers:
        for kind, each in worker["executors"].items():
            total = slots.setdefault(kind, {"slots": 0, "busy": 0})
            total["slots"] += each["slots"]
            total["busy"] += each["busy"]
    return {
        "count": len(workers),
        "draining": sum(worker["draining"] for worker in workers),
        "slots": dict(sorted(slots.items(), reverse=True)),
    }


def _sum(figures: Iterable[Any]) -> int | None:
    """All added up; None if one can't be had."""
    known = list(figures)
    return None if None in known else sum(known)


@app_command("queues")
def list_queues(session: Session) -> None:
    """Lists the queues, the default ones first."""
    queues: list[NamedQueueStats] = session.ask(lambda manager: manager.list_queues())
    if session.as_json:
        return print_json(queues)
    keys = ("queue", "executor", *_COUNTS, "oldest_pending_at", "paused")
    head = ("QUEUE", "KIND", "PENDING", "DELAYED", "IN FLIGHT", "DEAD", "UNKNOWN", "OLDEST PENDING", "PAUSED")
    print_table(head, [[queue.get(key) for key in keys] for queue in queues])
    return None


@app_command("health")
def health(session: Session) -> int:
    """Whether tasks get on: the servers answer, and a worker lives. Exit status 0 if so, 1 if not."""

    async def look(manager: FlowrraManager) -> dict[str, Any]:
        components = (await manager.health_check())["components"]
        judged: dict[str, Any] = {name: components[name] for name in ("broker", "backend") if components.get(name)}
        if leasing_brokers(manager.app):  # no other one knows the workers
            judged["workers"] = await _judge_workers(manager)
        return {"healthy": all(each["healthy"] for each in judged.values()), "components": judged}

    found = session.ask(look)
    if session.as_json:
        print_json(found)
    else:
        components = found["components"].items()
        print_verdicts({name: (component["healthy"], component["message"]) for name, component in components})
    return 0 if found["healthy"] else 1


async def _judge_workers(manager: FlowrraManager) -> dict[str, Any]:
    try:
        workers = await manager.list_workers()
    except Exception as error:  # noqa: BLE001 - whatever it is, they are not known
        return {"healthy": False, "message": f"not known: {error}"}
    draining = sum(worker["draining"] for worker in workers)
    full = [kind for kind, slots in _summed_up(workers)["slots"].items() if slots["busy"] >= slots["slots"] > 0]
    message = ", ".join(
        [
            f"{len(workers)} alive",
            *([f"{draining} draining"] if draining else []),
            *(f"all {kind} slots busy" for kind in full),
        ]
    )
    return {"healthy": draining < len(workers), "message": message}


@app_command("purge")
@click.argument("queue")
@name_option
@limit_option(1000)
@yes_option
def purge(session: Session, queue: str, name: str | None, limit: int, yes: bool) -> None:
    """Cancels what waits in a queue. What runs goes on, and dead tasks stay."""
    meant = f"of the name {shown(name)} " if name else ""
    confirm(f"Cancel the tasks {meant}that wait in the queue {shown(queue)}?", yes)

    async def count(manager: FlowrraManager) -> int:
        kinds = [each for each in await manager.list_queues() if each["queue"] == queue]
        return sum(each[key] or 0 for each in kinds for key in ("pending", "delayed", "unknown"))

    act_on_many(
        session,
        "cancelled",
        limit,
        count,
        lambda manager, tell: manager.purge_queue(queue, name, limit, progress=tell),
    )


@app_command("pause")
@click.argument("queue", required=False)
@click.option("--task", metavar="NAME", help="In place of a queue: the tasks of that name.")
def pause(session: Session, queue: str | None, task: str | None) -> None:
    """Has workers begin no more tasks of a queue, or of a name. Running ones go on."""
    _pause(session, queue, task, True)


@app_command("resume")
@click.argument("queue", required=False)
@click.option("--task", metavar="NAME", help="In place of a queue: the tasks of that name.")
def resume(session: Session, queue: str | None, task: str | None) -> None:
    """Has workers begin tasks of a queue, or of a name, again."""
    _pause(session, queue, task, False)


def _pause(session: Session, queue: str | None, task: str | None, is_paused: bool) -> None:
    if (queue is None) is (task is None):
        raise click.UsageError("Give either a queue or --task NAME")

    async def act(manager: FlowrraManager) -> bool:
        if queue is not None:
            return await (manager.pause_queue(queue) if is_paused else manager.resume_queue(queue))
        return await (manager.pause_task(task or "") if is_paused else manager.resume_task(task or ""))

    changed = session.ask(act)
    if session.as_json:
        return print_json({"changed": changed})
    meant = f"Queue {shown(queue)}" if queue is not None else f"Task {shown(task)}"
    done, already = ("is paused", "is paused already") if is_paused else ("is resumed", "is not paused")
    click.echo(f"{meant} {done if changed else already}")
    return None
