"""Figures as words: counts, rates, durations, moments."""

from __future__ import annotations

from datetime import UTC, datetime

from flowrra_exporter.metrics.samples import Number
from flowrra_exporter.web.console.figures import Estimate
from flowrra_exporter.web.console.html import Html, element, join

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

# Where a figure would stand that isn't there.
UNKNOWN = join(
    [
        element("span", Html("&ndash;"), aria_hidden="true", class_="unknown"),
        element("span", "not known", class_="visually-hidden"),
    ]
)


def count(value: Number | None) -> str:
    """``1,234``."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def rate(per_second: float | None) -> str:
    """``12.3/s``; what is slower than once in ten seconds by the minute, so that it doesn't look like nothing."""
    if per_second is None:
        return UNKNOWN
    if 0 < per_second < 0.1:
        return f"{per_second * _MINUTE:.1f}/min"
    return f"{per_second:,.0f}/s" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}/s"


def duration(seconds: float) -> str:
    """``4 ms``, ``1.3 s``, ``2 min 5 s``, ``3 h 20 min``, ``4 d 2 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"


def estimate(value: Estimate | None) -> str:
    """``≈ 42 ms``, or ``>3600 s`` beyond the last bound."""
    if value is None:
        return UNKNOWN
    return f">{value.seconds:g} s" if value.beyond else f"≈ {duration(value.seconds)}"


def ago(then: datetime, now: datetime) -> str:
    """``12 s ago``. A clock that is behind, or another host's, gives ``just now``."""
    seconds = (now - then).total_seconds()
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def moment(then: datetime, now: datetime) -> Html:
    """The time of day in UTC, with the date if that's another one; the whole for machines."""
    then = then.astimezone(UTC)
    pattern = "%H:%M:%S" if then.date() == now.astimezone(UTC).date() else "%Y-%m-%d %H:%M:%S"
    return element("time", f"{then:{pattern}} UTC", datetime=then.isoformat(timespec="milliseconds"))


def share(value: float) -> str:
    """``3 %``; what is little but something isn't 0, and what is nearly all isn't all."""
    percent = 100 * value
    if 0 < percent < 1:
        return "<1 %"
    return ">99 %" if 99 < percent < 100 else f"{percent:.0f} %"
