"""Families of points, which collectors produce and every output format reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from prometheus_client import Metric as PrometheusMetric
from prometheus_client.samples import Sample

from flowrra_exporter.metrics.catalog import Metric

# A family of prometheus_client's registry, the user's own or of the process, as ``foreign_families`` reads it.
ForeignFamily: TypeAlias = PrometheusMetric

Number: TypeAlias = int | float
# Label values, in the order of ``Metric.labels``.
Labels: TypeAlias = tuple[str, ...]


class Distribution(NamedTuple):
    """A histogram's state. The number of observations is the sum of ``counts``, so bucket and count can never disagree.

    Attributes:
        bounds: The upper bounds without +Inf.
        counts: How many observations each bucket has (not cumulative); one more than ``bounds``.
        sum: The sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


Point: TypeAlias = tuple[Labels, Number | Distribution]


@dataclass(slots=True)
class Family:
    """A metric of the catalog with its points of one collection."""

    metric: Metric
    points: list[Point] = field(default_factory=list)

    def series(self) -> int:
        """How many time series this family is for Prometheus; a histogram is one per bucket, and +Inf, sum, count."""
        if self.metric.type != "histogram":
            return len(self.points)
        return sum(len(value.counts) + 2 for _, value in self.points if isinstance(value, Distribution))


# A family of the catalog, or one from prometheus_client's registry.
AnyFamily: TypeAlias = Family | ForeignFamily


def series_of(family: AnyFamily) -> int:
    """How many time series a family is for Prometheus."""
    return family.series() if isinstance(family, Family) else len(served_samples(family))


_WITH_CREATED = ("counter", "histogram", "summary")


def served_samples(family: ForeignFamily) -> list[Sample]:
    """A family's samples without the times at which they were created, which no format serves."""
    if family.type not in _WITH_CREATED:
        return family.samples
    created = f"{family.name}_created"
    return [sample for sample in family.samples if sample.name != created]
