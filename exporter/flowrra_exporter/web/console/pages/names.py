"""Tasks by name: what became of their attempts within the last minutes, failing and slow ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.metrics.samples import Labels, Number
from flowrra_exporter.web.console import listing, words
from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.figures import Figures
from flowrra_exporter.web.console.forms import choice_field, filter_form, text_field
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.links import to_tasks
from flowrra_exporter.web.console.listing import Sortable
from flowrra_exporter.web.console.listing import listing as list_items
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.parts import detail, note, section
from flowrra_exporter.web.console.view import View

WINDOWS = {"300": "5 minutes", "900": "15 minutes", "3600": "1 hour"}
_DEFAULT_WINDOW = "300"
_MOST_EXCEPTIONS = 3


@dataclass(frozen=True)
class NameFigures:
    """What became of the attempts of one name within the window.

    Attributes:
        failed: For good.
        ratio: The share of those that ended for good; None if none did.
        rate: Finished attempts a second.
        exceptions: Classes with how often they were raised since the app started.
    """

    name: str
    finished: int
    failed: int
    retried: int
    ratio: float | None
    rate: float
    running: Number | None
    run_p50: float | None
    run_p95: float | None
    wait_p95: float | None
    exceptions: tuple[tuple[Number, str], ...]

    @property
    def trouble(self) -> tuple[Any, ...]:
        """What sorts those first that fail, then those that are repeated, then the slow ones."""
        return (-self.failed, -self.retried, -(self.run_p95 or 0.0), -self.finished, self.name)


class Names(Page):
    """Tasks by name."""

    path = "/names"
    title = "By name"
    group = "tasks"
    parameters = ("q", "window", *listing.PARAMETERS)
    reloads = False

    def available(self, view: View) -> bool:
        """Where the app counts its attempts; an observer has no counters of other processes."""
        return view.has("get_task_stats")

    async def render(self, context: Context) -> Content:
        """The form, and the list that it chooses from."""

        async def listed() -> Html:
            return await _names(context)

        return Content(await part("names", "Tasks by name", listed))


async def _names(context: Context) -> Html:
    window = context.query.get("window", _DEFAULT_WINDOW)
    window = window if window in WINDOWS else _DEFAULT_WINDOW
    answer = await context.read("get_task_stats", window=int(window))
    running = context.view.figures.numbers(catalog.TASKS_RUNNING)
    raised, pacer, every = _raised(context.view.figures), Pacer(), []
    for name, each in answer.items():
        every.append(name_figures(str(name), each, running, raised.get(str(name), ())))
        await pacer.pause_if_due()
    if not every:
        return section(
            "names", "Tasks by name", note("No task is registered yet. A function becomes one by @app.task().")
        )
    wanted = context.query.get("q", "").casefold()
    found = sorted((each for each in every if wanted in each.name.casefold()), key=lambda each: each.trouble)
    form = filter_form(
        context,
        "Choose names",
        text_field(context, "q", "Name has"),
        choice_field(context, "window", "Within the last", WINDOWS, _DEFAULT_WINDOW),
        keep=(listing.SORT,),
    )
    if not found:
        return section("names", "Tasks by name", form, note(f"None of the {len(every):,} names has “{wanted}” in it."))
    caption = (
        f"Attempts that ended in this process within the last {WINDOWS[window]}; those that fail first, then the slow."
    )
    return section(
        "names", "Tasks by name", form, list_items(context, caption, _columns(context), found, "names"), quiet=True
    )


def _raised(figures: Figures) -> dict[str, list[tuple[Number, str]]]:
    """How often which exceptions were raised, by name, the most frequent first."""
    found: dict[str, list[tuple[Number, str]]] = {}
    for (task, exception), times in figures.numbers(catalog.TASK_EXCEPTIONS).items():
        if times:
            found.setdefault(task, []).append((times, exception))
    return {task: sorted(each, reverse=True) for task, each in found.items()}


def name_figures(
    name: str, found: Mapping[str, Any], running: Mapping[Labels, Number], raised: Sequence[tuple[Number, str]]
) -> NameFigures:
    """One name's figures, from what ``get_task_stats`` answers for a window."""
    return NameFigures(
        name=name,
        finished=int(found["finished"]),
        failed=int(found["failed"]),
        retried=int(found["retried"]),
        ratio=found["failure_ratio"],
        rate=float(found["rate"]),
        running=running.get((name,)),
        run_p50=found["run_duration"]["p50"],
        run_p95=found["run_duration"]["p95"],
        wait_p95=found["queue_wait"]["p95"],
        exceptions=tuple(raised),
    )


def _columns(context: Context) -> list[Sortable[NameFigures]]:
    return [
        Sortable("name", "Task", lambda each: _name(context, each), lambda each: each.name.casefold()),
        Sortable("failed", "Failed", _failed, lambda each: (each.failed, each.ratio or 0.0), numeric=True),
        Sortable("retried", "Retried", lambda each: _figure(each.retried), lambda each: each.retried, numeric=True),
        Sortable("finished", "Finished", _finished, lambda each: each.finished, numeric=True),
        Sortable("running", "Running", lambda each: _figure(each.running), lambda each: each.running, numeric=True),
        Sortable("p50", "Run p50", lambda each: _seconds(each.run_p50), lambda each: each.run_p50, numeric=True),
        Sortable("p95", "Run p95", lambda each: _seconds(each.run_p95), lambda each: each.run_p95, numeric=True),
        Sortable("wait", "Wait p95", lambda each: _seconds(each.wait_p95), lambda each: each.wait_p95, numeric=True),
    ]


def _name(context: Context, each: NameFigures) -> Html:
    shown = to_tasks(context, each.name)
    if (not each.failed and not each.retried) or not each.exceptions:
        return shown
    text = ", ".join(f"{name} × {times:,.0f}" for times, name in each.exceptions[:_MOST_EXCEPTIONS])  # noqa: RUF001
    more = " and more" if len(each.exceptions) > _MOST_EXCEPTIONS else ""
    return join([shown, detail(f"{text}{more} since the start")])


def _failed(each: NameFigures) -> Html:
    if not each.failed:
        return _figure(0)
    share = "" if each.ratio is None else f" ({words.share(each.ratio)})"
    return element("span", f"{each.failed:,}{share}", class_="state bad")


def _finished(each: NameFigures) -> Html:
    if not each.finished:
        return _figure(0)
    return join([f"{each.finished:,} ", element("span", words.rate(each.rate), class_="aside")])


def _figure(value: Number | None) -> Html:
    """A figure; what never happened is a plain 0, so that the rest stands out."""
    return element("span", words.count(value), class_="nothing" if value == 0 else None)


def _seconds(value: float | None) -> Html:
    if value is None:
        return element("span", Html("&ndash;"), element("span", "none", class_="visually-hidden"), class_="nothing")
    return element("span", "≈ ", words.duration(value))
