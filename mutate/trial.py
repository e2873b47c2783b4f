"""Whether a test notices a mistake: it is put into a copy of the sources, and the tests that run its line are run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutate.covering import environment_of
from mutate.mutants import Mutant

# What pytest ends with if a test's file, or a conftest, can't be imported.
COLLECTION_FAILED = {2, 4}


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        killed: Whether something noticed.
        by: The test that did, or what else.
    """

    mutant: Mutant
    killed: bool
    by: str


def copy_of(root: Path, folder: Path) -> Path:
    """A copy of what git knows or would add."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def run_tests(tree: Path, tests: Sequence[str], seconds: float, *flags: str) -> tuple[int | None, str]:
    """The status of pytest, None if it took too long, and what it printed."""
    # In a file: a line that every test runs has more tests than a command may have arguments.
    chosen = tree / ".tests"
    chosen.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-seed=0", *flags, f"@{chosen}"]
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment_of(tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, printed.decode(errors="replace")


def failed_tests(printed: str) -> list[str]:
    """The tests that pytest's summary names."""
    return re.findall(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", printed, re.MULTILINE)


def try_out(mutant: Mutant, tree: Path, tests: Sequence[str], seconds: float) -> Verdict:
    """Run these tests on the mutant until the first one fails."""
    if not tests:
        return Verdict(mutant, False, "no test runs the line")
    file = tree / mutant.path
    right = file.read_bytes()
    file.write_bytes(mutant.text)
    try:
        status, printed = run_tests(tree, tests, seconds, "-x")
    finally:
        file.write_bytes(right)
    if status is None:
        return Verdict(mutant, True, "took too long")
    if status in COLLECTION_FAILED or status < 0:
        return Verdict(mutant, True, "nothing ran")
    if status == 1:
        return Verdict(mutant, True, (failed_tests(printed) or ["a test"])[0])
    if status:
        raise RuntimeError(f"pytest ended with {status}:\n{printed}")
    return Verdict(mutant, False, f"{len(tests)} tests")
