"""What is rendered is what the reference parsers read, in both formats, whatever stands in a label."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable

import pytest
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import CATALOG
from flowrra_exporter.metrics.exposition import Format, Renderer, format_number
from flowrra_exporter.metrics.samples import AnyFamily, Distribution, Family, Point
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client import Enum as StateSet
from prometheus_client.core import GaugeHistogramMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import generate_latest as reference_text
from prometheus_client.openmetrics.exposition import generate_latest as reference_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

PARSERS = {Format.TEXT: parse_text, Format.OPENMETRICS: parse_openmetrics}
REFERENCES = {Format.TEXT: reference_text, Format.OPENMETRICS: reference_openmetrics}
each_format = pytest.mark.parametrize("format", list(Format), ids=lambda format: format.name)

SOME = Distribution((0.1, 2.5), (3, 0, 4), 12.5)


def text_of(families: Iterable[AnyFamily], format: Format, renderer: Renderer | None = None) -> str:
    return b"".join((renderer or Renderer()).render(families, format)).decode()


def parsed(text: str, format: Format) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in PARSERS[format](text)
        for sample in family.samples
    }


def one_of_each() -> list[Family]:
    """The whole catalog, each metric with one point."""
    values = {"histogram": SOME, "info": 1}
    return [Family(metric, [(("a",) * len(metric.labels), values.get(metric.type, 5))]) for metric in CATALOG]


@each_format
def test_the_whole_catalog_passes_the_reference_parser(format: Format) -> None:
    families = {family.name: family for family in PARSERS[format](text_of(one_of_each(), format))}
    for metric in CATALOG:
        # The parser of the text format strips _total from a counter's name itself.
        name = metric.name if format is Format.TEXT and metric.type != "counter" else metric.family_name
        assert families[name].documentation == metric.help
        expected = "gauge" if format is Format.TEXT and metric.type == "info" else metric.type
        assert families[name].type == expected
        assert families[name].unit == (metric.unit if format is Format.OPENMETRICS else "")
    assert len(families) == len(CATALOG)


@each_format
def test_a_histogram_has_cumulative_buckets_and_a_count_that_agrees(format: Format) -> None:
    family = Family(catalog.TASK_RUN_DURATION, [(("mail", "success"), SOME)])
    labels = {"task": "mail", "outcome": "success"}
    name = "flowrra_task_run_duration_seconds"
    assert parsed(text_of([family], format), format) == {
        (f"{name}_bucket", frozenset({**labels, "le": "0.1"}.items())): 3,
        (f"{name}_bucket", frozenset({**labels, "le": "2.5"}.items())): 3,
        (f"{name}_bucket", frozenset({**labels, "le": "+Inf"}.items())): 7,
        (f"{name}_count", frozenset(labels.items())): 7,
        (f"{name}_sum", frozenset(labels.items())): 12.5,
    }


@each_format
def test_a_family_without_points_is_absent(format: Format) -> None:
    assert "flowrra_tasks_running" not in text_of([Family(catalog.TASKS_RUNNING)], format)


def test_openmetrics_ends_with_eof_and_text_does_not() -> None:
    assert text_of(one_of_each(), Format.OPENMETRICS).endswith("\n# EOF\n")
    assert "# EOF" not in text_of(one_of_each(), Format.TEXT)
    assert text_of([], Format.OPENMETRICS) == "# EOF\n"


hostile = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60) | st.sampled_from(
    ['"', "\\", "\n", '\\"', "\\n", "\r", "\u2028", "\x00", "{}", 'a="b",', "# EOF", "🐘", " ", "}", "x" * 10_240]
)


@each_format
@given(names=st.lists(hostile, min_size=1, max_size=5, unique=True))
@example(names=["100 %", "%d", "%%", "%(x)s"])
@example(names=['say "hi"\n', "back\\slash", "🐘" * 2560, "\\", '\\"', "\n"])
def test_hostile_task_names_round_trip(format: Format, names: list[str]) -> None:
    points: list[Point] = [((name,), index) for index, name in enumerate(names)]
    histograms: list[Point] = [((name, "success"), SOME) for name in names]
    families = [Family(catalog.TASKS_RUNNING, points), Family(catalog.TASK_RUN_DURATION, histograms)]
    found = parsed(text_of(families, format), format)
    for index, name in enumerate(names):
        assert found["flowrra_tasks_running", frozenset({("task", name)})] == index
        count = ("flowrra_task_run_duration_seconds_count", frozenset({("task", name), ("outcome", "success")}))
        assert found[count] == 7


@each_format
def test_a_name_that_is_no_unicode_is_still_served_and_stays_distinct(format: Format) -> None:
    family = Family(catalog.TASKS_RUNNING, [(("\udc80",), 1), (("\udc81",), 2)])
    found = parsed(text_of([family], format), format)
    assert {dict(labels)["task"]: value for (_, labels), value in found.items()} == {"\\udc80": 1, "\\udc81": 2}


@pytest.mark.parametrize(
    "value", [0, 1, -1, 10**18, 0.1, 1e-9, 1e22, 1.5e300, math.inf, -math.inf, math.nan, True, 0.0]
)
@each_format
def test_values_survive(value: float, format: Format) -> None:
    (found,) = parsed(text_of([Family(catalog.APP_RUNNING, [((), value)])], format), format).values()
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_infinity_is_spelled_as_prometheus_does() -> None:
    assert [format_number(value) for value in (math.inf, -math.inf, math.nan)] == ["+Inf", "-Inf", "NaN"]


@each_format
def test_rendering_again_shows_the_new_values(format: Format) -> None:
    renderer = Renderer()
    for count, bounds in ((1, (0.1,)), (2, (0.1,)), (2, (0.1,)), (3, (0.5,))):
        families = [
            Family(catalog.TASKS_RUNNING, [(("a",), count)]),
            Family(catalog.TASK_QUEUE_WAIT, [(("a",), Distribution(bounds, (count, 0), 1.0 * count))]),
        ]
        assert text_of(families, format, renderer) == text_of(families, format)


@pytest.mark.slow
def test_two_renderings_that_alternate_slice_by_slice_do_not_disturb_each_other() -> None:
    renderer = Renderer()
    families = [Family(catalog.TASKS_RUNNING, [((f"task{i}",), i) for i in range(20_000)])]
    pairs = [(renderer.render(families, format), format) for format in Format]
    texts = dict.fromkeys(Format, b"")
    while pairs:
        for slices, format in list(pairs):
            slice = next(slices, None)
            if slice is None:
                pairs.remove((slices, format))
            else:
                texts[format] += slice
    assert texts == {format: text_of(families, format).encode() for format in Format}


@pytest.mark.slow
def test_label_sets_that_are_gone_are_not_kept() -> None:
    def lines() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "_Line" for thing in gc.get_objects())

    before = lines()
    renderer = Renderer()
    for generation in range(50):
        points: list[Point] = [((f"{generation}-{i}",), 1) for i in range(200)]
        text_of([Family(catalog.TASKS_RUNNING, points)], Format.TEXT, renderer)
    assert lines() - before < 2000  # of 10,000 that were rendered


def big_scrape() -> list[Family]:
    """About 10,000 series, as 175 tasks have them."""
    bounds = catalog.RUN_DURATION_BOUNDS
    run = Distribution(bounds, tuple(range(len(bounds) + 1)), 1.5)
    wait = Distribution(catalog.QUEUE_WAIT_BOUNDS, tuple(range(11)), 1.5)
    names = [f"shop.tasks.task_{i}" for i in range(175)]
    counters = [metric for metric in CATALOG if metric.labels == ("task",) and metric.type == "counter"]
    return [
        *(Family(metric, [((name,), 12345) for name in names]) for metric in counters),
        Family(catalog.TASK_QUEUE_WAIT, [((name,), wait) for name in names]),
        Family(
            catalog.TASK_RUN_DURATION,
            [((name, outcome), run) for name in names for outcome in ("success", "error")],
        ),
    ]


def changed(families: list[Family]) -> list[Family]:
    """The same label sets, every value another."""

    def other(value: object) -> object:
        if isinstance(value, Distribution):
            return value._replace(counts=tuple(count + 1 for count in value.counts), sum=value.sum + 1)
        assert isinstance(value, int)
        return value + 1

    return [Family(f.metric, [(labels, other(value)) for labels, value in f.points]) for f in families]  # type: ignore[misc]


@pytest.mark.slow
def test_ten_thousand_series_take_less_than_writing_each_line_anew_in_small_slices() -> None:
    renderer, families = Renderer(), big_scrape()
    assert 9_900 < sum(family.series() for family in families) < 11_000
    text_of(families, Format.TEXT, renderer)
    totals, plain = [], []
    for _ in range(10):
        started = time.thread_time()
        "".join(f"{name} {value}\n" for name, value in [("a_name_of_a_series", n / 7) for n in range(10_000)])
        plain.append(time.thread_time() - started)
        families = changed(families)
        started = time.thread_time()  # CPU time: the machine may have other things to do
        slices = list(renderer.render(families, Format.TEXT))
        totals.append(time.thread_time() - started)
        assert len(slices) > 1
    assert min(totals) < min(plain), (totals, plain)


def a_registry_with_every_type() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("orders", 'Orders "placed" \\ by\nkind.', ["kind"], registry=registry).labels('odd "one"\n').inc(3)
    Gauge("temperature_celsius", "Heat.", unit="celsius", registry=registry).set(-0.5)
    Histogram("latency_seconds", "Time.", buckets=(0.1, 1), registry=registry).observe(
        0.5, exemplar={"trace_id": "abc"}
    )
    Summary("size_bytes", "Size.", registry=registry).observe(7)
    Info("library", "Which.", registry=registry).info({"version": "1"})
    StateSet("mood", "Mood.", states=["good", "bad"], registry=registry).state("bad")

    class Others:
        def collect(self) -> Iterable[object]:
            unknown = UnknownMetricFamily("mystery", "Who knows.")
            unknown.add_metric([], 1.5, timestamp=1_700_000_000.5)  # type: ignore[arg-type]
            yield unknown
            yield GaugeHistogramMetricFamily("ages", "Ages.", buckets=[("1.0", 2), ("+Inf", 3)], gsum_value=9)

    registry.register(Others())  # type: ignore[arg-type]
    return registry


@each_format
def test_other_metrics_come_out_as_prometheus_client_writes_them(format: Format) -> None:
    registry = a_registry_with_every_type()

    def families(text: str) -> dict[str, tuple[str, str, str, list[object]]]:
        return {
            family.name: (family.type, family.documentation, family.unit, sorted(map(repr, family.samples)))
            for family in PARSERS[format](text)
            if not family.name.endswith("_created")
        }

    ours = families(text_of(list(registry.collect()), format))
    reference = families(REFERENCES[format](registry).decode())
    without_created = {
        name: (kind, help, unit, [sample for sample in samples if "_created'" not in str(sample)])
        for name, (kind, help, unit, samples) in reference.items()
    }
    assert ours == without_created
