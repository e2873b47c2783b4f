"""One submitted task: its times, its attempts with their tracebacks, what it was given and what it returned."""

from __future__ import annotations

from collections.abc import Iterable

from flowrra_exporter.web.console import records, words
from flowrra_exporter.web.console.acts import button, buttons
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.links import to_task, to_worker
from flowrra_exporter.web.console.page import Content, Page
from flowrra_exporter.web.console.parts import facts, name, note, notice, section
from flowrra_exporter.web.console.records import Record
from flowrra_exporter.web.console.view import View

_COLUMNS = (Column("Attempt"), Column("Outcome"), Column("Began", True), Column("Ran", True), Column("Worker"))
_ERROR = Column("Error")
# The most arguments that have a row.
_MOST_ARGUMENTS = 50


class TaskDetails(Page):
    """All about one task."""

    path = "/tasks/{id}"
    title = "Task"
    reloads = False

    def available(self, view: View) -> bool:
        """Where the list of tasks is."""
        return view.has("list_tasks") and view.has("get_task")

    async def render(self, context: Context) -> Content:
        """The task of the id in the path."""
        return await task_content(context, context.parts["id"])


def find_form(context: Context, task_id: str = "") -> Html:
    """A form that leads to the task of an id."""
    field = element(
        "input", type="search", name="id", id="find-id", value=task_id, required="", autocomplete="off",
        spellcheck="false", dir="auto",
    )  # fmt: skip
    label = element("span", element("label", "Task id", for_="find-id"), field, class_="field")
    find = element("button", "Find", type="submit")
    return element(
        "form", label, find, method="get", action=context.link("/tasks"), class_="filter", role="search",
        aria_label="Find a task by its id",
    )  # fmt: skip


async def task_content(context: Context, task_id: str) -> Content:
    """The page of a task; one that says so if it isn't known."""
    try:
        task = await context.ask("get_task", task_id=task_id)
    except NotKnown as error:
        return Content(section("task", "Task", notice("busy", f"Not known at the moment: {error}.")))
    try:
        dead, doubt = await _dead(context, task_id, task), ""
    except NotKnown as error:  # the broker's answer; what the result backend keeps is there all the same
        dead, doubt = None, f"Whether it was given up is not known at the moment: {error}."
    if task is not None:
        return Content(join([*_doubt(doubt), *_sections(context, task, dead)]), records.named(task))
    if doubt:
        return Content(section("task", "Task", *_doubt(doubt)))
    if dead is not None:
        return Content(join(_sections_of_dead(context, dead)), records.named(dead))
    return Content(_unknown(context, task_id), "No such task", 404)


def _doubt(text: str) -> list[Html]:
    return [notice("busy", text)] if text else []


async def _dead(context: Context, task_id: str, task: Record | None) -> Record | None:
    """What is known of it as a dead one; None if it isn't one."""
    if not context.has("get_dead_task") or (task is not None and task["status"] in ("success", "cancelled")):
        return None
    found: Record | None = await context.ask("get_dead_task", task_id=task_id)
    return found


def _unknown(context: Context, task_id: str) -> Html:
    said = notice("busy", "No task is known by the id ", element("code", name(task_id)), ".")
    why = note("Its result may have expired, or it was submitted to another app.")
    return section("task", "Task", said, why, find_form(context, task_id))


def _sections(context: Context, task: Record, dead: Record | None) -> Iterable[Html]:
    yield section("task", "Task", *_dead_notice(context, dead), _facts(context, task), _actions(context, task, dead))
    yield _attempts(context, task)
    yield from _data(context, task)


def _sections_of_dead(context: Context, dead: Record) -> Iterable[Html]:
    """A dead task whose record has gone, or that could never be read."""
    pairs = [("Id", element("code", name(str(dead["task_id"])))), ("Queue", name(str(dead["queue"])))]
    yield section("task", "Task", *_dead_notice(context, dead), facts(pairs), _actions(context, {}, dead))
    yield from _data(context, dead)


def _dead_notice(context: Context, dead: Record | None) -> list[Html]:
    if dead is None:
        return []
    since = words.moment(records.moment_of(dead["dead_since"]) or context.view.at, context.view.at)
    reason = records.bounded(str(dead["reason"]), 500)
    return [notice("bad", element("strong", "Dead"), " since ", since, ": ", name(reason), ".")]


def _facts(context: Context, task: Record) -> Html:
    now, task_name = context.view.at, records.named(task)
    pairs = [
        ("Status", join([records.status(str(task["status"])), records.progress(task, context.task_data)])),
        ("Id", element("code", name(str(task["task_id"])))),
        ("Name", element("a", name(task_name), href=context.link("/tasks", name=task_name))),
        ("Queue", element("a", name(str(task["queue"])), href=context.link("/tasks", queue=str(task["queue"])))),
        ("Submitted", records.when(task.get("submitted_at"), now)),
        (_waiting_word(task), _waited(context, task)),
        ("Runs for" if task["status"] == "running" else "Ran", records.ran(task, now)),
        ("Finished", records.when(task.get("finished_at"), now, "not yet")),
        ("Attempts", words.count(records.attempts(task))),
        ("Worker", _worker(context, task)),
    ]
    for label, key in (("Another run of", "retry_of"), ("Run anew as", "retried_as")):
        if task.get(key) is not None:
            pairs.append((label, to_task(context, str(task[key]))))
    return facts(pairs)


def _waiting_word(task: Record) -> str:
    return "Waits for" if task["status"] == "pending" else "Waited"


def _waited(context: Context, task: Record) -> str:
    """From when it was submitted to its first attempt."""
    if task["status"] == "pending":
        return records.between(task.get("submitted_at"), context.view.at)
    first = next((each for each in task.get("attempts") or () if each.get("number") == 1), None)
    return words.UNKNOWN if first is None else records.between(task.get("submitted_at"), first.get("started_at"))


def _worker(context: Context, each: Record) -> str:
    worker = each.get("worker")
    return words.UNKNOWN if worker is None else to_worker(context, str(worker))


def _actions(context: Context, task: Record, dead: Record | None) -> Html:
    """What can be done with it in its state."""
    task_id = str((dead or task)["task_id"])
    if dead is not None:
        return buttons(
            button(context, "requeue-dead-task", "Requeue", {"task_id": task_id}),
            button(context, "retry-task", "Retry under a new id", {"task_id": task_id}),
            button(context, "delete-dead-task", "Delete", {"task_id": task_id}),
        )
    if task["status"] in records.UNFINISHED:
        return buttons(button(context, "cancel-task", "Cancel", {"task_id": task_id}))
    if task.get("retried_as") is None:
        return buttons(button(context, "retry-task", "Retry", {"task_id": task_id}))
    return note("It was run anew already.")


def _attempts(context: Context, task: Record) -> Html:
    attempts = list(task.get("attempts") or ())
    if not attempts:
        return section("attempts", "Attempts", note("It has not been begun yet."))
    columns = (*_COLUMNS, _ERROR) if context.task_data else _COLUMNS
    rows = [row(columns, _attempt(context, each)[: len(columns)]) for each in attempts]
    content = [table("The oldest first.", columns, rows, wide=True)]
    if context.task_data:
        content += [_traceback(each, is_last=each is attempts[-1]) for each in attempts if each.get("traceback")]
    elif any(each.get("error") for each in attempts):
        content.append(_hidden("errors and tracebacks"))
    return section("attempts", "Attempts", *content)


def _attempt(context: Context, attempt: Record) -> tuple[str, ...]:
    now, outcome = context.view.at, attempt.get("outcome")
    return (
        f"Attempt {attempt['number']}",
        records.status("running" if outcome is None else str(outcome)),
        records.when(attempt.get("started_at"), now),
        records.between(attempt.get("started_at"), attempt.get("finished_at") if outcome else now),
        _worker(context, attempt),
        records.error_in_a_list(attempt),
    )


def _traceback(attempt: Record, is_last: bool) -> Html:
    """A traceback that can be opened; that of the last attempt is open, as it's what most come for."""
    number = attempt["number"]
    summary = element("summary", f"Traceback of attempt {number}")
    lines = records.block(records.bounded(str(attempt["traceback"])), f"Traceback of attempt {number}")
    return element("details", summary, lines, id=f"traceback-{number}", open="" if is_last else None)


def _data(context: Context, task: Record) -> Iterable[Html]:
    """What it was given and what it returned: for those who may see it alone."""
    if not context.task_data:
        yield section("arguments", "Arguments and result", _hidden("arguments and results"))
        return
    yield section("arguments", "Arguments", _arguments(task))
    if task.get("status") == "success":
        yield section("result", "Result", records.block(records.value(task.get("result")), "Result"))


def _arguments(task: Record) -> Html:
    args, kwargs = task.get("args"), task.get("kwargs")
    if args is None and kwargs is None:
        return note("They can't be read.")
    given = [(str(place), each) for place, each in enumerate(args or (), 1)]
    given += [(str(key), each) for key, each in dict(kwargs or {}).items()]
    if not given:
        return note("It was given none.")
    shown = given[:_MOST_ARGUMENTS]
    left = [note(f"And {len(given) - len(shown):,} more.")] if len(given) > len(shown) else []
    pairs = [
        element("div", element("dt", name(records.bounded(key, 100))), element("dd", _argument(key, each)))
        for key, each in shown
    ]
    return join([element("dl", *pairs, class_="arguments"), *left])


def _argument(key: str, given: object) -> Html:
    return records.block(records.value(given), f"Argument {key[:100]}")


def _hidden(what: str) -> Html:
    """Why there is nothing to see."""
    return note(
        f"The {what} of tasks are for authenticated users, where ", element("code", "--web.show-task-data"), " is on."
    )
