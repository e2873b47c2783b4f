"""What commands do to many tasks: with a bar while it takes long, and what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from flowrra.command.apps import Session
from flowrra.command.output import print_json, shown
from flowrra.command.terminal import Tell, has_bars, progress_bar
from flowrra.management import FlowrraManager
from flowrra.management.answers import BulkResult

Outcome = TypeVar("Outcome")


def act_on_each(
    session: Session,
    ids: tuple[str, ...],
    done: str,
    act: Callable[[FlowrraManager, str], Awaitable[bool]],
) -> int:
    """Act on each task, and tell what became of it; the exit status is 1 unless it worked for all."""

    outcomes = act_on_ids(session, ids, act, lambda worked: done if worked else f"not {done}")
    return 0 if all(outcomes.values()) else 1


def act_on_ids(
    session: Session,
    ids: tuple[str, ...],
    act: Callable[[FlowrraManager, str], Awaitable[Outcome]],
    described: Callable[[Outcome], str],
    *,
    results: bool = False,
) -> dict[str, Outcome]:
    """Act on each task, print what became of each, and return it. An error ends it, and what was done is told first.

    Args:
        session: The app.
        ids: Of the tasks.
        act: Does so to one.
        described: What became of one, in words.
        results: Whether the records of tasks are asked for.
    """
    outcomes: dict[str, Outcome] = {}

    async def act_on_all(manager: FlowrraManager) -> None:
        with progress_bar(f"{len(ids)} tasks", len(ids)) as tell:
            for task_id in ids:
                outcomes[task_id] = await act(manager, task_id)
                tell(len(outcomes))

    try:
        session.ask(act_on_all, results=results)
    finally:
        if session.as_json and outcomes:
            print_json(outcomes)
        elif not session.as_json:
            for task_id, outcome in outcomes.items():
                click.echo(f"{shown(task_id)}: {described(outcome)}")
    return outcomes


def act_on_many(
    session: Session,
    done: str,
    limit: int,
    count: Callable[[FlowrraManager], Awaitable[int]],
    act: Callable[[FlowrraManager, Tell], Awaitable[BulkResult]],
    *,
    results: bool = False,
) -> int:
    """Act on all tasks that are meant, and tell of how many; returns the exit status.

    Args:
        session: The app.
        done: What is done to them, in a word.
        limit: On how many at the most.
        count: How many there may be; asked for the bar alone.
        act: Does so, and tells of how many so far.
        results: Whether the records of tasks are asked for.
    """

    async def act_with_bar(manager: FlowrraManager) -> BulkResult:
        most = min(limit, await count(manager)) if has_bars() else 0
        with progress_bar(done, most) as tell:
            result = await act(manager, tell)
            tell(max(1, most))  # fewer were meant than there may have been
        return result

    result = session.ask(act_with_bar, results=results)
    if session.as_json:
        print_json(result)
    else:
        click.echo(f"{result['done']} {done}, {result['left']} left")
    return 0


async def count_dead(manager: FlowrraManager) -> int:
    """How many tasks were given up."""
    return sum(queue["dead"] or 0 for queue in await manager.list_queues())
