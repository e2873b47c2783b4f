"""Schedules: when each is due next, what became of its last run, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collectors.scheduler import MOST_LISTED
from flowrra_exporter.web.console import records, words
from flowrra_exporter.web.console.acts import button, buttons, may
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.forms import filter_form, text_field
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.links import url_of
from flowrra_exporter.web.console.listing import PARAMETERS, Sortable, listing
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.parts import detail, facts, name, note, notice, section, state
from flowrra_exporter.web.console.records import Record
from flowrra_exporter.web.console.view import View

# As many runs as one question may be for: the last of each schedule is looked for among them.
_MOST_RUNS = 1_000
_RUNS_OF_ONE = 50
_RUNS = (Column("Due"), Column("Result"), Column("Submitted", True), Column("Late by", True), Column("Task"))
_ERROR = Column("Error")


class _Runs(NamedTuple):
    """What became of the latest runs of a schedule: of the last one, and how many were missed of how many."""

    last: Record
    missed: int
    known: int


class SchedulesPage(Page):
    """All schedules, the next one first."""

    path = "/schedules"
    title = "Schedules"
    group = "processes"
    parameters = ("id", "text", *PARAMETERS)
    reloads = False

    def available(self, view: View) -> bool:
        """Where the app has a scheduler, or one whose state isn't known."""
        return _has_scheduler(view) and view.has("list_schedules")

    async def render(self, context: Context) -> Content:
        """The scheduler in figures, and its schedules; one of them if its id is given."""
        if schedule_id := context.query.get("id"):
            return await _one(context, schedule_id)
        filters = filter_form(context, "Choose schedules", text_field(context, "text", "Task, id or description"))
        return Content(
            join([section("choose", "Choose", filters), await part("schedules", "Schedules", partial(_all, context))])
        )


class ScheduleDetails(Page):
    """One schedule, with its latest runs."""

    path = "/schedules/{id}"
    title = "Schedule"
    reloads = False

    def available(self, view: View) -> bool:
        """Where the app tells of one schedule."""
        return _has_scheduler(view) and view.has("get_schedule")

    async def render(self, context: Context) -> Content:
        """What it is, when it ran, and when it will."""
        return await _one(context, context.parts["id"])


def _has_scheduler(view: View) -> bool:
    running = view.figures.number(catalog.SCHEDULER_RUNNING)
    total = view.figures.numbers(catalog.SCHEDULER_SCHEDULES)
    failed = view.figures.number(catalog.COLLECTOR_SUCCESS, "scheduler") == 0
    return running is not None or bool(total) or failed


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────


async def _all(context: Context) -> Html:
    running = _running(context.view)
    try:
        stats = await context.ask("get_scheduler_stats")
    except NotKnown as error:  # its own process knows whether it runs, its store what there is to be run
        return section("schedules", "Schedules", *_only(running), notice("busy", f"Not known at the moment: {error}."))
    if stats is None:
        return section("schedules", "Schedules", note("This app has no scheduler."))
    figures = facts([*running, *_figures(stats)])
    if stats["total_schedules"] > MOST_LISTED:
        many = f"There are {stats['total_schedules']:,} schedules; more than {MOST_LISTED:,} are not listed here."
        return section("schedules", "Schedules", figures, notice("busy", many))
    found = [each for each in await context.ask("list_schedules") if _is_meant(each, context.query.get("text", ""))]
    if not found:
        text = "No schedule is called so." if context.query.get("text") else "There is no schedule yet."
        return section("schedules", "Schedules", figures, note(text))
    listed = listing(
        context,
        "The next one to run first. Times are in UTC; a cron text is read in the zone beside it.",
        _columns(context, stats, await _latest_runs(context)),
        sorted(found, key=_due),
        "schedules",
    )
    return section("schedules", "Schedules", figures, listed)


def _running(view: View) -> list[tuple[str, str]]:
    """Whether the scheduler runs: an observer doesn't know of other processes' ones."""
    running = view.figures.number(catalog.SCHEDULER_RUNNING)
    return [] if running is None else [("Scheduler", state(bool(running), "running", "stopped"))]


def _only(pairs: list[tuple[str, str]]) -> list[Html]:
    return [facts(pairs)] if pairs else []


def _figures(stats: Record) -> list[tuple[str, str]]:
    return [
        ("Enabled", words.count(stats.get("enabled_schedules"))),
        ("Disabled", words.count(stats.get("disabled_schedules"))),
        ("Overdue", _warned(stats.get("overdue_schedules"))),
        ("Broken", _warned(stats.get("broken_schedules"))),
    ]


def _warned(count: Any) -> str:
    """A count that should be 0."""
    return words.count(count) if not count else element("span", words.count(count), class_="state bad")


def _is_meant(schedule: Record, text: str) -> bool:
    texts = (schedule["id"], schedule["task_name"], schedule.get("description") or "")
    return not text or any(text.casefold() in str(each).casefold() for each in texts)


def _due(schedule: Record) -> tuple[bool, bool, float]:
    """What can't run first, then what is due next, at last what isn't due any more."""
    due = records.moment_of(schedule.get("next_run_at")) if schedule["enabled"] else None
    return (not schedule.get("broken"), due is None, 0.0 if due is None else due.timestamp())


async def _latest_runs(context: Context) -> Mapping[str, _Runs] | None:
    """By schedule; None if they are not known."""
    if not context.has("list_schedule_runs"):
        return None
    try:
        found: Sequence[Record] = await context.ask("list_schedule_runs", limit=_MOST_RUNS)
    except NotKnown:
        return None
    latest: dict[str, _Runs] = {}
    for run in found:  # the latest due first
        before = latest.get(run["schedule_id"]) or _Runs(run, 0, 0)
        latest[run["schedule_id"]] = _Runs(before.last, before.missed + (run["result"] == "missed"), before.known + 1)
    return latest


def _columns(context: Context, stats: Record, runs: Mapping[str, _Runs] | None) -> list[Sortable[Record]]:
    columns: list[Sortable[Record]] = [
        Sortable("task", "Task", partial(_titled, context), lambda each: str(each["task_name"])),
        Sortable("cron", "When", partial(_rhythm, context, stats)),
        Sortable("next", "Next run", partial(_next, context), lambda each: _moment(each, "next_run_at")),
        Sortable("last", "Last run", partial(_last, context, runs), lambda each: _moment(each, "last_run_at")),
        Sortable("missed", "Missed", partial(_missed, runs), numeric=True),
        Sortable("state", "State", _state),
    ]
    if may(context, "run-schedule") or may(context, "enable-schedule"):
        columns.append(Sortable("actions", "Actions", partial(_actions, context)))
    return columns


def _moment(schedule: Record, key: str) -> datetime | None:
    return records.moment_of(schedule.get(key))


def _titled(context: Context, schedule: Record) -> Html:
    shown = [name(str(schedule["task_name"])), " ", detail(element("code", name(str(schedule["id"]))))]
    linked = (
        element("a", *shown, href=url_of(context, "/schedules", str(schedule["id"])))
        if "/schedules/{id}" in context.pages
        else join(shown)
    )
    description = schedule.get("description")
    return join([linked, *([detail(name(records.bounded(str(description), 200)))] if description else [])])


def _rhythm(context: Context, stats: Record, schedule: Record) -> Html:
    """How it repeats, in the words that it was made with; of a cron text with its zone."""
    text = records.bounded(str(schedule["schedule"]), 200)
    if schedule["schedule_type"] == "cron":
        zone = schedule.get("timezone") or stats.get("timezone") or "the scheduler's local time"
        return join([element("code", text), detail(name(str(zone)))])
    if schedule["schedule_type"] == "interval":
        return join([f"every {_seconds(text)}"])
    try:
        return join(["once, at ", words.moment(datetime.fromisoformat(text), context.view.at)])
    except ValueError:
        return join(["once, at ", element("code", text)])


def _seconds(text: str) -> str:
    try:
        return words.duration(float(text))
    except (ValueError, OverflowError):
        return text


def _next(context: Context, schedule: Record) -> Html:
    due = _moment(schedule, "next_run_at")
    if due is None or not schedule["enabled"]:
        return element("span", "none", class_="nothing")
    late = (context.view.at - due).total_seconds()
    if late < 1:
        return records.when(due, context.view.at)
    overdue = element("span", f"overdue for {words.duration(late)}", class_="state bad")
    return join([words.moment(due, context.view.at), detail(overdue)])


def _last(context: Context, runs: Mapping[str, _Runs] | None, schedule: Record) -> Html:
    ran = _moment(schedule, "last_run_at")
    known = None if runs is None else runs.get(schedule["id"])
    if known is None:
        return element("span", "never", class_="nothing") if ran is None else records.when(ran, context.view.at)
    run = known.last
    at = run.get("fired") or run["due"]
    return join(
        [records.status(str(run["result"])), detail(records.when(at, context.view.at)), *_task_of(context, run)]
    )


def _task_of(context: Context, run: Record) -> list[Html]:
    """The task of a run, if it was submitted and tasks have pages here."""
    if run["result"] != "submitted":
        return []
    task_id = str(run["task_id"])
    if "/tasks" not in context.pages:
        return [detail(element("code", name(task_id)))]
    return [
        element(
            "a",
            "its task",
            element("span", f" {task_id}", class_="visually-hidden"),
            href=url_of(context, "/tasks", task_id),
        )
    ]


def _missed(runs: Mapping[str, _Runs] | None, schedule: Record) -> str:
    if runs is None:
        return words.UNKNOWN
    known = runs.get(schedule["id"])
    if known is None or not known.missed:
        return element("span", "0", class_="nothing")
    return join([element("span", f"{known.missed:,}", class_="state bad"), detail(f"of the last {known.known:,}")])


def _state(schedule: Record) -> Html:
    if schedule.get("broken"):
        return join([state(False, "", "broken"), detail(name(records.bounded(str(schedule["broken"]), 200)))])
    return records.status("enabled" if schedule["enabled"] else "disabled")


def _actions(context: Context, schedule: Record) -> Html:
    schedule_id, about = str(schedule["id"]), str(schedule["task_name"])
    turn = ("disable-schedule", "Disable") if schedule["enabled"] else ("enable-schedule", "Enable")
    return buttons(
        button(context, "run-schedule", "Run now", {"schedule_id": schedule_id}, about),
        button(context, *turn, {"schedule_id": schedule_id}, about),
    )


# ── one of them ─────────────────────────────────────────────────────────────────────────────────────────────


async def _one(context: Context, schedule_id: str) -> Content:
    """The page of a schedule; one that says so if there is none of that id."""
    try:
        schedule = await context.ask("get_schedule", schedule_id=schedule_id)
        stats = await context.ask("get_scheduler_stats")
    except NotKnown as error:
        return Content(section("schedule", "Schedule", notice("busy", f"Not known at the moment: {error}.")))
    if schedule is None:
        said = notice("busy", "There is no schedule of the id ", element("code", name(schedule_id)), ".")
        return Content(section("schedule", "Schedule", said), "No such schedule", 404)
    about = section(
        "schedule", "Schedule", *_broken(schedule), _about(context, schedule, stats), _actions(context, schedule)
    )
    runs = await part("runs", "Latest runs", partial(_runs_of, context, schedule_id))
    return Content(join([about, *_given(context, schedule), runs]), str(schedule["task_name"]))


def _broken(schedule: Record) -> list[Html]:
    why = schedule.get("broken")
    return [notice("bad", "It can't run: ", name(records.bounded(str(why), 500)), ".")] if why else []


def _about(context: Context, schedule: Record, stats: Record | None) -> Html:
    most = schedule.get("max_running")
    return facts(
        [
            ("State", _state(schedule)),
            (
                "Task",
                element("a", name(str(schedule["task_name"])), href=_tasks_of(context, schedule))
                if "/tasks" in context.pages
                else name(str(schedule["task_name"])),
            ),
            ("Id", element("code", name(str(schedule["id"])))),
            ("When", _rhythm(context, stats or {}, schedule)),
            ("Next run", _next(context, schedule)),
            ("Last run", _last(context, None, schedule)),
            ("Description", name(records.bounded(str(schedule.get("description") or "none"), 500))),
            ("May be late by", words.duration(float(schedule["misfire_grace"]))),
            ("At most at a time", "any number" if most is None else words.count(most)),
            ("Made", records.when(schedule["created_at"], context.view.at)),
        ]
    )


def _tasks_of(context: Context, schedule: Record) -> str:
    return context.link("/tasks", name=str(schedule["task_name"]))


def _given(context: Context, schedule: Record) -> list[Html]:
    """What its tasks are called with: for those who may see it alone."""
    if not context.task_data or not (schedule.get("args") or schedule.get("kwargs")):
        return []
    given = [
        *map(records.value, schedule["args"]),
        *(f"{key}={records.value(each)}" for key, each in schedule["kwargs"].items()),
    ]
    return [section("arguments", "Arguments", records.block(records.bounded(", ".join(given)), "Arguments"))]


async def _runs_of(context: Context, schedule_id: str) -> Html:
    runs = await context.ask("list_schedule_runs", schedule_id=schedule_id, limit=_RUNS_OF_ONE)
    if not runs:
        return section("runs", "Latest runs", note("It has not run yet."))
    columns = (*_RUNS, _ERROR) if context.task_data else _RUNS
    rows = [row(columns, _run(context, each)[: len(columns)], str(each["task_id"])) for each in runs]
    return section(
        "runs", "Latest runs", table(f"The last {len(runs)}, the latest due first.", columns, rows, wide=True)
    )


def _run(context: Context, run: Record) -> tuple[str, ...]:
    now = context.view.at
    task = _task_of(context, run)
    return (
        records.when(run["due"], now),
        records.status(str(run["result"])),
        records.when(run.get("fired"), now, element("span", "not", class_="nothing")),
        words.UNKNOWN if run.get("lag") is None else words.duration(run["lag"]),
        task[0] if task else element("span", "none", class_="nothing"),
        records.error_in_a_list(run),
    )
