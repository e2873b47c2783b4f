"""Which room may import which, as pyproject.toml says under [tool.importlinter]: no room imports from one above it, no
modules import each other in a circle, for type checking either."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("flowrra", "flowrra_exporter", cache_dir=None)


def test_no_room_imports_from_a_room_above_it() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_every_room_of_flowrra_has_its_layer(graph: grimp.ImportGraph) -> None:
    (layers,) = (each["layers"] for each in CONTRACTS if each["name"] == "The layers of flowrra")
    named = {room for layer in layers for room in layer.replace("|", " ").replace(":", " ").split()}
    rooms = graph.find_children("flowrra") - {"flowrra.scheduler"} | graph.find_children("flowrra.scheduler")
    assert named == rooms
