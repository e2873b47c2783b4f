"""Submitted tasks: found by id, listed by status, name, queue, worker, time and error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.web.console import records, words
from flowrra_exporter.web.console.acts import button, buttons
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.forms import choice_field, filter_form, text_field
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.links import fits_a_path, url_of
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.pages.task_details import find_form, task_content
from flowrra_exporter.web.console.parts import detail, name, note, notice, section
from flowrra_exporter.web.console.records import Record
from flowrra_exporter.web.console.view import View

PER_PAGE = 25
_SINCE = {
    "": "any time",
    "300": "the last 5 minutes",
    "3600": "the last hour",
    "86400": "the last day",
    "604800": "the last week",
}
_EXACT = ("status", "name", "queue", "worker")
_COLUMNS = (
    Column("Task"),
    Column("Status"),
    Column("Queue"),
    Column("Submitted", True),
    Column("Ran", True),
    Column("Attempts", True),
)
_ERROR = Column("Error")


class TaskList(Page):
    """Submitted tasks, the latest first."""

    path = "/tasks"
    title = "Tasks"
    group = "tasks"
    parameters = ("id", *_EXACT, "since", "error", "cursor")
    reloads = False

    def available(self, view: View) -> bool:
        """Where tasks can be listed page by page, whatever their number."""
        return view.has("list_tasks") and view.has("get_task")

    async def render(self, context: Context) -> Content:
        """What is looked for, and what was found; the task itself if its id is given."""
        if task_id := context.query.get("id", "").strip():
            if fits_a_path(task_id):
                return Content(Html(""), location=url_of(context, "/tasks", task_id))
            return await task_content(context, task_id)
        # At once: of an app that is slow, the page waits for one answer and not for each.
        listed = part("tasks", "Latest first", partial(_tasks, context))
        parts = await asyncio.gather(_by_status(context), _of_the_name(context), listed)
        return Content(join([_search(context), *parts]))


def _search(context: Context) -> Html:
    error = [text_field(context, "error", "Error contains")] if context.task_data else []
    statuses = {"": "any", **{each: each for each in records.STATUSES}}
    filters = filter_form(
        context,
        "Choose tasks",
        choice_field(context, "status", "Status", statuses),
        text_field(context, "name", "Name"),
        text_field(context, "queue", "Queue"),
        text_field(context, "worker", "Worker"),
        choice_field(context, "since", "Submitted in", _SINCE),
        *error,
    )
    return section("find", "Find tasks", find_form(context), filters)


async def _by_status(context: Context) -> Html:
    """How many tasks there are of each status, each leading to them."""
    if not context.has("count_tasks"):
        return Html("")
    try:
        counts = await context.ask("count_tasks")
    except NotKnown as error:
        return notice("busy", f"How many there are is not known at the moment: {error}.")
    chosen = context.query.get("status", "")
    total = sum(counts.values())
    entries = [("", "all", total), *((each, each, counts.get(each, 0)) for each in records.STATUSES)]
    links = [
        element(
            "li",
            element(
                "a",
                records.status(label) if label in records.STATUSES else label,
                f" {count:,}",
                href=context.link("/tasks", status=value),
                aria_current="true" if value == chosen else None,
            ),
        )
        for value, label, count in entries
    ]
    return element("nav", element("ul", *links, role="list"), aria_label="Tasks by status", class_="chips", id="counts")


async def _of_the_name(context: Context) -> Html:
    """Whether the tasks of the chosen name are paused, and the button that changes it."""
    task_name = context.query.get("name")
    if not task_name or not context.has("pause_task"):
        return Html("")
    try:
        paused = ((await context.ask("get_stats")).get("paused") or {}).get("tasks")
    except NotKnown:
        return Html("")  # the list says why nothing is known
    if paused is None:
        return Html("")
    if task_name in paused:
        said = notice("busy", "Tasks of the name ", name(task_name), " are paused: none is begun.")
        return join([said, buttons(button(context, "resume-task", "Resume these tasks", {"task_name": task_name}))])
    return buttons(button(context, "pause-task", "Pause tasks of this name", {"task_name": task_name}))


def _wanted(context: Context) -> Mapping[str, Any]:
    """What is looked for, as ``list_tasks`` takes it. An error can be looked for by those who may see it alone."""
    asked = context.query
    wanted: dict[str, Any] = {each: asked[each] for each in (*_EXACT, "cursor") if asked.get(each)}
    if asked.get("since") in _SINCE and asked["since"]:
        wanted["since"] = context.view.at - timedelta(seconds=int(asked["since"]))
    if context.task_data and asked.get("error"):
        wanted["error"] = asked["error"]
    return wanted


async def _tasks(context: Context) -> Html:
    wanted = _wanted(context)
    if (chosen := wanted.get("status")) is not None and chosen not in records.STATUSES:
        return section("tasks", "Latest first", notice("bad", f"There is no status “{chosen}”."))
    page = await context.ask("list_tasks", limit=PER_PAGE, **wanted)
    columns = (*_COLUMNS, _ERROR) if context.task_data else _COLUMNS
    pacer, rows, unreadable = Pacer(), [], 0
    for each in page["tasks"]:
        try:
            rows.append(row(columns, _task(context, each)[: len(columns)], str(each["task_id"])))
        except (KeyError, TypeError, ValueError):  # what one record holds is anybody's data
            unreadable += 1
        await pacer.pause_if_due()
    content = (
        [_nothing(context, page["next"])] if not page["tasks"] else [table(_caption(context), columns, rows, True)]
    )
    if unreadable:
        content.append(note(f"{unreadable} more can't be read."))
    pager = _pager(context, page["next"])
    return section("tasks", "Latest first", *content, _cancel_them(context), pager)


def _task(context: Context, task: Record) -> tuple[str, ...]:
    now, task_id = context.view.at, str(task["task_id"])
    link = element(
        "a",
        name(records.named(task)),
        " ",
        detail(element("code", name(task_id))),
        href=url_of(context, "/tasks", task_id),
    )
    state = join([records.status(str(task["status"])), records.progress(task, context.task_data)])
    return (
        link,
        state,
        name(str(task["queue"])),
        records.when(task.get("submitted_at"), now),
        records.ran(task, now),
        words.count(records.attempts(task)),
        records.error_in_a_list(task),
    )


def _caption(context: Context) -> str:
    return "Older tasks; times are in UTC." if context.query.get("cursor") else "Times are in UTC."


def _nothing(context: Context, following: str | None) -> Html:
    if following is not None:
        return note("None of the tasks that were looked at; older ones may be.")
    if context.query.get("cursor"):
        return note("There are no older tasks.")
    return note("No task is known for which this holds." if _wanted(context) else "No task has been submitted yet.")


def _pager(context: Context, following: str | None) -> Html:
    links = []
    if context.query.get("cursor"):
        links.append(element("a", "Newest", href=context.here(cursor=None)))
    if following is not None:
        links.append(element("a", "Older", href=context.here(cursor=following), rel="next"))
    return element("nav", *links, aria_label="Pages of tasks", class_="pager") if links else Html("")


def _cancel_them(context: Context) -> Html:
    """What cancels all tasks that are chosen, if they are unfinished ones."""
    chosen = {each: context.query[each] for each in _EXACT if context.query.get(each)}
    if chosen.get("status") not in records.UNFINISHED or context.query.get("since") or context.query.get("error"):
        return Html("")
    return buttons(button(context, "cancel-tasks", "Cancel all of these", chosen))
