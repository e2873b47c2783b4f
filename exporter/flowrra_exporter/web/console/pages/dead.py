"""Dead tasks: those that were given up, and what can be done with them, singly and by what holds for them."""

from __future__ import annotations

from functools import partial
from typing import Any

from flowrra_exporter.web.console import records, words
from flowrra_exporter.web.console.acts import button, buttons
from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.forms import filter_form, text_field
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.links import url_of
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.parts import detail, name, note, section
from flowrra_exporter.web.console.records import Record
from flowrra_exporter.web.console.view import View

PER_PAGE = 25
# Beyond these only a filter helps: each page makes the broker read those before it as well.
_MOST_PAGES = 40
_COLUMNS = (Column("Task"), Column("Why"), Column("Queue"), Column("Dead since", True), Column("Deliveries", True))
_ACTIONS = Column("Actions")


class Dead(Page):
    """Tasks that were given up, the latest first."""

    path = "/dead"
    title = "Dead tasks"
    group = "queues"
    parameters = ("name", "reason", "queue", "page")
    reloads = False

    def available(self, view: View) -> bool:
        """Where the app can list them."""
        return view.has("list_dead_tasks")

    async def render(self, context: Context) -> Content:
        """What is looked for, and what was found."""
        filters = filter_form(
            context,
            "Choose dead tasks",
            text_field(context, "name", "Name"),
            text_field(context, "reason", "Reason contains"),
            text_field(context, "queue", "Queue"),
        )
        listed = await part("dead", "The latest first", partial(_dead, context))
        return Content(join([section("choose", "Choose", filters), listed]))


async def _dead(context: Context) -> Html:
    wanted = _wanted(context)
    number = _page(context)
    queue = context.query.get("queue")
    # There is no list by queue: then the latest are looked through.
    limit = (_MOST_PAGES if queue else number) * PER_PAGE + 1
    found = await context.ask("list_dead_tasks", limit=limit, **wanted)
    mine = [each for each in found if queue in (None, "", each["queue"])]
    shown = mine[(number - 1) * PER_PAGE : number * PER_PAGE]
    if not shown:
        return section("dead", "The latest first", note(_nothing(context, number)))
    columns = (*_COLUMNS, _ACTIONS) if context.actions else _COLUMNS
    rows = [row(columns, _task(context, each)[: len(columns)], str(each["task_id"])) for each in shown]
    listed = table("Each was given up, and stays here until it is requeued or deleted.", columns, rows, wide=True)
    more = len(mine) > number * PER_PAGE
    return section("dead", "The latest first", _of_them_all(context), listed, _pager(context, number, more))


def _wanted(context: Context) -> dict[str, Any]:
    return {each: context.query[each] for each in ("name", "reason") if context.query.get(each)}


def _page(context: Context) -> int:
    asked = context.query.get("page", "1")
    return min(max(int(asked), 1), _MOST_PAGES) if asked.isascii() and asked.isdigit() and len(asked) < 4 else 1


def _nothing(context: Context, number: int) -> str:
    if number > 1:
        return "There are no more."
    chosen = any(context.query.get(each) for each in ("name", "reason", "queue"))
    return "No dead task is known for which this holds." if chosen else "None: no task was given up."


def _task(context: Context, task: Record) -> tuple[str, ...]:
    task_id, task_name = str(task["task_id"]), records.named(task)
    data = []
    if context.task_data and task.get("args") is not None:
        given = ", ".join(
            [
                *map(records.value, task["args"]),
                *(f"{key}={records.value(each)}" for key, each in task["kwargs"].items()),
            ]
        )
        data = [detail("given ", element("code", name(records.bounded(given, 200))))] if given else []
    shown = join([name(task_name), " ", detail(element("code", name(task_id)))])
    url = url_of(context, "/tasks", task_id)
    linked = element("a", shown, href=url) if "/tasks" in context.pages else shown
    queue = str(task["queue"])
    return (
        join([linked, *data]),
        name(records.bounded(str(task["reason"]), 300)),
        join([name(queue), detail(str(task["executor"]))]),
        records.when(task["dead_since"], context.view.at),
        words.count(task.get("deliveries")),
        buttons(
            button(context, "requeue-dead-task", "Requeue", {"task_id": task_id}, task_name),
            button(context, "delete-dead-task", "Delete", {"task_id": task_id}, task_name),
        ),
    )


def _of_them_all(context: Context) -> Html:
    """What acts on all that is shown and beyond; not on those of one queue, which can't be told to the broker."""
    if context.query.get("queue"):
        return Html("")
    wanted = _wanted(context)
    which = "all of these" if wanted else "all dead tasks"
    return buttons(
        button(context, "requeue-dead-tasks", f"Requeue {which}", wanted, asks=True),
        button(context, "delete-dead-tasks", f"Delete {which}", wanted),
    )


def _pager(context: Context, number: int, more: bool) -> Html:
    links = []
    if number > 1:
        links.append(element("a", "Newer", href=context.here(page=str(number - 1)), rel="prev"))
    if more and number < _MOST_PAGES:
        links.append(element("a", "Older", href=context.here(page=str(number + 1)), rel="next"))
    said = [note("Older ones are found by name or reason.")] if more and number == _MOST_PAGES else []
    return (
        element("nav", *said, *links, aria_label="Pages of dead tasks", class_="pager") if links or said else Html("")
    )
