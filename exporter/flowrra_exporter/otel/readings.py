"""Families to readings: the cumulative figures of one collection, under the names they have over OTLP.

The user's own metrics are translated as
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ says, with three differences:
a summary, for which the SDK has no type, becomes a histogram of one bucket (count and sum; its quantiles are
left out), a gauge histogram becomes gauges, and type and unit suffixes stay. Needs no opentelemetry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from prometheus_client.samples import Sample

from flowrra_exporter.metrics.exemplars import Exemplar, Exemplars
from flowrra_exporter.metrics.samples import (
    AnyFamily,
    Distribution,
    Family,
    ForeignFamily,
    Labels,
    Number,
    served_samples,
)
from flowrra_exporter.otel.names import CONVENTIONS, Attributes, attributes_of, base_unit, unit_of

OWN_SCOPE = "flowrra_exporter"
FOREIGN_SCOPE = "prometheus_client"
# The sum of a user's histogram that has none; from it and to it there is no difference.
NO_SUM = math.nan


class Kind(Enum):
    """How a reading's values behave: GAUGE and STATE go up and down (a state's values may be added up)."""

    GAUGE = "gauge"
    STATE = "state"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Point(NamedTuple):
    """A value with its attributes.

    Attributes:
        since: The Unix time in seconds at which the counting began, if it's known for this point alone.
    """

    attributes: Attributes
    value: Number | Distribution
    exemplars: tuple[Exemplar, ...] = ()
    since: float | None = None


@dataclass(slots=True)
class Reading:
    """A metric with its points, under an instrumentation scope."""

    scope: str
    name: str
    unit: str
    help: str
    kind: Kind
    points: list[Point] = field(default_factory=list)


_KINDS = {
    "gauge": Kind.GAUGE,
    "info": Kind.STATE,
    "stateset": Kind.STATE,
    "counter": Kind.COUNTER,
    "histogram": Kind.HISTOGRAM,
    "summary": Kind.HISTOGRAM,
    "unknown": Kind.GAUGE,
}


class Reader:
    """Reads families."""

    def __init__(self, exemplars: Exemplars | None = None) -> None:
        self._exemplars = exemplars

    def readings(self, families: Iterable[AnyFamily]) -> Iterator[Reading]:
        """What to send of these families; those without points are left out."""
        for family in families:
            found = _own(family, self._exemplars) if isinstance(family, Family) else _foreign(family)
            for reading in found:
                if reading.points:
                    yield reading


def _own(family: Family, exemplars: Exemplars | None) -> Iterator[Reading]:
    metric = family.metric
    kept = [_exemplars(exemplars, labels, value) for labels, value in family.points]
    reading = Reading(OWN_SCOPE, metric.otel_name, unit_of(metric), metric.help, _KINDS[metric.type])
    for (labels, value), found in zip(family.points, kept, strict=True):
        reading.points.append(Point(attributes_of(metric, labels), value, found))
    yield reading
    for convention in CONVENTIONS:
        if convention.metric is metric:
            other = Reading(OWN_SCOPE, convention.name, convention.unit, metric.help, reading.kind)
            for (labels, value), found in zip(family.points, kept, strict=True):
                other.points.append(Point(convention.attributes(labels), value, found))
            yield other


def _exemplars(exemplars: Exemplars | None, labels: Labels, value: Number | Distribution) -> tuple[Exemplar, ...]:
    if exemplars is None or not isinstance(value, Distribution):
        return ()
    found = exemplars.of(labels, value.bounds) or ()
    # What fell into a bucket a moment after the collection waits for the next one.
    return tuple(
        exemplar for exemplar, count in zip(found, value.counts, strict=False) if exemplar is not None and count
    )


# What prometheus_client collects, as ``foreign_families`` has read it: its figures are numbers, and fit their type.


def _foreign(family: ForeignFamily) -> Iterator[Reading]:
    kind = _KINDS.get(family.type, Kind.GAUGE)
    created = {
        _attributes(sample): sample.value for sample in family.samples if sample.name == f"{family.name}_created"
    }
    if kind is Kind.HISTOGRAM:
        yield _reading(family, family.name, kind, _histograms(family, created))
        return
    by_name: dict[str, list[Point]] = {}
    for sample in served_samples(family):
        attributes = _attributes(sample)
        by_name.setdefault(sample.name, []).append(Point(attributes, sample.value, since=created.get(attributes)))
    for name, points in by_name.items():
        yield _reading(family, name, kind, points)


def _reading(family: ForeignFamily, name: str, kind: Kind, points: Iterable[Point]) -> Reading:
    return Reading(FOREIGN_SCOPE, name, base_unit(family.unit), family.documentation, kind, list(points))


def _attributes(sample: Sample, without: str = "") -> Attributes:
    return tuple((name, value) for name, value in sample.labels.items() if name != without)


@dataclass(slots=True)
class _Parts:
    """The samples of one histogram or summary."""

    buckets: dict[float, float] = field(default_factory=dict)
    count: float | None = None
    sum: float = NO_SUM


def _histograms(family: ForeignFamily, created: dict[Attributes, float]) -> Iterator[Point]:
    found: dict[Attributes, _Parts] = {}
    for sample in family.samples:
        match sample.name.removeprefix(family.name):
            case "_bucket":
                parts = found.setdefault(_attributes(sample, without="le"), _Parts())
                parts.buckets[float(sample.labels["le"])] = sample.value
            case "_count":
                found.setdefault(_attributes(sample), _Parts()).count = sample.value
            case "_sum":
                found.setdefault(_attributes(sample), _Parts()).sum = sample.value
    for attributes, parts in found.items():
        value = _distribution(parts)
        if value is not None:
            yield Point(attributes, value, since=created.get(attributes))


def _distribution(parts: _Parts) -> Distribution | None:
    """The cumulative buckets as counts per bucket; None if nothing says how many observations there were."""
    count = parts.buckets.pop(math.inf, parts.count)
    if count is None:
        return None
    bounds = tuple(sorted(parts.buckets))
    below = [0, *(int(parts.buckets[bound]) for bound in bounds)]
    counts = [high - low for low, high in zip(below, [*below[1:], int(count)], strict=True)]
    return Distribution(bounds, tuple(counts), parts.sum)
