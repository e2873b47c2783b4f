"""How fast counters move, from readings at different moments.

The page takes a reading whenever it's looked at, and none otherwise: a page that nobody looks at costs
nothing, and rates begin with the second look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.samples import Labels, Number

# What the rates are taken over, once somebody has looked for so long.
WINDOW_SECONDS = 60.0
_FORGET_SECONDS = 300.0
_SPACING_SECONDS = 15.0
_SHORTEST_SECONDS = 1.0

# Values by the metric's name and label values.
Counters = Mapping[str, Mapping[Labels, Number]]


class _Reading(NamedTuple):
    at: float
    counters: Counters
    waiting: Mapping[Labels, Number]


class Rates:
    """What was added per second, over a window of ``seconds``; None if there is no earlier reading."""

    def __init__(self, newest: _Reading, earlier: _Reading | None) -> None:
        self.seconds = None if earlier is None else newest.at - earlier.at
        self._newest, self._waiting = newest.counters, newest.waiting
        self._earlier, self._waited = ({}, {}) if earlier is None else (earlier.counters, earlier.waiting)

    def growth(self, *queue: str) -> float | None:
        """By how many tasks a second more wait in a queue, by its labels; negative if fewer do."""
        newest, earlier = self._waiting.get(queue), self._waited.get(queue)
        if newest is None or earlier is None or self.seconds is None:
            return None
        return (newest - earlier) / self.seconds

    def added(self, metric: Metric, **labels: str) -> float | None:
        """How much was added to a metric's time series with these labels within the window."""
        wanted = labels.items()
        series = self._newest.get(metric.name, {})
        found = [
            self.of(metric, *each) for each in series if wanted <= dict(zip(metric.labels, each, strict=True)).items()
        ]
        known = [rate for rate in found if rate is not None]
        return sum(known) * self.seconds if known and self.seconds is not None else None

    def of(self, metric: Metric, *labels: str) -> float | None:
        """The rate of one time series; None if it isn't in both readings, or began anew in between."""
        newest = self._newest.get(metric.name, {}).get(labels)
        earlier = self._earlier.get(metric.name, {}).get(labels)
        if newest is None or earlier is None or newest < earlier or self.seconds is None:
            return None
        return (newest - earlier) / self.seconds

    def total(self, metric: Metric) -> float | None:
        """The sum of the rates of all its time series; None if there is none."""
        rates = [self.of(metric, *labels) for labels in self._newest.get(metric.name, {})]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None


class Readings:
    """The few earlier readings that rates need: one in a quarter of a minute, for five minutes at most."""

    def __init__(self) -> None:
        self._kept: list[_Reading] = []

    def add(self, at: float, counters: Counters, waiting: Mapping[Labels, Number]) -> Rates:
        """The rates up to this reading.

        Args:
            at: When it was taken, in seconds of the monotonic clock.
            counters: What they stood at.
            waiting: How many tasks waited, by the labels of their queue.
        """
        newest = _Reading(at, counters, waiting)
        self._kept = [each for each in self._kept if at - each.at <= _FORGET_SECONDS]
        rates = Rates(newest, self._earlier(at))
        if not self._kept or at - self._kept[-1].at >= _SPACING_SECONDS:
            self._kept.append(newest)
        return rates

    def _earlier(self, at: float) -> _Reading | None:
        """The latest reading from before the window, or else the earliest that there is; older ones are dropped."""
        before = [each for each in self._kept if at - each.at >= WINDOW_SECONDS]
        self._kept = [*before[-1:], *self._kept[len(before) :]]
        found = self._kept[0] if self._kept else None
        return found if found is not None and at - found.at >= _SHORTEST_SECONDS else None
