"""Asks before what can't be undone, on a page of its own: it needs no script, and tells how much is meant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl

from flowrra_exporter.web.actions import ACTIONS_BY_NAME
from flowrra_exporter.web.console import records
from flowrra_exporter.web.console.acts import may
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.forms import action_form
from flowrra_exporter.web.console.html import element
from flowrra_exporter.web.console.page import Content, Page
from flowrra_exporter.web.console.parts import facts, name, note, notice, section

# What the actions that ask are told.
_FIELDS = {
    "task_id": "Task id",
    "name": "Name",
    "reason": "Reason contains",
    "queue": "Queue",
    "status": "Status",
    "worker": "Worker",
}
# With so many, the page says that there are that many or more.
_MOST_COUNTED = 1_000
_LISTED = 100


class Confirm(Page):
    """Whether it is meant."""

    path = "/confirm/{action}"
    title = "Are you sure?"
    parameters = (*_FIELDS, "back")
    reloads = False
    is_kept = False

    async def render(self, context: Context) -> Content:
        """What is about to be done, to how much, and the button that does it."""
        action = context.parts["action"]
        if action not in _QUESTIONS or not may(context, action):
            return Content(section("confirm", "Nothing to confirm", note("There is no such action here.")), status=404)
        question, consequence = _QUESTIONS[action]
        fields = {each: context.query[each] for each in _FIELDS if context.query.get(each)}
        try:
            extent = await _EXTENTS[action](context, fields) if action in _EXTENTS else None
        except NotKnown as error:
            extent = f"how many is not known at the moment: {error}"
        told = [(_FIELDS[each], name(records.bounded(value, 300))) for each, value in fields.items()]
        meant = facts([*told, *([] if extent is None else [("How many", extent)])])
        do = action_form(
            context,
            f"/actions/{action}",
            ACTIONS_BY_NAME[action].label,
            fields,
            destroys=True,
            back=context.query.get("back", ""),
        )
        path, _, query = context.query.get("back", "").partition("?")
        leave = element("a", "Don't", href=context.link(f"/{path}", **dict(parse_qsl(query))), class_="button")
        asked = notice(
            "bad" if ACTIONS_BY_NAME[action].destroys else "busy", element("strong", question), f" {consequence}"
        )
        return Content(
            section("confirm", "This is about to be done", asked, meant, element("div", do, leave, class_="actions"))
        )


_QUESTIONS: Mapping[str, tuple[str, str]] = {
    "cancel-task": ("Cancel this task?", "It ends as cancelled; what it has done already stays done."),
    "cancel-tasks": ("Cancel all of these tasks?", "At most 1,000 at a time; what they have done already stays done."),
    "purge-queue": ("Cancel all that waits in this queue?", "At most 1,000 at a time of each kind; what runs goes on."),
    "requeue-dead-tasks": ("Requeue all of these dead tasks?", "At most 1,000 at a time; each is run once more."),
    "delete-dead-task": ("Delete this dead task?", "It can't be requeued any more; its record stays for a while."),
    "delete-dead-tasks": (
        "Delete all of these dead tasks?",
        "At most 1,000 at a time; they can't be requeued any more.",
    ),
}


async def _dead(context: Context, fields: Mapping[str, str]) -> str:
    found = await context.ask("list_dead_tasks", limit=_MOST_COUNTED + 1, **fields)
    return _or_more(len(found), _MOST_COUNTED)


async def _unfinished(context: Context, fields: Mapping[str, str]) -> str:
    page = await context.ask("list_tasks", limit=_LISTED, **fields)
    return f"{len(page['tasks'])} or more" if page["next"] is not None else f"{len(page['tasks'])}"


async def _waiting(context: Context, fields: Mapping[str, str]) -> str:
    queues = [each for each in await context.ask("list_queues") if each["queue"] == fields.get("queue", "default")]
    figures = [each.get(key) for each in queues for key in ("pending", "delayed", "unknown")]
    return "not known" if None in figures else f"{sum(figures):,}"


def _or_more(count: int, most: int) -> str:
    return f"more than {most:,}" if count > most else f"{count:,}"


_EXTENTS: Mapping[str, Callable[[Context, Mapping[str, str]], Awaitable[str]]] = {
    "cancel-tasks": _unfinished,
    "purge-queue": _waiting,
    "requeue-dead-tasks": _dead,
    "delete-dead-tasks": _dead,
}
