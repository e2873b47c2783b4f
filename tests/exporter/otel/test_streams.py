"""Readings become points: intervals, restarts of the counting, and requests of bounded size."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from flowrra_exporter.metrics.exemplars import Exemplar
from flowrra_exporter.metrics.foreign_families import LeftOut, read_family
from flowrra_exporter.metrics.samples import Distribution
from flowrra_exporter.otel import streams as streams_module
from flowrra_exporter.otel.names import KEPT
from flowrra_exporter.otel.readings import NO_SUM, Kind, Point, Reader, Reading
from flowrra_exporter.otel.streams import MAX_POINTS, Batch, Streams
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily

SINCE = 1000.0
SECOND = 1_000_000_000
DELTA = frozenset({Kind.COUNTER, Kind.HISTOGRAM})
MAIL = (("task", "mail"),)


def streams(*, delta: bool) -> Streams:
    return Streams(Resource({}), DELTA if delta else frozenset(), SINCE)


def reading(kind: Kind, *points: Point, name: str = "n") -> Reading:
    return Reading("flowrra_exporter", name, "", "", kind, list(points))


def points_of(batch: Batch) -> list[Any]:
    scopes = batch.data.resource_metrics[0].scope_metrics
    return [point for scope in scopes for metric in scope.metrics for point in metric.data.data_points]


def push(found: Streams, at: float, value: Any, kind: Kind = Kind.COUNTER, *, accepted: bool = True) -> Any:
    """Sends one value at a time in seconds, and returns the point of it."""
    (batch,) = found.batches([reading(kind, Point(MAIL, value))], at)
    if accepted:
        batch.sent()
    (point,) = points_of(batch)
    assert point.time_unix_nano == at * SECOND
    return point


def test_a_total_is_sent_whole_with_the_start_of_the_counting() -> None:
    found = streams(delta=False)
    for at, value in ((2000, 5), (2010, 5), (2020, 9)):
        point = push(found, at, value)
        assert (point.value, point.start_time_unix_nano) == (value, SINCE * SECOND)


def test_a_total_that_fell_started_anew_after_the_reading_before() -> None:
    found = streams(delta=False)
    push(found, 2000, 5)
    push(found, 2010, 8)
    for at, value in ((2020, 2), (2030, 4)):
        point = push(found, at, value)
        assert (point.value, point.start_time_unix_nano) == (value, 2010 * SECOND)


def test_a_delta_is_the_difference_to_what_was_accepted() -> None:
    found = streams(delta=True)
    sent = [
        push(found, 2000, 5),
        push(found, 2010, 8, accepted=False),
        push(found, 2020, 9, accepted=False),
        push(found, 2030, 11),
        push(found, 2040, 11),
    ]
    assert [point.value for point in sent] == [5, 3, 4, 6, 0]
    starts = [point.start_time_unix_nano / SECOND for point in sent]
    assert starts == [SINCE, 2000, 2000, 2000, 2030]


def test_a_delta_after_a_new_start_is_all_that_was_counted_since() -> None:
    found = streams(delta=True)
    push(found, 2000, 5)
    point = push(found, 2010, 2)
    assert (point.value, point.start_time_unix_nano) == (2, 2000 * SECOND)
    assert push(found, 2020, 3).value == 1


def test_a_metric_that_was_absent_for_a_while_loses_and_doubles_nothing() -> None:
    found = streams(delta=True)
    push(found, 2000, 5)
    for batch in found.batches([reading(Kind.COUNTER, Point(MAIL, 1), name="other")], 2010):
        batch.sent()
    point = push(found, 2020, 7)
    assert (point.value, point.start_time_unix_nano) == (2, 2000 * SECOND)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "cumulative"])
def test_a_label_set_that_was_removed_and_made_again_starts_anew(delta: bool) -> None:
    found = streams(delta=delta)
    push(found, 2000, 5)
    for batch in found.batches([reading(Kind.COUNTER, Point((("task", "other"),), 1))], 2010):
        batch.sent()
    point = push(found, 2020, 7)
    assert (point.value, point.start_time_unix_nano) == (7, 2010 * SECOND)
    again = push(found, 2030, 8)
    assert (again.value, again.start_time_unix_nano / SECOND) == ((1, 2020) if delta else (8, 2010))


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "cumulative"])
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (Kind.COUNTER, 5, 7),
        (Kind.HISTOGRAM, Distribution((1.0,), (5, 0), 5.0), Distribution((1.0,), (7, 0), 7.0)),
    ],
    ids=["counter", "histogram"],
)
def test_a_label_set_made_again_between_two_pushes_starts_anew_with_its_own_start(
    delta: bool, kind: Kind, first: Any, second: Any
) -> None:
    found = streams(delta=delta)
    for at, since, value in ((2000, 1500.0, first), (2010, 2005.0, second)):
        (batch,) = found.batches([reading(kind, Point(MAIL, value, since=since))], at)
        batch.sent()
        (point,) = points_of(batch)
        assert point.start_time_unix_nano == since * SECOND
        counted = sum(point.bucket_counts) if kind is Kind.HISTOGRAM else point.value
        assert counted == (5 if value is first else 7)


def test_a_new_label_set_of_a_known_metric_was_not_there_at_the_push_before() -> None:
    found = streams(delta=False)
    push(found, 2000, 5)
    points = Point(MAIL, 5), Point((("task", "new"),), 1)
    (batch,) = found.batches([reading(Kind.COUNTER, *points)], 2010)
    assert [point.start_time_unix_nano / SECOND for point in points_of(batch)] == [SINCE, 2000]


def test_a_clock_that_is_set_back_starts_nothing_anew() -> None:
    found = streams(delta=True)
    for at, value, expected in ((1500, 5, 5), (1510, 6, 1)):  # the label set was made when it was said to be 2000
        (batch,) = found.batches([reading(Kind.COUNTER, Point(MAIL, value, since=2000.0))], at)
        batch.sent()
        assert [point.value for point in points_of(batch)] == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("accepted", [True, False], ids=["accepted", "outage"])
def test_label_sets_and_metrics_that_come_and_go_take_no_more_memory(accepted: bool) -> None:
    found = streams(delta=True)

    def collect(first: int, pushes: int) -> int:
        for number in range(first, first + pushes):
            gone = [Point((("order", f"{number}-{place}"),), 1) for place in range(400)]
            for batch in found.batches(
                [reading(Kind.COUNTER, *gone), reading(Kind.COUNTER, *gone, name=f"shop_{number}")], 2000 + number
            ):
                if accepted:
                    batch.sent()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        full = collect(0, KEPT // 400 + 15)  # enough for what is kept on purpose
        assert collect(1000, 100) < full * 1.2
    finally:
        tracemalloc.stop()


def test_a_batch_is_halved_without_a_loss() -> None:
    found = streams(delta=True)
    readings = [
        reading(Kind.COUNTER, *(Point((("task", str(number)),), number) for number in range(5)), name="a"),
        reading(Kind.GAUGE, Point((), 7), Point((("x", "1"),), 8), name="b"),
    ]
    (batch,) = found.batches(readings, 2000)
    halves = batch.halves()
    assert [half.points for half in halves] == [3, 4]
    assert [point.value for half in halves for point in points_of(half)] == [0, 1, 2, 3, 4, 7, 8]
    halves[0].sent()
    (batch,) = found.batches(readings, 2010)
    assert [point.value for point in points_of(batch)] == [0, 0, 0, 3, 4, 7, 8]


def test_histograms_differ_bucket_by_bucket() -> None:
    found = streams(delta=True)
    push(found, 2000, Distribution((1.0, 5.0), (1, 2, 0), 6.0), Kind.HISTOGRAM)
    point = push(found, 2010, Distribution((1.0, 5.0), (1, 4, 1), 21.0), Kind.HISTOGRAM)
    assert (point.bucket_counts, point.explicit_bounds) == ((0, 2, 1), (1.0, 5.0))
    assert (point.count, point.sum) == (3, 15.0)
    assert point.start_time_unix_nano == 2000 * SECOND


@pytest.mark.parametrize(
    "later",
    [Distribution((1.0, 9.0), (1, 4, 1), 21.0), Distribution((1.0, 5.0), (0, 4, 1), 21.0)],
    ids=["other bounds", "fewer in a bucket"],
)
def test_a_histogram_that_started_anew_is_sent_whole(later: Distribution) -> None:
    found = streams(delta=True)
    push(found, 2000, Distribution((1.0, 5.0), (1, 2, 0), 6.0), Kind.HISTOGRAM)
    point = push(found, 2010, later, Kind.HISTOGRAM)
    assert (point.bucket_counts, point.explicit_bounds) == (later.counts, later.bounds)


def test_a_points_own_start_wins() -> None:
    (batch,) = streams(delta=False).batches([reading(Kind.COUNTER, Point(MAIL, 5, since=1500.0))], 2000)
    (point,) = points_of(batch)
    assert point.start_time_unix_nano == 1500 * SECOND


def test_a_clock_that_is_set_back_makes_no_interval_negative() -> None:
    found = streams(delta=True)
    push(found, 2000, 5)
    (batch,) = found.batches([reading(Kind.COUNTER, Point(MAIL, 6))], 1500)
    (point,) = points_of(batch)
    assert point.start_time_unix_nano == point.time_unix_nano == 2000 * SECOND


def test_gauges_are_never_differences() -> None:
    found = streams(delta=True)
    push(found, 2000, 5, Kind.GAUGE)
    assert push(found, 2010, 7, Kind.GAUGE).value == 7


def test_requests_are_bounded_and_each_is_accepted_on_its_own() -> None:
    found = streams(delta=True)
    many = [Point((("task", str(number)),), 1) for number in range(MAX_POINTS * 2 + 10)]
    readings = [reading(Kind.GAUGE, Point((), 1), name="first"), reading(Kind.COUNTER, *many)]
    batches = list(found.batches(readings, 2000))
    assert sum(batch.points for batch in batches) == len(many) + 1
    assert all(len(points_of(batch)) == batch.points <= MAX_POINTS for batch in batches)
    batches[0].sent()
    batches[1].sent()
    values = [point.value for batch in found.batches(readings[1:], 2010) for point in points_of(batch)]
    assert values.count(0) == batches[1].points
    assert values.count(1) == len(many) - batches[1].points


def test_what_fits_into_one_request_goes_in_one() -> None:
    half = [Point((("task", str(number)),), 1) for number in range(MAX_POINTS // 2)]
    (batch,) = streams(delta=True).batches([reading(Kind.COUNTER, *half), reading(Kind.GAUGE, *half, name="m")], 2000)
    assert batch.points == MAX_POINTS == len(points_of(batch))
    assert list(streams(delta=True).batches([], 2000)) == []


def test_of_metrics_that_are_gone_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MAX_ABSENT_STREAMS", 2)
    found, names = streams(delta=True), ("first", "second", "third")
    for at, name in enumerate(names, 2000):
        (batch,) = found.batches([reading(Kind.COUNTER, Point(MAIL, 5), name=name)], at)
        batch.sent()
    assert list(found.batches([], 2010)) == []
    again = [reading(Kind.COUNTER, Point(MAIL, 7), name=name) for name in names]
    (batch,) = found.batches(again, 2020)
    assert [point.value for point in points_of(batch)] == [7, 2, 2], "the first one is counted anew"


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "cumulative"])
def test_what_has_no_sum_is_sent_without_one(delta: bool) -> None:
    """A histogram of another program's statistics has none, and one of observations below 0 may have none."""
    unsummed = HistogramMetricFamily("delay_seconds", "Delay.")
    unsummed.add_metric([], buckets=[("1.0", 5), ("+Inf", 12)], sum_value=None)
    negative = HistogramMetricFamily("drift_seconds", "Drift.")
    negative.add_metric([], buckets=[("-1.0", 5), ("+Inf", 12)], sum_value=-3.0)
    counted = Metric("size_bytes", "Size.", "summary")
    counted.add_sample("size_bytes_count", {}, 3)
    summed = HistogramMetricFamily("wait_seconds", "Wait.", buckets=[("1.0", 5), ("+Inf", 12)], sum_value=0.0)
    families = [each.family for raw in (unsummed, negative, counted, summed) for each in read_family(raw, LeftOut())]
    found = streams(delta=delta)
    for at in (2000, 2010):
        (batch,) = found.batches(Reader().readings(families), at)
        batch.sent()
        assert [point.sum for point in points_of(batch)] == [None, None, None, 0.0]
        message = encode_metrics(batch.data).resource_metrics[0].scope_metrics[0]
        points = [metric.histogram.data_points[0] for metric in message.metrics]
        assert [point.HasField("sum") for point in points] == [False, False, False, True]


@pytest.mark.parametrize(
    ("sums", "sent"), [((1.0, NO_SUM, 5.0), [1.0, None, None]), ((1.0, 4.0, 5.0), [1.0, 3.0, 1.0])]
)
def test_there_is_no_difference_from_or_to_what_has_no_sum(sums: tuple[float, ...], sent: list[float | None]) -> None:
    found = streams(delta=True)
    values = [Distribution((1.0,), (count, count), total) for count, total in enumerate(sums)]
    points = [push(found, 2000 + 10 * at, value, Kind.HISTOGRAM) for at, value in enumerate(values)]
    assert [point.sum for point in points] == sent
    assert [point.count for point in points] == [0, 2, 2]


def test_exemplars_go_along_a_delta_has_those_of_its_interval() -> None:
    old, new = Exemplar(1, 2, 0.5, 1990.0), Exemplar(3, 4, 0.25, 2005.0)
    value = Distribution((1.0,), (2, 0), 0.75)
    for delta, expected in ((False, [old, new]), (True, [new])):
        found = streams(delta=delta)
        push(found, 2000, Distribution((1.0,), (1, 0), 0.5), Kind.HISTOGRAM)
        (batch,) = found.batches([reading(Kind.HISTOGRAM, Point(MAIL, value, (old, new)))], 2010)
        (point,) = points_of(batch)
        sent = [(one.trace_id, one.span_id, one.value, one.time_unix_nano / SECOND) for one in point.exemplars]
        assert sent == [tuple(exemplar) for exemplar in expected]
