"""Small charts as inline SVG, each with its figures in words for those who can't see it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.html import Html, element, join

_WIDTH, _HEIGHT = 600.0, 64.0
# The room between two bars, as a part of one.
_GAP = 0.15


class Series(NamedTuple):
    """Figures over time, drawn as bars.

    Attributes:
        label: What it is.
        style: The class of its bars.
        values: One for each period.
    """

    label: str
    style: str
    values: Sequence[float]


class Span(NamedTuple):
    """A period: its end, and its length in seconds."""

    at: datetime
    seconds: float


def chart(title: str, now: datetime, seconds: float, spans: Sequence[Span], series: Sequence[Series]) -> Html:
    """A chart of what happened a second, the series on top of each other.

    Args:
        title: What it shows.
        now: Its right edge.
        seconds: How much time it shows.
        spans: The periods, the oldest first.
        series: The values; the first stands at the bottom.
    """
    sums = [sum(values) for values in zip(*(each.values for each in series), strict=True)]
    highest = max(sums, default=0.0)
    picture = element(
        "svg",
        *_bars(now, seconds, spans, series, highest),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_in_words(title, now, spans, series),
        class_="chart",
    )
    legend = [element("span", each.label, class_=f"key {each.style}") for each in series if len(series) > 1]
    most = element("span", "most ", words.rate(highest), class_="most")
    caption = element("figcaption", element("strong", title), *legend, most)
    axis = element(
        "div",
        element("span", f"{seconds / 60:.0f} min ago"),
        element("span", "now"),
        class_="axis",
        aria_hidden="true",
    )
    return element("figure", caption, picture, axis)


def _bars(now: datetime, seconds: float, spans: Sequence[Span], series: Sequence[Series], highest: float) -> list[Html]:
    found = []
    for place, span in enumerate(spans):
        width = _WIDTH * span.seconds / seconds
        left = _WIDTH * (1 - (now - span.at).total_seconds() / seconds) - width
        floor = _HEIGHT
        for each in series:
            value = each.values[place]
            if value <= 0:
                continue
            # What is little but something is seen, too.
            height = max(1.5, _HEIGHT * value / highest)
            floor = max(0.0, floor - height)
            found.append(
                element(
                    "rect",
                    x=f"{left:.1f}",
                    y=f"{floor:.1f}",
                    width=f"{width * (1 - _GAP):.1f}",
                    height=f"{height:.1f}",
                    class_=each.style,
                )
            )
    return found


def _in_words(title: str, now: datetime, spans: Sequence[Span], series: Sequence[Series]) -> str:
    parts = []
    for each in series:
        if not any(each.values):
            parts.append(f"{each.label}: none")
            continue
        place = max(range(len(spans)), key=lambda index: each.values[index])
        latest = str(words.rate(each.values[-1]))
        parts.append(
            f"{each.label}: {latest} now, at most {words.rate(each.values[place])} {words.ago(spans[place].at, now)}"
        )
    return f"{title}. {'; '.join(parts)}."


def no_chart(title: str, why: str) -> Html:
    """What stands in the place of a chart, and why."""
    return element("figure", element("figcaption", element("strong", title)), element("p", why, class_="note"))


def charts(*figures: Html) -> Html:
    """Charts beside each other."""
    return element("div", join(figures), class_="charts")
