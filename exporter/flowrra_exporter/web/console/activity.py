"""What became of attempts lately, as plain numbers of the Management API: read in the server's thread, even while the
app's loop is blocked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flowrra_exporter.app.management import Management
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.web.console.findings import NameFacts

logger = logging.getLogger(__name__)

# What failures and rates are judged over, and what charts show; in seconds.
WINDOW = 300
CHARTED = 3600
_CHART_POINTS = 60
# Periods of the window in which is looked for the last attempt that ended.
_FINE_POINTS = 30
_MOST_NAMES = 50
# For how many seconds an answer is kept, for each second that it took.
_SHARE = 20

_failed = ThrottledWarning(logger, "reading what became of attempts failed %d times")


class Period(NamedTuple):
    """A period of a chart; attempts a second.

    Attributes:
        at: Its end.
        seconds: Its length.
    """

    at: datetime
    seconds: float
    finished: float
    failed: float
    retried: float


class Activity(NamedTuple):
    """What became of attempts in this process.

    Attributes:
        chart: The last hour, the oldest period first.
        lately: The last five minutes as one period; None if nothing is known of them.
        idle: For how many seconds no attempt has ended, at least.
        failing: Names with failures within the last five minutes, the most first.
    """

    chart: Sequence[Period]
    lately: Period | None
    idle: float
    failing: Sequence[NameFacts]


class Activities:
    """Reads what became of attempts, less often the longer that takes: with a thousand names it's a tenth of a second,
    in which the app's thread shares the interpreter.

    Args:
        management: Returns the Management API, None before there is an app.
    """

    def __init__(self, management: Callable[[], Management | None]) -> None:
        self._management = management
        self._latest: Activity | None = None
        self._next = 0.0

    def latest(self) -> Activity | None:
        """What the app tells; None if it tells nothing, as an observer's."""
        if time.monotonic() >= self._next:
            started = time.monotonic()
            self._latest = _read(self._management())
            self._next = started + _SHARE * (time.monotonic() - started)
        return self._latest


def _read(management: Management | None) -> Activity | None:
    if management is None or not management.has("get_throughput") or not management.has("get_failing_tasks"):
        return None
    try:
        fine = [_period(each) for each in management.read("get_throughput", window=WINDOW, points=_FINE_POINTS)]
        chart = [_period(each) for each in management.read("get_throughput", window=CHARTED, points=_CHART_POINTS)]
        failing = [
            NameFacts(str(each["task_name"]), int(each["finished"]), int(each["failed"]), each["failure_ratio"])
            for each in management.read("get_failing_tasks", limit=_MOST_NAMES, window=WINDOW)
        ]
    except Exception as error:  # noqa: BLE001 - whatever the app raises; said now and then
        _failed.warn(error=error)
        return None
    return Activity(chart, _sum(fine), _idle(fine), failing)


def _period(found: Any) -> Period:
    return Period(
        found["at"], float(found["seconds"]), float(found["finished"]), float(found["failed"]), float(found["retried"])
    )


def _sum(periods: Sequence[Period]) -> Period | None:
    seconds = sum(each.seconds for each in periods)
    if not seconds:
        return None
    finished, failed, retried = (
        sum(figure * each.seconds for figure, each in zip(column, periods, strict=True)) / seconds
        for column in zip(*((each.finished, each.failed, each.retried) for each in periods), strict=True)
    )
    return Period(periods[-1].at, seconds, finished, failed, retried)


def _idle(periods: Sequence[Period]) -> float:
    seconds = 0.0
    for each in reversed(periods):
        if each.finished:
            break
        seconds += each.seconds
    return seconds
