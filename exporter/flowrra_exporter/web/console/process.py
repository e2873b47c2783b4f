"""What runs the tasks and what watches it: health, executors, event loop, collectors."""

from __future__ import annotations

from collections.abc import Iterable

from flowrra_exporter.app.stall import Stall
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.figures import Figures, quantile
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.parts import bar, detail, facts, labels, note, nothing, section, state
from flowrra_exporter.web.console.view import View

_COMPONENTS = (Column("Component"), Column("State"), Column("Says"))
_EXECUTORS = (Column("Executor"), Column("State"), Column("Slots in use"), Column("Tasks known", True))
_COLLECTORS = (Column("Collector"), Column("State"), Column("Took", True))


def health(view: View) -> Html:
    """The components of the health check."""
    if view.blocked is not None:
        return section("health", "Health", note("Not known while the event loop is blocked."))
    if not view.health:
        return section("health", "Health", note("No component is configured."))
    rows = [
        row(_COMPONENTS, (check.name, state(check.ok, "healthy"), mask_secrets(check.message))) for check in view.health
    ]
    return section("health", "Health", table("As the health check found them.", _COMPONENTS, rows))


def executors(view: View) -> Html:
    """Executors with their slots."""
    figures = view.figures
    names = labels(figures, catalog.EXECUTOR_RUNNING)
    if not names:
        return section("executors", "Executors", nothing(view, "executors", "No executor yet: no task is registered."))
    rows = []
    for name in names:
        slots = _slots(figures, name)
        running = state(bool(figures.number(catalog.EXECUTOR_RUNNING, name)), "running", "stopped")
        if figures.number(catalog.EXECUTOR_STUCK, name):
            running = state(False, "running", "stuck")
        if figures.number(catalog.EXECUTOR_DRAINING, name):
            running = state(False, "running", "draining")
        known = words.count(figures.number(catalog.TASKS_REGISTERED, name))
        rows.append(row(_EXECUTORS, (name, running, slots, known)))
    return section("executors", "Executors", table("Each slot runs a task at a time.", _EXECUTORS, rows, wide=True))


def _slots(figures: Figures, executor: str) -> Html:
    busy = figures.number(catalog.EXECUTOR_BUSY_WORKERS, executor)
    slots = figures.number(catalog.EXECUTOR_WORKERS, executor)
    text = element("span", words.count(busy), " of ", words.count(slots))
    if busy is None or not slots:
        return text
    return join([text, bar(busy / slots)])


def event_loop(view: View) -> Html:
    """How late the app's event loop is, and what blocked it last."""
    lag = view.figures.distribution(catalog.EVENT_LOOP_LAG)
    if lag is None:
        return section("event-loop", "Event loop", nothing(view, "runtime", "Not measured yet."))
    found = [
        ("Lag, p50", words.estimate(quantile(0.5, [lag]))),
        ("Lag, p95", words.estimate(quantile(0.95, [lag]))),
        ("Stalls of more than a second", words.count(view.figures.number(catalog.EVENT_LOOP_STALLS))),
        *([] if view.blocked is None else [("Blocked now", join(_culprit(view.blocked)))]),
        ("Last stall", _last_stall(view)),
    ]
    return section("event-loop", "Event loop", facts(found))


def _last_stall(view: View) -> str:
    stall = view.last_stall
    if stall is None:
        return "none"
    when = [] if stall.at is None else [words.moment(stall.at, view.at), f", {words.ago(stall.at, view.at)}"]
    return join([*when, f", for {words.duration(stall.seconds)}", detail(join(_culprit(stall)))])


def _culprit(stall: Stall) -> Iterable[str]:
    if stall.task:
        yield join(["by task ", element("code", stall.task), " "])
    if stall.line:
        yield join(["at ", element("code", stall.line)])


def _collects(view: View, success: bool) -> Html:
    """Whether a collector works. That it fails isn't in colour where what is wrong is said already."""
    if not success and (view.blocked is not None or view.headline.level == "bad"):
        return element("span", "not known", class_="nothing")
    return state(success, "works")


def exporter(view: View, max_series: int | None) -> Html:
    """Collectors, and how much there is to scrape. ``max_series`` is None without a limit."""
    figures = view.figures
    rows = []
    for (name,), success in sorted(figures.numbers(catalog.COLLECTOR_SUCCESS).items()):
        seconds = figures.number(catalog.COLLECTOR_DURATION, name)
        took = words.UNKNOWN if seconds is None else words.duration(seconds)
        rows.append(row(_COLLECTORS, (name, _collects(view, bool(success)), took)))
    series = words.count(figures.number(catalog.EXPORTER_SERIES))
    found = [
        ("Time series", series if max_series is None else join([series, f" of at most {max_series:,}"])),
        ("Left out", words.count(figures.number(catalog.EXPORTER_SERIES_DROPPED))),
    ]
    caption = "Where the figures come from. Those of a collector that fails are absent; the log says why."
    listed = table(caption, _COLLECTORS, rows)
    failing = sum(1 for success in figures.numbers(catalog.COLLECTOR_SUCCESS).values() if not success)
    summary = f"{failing:,} of {len(rows):,} don't work" if failing else f"All {len(rows):,} work"
    more = element("details", element("summary", summary), listed, id="exporter-collectors")
    return section("exporter", "Collectors", more, facts(found))
