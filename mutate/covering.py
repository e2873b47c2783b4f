"""Which tests run which lines: collected once, and kept until a source or a test changes."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import coverage

CONFIGURATION = """
[run]
data_file = {folder}/coverage
parallel = true
sigterm = true
source = {tree}/flowrra,{tree}/exporter/flowrra_exporter
context = ${{MUTATE_TEST-}}
disable_warnings = no-data-collected,module-not-measured,couldnt-parse
"""


class Covering:
    """The tests that run each line.

    Args:
        folder: Where what was collected is kept.
        tree: The sources and tests, to be measured there.
        fast: Only the tests of the fast lane.
    """

    def __init__(self, folder: Path, tree: Path, fast: bool) -> None:
        self._folder, self._tree, self._fast = folder, tree, fast
        self._data: coverage.CoverageData | None = None
        self.seconds: dict[str, float] = {}

    def collect(self, jobs: int) -> None:
        """Run the tests, unless what they ran is known of these very sources and tests."""
        stamp = self._folder / "stamp"
        state = _digest(self._tree) + (" fast" if self._fast else " all")
        if not stamp.exists() or stamp.read_text() != state:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._run(jobs)
            stamp.write_text(state)
        for file in self._folder.glob("seconds.*.json"):
            self.seconds |= json.loads(file.read_text())
        self._data = coverage.CoverageData(str(self._folder / "coverage"))
        self._data.read()

    def _run(self, jobs: int) -> None:
        configuration = self._folder / "measured.ini"
        configuration.write_text(CONFIGURATION.format(folder=self._folder, tree=self._tree))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "mutate.contexts"]
        command += ["-n", str(jobs), "--dist", "worksteal"]
        command += ["-m", "not slow and not tools"] if self._fast else []
        environment = {
            **environment_of(self._tree),
            "MUTATE_FOLDER": str(self._folder),
            "COVERAGE_PROCESS_START": str(configuration),
        }
        subprocess.run(command, cwd=self._tree, env=environment, check=False, stdin=subprocess.DEVNULL)
        found = coverage.Coverage(config_file=str(configuration))
        found.combine()
        found.save()

    def of(self, path: str, line: int) -> list[str]:
        """The tests that run a line. Of one that is run by an import alone, or as far as is known by nothing, as in a
        process that is killed: those that run anything of its file."""
        if path.endswith(".lua"):
            return sorted({test for file, at in self._uses_of_script(Path(path).stem) for test in self.of(file, at)})
        assert self._data is not None
        lines = self._data.contexts_by_lineno(str(self._tree / path))
        found = {context for context in lines.get(line, ()) if context in self.seconds}
        return sorted(found or {test for tests in lines.values() for test in tests if test in self.seconds})

    def _uses_of_script(self, name: str) -> Iterator[tuple[str, int]]:
        """The lines of Python that name a script of which this file is a part."""
        for file in sorted((self._tree / "flowrra").rglob("*.py")):
            tree = ast.parse(file.read_bytes())
            scripts = {
                target.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
                for target in node.targets
                if isinstance(target, ast.Name)
                and ast.unparse(node.value.func) == "Script"
                and any(isinstance(part, ast.Constant) and part.value == name for part in node.value.args)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scripts:
                    yield str(file.relative_to(self._tree)), node.lineno


def environment_of(tree: Path) -> dict[str, str]:
    """The environment of a process that imports what is in that tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(tree / "exporter")))}


def _digest(tree: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(_read(tree)):
        digest.update(str(file.relative_to(tree)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _read(tree: Path) -> Iterable[Path]:
    for folder in ("flowrra", "exporter", "tests"):
        yield from (tree / folder).rglob("*.py")
        yield from (tree / folder).rglob("*.lua")
