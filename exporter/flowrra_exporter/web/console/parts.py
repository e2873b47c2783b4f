"""The parts that the pages have in common: sections, notices, facts, tiles, states."""

from __future__ import annotations

from collections.abc import Iterable

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.samples import Number
from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.figures import Figures
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.view import View


def section(name: str, title: str, *content: str, quiet: bool = False) -> Html:
    """A section with its heading; a ``quiet`` one is heard and not seen, as on a page of one section."""
    heading = element("h2", title, id=f"{name}-title", class_="visually-hidden" if quiet else None)
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def notice(level: str, *text: str) -> Html:
    """A sentence that stands out."""
    return element("p", *text, class_=f"notice {level}")


def note(*text: str) -> Html:
    """What is said where there is nothing to show."""
    return element("p", *text, class_="note")


def detail(*text: str) -> Html:
    """What stands in small letters below a figure or a name."""
    return element("span", *text, class_="detail")


def name(text: str) -> Html:
    """A name that a user chose, set apart so that its direction of writing changes nothing around it."""
    return element("bdi", text)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names with what is known, as a description list."""
    found = [element("div", element("dt", term), element("dd", value)) for term, value in pairs]
    return element("dl", *found, class_="facts")


def state(ok: bool, good: str, bad: str = "failing") -> Html:
    """A state as a word, in colour, with a mark whose shape says it too."""
    return element("span", good if ok else bad, class_=f"state {'good' if ok else 'bad'}")


def labels(figures: Figures, metric: Metric) -> list[str]:
    """The values of a metric's first label, in order."""
    return sorted({label for label, *_ in figures.numbers(metric)})


def counted(value: Number | None, one: str, many: str) -> Html:
    """``1 stall``, ``2 stalls``."""
    return join([words.count(value), f" {one if value == 1 else many}"])


def nothing(view: View, collector: str, empty: str) -> Html:
    """Why there is nothing to show: the source failed, or the app doesn't have it, or it's simply empty."""
    success = view.figures.number(catalog.COLLECTOR_SUCCESS, collector)
    if success is None:
        return note("This app doesn't tell." if view.attached else "There is no app to ask yet.")
    if success:
        return note(empty)
    if view.blocked is not None:
        return note("Not known while the event loop is blocked.")
    return notice("bad", f"Not known at the moment: the collector “{collector}” failed.")


def bar(share: float) -> Html:
    """A bar that is filled by a share, 0 to 1; the figure stands beside it."""
    used = element("rect", width=f"{100 * min(1.0, max(0.0, share)):.1f}%", height="100%", class_="used")
    return element("svg", used, class_="bar", aria_hidden="true", focusable="false")
