"""Names and units follow OpenTelemetry's rules, and the documentation has them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flowrra_exporter.metrics.catalog import CATALOG, Metric
from flowrra_exporter.otel.names import CONVENTIONS, table, unit_of
from flowrra_exporter.settings import OPTIONS

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "opentelemetry.md"


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_names_are_in_a_namespace_and_units_are_not_part_of_them(metric: Metric) -> None:
    assert re.fullmatch(r"flowrra(\.[a-z]+(_[a-z]+)*)+", metric.otel_name)
    assert not metric.otel_name.endswith(("seconds", ".total", "_total"))


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_seconds_are_s_and_what_is_counted_stands_in_braces(metric: Metric) -> None:
    unit = unit_of(metric)
    if metric.unit == "seconds":
        assert unit == "s"
    elif metric.unit == "bytes":
        assert unit == "By"
    elif metric.type == "counter" or metric.unit == "tasks":
        assert re.fullmatch(r"\{[a-z]+\}", unit)
    else:
        assert re.fullmatch(r"(\{[a-z]+\})?", unit)


def test_the_conventions_names_are_those_of_the_specification() -> None:
    assert {(convention.name, convention.unit) for convention in CONVENTIONS} == {
        ("messaging.client.sent.messages", "{message}"),
        ("messaging.client.consumed.messages", "{message}"),
        ("messaging.process.duration", "s"),
    }


def test_the_documentation_has_the_table_of_today() -> None:
    assert table() in DOCUMENTATION.read_text(), "write the output of: python -m flowrra_exporter.otel.names"


def test_the_documentation_has_every_flag_and_convention() -> None:
    text = DOCUMENTATION.read_text()
    for word in [option.flag for option in OPTIONS if option.flag.startswith("--otel.")]:
        assert f"`{word}`" in text
    for convention in CONVENTIONS:
        assert f"`{convention.name}`" in text
