"""Whether a test for promtool fails when a figure that an alert fires at is off by a little."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.prometheus import alerts, thresholds
from deploy.prometheus.files import FOLDER, render
from deploy.prometheus.names import ALERTS, DASHBOARDS, RUNBOOKS
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import Scaled
from tests.end_to_end.processes import tool

LINKS = Links(RUNBOOKS, DASHBOARDS)
RULES = ("flowrra.rules.yml", "flowrra.alerts.yml")
TESTS = ("flowrra.tests.yml", "flowrra.long.tests.yml")
SHIPPED = render(Scaled(), LINKS)
FIGURES = [name for name in vars(thresholds) if name.isupper() and name not in {"MINUTE", "HOUR"}]
# Of windows of hours one value more or less says nothing; how fast a budget burns is told by a tenth.
FACTORS = {"TARGETS_MISSED_WINDOW": (0.9, 1.1), "FAST_BURN_WINDOWS": (0.5, 2.0), "SLOW_BURN_WINDOWS": (0.5, 2.0)}


def promtool(*arguments: str | Path, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def is_missed(figure: str, more: bool, folder: Path) -> bool:
    """Whether a test fails with rules in which this figure is larger, or smaller, by a little.

    Args:
        figure: The name of a threshold.
        more: Whether it is larger.
        folder: Where the rules are written to.
    """
    changes = {figure: changed(figure, FACTORS.get(figure, (0.9, 1.1))[more])}
    found = render(Scaled(changes=changes), LINKS)
    assert found != SHIPPED, "nothing uses it"
    for name in RULES:
        (folder / name).write_text(found[name], encoding="utf-8")
    touched = tuple(alert for alert in ALERTS if rules_about(alert, changes) != rules_about(alert, {}))
    touched = touched or _alerts_behind(found)
    return any(fails(case, folder) for case in cases() if any(alert in case["name"] for alert in touched))


def rules_about(alert: str, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules of one alert."""
    found = [each for group in alerts.groups(Scaled(changes=changes)).values() for each in group if each.name == alert]
    return [rule for each in found for rule in (each.recording().as_rule(), each.as_rule(LINKS))]


@cache
def read(name: str) -> dict[str, Any]:
    """A file of tests for promtool."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


def cases() -> list[dict[str, Any]]:
    """The tests for promtool."""
    return [case for name in TESTS for case in read(name)["tests"]]


def fails(case: dict[str, Any], folder: Path) -> bool:
    """Whether a test fails with the rules of that folder."""
    (content,) = (read(name) for name in TESTS if case in read(name)["tests"])
    (folder / "test.yml").write_text(yaml.safe_dump({**content, "tests": [case]}), encoding="utf-8")
    return promtool("test", "rules", "test.yml", folder=folder).returncode != 0


def changed(figure: str, factor: float) -> Any:
    """A threshold that is off by a little: by a tenth, by one, or by the time between two evaluations of the tests."""
    value = getattr(thresholds, figure)
    if figure.endswith("_FOR"):
        return value + (30.0 if factor > 1 else -30.0)
    if isinstance(value, tuple):
        return tuple(each * factor for each in value)
    if isinstance(value, int):
        return value + (1 if factor > 1 else -1)
    return value * factor


def _alerts_behind(found: dict[str, str]) -> tuple[str, ...]:
    """The alerts that read a recorded series which is another one now."""
    before, after = (
        {rule["record"]: rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}
        for text in (SHIPPED["flowrra.rules.yml"], found["flowrra.rules.yml"])
    )
    records = [record for record, expr in after.items() if before[record] != expr]
    return tuple(
        alert
        for alert in ALERTS
        if any(record in rule["expr"] for rule in rules_about(alert, {}) for record in records)
    )
