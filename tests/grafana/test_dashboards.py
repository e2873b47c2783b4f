"""The rules that every shipped dashboard holds: those of Grafana's dashboard linter, and one of our own.

The rules: https://github.com/grafana/dashboard-linter/blob/main/docs/index.md
"""

from __future__ import annotations

import re

import pytest
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import CATALOG

from grafana import overview
from tests.grafana.dashboards import RATE_INTERVAL, dashboards, fill_in, panels, queries, selectors

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What Prometheus adds to every scrape, and prometheus_client to every process.
OTHERS = re.compile(r"(scrape|process|python)_\w+|up")


def test_there_is_an_overview_with_a_panel_for_each_question() -> None:
    assert list(dashboards()) == ["flowrra-overview.json"]
    assert len(panels()) > 30


def test_the_json_is_what_the_source_makes() -> None:
    assert overview.OUTPUT.read_text(encoding="utf-8") == overview.render(), "run: make dashboards"


@pytest.mark.parametrize("name", dashboards())
def test_nobody_can_edit_it_in_place(name: str) -> None:
    assert dashboards()[name]["editable"] is False


@pytest.mark.parametrize("name", dashboards())
def test_the_data_source_is_chosen_at_the_top(name: str) -> None:
    first = dashboards()[name]["templating"]["list"][0]

    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")


@pytest.mark.parametrize("variable", ["job", "instance", "task"])
@pytest.mark.parametrize("name", dashboards())
def test_several_jobs_instances_and_tasks_can_be_chosen_or_all(name: str, variable: str) -> None:
    found = next(each for each in dashboards()[name]["templating"]["list"] if each["name"] == variable)

    assert (found["multi"], found["includeAll"], found["allValue"]) == (True, True, ".+")
    assert found["datasource"] == DATASOURCE
    assert found["refresh"] == 2, "2 is: whenever the time range changes"


def test_every_panel_reads_from_the_chosen_data_source() -> None:
    wrong = [
        panel.where
        for panel in panels()
        if panel.json["datasource"] != DATASOURCE
        or any(target["datasource"] != DATASOURCE for target in panel.json["targets"])
    ]

    assert wrong == []


def test_every_panel_has_a_title_a_description_and_a_unit() -> None:
    wrong = [
        panel.where
        for panel in panels()
        if not (
            panel.json["title"] and panel.json.get("description") and panel.json["fieldConfig"]["defaults"].get("unit")
        )
    ]

    assert wrong == []


def test_panels_lie_side_by_side_within_24_columns_and_cover_none_of_another() -> None:
    for name, dashboard in dashboards().items():
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                assert cell[0] < 24, f"{name}: {panel['title']} is too far right"
                assert cell not in taken, f"{name}: {panel['title']} covers {taken.get(cell)}"
                taken[cell] = panel["title"]


def test_every_panel_has_a_number_of_its_own() -> None:
    for dashboard in dashboards().values():
        numbers = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(numbers)) == len(numbers)


def test_every_query_keeps_to_the_chosen_jobs_and_instances() -> None:
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.matchers.get("job") != "=~$job" or selector.matchers.get("instance") != "=~$instance"
    ]

    assert wrong == []


def test_every_query_about_tasks_keeps_to_the_chosen_tasks() -> None:
    labelled = {name for metric in CATALOG if "task" in metric.labels for name in metric.sample_names}
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.name in labelled and selector.matchers.get("task") != "=~$task"
    ]

    assert wrong == []


def test_every_range_is_as_long_as_grafana_says() -> None:
    wrong = [(where, query) for where, query in queries() if set(re.findall(r"\[(.*?)\]", query)) - {RATE_INTERVAL}]

    assert wrong == []


def test_counters_are_only_seen_as_rates() -> None:
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if re.search(r"_(total|bucket|sum|count)$", selector.name)
        and not {"rate", "irate", "increase"} & set(selector.functions)
    ]

    assert wrong == []


def test_every_metric_is_in_the_catalog() -> None:
    known = {name for metric in CATALOG for name in metric.sample_names}
    wrong = [
        (where, selector.name)
        for where, query in queries()
        for selector in selectors(query)
        if selector.name not in known and not OTHERS.fullmatch(selector.name)
    ]

    assert wrong == []


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


def test_every_label_in_a_legend_is_left_by_the_query() -> None:
    wrong = [
        (panel.where, label)
        for panel in panels()
        for target in panel.json["targets"]
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
        if not re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"])
    ]

    assert wrong == []


def test_variables_choose_from_what_is_always_there() -> None:
    for dashboard in dashboards().values():
        for variable in dashboard["templating"]["list"][1:]:
            (selector,) = selectors(re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]))
            assert selector.name in {catalog.EXPORTER_INFO.name, catalog.TASKS_RUNNING.name}


def test_filling_in_leaves_no_variable() -> None:
    for _, query in queries():
        assert "$" not in fill_in(query, rate_interval="5s", job="shop")
