"""Commands on submitted tasks: list, show, watch, cancel, run anew, submit; and on those that were given up."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from flowrra.command.apps import Session
from flowrra.command.bulk import act_on_each, act_on_ids, act_on_many, count_dead
from flowrra.command.group import (
    STATUS,
    app_command,
    confirm,
    limit_option,
    name_option,
    queue_option,
    reason_option,
    since_option,
    worker_option,
    yes_option,
)
from flowrra.command.output import described_progress, print_fields, print_json, print_table, print_text, shown
from flowrra.management import FlowrraManager
from flowrra.management.answers import TaskDetails

UNFINISHED = ("pending", "retrying", "running")
ids_argument = click.argument("ids", metavar="[ID]...", nargs=-1)
all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


@app_command("tasks")
@click.option("--status", type=STATUS, help="Tasks of that status.")
@click.option("--failed", is_flag=True, help="The same as --status failed.")
@name_option
@queue_option
@since_option
@click.option("--error", metavar="TEXT", help="Tasks whose last error contains that text.")
@worker_option
@limit_option(50)
@click.option("--cursor", metavar="CURSOR", help="Go on where the page before has ended.")
def list_tasks(session: Session, status: str | None, failed: bool, **wanted: Any) -> None:
    """Lists tasks, the latest submitted first."""
    if failed and status not in (None, "failed"):
        raise click.UsageError(f"Give either --failed or --status {status}")
    status = "failed" if failed else status
    page = session.ask(lambda manager: manager.list_tasks(status=status, **wanted), results=True)
    if session.as_json:
        return print_json(page)
    print_table(
        ("ID", "NAME", "STATUS", "QUEUE", "SUBMITTED", "ATTEMPTS", "ERROR"),
        [
            (
                task["task_id"],
                task["task_name"],
                task["status"],
                task["queue"],
                task["submitted_at"],
                task["attempts_begun"],
                task["error"],
            )
            for task in page["tasks"]
        ],
    )
    if page["next"] is not None:
        click.echo(f"More: --cursor {shown(page['next'])}")
    return None


@app_command("task")
@click.argument("task_id", metavar="ID")
def show_task(session: Session, task_id: str) -> int:
    """Shows all about one task: its attempts, its traceback."""
    task = session.ask(lambda manager: manager.get_task(task_id), results=True)
    if task is None:
        click.echo(f"flowrra: no task is known by the id {shown(task_id)}", err=True)
        return 1
    if session.as_json:
        print_json(task)
    else:
        _print_task(task)
    return 0


def _print_task(task: TaskDetails) -> None:
    print_fields(
        {
            "Id": task["task_id"],
            "Name": task["task_name"],
            "Status": task["status"],
            "Queue": task["queue"],
            "Submitted": task["submitted_at"],
            "Started": task["started_at"],
            "Finished": task["finished_at"],
            "Worker": task["worker"],
            "Arguments": list(task["args"]) or None,
            "By name": task["kwargs"] or None,
            "Progress": described_progress(task["progress"]),
            "Result": repr(task["result"]) if isinstance(task["result"], float) else task["result"],
            "Error": task["error"],
            "Run anew of": task["retry_of"],
            "Run anew as": task["retried_as"],
        }
    )
    if task["attempts"]:
        click.echo()
        print_table(
            ("ATTEMPT", "OUTCOME", "STARTED", "FINISHED", "WORKER", "ERROR"),
            [
                (
                    each["number"],
                    each["outcome"],
                    each["started_at"],
                    each["finished_at"],
                    each["worker"],
                    each["error"],
                )
                for each in task["attempts"]
            ],
        )
    if task["traceback"]:
        click.echo()
        print_text(task["traceback"].rstrip("\n"))


@app_command("cancel")
@ids_argument
@click.option("--status", type=click.Choice(UNFINISHED), help="Tasks of that status.")
@name_option
@queue_option
@since_option
@worker_option
@limit_option(1000)
@yes_option
def cancel(session: Session, ids: tuple[str, ...], limit: int, yes: bool, **wanted: Any) -> int:
    """Cancels the tasks of these ids, or those for which all of the options hold."""
    if _by_ids(ids, wanted):
        return act_on_each(session, ids, "cancelled", lambda manager, task_id: manager.cancel_task(task_id))
    confirm(f"Cancel up to {limit} unfinished tasks with {_described(wanted)}?", yes)

    async def count(manager: FlowrraManager) -> int:
        counts = await manager.count_tasks()
        return sum(counts[status] for status in UNFINISHED if wanted["status"] in (None, status))

    return act_on_many(
        session,
        "cancelled",
        limit,
        count,
        lambda manager, tell: manager.cancel_tasks(limit=limit, progress=tell, **wanted),
        results=True,
    )


@app_command("retry")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def retry(session: Session, ids: tuple[str, ...]) -> None:
    """Runs finished tasks anew, each once, under new ids. Needs the app's code: --app."""

    act_on_ids(
        session,
        ids,
        lambda manager, task_id: manager.retry_task(task_id),
        lambda new_id: f"runs anew as {shown(new_id)}",
        results=True,
    )


@app_command("submit")
@click.argument("name")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@click.option("-k", "--kwarg", "named", metavar="KEY=VALUE", multiple=True, help="An argument by name; repeatable.")
@click.option("--queue", metavar="QUEUE", help="The queue. [default: the task's own]")
@click.option("--countdown", type=click.FloatRange(0), metavar="SECONDS", help="When it is due, from now.")
@click.option("--priority", type=int, help="Lower numbers run first. [default: the task's own]")
@click.option("--task-id", metavar="ID", help="Its id; one that exists is not submitted again.")
def submit(session: Session, name: str, arguments: tuple[str, ...], named: tuple[str, ...], **options: Any) -> None:
    """Submits a task of that name, and prints its id. Arguments are JSON; what is no JSON is text. Needs the app's
    code: --app."""
    args = [_value(text) for text in arguments]
    kwargs = _named(named)

    async def submit_it(manager: FlowrraManager) -> str:
        return await manager.app.options(**options).submit(name, *args, **kwargs)

    task_id = session.ask(submit_it)
    if session.as_json:
        print_json({"task_id": task_id})
    else:
        click.echo(shown(task_id))


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):  # what is nested too deeply to be read is text, too
        return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON, though Python's reader takes it")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is more than a float can be")
    return number


def _named(pairs: tuple[str, ...]) -> dict[str, Any]:
    """The arguments by name.

    Raises:
        UsageError: One is no KEY=VALUE, or is given twice.
    """
    kwargs: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.UsageError(f"{pair!r:.100} is no KEY=VALUE")
        if key in kwargs:
            raise click.UsageError(f"{key!r:.100} is given twice; expected each KEY once")
        kwargs[key] = _value(value)
    return kwargs


@app_command("dead")
@name_option
@reason_option
@limit_option(50)
def list_dead(session: Session, limit: int, **wanted: Any) -> None:
    """Lists tasks that were given up, the latest first."""
    dead = session.ask(lambda manager: manager.list_dead_tasks(limit, **wanted))
    if session.as_json:
        return print_json(dead)
    print_table(
        ("ID", "NAME", "QUEUE", "KIND", "SINCE", "DELIVERIES", "REASON"),
        [
            (
                task["task_id"],
                task["task_name"],
                task["queue"],
                task["executor"],
                task["dead_since"],
                task["deliveries"],
                task["reason"],
            )
            for task in dead
        ],
    )
    return None


@app_command("requeue")
@ids_argument
@name_option
@reason_option
@all_option
@limit_option(1000)
def requeue(session: Session, ids: tuple[str, ...], everything: bool, limit: int, **wanted: Any) -> int:
    """Makes dead tasks pending again: those of these ids, or those for which the options hold."""
    if _by_ids(ids, {**wanted, "all": everything or None}):
        return act_on_each(session, ids, "pending again", lambda manager, task_id: manager.requeue_dead_task(task_id))
    return act_on_many(
        session,
        "pending again",
        limit,
        count_dead,
        lambda manager, tell: manager.requeue_dead_tasks(limit=limit, progress=tell, **wanted),
    )


@app_command("forget")
@ids_argument
@name_option
@reason_option
@all_option
@limit_option(1000)
@yes_option
def forget(session: Session, ids: tuple[str, ...], everything: bool, limit: int, yes: bool, **wanted: Any) -> int:
    """Deletes dead tasks: those of these ids, or those for which the options hold. Their records stay."""
    by_ids = _by_ids(ids, {**wanted, "all": everything or None})
    confirm(f"Delete {_counted(len(ids))}?" if by_ids else f"Delete up to {limit} dead tasks?", yes)
    if by_ids:
        return act_on_each(session, ids, "deleted", lambda manager, task_id: manager.delete_dead_task(task_id))
    return act_on_many(
        session,
        "deleted",
        limit,
        count_dead,
        lambda manager, tell: manager.delete_dead_tasks(limit=limit, progress=tell, **wanted),
    )


def _by_ids(ids: tuple[str, ...], wanted: dict[str, Any]) -> bool:
    """Whether tasks are named by their ids, rather than by what holds for them."""
    is_filtered = any(value is not None for value in wanted.values())
    if bool(ids) is is_filtered:
        options = ", ".join(f"--{name}" for name in wanted)
        raise click.UsageError(f"Give either the ids of tasks or options that say which are meant: {options}")
    return bool(ids)


def _described(wanted: dict[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in wanted.items() if value is not None)


def _counted(count: int) -> str:
    return f"{count} dead task{'s' if count > 1 else ''}"
