"""Readings to the SDK's data model, cumulative or delta; remembers what each stream has sent.

A stream is a name with its attributes. A delta is the difference to what was last sent with success: ``Batch.sent``
is to be called then, and only then, so that an outage costs no count. Its interval begins where the one before
ended. A figure that has become smaller was started anew: then the counting began at the reading before. So was one
that says so by its own start, and one whose stream was missing from its metric in between.
https://opentelemetry.io/docs/specs/otel/metrics/data-model/#temporality
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import sub
from typing import NamedTuple, TypeAlias, TypeVar

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    DataPointT,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowrra_exporter._version import __version__
from flowrra_exporter.metrics.pacing import SLICE_SECONDS
from flowrra_exporter.metrics.samples import Distribution, Number
from flowrra_exporter.otel.names import KEPT, Attributes
from flowrra_exporter.otel.readings import OWN_SCOPE, Kind, Point, Reading

# Of one request. The encoder copies a request as a whole, with the interpreter lock held: a millisecond or two for so
# many. And they stay far below 4 MiB, the usual limit of a gRPC message.
MAX_POINTS = 1000

_NANOSECONDS = 1_000_000_000
_Item = TypeVar("_Item")
_Chunk: TypeAlias = tuple[Reading, list[Point]]

# Of metrics that are missing as a whole, since their source fails or is gone; the longest missing are forgotten.
MAX_ABSENT_STREAMS = 10_000


class _Mark(NamedTuple):
    """A stream's last value that was sent (None: none was yet), its time, and when its counting began.

    Both are Unix times in ns. ``told`` is the start that the point itself told, in seconds.
    """

    value: Number | Distribution | None
    at: int
    since: int
    told: float | None


class _Metric:
    """What is remembered of a metric: its streams, and when (Unix time in ns) it was last collected."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.marks: dict[Attributes, _Mark] = {}


# A stream's next mark.
_Moved: TypeAlias = tuple[_Metric, Attributes, _Mark]


class TimeSliced(list[_Item]):
    """A list that gives the interpreter lock back every millisecond while it's iterated over.

    The SDK encodes points in one piece; going through these, it does so in slices.
    """

    def __iter__(self) -> Iterator[_Item]:
        until = time.perf_counter() + SLICE_SECONDS
        for item in super().__iter__():
            yield item
            if time.perf_counter() >= until:
                time.sleep(0)
                until = time.perf_counter() + SLICE_SECONDS


class Batch:
    """What goes into one request, made when it's asked for. ``sent`` is to be called once it has been accepted."""

    def __init__(self, streams: Streams, chunks: Sequence[_Chunk]) -> None:
        self.points = sum(len(points) for _, points in chunks)
        self._streams = streams
        self._chunks = chunks

    @functools.cached_property
    def _made(self) -> tuple[MetricsData, list[_Moved]]:
        return self._streams.data(self._chunks)

    @property
    def data(self) -> MetricsData:
        """The points as the SDK's exporters take them."""
        return self._made[0]

    def sent(self) -> None:
        """The receiver took it: the next deltas begin here."""
        for metric, attributes, mark in self._made[1]:
            metric.marks[attributes] = mark

    def halves(self) -> tuple[Batch, Batch]:
        """The same points in two batches; there must be two at least."""
        left = self.points // 2
        halves: tuple[list[_Chunk], list[_Chunk]] = ([], [])
        for reading, points in self._chunks:
            for half, part in zip(halves, (points[:left], points[left:]), strict=True):
                if part:
                    half.append((reading, part))
            left = max(0, left - len(points))
        return Batch(self._streams, halves[0]), Batch(self._streams, halves[1])


class Streams:
    """Turns the readings of one collection after the other into batches.

    Memory is bounded by the time series of one collection, and MAX_ABSENT_STREAMS.

    Args:
        delta: The kinds that are sent as deltas.
        since: The Unix time in seconds at which the app's counting began.
    """

    def __init__(self, resource: Resource, delta: frozenset[Kind], since: float) -> None:
        self._resource = resource
        self._delta = delta
        self._since = int(since * _NANOSECONDS)
        # By scope and name; the longest missing come first.
        self._metrics: dict[tuple[str, str], _Metric] = {}
        self._at = 0

    def batches(self, readings: Iterable[Reading], at: float) -> Iterator[Batch]:
        """The readings in batches of at most MAX_POINTS points.

        To be gone through to the end, also if nothing can be sent: that's how it learns what is no longer there.

        Args:
            readings: The readings.
            at: The Unix time in seconds at which they were taken.
        """
        self._at = max(self._at, int(at * _NANOSECONDS))  # the wall clock may be set back
        collected: dict[tuple[str, str], _Metric] = {}
        chunks: list[_Chunk] = []
        size = 0
        for reading in readings:
            self._remember(reading, collected)
            for start in range(0, len(reading.points), MAX_POINTS):
                chunk = reading.points[start : start + MAX_POINTS]
                if size + len(chunk) > MAX_POINTS:
                    yield Batch(self, chunks)
                    chunks, size = [], 0
                chunks.append((reading, chunk))
                size += len(chunk)
        if chunks:
            yield Batch(self, chunks)
        self._forget_absent(collected)

    def _remember(self, reading: Reading, collected: dict[tuple[str, str], _Metric]) -> None:
        """Makes marks for the streams that are new, and drops those of streams that the metric no longer has."""
        if reading.kind in (Kind.GAUGE, Kind.STATE):
            return
        name = reading.scope, reading.name
        known = self._metrics.pop(name, None)
        metric = collected.setdefault(name, _Metric(self._at))
        # What wasn't there at the collection before has been counted since then.
        since = self._since if known is None else known.at
        marks = metric.marks if known is metric or known is None else known.marks
        for point in TimeSliced(reading.points):
            mark = marks.get(point.attributes)
            if mark is None or mark.told != point.since:
                start = since if point.since is None else min(int(point.since * _NANOSECONDS), self._at)
                mark = _Mark(None, start, start, point.since)
            metric.marks[point.attributes] = mark
        self._metrics[name] = metric

    def _forget_absent(self, collected: dict[tuple[str, str], _Metric]) -> None:
        absent = [(name, len(metric.marks)) for name, metric in self._metrics.items() if name not in collected]
        left = sum(streams for _, streams in absent)
        for name, streams in absent:
            if left <= MAX_ABSENT_STREAMS:
                break
            del self._metrics[name]
            left -= streams

    def data(self, chunks: Sequence[_Chunk]) -> tuple[MetricsData, list[_Moved]]:
        """These points in the SDK's data model, and what to remember once they are sent."""
        marks: list[_Moved] = []
        scopes: dict[str, list[Metric]] = {}
        for reading, points in chunks:
            scopes.setdefault(reading.scope, []).append(self._metric(reading, points, marks))
        metrics = [ScopeMetrics(_scope(name), found, "") for name, found in scopes.items()]
        return MetricsData([ResourceMetrics(self._resource, metrics, self._resource.schema_url)]), marks

    def _metric(self, reading: Reading, points: list[Point], marks: list[_Moved]) -> Metric:
        found: TimeSliced[DataPointT] = TimeSliced()
        for point in TimeSliced(points):
            found.append(self._point(reading, point, marks))
        return Metric(reading.name, reading.help, reading.unit, self._data(reading.kind, found))

    def _data(self, kind: Kind, points: TimeSliced[DataPointT]) -> Gauge | Sum | Histogram:
        delta = kind in self._delta
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        match kind:
            case Kind.GAUGE:
                return Gauge(points)  # type: ignore[arg-type]  # ``_point`` makes the kind's own points
            case Kind.HISTOGRAM:
                return Histogram(points, temporality)  # type: ignore[arg-type]
            case Kind.COUNTER:
                return Sum(points, temporality, is_monotonic=True)  # type: ignore[arg-type]
            case Kind.STATE:
                return Sum(points, temporality, is_monotonic=False)  # type: ignore[arg-type]

    def _point(self, reading: Reading, point: Point, marks: list[_Moved]) -> DataPointT:
        # The user's come and go as they please: kept, they'd fill the memory with those that are gone.
        attributes = _as_dict(point.attributes) if reading.scope == OWN_SCOPE else dict(point.attributes)
        if reading.kind in (Kind.GAUGE, Kind.STATE):
            return _number(attributes, self._since, self._at, point.value)
        metric = self._metrics[reading.scope, reading.name]
        last = metric.marks[point.attributes]
        value, start = point.value, last.since
        if last.value is not None:
            anew = _less(value, last.value)
            start = last.at if anew or reading.kind in self._delta else last.since
            if reading.kind in self._delta and not anew:
                value = _difference(value, last.value)
        marks.append((metric, point.attributes, _Mark(point.value, self._at, start, last.told)))
        if isinstance(value, Distribution):
            return _histogram(attributes, point, start, self._at, value)
        return _number(attributes, start, self._at, value)


def _scope(name: str) -> InstrumentationScope:
    return InstrumentationScope(name, __version__ if name == OWN_SCOPE else "")


def _less(value: Number | Distribution, last: Number | Distribution) -> bool:
    """Whether the counting was started anew since ``last``."""
    if isinstance(value, Distribution):
        if not isinstance(last, Distribution) or value.bounds != last.bounds:
            return True
        return any(now < before for now, before in zip(value.counts, last.counts, strict=True))
    return isinstance(last, Distribution) or value < last


def _difference(value: Number | Distribution, last: Number | Distribution) -> Number | Distribution:
    if isinstance(value, Distribution) and isinstance(last, Distribution):
        return Distribution(value.bounds, tuple(map(sub, value.counts, last.counts)), value.sum - last.sum)
    if isinstance(value, Distribution) or isinstance(last, Distribution):
        raise TypeError(f"{value!r} and {last!r} have no difference")
    return value - last


def _number(attributes: Mapping[str, str], start: int, at: int, value: Number | Distribution) -> NumberDataPoint:
    if isinstance(value, Distribution):
        raise TypeError(f"{attributes} has {value!r}; expected a number")
    return NumberDataPoint(attributes, start, at, value, ())


def _histogram(
    attributes: Mapping[str, str], point: Point, start: int, at: int, value: Distribution
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=start,
        time_unix_nano=at,
        count=sum(value.counts),
        # The encoder leaves out a None, which is what isn't known.
        sum=None if math.isnan(value.sum) else value.sum,  # type: ignore[arg-type]
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
        exemplars=tuple(exemplar for exemplar in _exemplars(point) if exemplar.time_unix_nano >= start),
    )


@functools.lru_cache(KEPT)
def _as_dict(attributes: Attributes) -> Mapping[str, str]:
    return dict(attributes)


def _exemplars(point: Point) -> Iterator[SdkExemplar]:
    for exemplar in point.exemplars:
        at = int(exemplar.timestamp * _NANOSECONDS)
        yield SdkExemplar({}, exemplar.value, at, exemplar.span_id, exemplar.trace_id)
