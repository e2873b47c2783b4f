"""Whatever a registered collector yields costs itself alone: a good one's and Flowrra's are in every format."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import Incomplete
from flowrra_exporter.metrics.collectors.python import PythonCollector
from flowrra_exporter.metrics.exposition import Format, Renderer
from flowrra_exporter.metrics.foreign_families import REASONS
from flowrra_exporter.metrics.samples import AnyFamily, Family, series_of
from flowrra_exporter.otel.readings import Reader, Reading
from flowrra_exporter.otel.streams import Streams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar, Sample, Timestamp

PARSERS = {Format.TEXT: parse_text, Format.OPENMETRICS: parse_openmetrics}
OURS = Family(catalog.HEALTHY, [((), 1)])


class Yields:
    """A registered collector that yields these."""

    def __init__(self, *families: Any) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        return iter(self._families)


def family(name: Any = "bad", kind: Any = "gauge", help: Any = "Bad.", unit: Any = "", *samples: Any) -> Metric:
    """A family with whatever its constructor would refuse."""
    found = Metric("placeholder", "", "gauge")
    found.name, found.type, found.documentation, found.unit = name, kind, help, unit
    found.samples = list(samples)
    return found


class Served:
    """What becomes of these families beside a good one and one of Flowrra's, in every format."""

    def __init__(self, *bad: Any) -> None:
        registry = CollectorRegistry()
        registry.register(Yields(*bad))  # type: ignore[arg-type]
        Gauge("good_after", "Registered after the bad ones.", registry=registry).set(3)
        self.collector = PythonCollector(5.0, registry)
        self.families = [OURS, *asyncio.run(self._collect())]
        self.texts = {
            format: b"".join(Renderer().render(self.families, format)).decode()
            for format in (Format.TEXT, Format.OPENMETRICS)
        }
        self.parsed = {format: list(PARSERS[format](text)) for format, text in self.texts.items()}
        self.readings: list[Reading] = list(Reader().readings(self.families))
        streams = Streams(Resource({}), frozenset(), 0.0)
        self.pushed = [encode_metrics(batch.data) for batch in streams.batches(iter(self.readings), 1e9)]

    async def _collect(self) -> list[AnyFamily]:
        try:
            return list(await self.collector.collect())
        except Incomplete as incomplete:
            return incomplete.families

    def samples(self, format: Format = Format.TEXT) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Values by name and labels."""
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in self.parsed[format]:
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def dropped(self) -> dict[str, int | float]:
        """How many series of the bad collector are left out, by reason."""
        (found,) = [
            each for each in self.families if isinstance(each, Family) and each.metric is catalog.REGISTERED_DROPPED
        ]
        return {reason: value for (_, reason), value in found.points}  # type: ignore[misc]

    def points(self, name: str) -> list[Any]:
        """What is pushed over OTLP under this name."""
        return [point for reading in self.readings if reading.name == name for point in reading.points]

    def check_the_others(self) -> None:
        """The good family and Flowrra's are in every format, and what is said to be served is."""
        for format in (Format.TEXT, Format.OPENMETRICS):
            samples = self.samples(format)
            assert samples["good_after"][()] == 3
            assert samples["flowrra_healthy"] == {(): 1}
            series = sum(len(values) for values in samples.values())
            assert series == sum(map(series_of, self.families))
        assert self.points("good_after")[0].value == 3
        assert self.points("flowrra.healthy")[0].value == 1


ODD = {
    "a value of None": (family("bad", "gauge", "", "", Sample("bad", {"a": "1"}, None)), "value"),  # type: ignore[arg-type]
    "a value in words": (family("bad", "gauge", "", "", Sample("bad", {}, "many")), "value"),  # type: ignore[arg-type]
    "a value past all floats": (family("bad", "gauge", "", "", Sample("bad", {}, 10**400)), "value"),
    "a timestamp in words": (family("bad", "gauge", "", "", Sample("bad", {}, 1, "noon")), "timestamp"),  # type: ignore[arg-type]
    "a timestamp that is no number": (family("bad", "gauge", "", "", Sample("bad", {}, 1, float("nan"))), "timestamp"),
    "a timestamp past all times": (family("bad", "gauge", "", "", Sample("bad", {}, 1, 1e300)), "timestamp"),
    "a label without a name": (family("bad", "gauge", "", "", Sample("bad", {"": "x"}, 1)), "label"),
    "a label that names the metric": (
        family("bad", "gauge", "", "", Sample("bad", {"__name__": "good_after"}, 1)),
        "label",
    ),
    "a label that is a number": (family("bad", "gauge", "", "", Sample("bad", {1: "x"}, 1)), "label"),  # type: ignore[dict-item]
    "labels that are no mapping": (family("bad", "gauge", "", "", Sample("bad", 7, 1)), "label"),  # type: ignore[arg-type]
    "labels of 10 MB": (family("bad", "gauge", "", "", Sample("bad", {"a": "x" * 10_000_000}, 1)), "size"),
    "a name of 10 kB": (family("x" * 10_000, "gauge", "", "", Sample("x" * 10_000, {}, 1)), "size"),
    "no name": (family("", "gauge", "", "", Sample("", {}, 1)), "name"),
    "a name that is a number": (family(7, "gauge", "", "", Sample("bad", {}, 1)), "name"),
    "a sample without a name": (family("bad", "gauge", "", "", Sample(None, {}, 1)), "name"),  # type: ignore[arg-type]
    "a sample that is none": (family("bad", "gauge", "", "", 17), "no_family"),
    "samples that are none": (family("bad", "gauge", "", "", "text"), "no_family"),
    "a number instead of a family": (17, "no_family"),
    "None instead of a family": (None, "no_family"),
    "a series twice": (family("bad", "gauge", "", "", Sample("bad", {}, 1), Sample("bad", {}, 2)), "duplicate"),
    "a name of Flowrra's": (family("flowrra_healthy", "gauge", "", "", Sample("flowrra_healthy", {}, 0)), "name_taken"),
    "a name of another type's": (
        family("good_after", "counter", "", "", Sample("good_after_total", {}, 1)),
        "name_taken",
    ),
}


@pytest.mark.parametrize(("odd", "reason"), ODD.values(), ids=list(ODD))
def test_what_cannot_be_served_is_left_out_alone_counted_and_said(
    odd: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(odd)
    served.check_the_others()
    assert set(served.dropped()) == {reason}
    assert reason in REASONS
    assert [record.getMessage() for record in caplog.records] == served.collector.left_out
    assert len(served.collector.left_out) >= 1


def test_labels_are_made_valid_and_told_apart() -> None:
    labels = {"http:code": "200", "a.b": "1", "a-b": "2", "1st": "3", "..x": "4", "plain": "\ud800 x\0y"}
    served = Served(family("bad", "gauge", "", "", Sample("bad", labels, 1)))
    served.check_the_others()
    valid = {
        "http_code": "200",
        "U__a_2e_b": "1",
        "U__a_2d_b": "2",
        "_st": "3",
        "U___2e__2e_x": "4",
        "plain": "\\ud800 x\0y",
    }
    for format in (Format.TEXT, Format.OPENMETRICS):
        assert served.samples(format)["bad"] == {tuple(sorted(valid.items())): 1}
    assert dict(served.points("bad")[0].attributes) == valid
    assert not served.dropped()


@pytest.mark.parametrize("help", [None, "a \ud800 surrogate", 'quoted "\\\n', 17, ""])
@pytest.mark.parametrize("unit", [None, "\ud800", "seconds", "parsecs"])
def test_an_odd_help_or_unit_costs_nothing(help: Any, unit: Any) -> None:
    served = Served(family("bad_seconds", "gauge", help, unit, Sample("bad_seconds", {}, 1)))
    served.check_the_others()
    for format in (Format.TEXT, Format.OPENMETRICS):
        assert served.samples(format)["bad_seconds"] == {(): 1}


def test_an_odd_exemplar_costs_itself_or_its_labels_names(caplog: pytest.LogCaptureFixture) -> None:
    served = Served(
        family("dotted", "counter", "", "", Sample("dotted_total", {}, 1, None, Exemplar({"trace.id": "x"}, 1))),
        family("none", "counter", "", "", Sample("none_total", {}, 1, None, Exemplar(None, "x"))),  # type: ignore[arg-type]
        family("long", "counter", "", "", Sample("long_total", {}, 1, None, Exemplar({"x": "y" * 200}, 1))),
        family("unfit", "gauge", "", "", Sample("unfit", {}, 1, None, Exemplar({"x": "y"}, 1))),
    )
    served.check_the_others()
    assert {"dotted_total", "none_total", "long_total", "unfit"} <= set(served.samples(Format.OPENMETRICS))
    assert 'dotted_total 1.0 # {trace_id="x"} 1.0' in served.texts[Format.OPENMETRICS]
    assert sum("exemplar" in record.getMessage() for record in caplog.records) == 3
    assert not sum(served.dropped().values())


def test_samples_named_unlike_their_family_are_served_as_families_of_their_own() -> None:
    served = Served(family("bad", "gauge", "", "", Sample("bad", {}, 1), Sample("other", {"a": "b"}, 2)))
    served.check_the_others()
    for format in (Format.TEXT, Format.OPENMETRICS):
        samples = served.samples(format)
        assert samples["bad"] == {(): 1}
        assert samples["other"] == {(("a", "b"),): 2}
    assert served.points("other")[0].value == 2


def test_a_gauge_whose_name_ends_in_created_is_served() -> None:
    served = Served(GaugeMetricFamily("pods_created", "Pods.", value=7))
    served.check_the_others()
    assert served.samples(Format.TEXT)["pods_created"] == served.samples(Format.OPENMETRICS)["pods_created"] == {(): 7}
    assert served.points("pods_created")[0].value == 7


def test_what_is_not_what_its_type_promises_is_served_without_the_type() -> None:
    unsound = HistogramMetricFamily("bad", "No histogram.")
    unsound.add_metric([], buckets=[("1.0", 5), ("+Inf", 3)], sum_value=1.0)
    negative = family("minus", "counter", "", "", Sample("minus_total", {}, -1))
    served = Served(unsound, negative)
    served.check_the_others()
    for format in (Format.TEXT, Format.OPENMETRICS):
        samples = served.samples(format)
        assert samples["bad_bucket"] == {(("le", "1.0"),): 5, (("le", "+Inf"),): 3}
        assert samples["minus_total"] == {(): -1}
    assert [point.value for point in served.points("bad_bucket")] == [5, 3]
    assert not served.dropped()


def test_a_gauge_histogram_is_pushed_as_gauges() -> None:
    served = Served(
        family(
            "ages",
            "gaugehistogram",
            "",
            "",
            Sample("ages_bucket", {"le": "inf"}, 2),
            Sample("ages_gcount", {}, 2),
            Sample("ages_gsum", {}, 9),
        )
    )
    served.check_the_others()
    assert [served.points(name)[0].value for name in ("ages_bucket", "ages_gcount", "ages_gsum")] == [2, 2, 9]


def test_two_collectors_may_have_parts_of_one_metric() -> None:
    one = family(
        "orders", "counter", "", "", Sample("orders_total", {"shop": "a"}, 1), Sample("orders_total", {"shop": "b"}, 2)
    )
    other = family(
        "orders", "counter", "", "", Sample("orders_total", {"shop": "b"}, 7), Sample("orders_total", {"town": "c"}, 3)
    )
    registry = CollectorRegistry()
    for each in (one, other):
        registry.register(Yields(each))  # type: ignore[arg-type]
    collector = PythonCollector(5.0, registry)
    for _ in range(2):
        families = {each.name: each for each in asyncio.run(_families(collector)) if not isinstance(each, Family)}
        assert [sample.value for sample in families["orders"].samples] == [1, 2, 3]
        assert collector.dropped == 1
    assert "the same series is there already" in collector.left_out[0]


def test_what_is_said_of_a_bad_value_shows_no_part_of_a_password() -> None:
    registry = CollectorRegistry()
    url = f"{'x' * 140} redis://bot:{'s3cret' * 20}@cache.example/0"
    registry.register(Yields(*(family("bad", "gauge", "", "", Sample("bad", {}, each)) for each in (url, [url]))))  # type: ignore[arg-type]
    collector = PythonCollector(5.0, registry)
    asyncio.run(_families(collector))
    assert "redis://***@cache.example/0" in collector.left_out[0]
    assert "s3c" not in "".join(collector.left_out)


async def _families(collector: PythonCollector) -> list[AnyFamily]:
    return list(await collector.collect())


# Anything at all:


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "flowrra_exporter")


TEXTS = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["", "a.b", "a-b", "http:code", "le", "quantile", "\ud800", "good_after"]
)
NAMES = TEXTS | st.sampled_from(
    ["bad", "bad_total", "bad_bucket", "bad_created", "bad_sum", "flowrra_healthy", "__name__"]
)
NOTHING = st.none() | st.integers() | st.binary(max_size=3)
VALUES = (
    st.floats()
    | st.integers()
    | NOTHING
    | TEXTS
    | st.sampled_from([10**400, 2.0**63, -1, 1.5])
    | st.decimals()
    | st.fractions()
)
TIMES = st.none() | VALUES | st.builds(Timestamp, st.integers(0, 2**40), st.integers(0, 999_999_999))
LABELS = st.dictionaries(NAMES, TEXTS | NOTHING, max_size=3)
EXEMPLARS = st.none() | st.builds(Exemplar, LABELS | NOTHING, VALUES, TIMES) | NOTHING
BOUNDS = st.sampled_from(["0.1", "1", "+Inf", "inf", "nan", "-1", "x"]).map(lambda bound: {"le": bound})
TYPES = (
    st.sampled_from(["counter", "gauge", "summary", "histogram", "gaugehistogram", "unknown", "info", "stateset"])
    | TEXTS
    | NOTHING
)


@st.composite
def samples(draw: Callable[..., Any], name: Any) -> Any:
    suffixes = ["", "_total", "_created", "_bucket", "_sum", "_count", "_gsum", "_gcount", "_info"]
    suffixed = st.sampled_from(suffixes).map(lambda suffix: f"{name}{suffix}")
    return Sample(
        draw(suffixed | NAMES | NOTHING), draw(LABELS | BOUNDS | NOTHING), draw(VALUES), draw(TIMES), draw(EXEMPLARS)
    )


@st.composite
def families(draw: Callable[..., Any]) -> Any:
    name = draw(st.just("bad") | NAMES | NOTHING)
    return family(
        name,
        draw(TYPES),
        draw(TEXTS | NOTHING),
        draw(TEXTS | NOTHING),
        *draw(st.lists(samples(name) | NOTHING, max_size=6)),
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(families() | NOTHING, max_size=4))
@pytest.mark.usefixtures("quiet")
def test_nothing_a_collector_yields_costs_the_others_anything(bad: list[Any]) -> None:
    Served(*bad).check_the_others()


@pytest.mark.tools
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(families(), min_size=3, max_size=8))
@pytest.mark.usefixtures("quiet")
def test_promtool_parses_whatever_a_collector_yields(bad: list[Any]) -> None:
    text = Served(*bad).texts[Format.TEXT]
    checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert b"error while linting" not in checked.stderr, (checked.stderr, text)
    assert checked.returncode in (0, 3), checked.stderr  # 3: parsed, with remarks on conventions
