"""Commands on the processes that run tasks."""

from __future__ import annotations

import click

from flowrra.command.apps import Session
from flowrra.command.group import app_command
from flowrra.command.output import print_json, print_table, shown
from flowrra.management.answers import Worker
from flowrra.management.pools import ALL_WORKERS


@app_command("workers")
def list_workers(session: Session) -> None:
    """Lists the processes that run tasks."""
    workers = session.ask(lambda manager: manager.list_workers())
    if session.as_json:
        return print_json(workers)
    print_table(
        ("ID", "HOST", "PID", "VERSION", "STARTED", "HEARTBEAT", "IO", "CPU", "DRAINING"),
        [
            (
                worker["id"],
                worker["host"],
                worker["pid"],
                worker["version"],
                worker["started_at"],
                worker["heartbeat_at"],
                _slots(worker, "io"),
                _slots(worker, "cpu"),
                worker["draining"],
            )
            for worker in workers
        ],
    )
    return None


def _slots(worker: Worker, kind: str) -> str | None:
    slots = worker["executors"].get(kind)
    return None if slots is None else f"{slots['busy']}/{slots['slots']}"


@app_command("resize")
@click.argument("executor", type=click.Choice(["io", "cpu"]))
@click.argument("n", type=click.IntRange(1))
@click.option("--worker", metavar="ID", default=ALL_WORKERS, show_default=True, help="The worker.")
def resize(session: Session, executor: str, n: int, worker: str) -> None:
    """Changes how many tasks of a kind each worker runs at once."""
    told = session.ask(lambda manager: manager.resize_workers(executor, n, worker))
    if session.as_json:
        print_json({"told": told})
    else:
        click.echo(f"{told} worker{'' if told == 1 else 's'} told to run {n} {executor} tasks at once")


@app_command("drain")
@click.argument("worker", metavar="ID")
def drain(session: Session, worker: str) -> None:
    """Has a worker begin no more tasks; its process stays up."""
    changed = session.ask(lambda manager: manager.drain_worker(worker))
    _print_change(session, changed, f"Worker {shown(worker)} drains{'' if changed else ' already'}")


@app_command("resume-worker")
@click.argument("worker", metavar="ID")
def resume_worker(session: Session, worker: str) -> None:
    """Has a drained worker begin tasks again."""
    changed = session.ask(lambda manager: manager.resume_worker(worker))
    _print_change(session, changed, f"Worker {shown(worker)} {'takes tasks again' if changed else 'does not drain'}")


def _print_change(session: Session, changed: bool, text: str) -> None:
    if session.as_json:
        print_json({"changed": changed})
    else:
        click.echo(text)
