"""Queues: how many tasks wait in each, for how long, and when they will be through; what is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from flowrra_exporter.metrics.queue_figures import DEFAULT
from flowrra_exporter.web.console import records, words
from flowrra_exporter.web.console.acts import button, buttons, may
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.parts import detail, name, note, section, state
from flowrra_exporter.web.console.records import Record
from flowrra_exporter.web.console.view import View, waits

_QUEUES = (
    Column("Queue"),
    Column("Waiting", True),
    Column("Oldest waits", True),
    Column("Through in", True),
    Column("Delayed", True),
    Column("In flight", True),
    Column("Unknown", True),
    Column("Dead", True),
    Column("State"),
)
_ACTIONS = Column("Actions")
_CAPTION = "A queue in memory is this process's own; any other is shared by all processes."
# So many queues have a row; the others are in the JSON API.
_MOST = 200


class QueuesPage(Page):
    """All queues."""

    path = "/queues"
    title = "Queues"
    group = "queues"

    def available(self, view: View) -> bool:
        """Where the app tells of its queues."""
        return view.has("get_queue_stats") or view.has("list_queues")

    async def render(self, context: Context) -> Content:
        """The queues, and the names whose tasks are paused."""
        listed = part("queues", "Queues", partial(_queues, context))
        return Content(join(await asyncio.gather(listed, _paused_tasks(context))))


async def _queues(context: Context) -> Html:
    found = await _figures(context)
    if not found:
        return section("queues", "Queues", note("No queue yet: no task is registered."))
    columns = (*_QUEUES, _ACTIONS) if may(context, "pause-queue") else _QUEUES
    rows = [row(columns, _queue(context, each)[: len(columns)]) for each in found[:_MOST]]
    more = [note(f"And {len(found) - _MOST:,} more.")] if len(found) > _MOST else []
    return section("queues", "Queues", table(_CAPTION, columns, rows, wide=True), *more)


async def _figures(context: Context) -> Sequence[Record]:
    """All queues; the default ones alone from an app that knows no others."""
    if context.has("list_queues"):
        found: Sequence[Record] = await context.ask("list_queues")
        return found
    by_kind = await context.ask("get_queue_stats")
    return [{"queue": DEFAULT, "executor": kind, **figures} for kind, figures in by_kind.items() if figures is not None]


def _queue(context: Context, queue: Record) -> tuple[str, ...]:
    title, kind, paused = str(queue["queue"]), str(queue["executor"]), queue.get("paused")
    shown: Html = name(title)
    if "/tasks" in context.pages:
        shown = element("a", shown, href=context.link("/tasks", queue=title))
    return (
        join([shown, detail(f"{kind}, in {queue['broker']}")]),
        words.count(queue["pending"]),
        _oldest(context, queue),
        _through(queue),
        words.count(queue["delayed"]),
        words.count(queue["in_flight"]),
        _warned(queue.get("unknown")),
        _dead(context, title, queue["dead"]),
        words.UNKNOWN if paused is None else state(not paused, "open", "paused"),
        _actions(context, queue, f"queue {title}"),
    )


def _oldest(context: Context, queue: Record) -> str:
    oldest = records.moment_of(queue["oldest_pending_at"])
    if oldest is not None:
        return join([element("span", words.duration(waits(context.view.figures, context.view.at, oldest.timestamp())))])
    return words.UNKNOWN if queue["pending"] != 0 else element("span", "none", class_="nothing")


def _through(queue: Record) -> str:
    """In how long workers will have taken all that waits, at the rate of the last minutes."""
    seconds = queue.get("drain_seconds")
    if seconds is None:
        return words.UNKNOWN
    return element("span", "now", class_="nothing") if seconds == 0 else f"≈ {words.duration(seconds)}"


def _warned(count: Any) -> str:
    """A count that should be 0."""
    return words.count(count) if not count else element("span", words.count(count), class_="state bad")


def _dead(context: Context, queue: str, count: Any) -> str:
    shown = _warned(count)
    if not count or "/dead" not in context.pages:
        return shown
    return element(
        "a", shown, element("span", " dead tasks", class_="visually-hidden"), href=context.link("/dead", queue=queue)
    )


def _actions(context: Context, queue: Record, about: str) -> Html:
    title = str(queue["queue"])
    turn = ("resume-queue", "Resume") if queue.get("paused") else ("pause-queue", "Pause")
    waits = any(queue.get(key) for key in ("pending", "delayed", "unknown"))
    purge = button(context, "purge-queue", "Purge", {"queue": title}, about) if waits else Html("")
    return buttons(button(context, *turn, {"queue": title}, about), purge)


async def _paused_tasks(context: Context) -> Html:
    """The names whose tasks are paused, in whatever queue; nothing if there is none."""
    if not context.has("pause_task"):
        return Html("")
    try:
        paused = ((await context.ask("get_stats")).get("paused") or {}).get("tasks") or []
    except NotKnown:
        return Html("")  # the queues are not known either, and their section says why
    if not paused:
        return Html("")
    entries = [
        element(
            "li",
            element("a", name(each), href=context.link("/tasks", name=each))
            if "/tasks" in context.pages
            else name(each),
            button(context, "resume-task", "Resume", {"task_name": each}, each),
        )
        for each in sorted(map(str, paused))[:_MOST]
    ]
    said = note("Tasks of these names are begun in no queue until they are resumed.")
    return section("paused", "Paused tasks", said, element("ul", *entries, class_="paused", role="list"))
