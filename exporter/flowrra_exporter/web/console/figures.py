"""The figures of a collection, by metric and labels, and what can be said from a histogram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.samples import AnyFamily, Distribution, Family, Labels, Number


class Figures:
    """What a collection found. A figure that isn't there is None, or missing in a mapping."""

    def __init__(self, families: Iterable[AnyFamily]) -> None:
        self._points = {family.metric.name: dict(family.points) for family in families if isinstance(family, Family)}

    def number(self, metric: Metric, *labels: str) -> Number | None:
        """A gauge's or a counter's value."""
        return self.numbers(metric).get(labels)

    def numbers(self, metric: Metric) -> Mapping[Labels, Number]:
        """The values of a gauge or a counter, by label values."""
        points = self._points.get(metric.name, {})
        return {labels: value for labels, value in points.items() if not isinstance(value, Distribution)}

    def total(self, metric: Metric) -> Number | None:
        """The sum over all labels; None if there is nothing to add up."""
        values = self.numbers(metric).values()
        return sum(values) if values else None

    def distribution(self, metric: Metric, *labels: str) -> Distribution | None:
        """A histogram's state."""
        value = self._points.get(metric.name, {}).get(labels)
        return value if isinstance(value, Distribution) else None


class Estimate(NamedTuple):
    """A quantile in seconds. With ``beyond`` it lies somewhere above that."""

    seconds: float
    beyond: bool = False


def quantile(share: float, distributions: Iterable[Distribution | None]) -> Estimate | None:
    """The value that ``share`` (0 to 1) of all observations don't exceed, interpolated within its bucket.

    As Prometheus does it: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile,
    but what lies beyond the last bound is said to lie there. None without observations, and for histograms
    that were counted in different buckets.
    """
    found = [each for each in distributions if each is not None]
    if len({each.bounds for each in found}) != 1 or not found[0].bounds:
        return None
    counts = [sum(column) for column in zip(*(each.counts for each in found), strict=True)]
    rank, below = share * sum(counts), 0
    if not sum(counts):
        return None
    for (lower, upper), count in zip(pairwise((0.0, *found[0].bounds)), counts, strict=False):
        if count and below + count >= rank:
            return Estimate(lower + (upper - lower) * (rank - below) / count)
        below += count
    return Estimate(found[0].bounds[-1], beyond=True)
