"""docs/metrics.md says of every metric what the catalog says."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowrra_exporter.metrics.catalog import CATALOG, QUEUE_PENDING, TASK_QUEUE_WAIT, TASK_RUN_DURATION, Metric
from flowrra_exporter.reference import reference, section

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_is_current() -> None:
    if PAGE.read_text(encoding="utf-8") != reference():
        pytest.fail("docs/metrics.md isn't what the catalog says now; run: make reference", pytrace=False)


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_each_metric_has_a_section_with_its_help(metric: Metric) -> None:
    assert f"\n## {metric.name}\n\n{metric.help}\n" in reference()


def test_a_section_tells_scope_unit_and_labels() -> None:
    facts = section(QUEUE_PENDING).splitlines()

    assert "- Type: gauge" in facts
    assert "- Unit: tasks" in facts
    assert "- Labels: `executor`, `queue`" in facts
    assert "- Scope: shared" in facts


def test_a_histogram_tells_its_bounds() -> None:
    assert "- Bounds: 0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600\n" in section(TASK_QUEUE_WAIT)


def test_the_names_of_the_messaging_conventions_stand_beside_our_own() -> None:
    line = "- OpenTelemetry: `flowrra.task.run.duration`, `messaging.process.duration`, in `s`"
    assert line in section(TASK_RUN_DURATION).splitlines()
