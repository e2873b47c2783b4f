"""Each alert has a runbook whose commands, queries, pages and links are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import promql_parser
import pytest
from flowrra_exporter.metrics.catalog import CATALOG

from deploy.prometheus import runbooks
from deploy.prometheus.files import alert_groups, recording_groups
from deploy.prometheus.names import ALERTS, DASHBOARDS, RUNBOOKS
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import Scaled
from flowrra.command.main import flowrra as cli
from tests.grafana.dashboards import selectors

SECTIONS = ["What it means", "How to confirm it", "What to do", "What not to do"]
PAGES = {"/", "/names", "/tasks", "/running", "/queues", "/dead", "/workers", "/schedules"}
ROOT = runbooks.FOLDER.parents[1]
# What shows a condition where another query of the same runbook shows nothing.
OTHER_WAYS = {
    "FlowrraCollectorFailing": "flowrra_registered_collector_success == 0",
    "FlowrraDependencyDown": 'flowrra_collector_success{collector=~"queue|workers"} == 0',  # of an observer
    "FlowrraNoWorkers": "flowrra:queue_in_flight_tasks",
    # Of a count that began above 0 there is no increase.
    "FlowrraProcessRestarting": "sum by (job, instance, task) (flowrra_tasks_redelivered_total) > 0",
    "FlowrraRedeliveries": "sum by (job, instance, task) (flowrra_tasks_redelivered_total) > 0",
    "FlowrraScheduleMissed": 'sum by (job, instance, task) (flowrra_scheduler_runs_total{result="missed"}) > 0',
}


def text_of(alert: str) -> str:
    return (runbooks.FOLDER / f"{alert}.md").read_text("utf-8")


def test_each_alert_has_one_and_each_one_has_an_alert() -> None:
    assert {path.stem for path in runbooks.FOLDER.glob("*.md")} == {*ALERTS, "README"}


def test_they_and_their_index_say_what_the_alerts_say() -> None:
    for path, text in runbooks.render().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run: make rules"


@pytest.mark.parametrize("alert", ALERTS)
def test_it_says_what_it_means_how_to_confirm_it_what_to_do_and_what_not(alert: str) -> None:
    text = text_of(alert)
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert len(section.strip()) > 40


@pytest.mark.parametrize("alert", ALERTS)
def test_its_pages_are_those_of_the_console(alert: str) -> None:
    (sentence,) = re.findall(r"^In the console: (.*)$", text_of(alert), re.MULTILINE)
    assert set(re.findall(r"`(/\w*)`", sentence)) & PAGES
    assert set(re.findall(r"`(/\w*)`", sentence)) <= PAGES


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a text: those in lines of their own, and those within lines."""
    for found in re.findall(r"(?:^    |`)(flowrra [^`\n]+)", text, re.MULTILINE):
        yield shlex.split(found)[1:]


@pytest.mark.parametrize("alert", ALERTS)
def test_its_commands_are_there_with_these_options(alert: str) -> None:
    for name, *arguments in commands(text_of(alert)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        command.make_context(name, list(arguments))


def test_a_command_that_is_not_there_would_be_found() -> None:
    assert list(commands("    flowrra tasks --nobody x\nor `flowrra drain ID`")) == [
        ["tasks", "--nobody", "x"],
        ["drain", "ID"],
    ]
    command = cli.get_command(click.Context(cli), "tasks")
    assert command is not None
    with pytest.raises(click.NoSuchOption):
        command.make_context("tasks", ["--nobody", "x"])


def queries(text: str) -> Iterator[str]:
    """The queries of a text: the condition is one, elsewhere each line is one."""
    condition, rest = text.split("<!-- end -->")
    yield from re.findall(r"```promql\n(.*?)```", condition, re.DOTALL)
    for block in re.findall(r"```promql\n(.*?)```", rest, re.DOTALL):
        yield from block.splitlines()


@pytest.mark.parametrize("alert", ALERTS)
def test_its_queries_can_be_read_and_ask_for_what_there_is(alert: str) -> None:
    groups = recording_groups(Scaled())["groups"] + alert_groups(Scaled(), Links(RUNBOOKS, DASHBOARDS))["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    known = {name for metric in CATALOG for name in metric.sample_names} | recorded
    known |= {"up", "process_start_time_seconds"}
    found = list(queries(text_of(alert)))
    assert len(found) > 1
    for query in found:
        promql_parser.parse(query)
        assert {selector.name for selector in selectors(query)} <= known


@pytest.mark.parametrize("alert", OTHER_WAYS)
def test_it_confirms_each_way_in_which_its_alert_fires(alert: str) -> None:
    assert OTHER_WAYS[alert] in list(queries(text_of(alert)))[1:]


@pytest.mark.parametrize(
    "path", [*runbooks.FOLDER.glob("*.md"), ROOT / "docs" / "alerting.md"], ids=lambda path: path.name
)
def test_its_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link
