"""The catalog is consistent in itself, follows Prometheus' naming rules, and agrees with what flowrra counts."""

from __future__ import annotations

import re

import pytest
from flowrra_exporter.metrics.catalog import (
    CATALOG,
    EVENT_LOOP_LAG,
    SCHEDULER_LAG,
    TASK_QUEUE_WAIT,
    TASK_RUN_DURATION,
    Metric,
)

from flowrra import loop_monitor, telemetry
from flowrra.scheduler import scheduler

each_metric = pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)


def test_every_name_belongs_to_one_metric_only() -> None:
    for names in (
        [name for metric in CATALOG for name in {metric.name, metric.family_name}],
        [metric.otel_name for metric in CATALOG],
    ):
        assert len(set(names)) == len(names)


@each_metric
def test_names_follow_the_prometheus_rules(metric: Metric) -> None:
    assert re.fullmatch(r"flowrra(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.name.endswith("_info") == (metric.type == "info")
    assert not metric.unit or metric.family_name.endswith(f"_{metric.unit}")
    assert not metric.name.endswith(("_created", "_bucket", "_count", "_sum"))


@each_metric
def test_labels_are_plain_and_never_those_of_a_target(metric: Metric) -> None:
    assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)
    assert not {"instance", "job", "host", "le", "quantile"} & set(metric.labels)


@each_metric
def test_every_metric_is_explained_in_a_sentence(metric: Metric) -> None:
    assert len(metric.help) > 15
    assert metric.help.endswith(".")


@each_metric
def test_histograms_alone_have_bounds_and_these_ascend(metric: Metric) -> None:
    assert (metric.bounds is not None) == (metric.type == "histogram")
    assert list(metric.bounds or ()) == sorted(set(metric.bounds or ()))


def test_the_bounds_are_those_that_flowrra_counts_with() -> None:
    assert TASK_RUN_DURATION.bounds == telemetry.RUN_DURATION_BOUNDS
    assert TASK_QUEUE_WAIT.bounds == telemetry.QUEUE_WAIT_BOUNDS
    assert EVENT_LOOP_LAG.bounds == loop_monitor.LAG_BOUNDS
    assert SCHEDULER_LAG.bounds == scheduler.LAG_BOUNDS
