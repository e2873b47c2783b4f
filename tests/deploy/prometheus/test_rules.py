"""The rules: promtool runs their tests, and each figure that an alert fires at is one that a test would miss."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import _jsonnet
import pytest
import yaml
from flowrra_exporter.metrics.catalog import CATALOG

from deploy.prometheus import alerts, thresholds
from deploy.prometheus.files import FOLDER, alert_groups, recording_groups, render
from deploy.prometheus.names import ALERTS, DASHBOARDS
from deploy.prometheus.promql import duration
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import DURATIONS, Scaled
from tests.deploy.prometheus.figures import FIGURES, LINKS, RULES, SHIPPED, TESTS, cases, is_missed, promtool
from tests.grafana.dashboards import selectors

# What Prometheus has besides the catalog.
OTHERS = {
    "up": {"job", "instance"},
    "process_start_time_seconds": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate", "severity"},
}
# Where a counter that has just begun to be is all of its increase, and where it is taken over as it is.
BEGUN = {"flowrra:condition:schedule_missed", "flowrra:condition:redeliveries", "flowrra:queue_taken_tasks_total"}


def rules() -> list[dict[str, Any]]:
    """All rules, as Prometheus reads them."""
    groups = [recording_groups(Scaled()), alert_groups(Scaled(), LINKS)]
    return [rule for found in groups for group in found["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_are_what_the_source_makes(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == SHIPPED[name], "run: make rules"


def test_each_name_is_that_of_an_alert() -> None:
    assert {rule["alert"] for rule in rules() if "alert" in rule} == set(ALERTS)


@pytest.mark.tools
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_prometheus_reads_them_without_a_finding(tmp_path: Path, scale: float) -> None:
    for name, text in render(Scaled(scale), LINKS).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES, folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_each_alert_fires_in_time_and_resolves(name: str) -> None:
    tested = promtool("test", "rules", name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    for alert in ALERTS:
        of_alert = [check for case in cases() if alert in case["name"] for check in case.get("promql_expr_test", [])]
        fires = [alert in str(check["exp_samples"]) for check in of_alert]
        assert True in fires, alert
        assert False in fires, alert


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("more", [True, False], ids=["more", "less"])
@pytest.mark.parametrize("figure", FIGURES[::9])
def test_a_figure_that_is_off_by_a_little_fails_a_test(tmp_path: Path, figure: str, more: bool) -> None:
    assert is_missed(figure, more, tmp_path)  # python -m prove alert_figures tries all


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_each_series_is_recorded_or_in_the_catalog_with_the_labels_that_are_asked_for(rule: dict[str, Any]) -> None:
    recorded = {each["record"] for each in rules() if "record" in each}
    labels = {name: set(metric.labels) for metric in CATALOG for name in metric.sample_names} | OTHERS
    for selector in selectors(re.sub(r"\n\s*", " ", rule["expr"])):
        if selector.name in recorded:
            continue
        assert selector.name in labels
        assert selector.matchers.keys() <= labels[selector.name]
        is_counter = selector.name.endswith("_total") and rule.get("record") not in BEGUN
        assert not is_counter or {"rate", "increase"} & set(selector.functions)


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: rule["alert"])
def test_each_alert_says_how_bad_it_is_what_it_means_and_where_to_look(rule: dict[str, Any]) -> None:

    assert rule["labels"].keys() == {"severity"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}


def test_the_operators_resource_and_the_mixin_have_the_same_groups() -> None:
    groups = [group for name in RULES for group in yaml.safe_load(SHIPPED[name])["groups"]]
    assert yaml.safe_load(SHIPPED["prometheusrule.yaml"])["spec"]["groups"] == groups
    mixin = json.loads(SHIPPED["mixin.json"])
    assert [*mixin["rules"]["groups"], *mixin["alerts"]["groups"]] == groups


def test_jsonnet_makes_the_same_of_the_mixin_with_other_links() -> None:
    text = """
        local mixin = (import 'mixin.libsonnet') + { _config+:: { runbooksUrl: 'https://wiki/runbooks' } };
        { alerts: mixin.prometheusAlerts, rules: mixin.prometheusRules, dashboards: mixin.grafanaDashboards }
    """
    made = json.loads(_jsonnet.evaluate_snippet("test", text, jpathdir=[str(FOLDER)]))
    links = Links("https://wiki/runbooks", DASHBOARDS)
    assert made["alerts"] == alert_groups(Scaled(), links)
    assert made["rules"] == recording_groups(Scaled())
    assert made["dashboards"].keys() == {
        path.name for path in (FOLDER.parents[1] / "grafana/dashboards").glob("*.json")
    }


def test_mixins_add_up() -> None:
    own = "{ prometheusAlerts+:: { groups+: [{ name: 'own', rules: [] }] } }"
    text = f"((import 'mixin.libsonnet') + {own}).prometheusAlerts"
    made = json.loads(_jsonnet.evaluate_snippet("test", text, jpathdir=[str(FOLDER)]))
    assert [group["name"] for group in made["groups"]] == [*alerts.groups(Scaled()), "own"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90s"), (300, "5m"), (21_600, "6h"), (0.5, "500ms"), (1.25, "1250ms"), (5400, "90m")]
)
def test_durations_are_as_prometheus_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_scale_makes_minutes_of_hours_and_leaves_alone_what_does_not_last() -> None:
    scaled = Scaled(60.0)
    assert scaled.text("TASK_HUNG_AGE") == "2m"
    assert scaled.SLOW_BURN_WINDOWS == (360.0, 30.0)
    assert scaled.HEARTBEAT_LOST == thresholds.HEARTBEAT_LOST
    for name in FIGURES:
        assert (getattr(scaled, name) == getattr(thresholds, name)) != name.endswith(DURATIONS)
