"""Exemplars: for each bucket of a run duration histogram, the last sampled attempt that fell into it.

Tracing writes them, scrapes and pushes read them. Needs no opentelemetry.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from flowrra_exporter.metrics.catalog import RUN_DURATION_BOUNDS
from flowrra_exporter.metrics.samples import Labels


class Exemplar(NamedTuple):
    """One observation and the span it was made in.

    Attributes:
        value: The observation, in seconds.
        timestamp: When it was made, as a Unix time in seconds.
        trace_id: OpenTelemetry's integer.
        span_id: OpenTelemetry's integer.
    """

    trace_id: int
    span_id: int
    value: float
    timestamp: float

    def openmetrics(self) -> str:
        """What follows a bucket's value in OpenMetrics.

        https://prometheus.io/docs/specs/om/open_metrics_spec/#exemplars
        """
        ids = f'trace_id="{self.trace_id:032x}",span_id="{self.span_id:016x}"'
        return f" # {{{ids}}} {self.value} {self.timestamp:.3f}"


class Exemplars:
    """The last exemplar of each bucket, by the labels of flowrra_task_run_duration_seconds (task, outcome).

    One thread writes; any thread reads. Memory is bounded by the registered tasks: an exemplar for each of their
    buckets.

    Args:
        bounds: The upper bounds in seconds that the app counts with.
    """

    def __init__(self, bounds: tuple[float, ...] = RUN_DURATION_BOUNDS) -> None:
        self._bounds = bounds
        self._kept: dict[Labels, list[Exemplar | None]] = {}

    def use_bounds(self, bounds: tuple[float, ...]) -> None:
        """Keeps exemplars for the buckets of these upper bounds, in seconds, from now on."""
        self._bounds = bounds
        self._kept = {}

    def keep(self, labels: Labels, exemplar: Exemplar) -> None:
        """Takes the place of the exemplar that its bucket had."""
        kept = self._kept.get(labels)
        if kept is None:
            kept = self._kept[labels] = [None] * (len(self._bounds) + 1)
        kept[bisect_left(self._bounds, exemplar.value)] = exemplar

    def of(self, labels: Labels, bounds: tuple[float, ...]) -> tuple[Exemplar | None, ...] | None:
        """One exemplar or None for each bucket of a histogram with these bounds, the last for +Inf.

        None if there are none at all. With other bounds than the app's, each stands where its value belongs.
        """
        kept = self._kept.get(labels)
        if kept is None:
            return None
        found = tuple(kept)  # one step for the interpreter: what is written meanwhile comes next time
        return found if bounds == self._bounds else _placed(found, bounds)


def _placed(found: tuple[Exemplar | None, ...], bounds: tuple[float, ...]) -> tuple[Exemplar | None, ...]:
    placed: list[Exemplar | None] = [None] * (len(bounds) + 1)
    for exemplar in found:
        if exemplar is not None:
            index = bisect_left(bounds, exemplar.value)
            other = placed[index]
            if other is None or other.timestamp <= exemplar.timestamp:
                placed[index] = exemplar
    return tuple(placed)
