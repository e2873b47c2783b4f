"""The rules that every shipped dashboard holds: those of Grafana's dashboard linter, without an exception, and our own.

The linter's rules: https://github.com/grafana/dashboard-linter/blob/main/docs/index.md
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flowrra_exporter.metrics.catalog import CATALOG
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.prometheus import thresholds
from deploy.prometheus.names import ALERTS
from grafana.__main__ import FOLDER
from grafana.all import DASHBOARDS
from grafana.colors import OUTCOMES
from grafana.frame import TAG, render
from tests.grafana.dashboards import RANGE, RATE_INTERVAL, dashboards, fill_in, panels, queries, selectors

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UIDS = {f"flowrra-{name}" for name in ("overview", "tasks", "task", "queues", "scheduler", "exporter")}
# What Prometheus adds to every scrape, and prometheus_client to every process.
OTHERS = re.compile(r"(scrape|process|python)_\w+|up")
UNITS = {value for name, value in vars(units).items() if name[0].isupper()}


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


# ── what there is ───────────────────────────────────────────────────────────────────────────────────────────────


def test_there_is_one_for_each_question() -> None:
    assert {dashboard["uid"] for dashboard in dashboards().values()} == UIDS
    assert set(dashboards()) == {f"{uid}.json" for uid in UIDS}


@pytest.mark.parametrize("frame", DASHBOARDS, ids=lambda frame: frame.uid)
def test_the_json_is_what_the_source_makes(frame: Any) -> None:
    assert (FOLDER / f"{frame.uid}.json").read_text(encoding="utf-8") == render(frame), "run: make dashboards"


@pytest.mark.parametrize("name", dashboards())
def test_grafana_knows_every_key(name: str) -> None:
    written = dashboards()[name]
    for annotation in written["annotations"]["list"]:
        for key in ("titleFormat", "textFormat", "tagKeys", "useValueForTime"):
            annotation.pop(key, None)  # of the Prometheus data source, which Grafana's schema doesn't describe
    read = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))

    assert read == written


def test_the_overview_fits_on_one_screen() -> None:
    # Of 1080 lines about 100 are the browser's and Grafana's; a row of the grid takes 38.
    lowest = max(
        at["y"] + at["h"] for at in (panel["gridPos"] for panel in dashboards()["flowrra-overview.json"]["panels"])
    )
    assert 38 * lowest <= 1080 - 130


# ── the linter's rules ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", dashboards())
def test_uneditable_dashboard_rule(name: str) -> None:
    assert dashboards()[name]["editable"] is False


@pytest.mark.parametrize("name", dashboards())
def test_template_datasource_rule(name: str) -> None:
    found = [each for each in dashboards()[name]["templating"]["list"] if each["type"] == "datasource"]

    assert [(each["name"], each["label"], each["query"]) for each in found] == [
        ("datasource", "Data source", "prometheus")
    ]


@pytest.mark.parametrize("variable", ["job", "instance"])
@pytest.mark.parametrize("name", dashboards())
def test_template_job_rule_and_template_instance_rule(name: str, variable: str) -> None:
    found = variables(dashboards()[name])[variable]

    assert (found["type"], found["label"], found["datasource"]) == ("query", variable.capitalize(), DATASOURCE)
    assert (found["multi"], found["includeAll"], found["allValue"]) == (True, True, ".+")


@pytest.mark.parametrize("name", dashboards())
def test_template_label_promql_rule_and_template_on_time_change_reload_rule(name: str) -> None:
    known = {name for metric in CATALOG for name in metric.sample_names}
    for variable in dashboards()[name]["templating"]["list"]:
        if variable["type"] == "query":
            (selector,) = selectors(re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]))
            assert selector.name in known
            assert variable["refresh"] == 2, "2 is: whenever the time range changes"


def test_panel_datasource_rule_and_panel_no_targets_rule() -> None:
    wrong = [
        panel.where
        for panel in panels()
        if panel.json["datasource"] != DATASOURCE
        or not panel.json["targets"]
        or any(target["datasource"] != DATASOURCE for target in panel.json["targets"])
    ]

    assert wrong == []


def test_panel_title_description_rule() -> None:
    assert [panel.where for panel in panels() if not (panel.json["title"] and panel.json.get("description"))] == []


def test_panel_units_rule() -> None:
    assert [panel.where for panel in panels() if panel.json["fieldConfig"]["defaults"].get("unit") not in UNITS] == []


def test_target_job_rule_and_target_instance_rule() -> None:
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.matchers.get("job") != "=~$job" or selector.matchers.get("instance") != "=~$instance"
    ]

    assert wrong == []


def test_target_rate_interval_rule() -> None:
    wrong = [
        (where, selector.name, selector.range)
        for where, query in queries()
        for selector in selectors(query)
        if {"rate", "irate"} & set(selector.functions) and selector.range != RATE_INTERVAL
    ]

    assert wrong == []


def test_target_counter_agg_rule() -> None:
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if re.search(r"_(total|bucket|sum|count)$", selector.name)
        and not {"rate", "irate", "increase"} & set(selector.functions)
    ]

    assert wrong == []


# ── now and then ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_tells_what_is_now_asks_for_now() -> None:
    wrong = [
        panel.where
        for panel in panels()
        if panel.is_of_now and any(target.get("range") or not target.get("instant") for target in panel.json["targets"])
    ]

    assert wrong == []


def test_a_tile_takes_no_earlier_value_and_says_so_if_there_is_none() -> None:
    for panel in panels():
        if panel.json["type"] == "stat":
            assert panel.json["options"]["reduceOptions"]["calcs"] == ["last"], panel.where
            assert panel.json["fieldConfig"]["defaults"]["noValue"] == "no answer", panel.where


def test_ranges_are_grafanas_or_of_what_is_remembered_or_lasts() -> None:
    remembered = {"present_over_time", "last_over_time", "min_over_time"}
    wrong = [
        (where, selector.name, selector.range)
        for where, query in queries()
        for selector in selectors(query)
        if selector.range not in (None, RATE_INTERVAL, RANGE) and not remembered & set(selector.functions)
    ]

    assert wrong == []


# ── what is chosen at the top ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("label", "variable"), [("task", "task"), ("queue", "queue")])
def test_every_query_keeps_to_the_chosen_tasks_and_queues(label: str, variable: str) -> None:
    labelled = {name for metric in CATALOG if label in metric.labels for name in metric.sample_names}
    # Where a process is found by the broker that it has, whatever queues are chosen.
    of_brokers = ("flowrra_worker_", "flowrra_broker_")
    # What is told by whatever a process takes or knows besides.
    besides = ("flowrra_executor_queue_info", "flowrra_scheduler_broken_schedules")
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.name in labelled
        and selector.matchers.get(label) != f"{_compared(where, variable)}${variable}"
        and not any(name in query for name in (*of_brokers, *besides))
    ]

    assert wrong == []


def _compared(where: str, variable: str) -> str:
    """How a variable is: as it is where it has one value, which may be no regular expression."""
    return "=" if where.startswith("flowrra-task.json") and variable == "task" else "=~"


@pytest.mark.parametrize("name", dashboards())
def test_every_variable_of_a_query_is_there_to_be_chosen(name: str) -> None:
    dashboard = dashboards()[name]
    asked = {
        found for where, query in queries() if where.startswith(f"{name}:") for found in re.findall(r'"\$(\w+)"', query)
    }

    assert asked <= set(variables(dashboard))
    assert set(variables(dashboard)) <= asked | {"datasource", "runbooks"}


def test_several_tasks_can_be_chosen_but_where_one_is_shown_alone() -> None:
    for name, dashboard in dashboards().items():
        if (task := variables(dashboard).get("task")) is not None:
            assert task["multi"] is (name != "flowrra-task.json")


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_metric_is_in_the_catalog() -> None:
    known = {name for metric in CATALOG for name in metric.sample_names}
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.name not in known and not OTHERS.fullmatch(selector.name)
    ]

    assert wrong == []


def test_every_metric_of_an_app_is_on_a_dashboard() -> None:
    shown = {selector.name for _, query in queries() for selector in selectors(query)}
    shown |= {"flowrra_build_info", "flowrra_exporter_info"}
    # The plain figure of 0.1.8, and whether it was started, are told better by others; the rest stands on the
    # exporter's own page.
    left_out = {
        "flowrra_tasks_pending", "flowrra_app_running", "flowrra_executor_running", "flowrra_tasks_registered",
        "flowrra_registered_collector_duration_seconds", "flowrra_registered_series_dropped",
        "flowrra_exporter_web_config_in_order", "flowrra_otel_points_total",
        "flowrra_otel_last_export_timestamp_seconds",
    }  # fmt: skip

    assert {metric.name for metric in CATALOG if not shown & set(metric.sample_names)} <= left_out


def test_every_label_in_a_selector_is_one_that_the_metric_has() -> None:
    labels = {name: set(metric.labels) for metric in CATALOG for name in metric.sample_names}
    wrong = [
        (where, selector.name, label)
        for where, query in queries()
        for selector in selectors(query)
        for label in selector.matchers.keys() - {"job", "instance", "le"}
        if label not in labels.get(selector.name, set())
    ]

    assert wrong == []


def test_a_sign_of_life_is_as_old_as_it_was_when_it_was_scraped() -> None:
    asked = [query for _, query in queries() if "flowrra_executor_heartbeat_timestamp_seconds" in query]
    assert asked
    assert all("timestamp(flowrra_executor_heartbeat" in query and "time()" not in query for query in asked)


def test_every_line_of_a_graph_has_a_name() -> None:
    wrong = [
        panel.where
        for panel in panels()
        if panel.json["type"] in ("timeseries", "heatmap")
        for target in panel.json["targets"]
        if not target.get("legendFormat")
    ]

    assert wrong == []


def test_every_label_in_a_legend_is_left_by_the_query() -> None:
    wrong = [
        (panel.where, label)
        for panel in panels()
        for target in panel.json["targets"]
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
        if not re.search(rf"(by|group_left) \([^)]*\b{label}\b[^)]*\)", target["expr"])
    ]

    assert wrong == []


def test_an_outcome_has_one_colour_everywhere() -> None:
    for panel in panels():
        for override in panel.json["fieldConfig"]["overrides"]:
            name = override["matcher"]["options"]
            colors = [each["value"]["fixedColor"] for each in override["properties"] if each["id"] == "color"]
            if panel.json["title"] in ("Attempts by outcome", "Failure ratio") and name in OUTCOMES:
                assert colors == [OUTCOMES[name]], panel.where


@pytest.mark.parametrize(
    ("title", "bad_from"),
    [
        ("Oldest waiting", thresholds.OLDEST_TASK_AGE),
        ("Longest running", thresholds.TASK_HUNG_AGE),
        ("Dead tasks", thresholds.DEAD_TASKS + 1),
        ("Last renewal of leases", thresholds.HEARTBEAT_LOST),
        ("Memory of the broker", thresholds.BROKER_MEMORY_RATIO),
    ],
)
def test_red_begins_where_an_alert_fires(title: str, bad_from: float) -> None:
    found = [panel for panel in panels() if panel.json["title"] == title]

    assert found
    for panel in found:
        steps = panel.json["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert [step["value"] for step in steps if step["color"] == "red"] == [bad_from], panel.where


def test_every_column_of_a_table_is_named_and_sorted_by_what_hurts() -> None:
    for panel in panels():
        if panel.json["type"] == "table":
            merge, organize = panel.json["transformations"]
            assert (merge["id"], organize["id"]) == ("merge", "organize")
            names = organize["options"]["renameByName"]
            assert {f"Value #{target['refId']}" for target in panel.json["targets"]} <= set(names)
            assert len(panel.json["targets"]) > 1, "of a single query Grafana calls the column just 'Value'"
            assert {each["displayName"] for each in panel.json["options"]["sortBy"]} <= set(names.values())


def test_panels_lie_side_by_side_within_24_columns_and_cover_none_of_another() -> None:
    for name, dashboard in dashboards().items():
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                assert cell[0] < 24, f"{name}: {panel['title']} is too far right"
                assert cell not in taken, f"{name}: {panel['title']} covers {taken.get(cell)}"
                taken[cell] = panel["title"]


@pytest.mark.parametrize("what", ["id", "title"])
def test_every_panel_has_a_number_and_a_title_of_its_own(what: str) -> None:
    for dashboard in dashboards().values():
        found = [panel[what] for panel in dashboard["panels"]]
        assert len(set(found)) == len(found)


# ── links and annotations ───────────────────────────────────────────────────────────────────────────────────────


def links() -> list[tuple[str, str]]:
    found = []
    for panel in panels():
        found += [(panel.where, link["url"]) for link in panel.json.get("links", [])]
        for override in panel.json["fieldConfig"]["overrides"]:
            for each in override["properties"]:
                found += [(panel.where, link["url"]) for link in each["value"]] if each["id"] == "links" else []
    return found


def test_every_link_leads_to_a_dashboard_or_to_a_runbook_that_there_is() -> None:
    assert links()
    for where, url in links():
        runbook = re.fullmatch(r"\$\{runbooks\}/(\w+)\.md", url)
        dashboard = re.match(r"/d/([\w-]+)\?\$\{datasource:queryparam\}&\$\{job:queryparam\}", url)
        assert (runbook and runbook[1] in ALERTS) or (dashboard and dashboard[1] in UIDS), (where, url)


def test_what_is_bad_says_what_to_do() -> None:
    without = {
        panel.where
        for panel in panels()
        if panel.json["type"] == "stat"
        and any(step["color"] == "red" for step in panel.json["fieldConfig"]["defaults"]["thresholds"]["steps"])
        and not any("runbooks" in link["url"] for link in panel.json.get("links", []))
    }

    # There is no alert of these.
    assert without == {
        "flowrra-scheduler.json: Failed",
        "flowrra-scheduler.json: Next run",
    }


@pytest.mark.parametrize("name", dashboards())
def test_all_dashboards_lead_to_each_other_with_what_is_chosen(name: str) -> None:
    dashboard = dashboards()[name]
    (link,) = dashboard["links"]

    assert TAG in dashboard["tags"]
    assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == ("dashboards", [TAG], True, True)


@pytest.mark.parametrize("name", dashboards())
def test_restarts_deploys_and_alerts_are_marked(name: str) -> None:
    marked = dashboards()[name]["annotations"]["list"]

    assert [each["name"] for each in marked] == ["Restarts", "Deploys", "Firing alerts"]
    assert all(each["datasource"] == DATASOURCE and each["enable"] and each["titleFormat"] for each in marked)
    assert marked[0]["useValueForTime"] == "on"
    for each in marked:
        assert selectors(each["expr"])


def test_runbooks_can_be_elsewhere() -> None:
    dashboard = render(DASHBOARDS[0], "https://example.org/runbooks")

    assert '"query": "https://example.org/runbooks"' in dashboard


def test_filling_in_leaves_no_variable() -> None:
    for _, query in queries():
        assert not re.search(r"\$[a-z_]", fill_in(query, rate_interval="5s", job="shop"))
