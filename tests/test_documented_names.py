"""Metrics, flags and variables that README, docs, changelog and examples name: each is there, by that name."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from flowrra_exporter import cli
from flowrra_exporter.config_file import CONFIG_FILE
from flowrra_exporter.metrics.catalog import RESERVED_NAMES
from flowrra_exporter.settings import OPTIONS

import flowrra.command.main  # noqa: F401 - adds the commands
from flowrra import Config
from flowrra.command.apps import APP_VARIABLE
from flowrra.command.group import flowrra as command

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"), *ROOT.glob("examples/*.py")]
)
# Names of other things: the package, and what Prometheus' own OTLP receiver makes of a metric's name.
NO_METRICS = {"flowrra_exporter", "flowrra_queue_pending"}
# Flags of programs that aren't ours, each named where that program is told of.
FOREIGN_FLAGS = {
    *("build", "build-arg", "entrypoint", "file", "platform", "publish", "read-only", "rm", "tag", "volume"),  # docker
    "timestamp",  # buildah
    *("from-file", "from-literal", "kustomize", "previous", "set"),  # kubectl, helm
    *("bigkeys", "cluster"),  # valkey-cli
    *(
        "enable-feature",
        "no-cache-dir",
        "preload",
        "timestamp",
        "workers",
    ),  # Prometheus, pip, gunicorn, SOURCE_DATE_EPOCH
    *("basic-auth", "persistent"),  # Flower
    *("check",),  # ruff
}
# Shows what is answered to a mistyped flag.
MISTYPED = {"stauts"}
# Of tests and proofs; and what Kubernetes sets by itself.
OTHER_VARIABLES = {"FLOWRRA_REQUIRE_TOOLS", "FLOWRRA_HELM", "FLOWRRA_EXPORTER_PORT"}
_FLAG = re.compile(r"(?<![\w-])--(?:\[no-\])?([a-zA-Z][\w.-]*\w)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unknown(named: set[str], known: set[str]) -> set[str]:
    """Without those that a known one begins with, as in ``flowrra_tasks_…``, or fits, as in ``collector.NAME``."""

    def is_known(name: str) -> bool:
        if name.endswith("_"):
            return any(each.startswith(name) for each in known)
        return any(re.fullmatch(re.escape(name).replace("NAME", r"[\w-]+"), each) for each in known)

    return {name for name in named - known if not is_known(name)}


@cache
def recorded() -> set[str]:
    """What the rules record, by name."""
    files = [
        yaml.safe_load((ROOT / f"deploy/prometheus/flowrra.{kind}.yml").read_text()) for kind in ("rules", "alerts")
    ]
    return {rule["record"] for file in files for group in file["groups"] for rule in group["rules"] if "record" in rule}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_metric_is_in_the_catalog(path: Path) -> None:
    named = set(re.findall(r"(?<![\w.])flowrra_[a-z0-9_]+", path.read_text()))
    assert unknown(named - NO_METRICS, set(RESERVED_NAMES)) == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_recorded_metric_is_in_the_rules(path: Path) -> None:
    for name in re.findall(r"\bflowrra:[a-z0-9_:]+", path.read_text()):
        assert any(each == name or (each.startswith(name) and name.endswith(":")) for each in recorded()), name


# ── flags ───────────────────────────────────────────────────────────────────────────────────────────────────────


def flags_of(found: click.Command) -> set[str]:
    flags = {flag for each in found.params for flag in (*each.opts, *each.secondary_opts)}
    return {flag.removeprefix("--") for flag in flags if flag.startswith("--")} | {"help"}


@cache
def exporters_flags() -> set[str]:
    """Those that `flowrra-exporter --help` and `flowrra-exporter check --help` name."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        cli.main(["--help"])
        cli.main(["check", "--help"])
    return set(_FLAG.findall(told.getvalue()))


def flags_of_modules() -> Iterator[str]:
    """Those of `python -m prove` and the like."""
    for folder in ("benchmarks", "deploy", "grafana", "mutate", "prove"):
        for path in (ROOT / folder).rglob("*.py"):
            yield from re.findall(r'add_argument\(\s*"--([\w-]+)"', path.read_text())


@cache
def all_flags() -> set[str]:
    commands = [command, *command.commands.values()]
    ours = {flag for each in commands for flag in flags_of(each)}
    return ours | exporters_flags() | set(flags_of_modules())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_flag_is_one_of_some_command(path: Path) -> None:
    named = set(_FLAG.findall(path.read_text()))
    assert unknown(named - FOREIGN_FLAGS - MISTYPED, all_flags()) == set()


def lines_of(program: str, path: Path) -> list[list[str]]:
    """The words that follow the program's name where it is called."""
    found = re.findall(rf"(?:^ {{4}}|`|\$ ){program} ([^`\n#]*)", path.read_text(), re.MULTILINE)
    return [line.split() for line in found]


# Without cli.md, whose sessions are made by running them, mistakes and all.
@pytest.mark.parametrize("path", [each for each in DOCUMENTS if each.name != "cli.md"], ids=name_of)
def test_each_call_of_flowrra_is_one_that_it_takes(path: Path) -> None:
    for name, *words in lines_of("flowrra", path):
        if name.startswith("-"):
            continue  # every command has it, as the test above has seen
        assert name in command.commands, f"flowrra {name}"
        named = set(_FLAG.findall(" ".join(words)))
        assert named <= flags_of(command.commands[name]) | flags_of(command), f"flowrra {name} {' '.join(words)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_call_of_the_exporter_is_one_that_it_takes(path: Path) -> None:
    for words in lines_of("flowrra-exporter", path):
        assert set(_FLAG.findall(" ".join(words))) <= exporters_flags(), " ".join(words)


# ── variables ───────────────────────────────────────────────────────────────────────────────────────────────────


class Asked(dict[str, str]):
    """An environment that notes what is looked for."""

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        self[name] = ""
        return default


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    asked = Asked()
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", asked)
        Config.from_env()
    return set(asked) | {option.variable for option in (CONFIG_FILE, *OPTIONS)} | {APP_VARIABLE}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_variable_is_read(path: Path, variables: set[str]) -> None:
    named = set(re.findall(r"\bFLOWRRA_[A-Z0-9_]+", path.read_text()))
    assert unknown(named - OTHER_VARIABLES, variables) == set()
