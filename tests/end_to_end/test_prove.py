"""The proofs and benchmarks are there, and what they found last is kept. Running them takes minutes: `make prove`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.page import PAGE, text

ROOT = Path(__file__).parents[2]
OUTPUTS = ROOT / "docs" / "prove"
# What `make mutate` keeps beside them.
OTHERS = {"mutants"}
# What has not run whole since it was changed last: an output of before would show another proof.
UNKEPT: set[str] = set()
# The benchmarks that were not yet run on a machine that does nothing else.
UNKEPT_BENCHMARKS: set[str] = set()


def listed(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prove", "--list", *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_every_proof_is_listed_and_its_last_output_is_kept() -> None:
    done = listed()
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    files = [*(ROOT / "prove").glob("*.py"), *(ROOT / "prove").glob("*/__init__.py")]
    proofs = {
        path.parent.name if path.stem == "__init__" else path.stem
        for path in files
        if "\ndef run(proof: Proof)" in path.read_text()
    }
    assert set(names) == proofs
    assert len(names) == len(proofs)
    assert {path.stem for path in OUTPUTS.glob("*.txt")} - OTHERS == proofs - UNKEPT


def test_no_kept_output_has_a_broken_truth() -> None:
    for path in OUTPUTS.glob("*.txt"):
        if path.stem in OTHERS:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        assert any(line.startswith("true ") for line in lines), path
        assert not [line for line in lines if line.startswith("BROKEN ")], path


@pytest.mark.slow
def test_a_machine_that_can_not_show_it_leaves_what_another_one_showed() -> None:
    kept = (OUTPUTS / "native_histograms.txt").read_bytes()
    command = [sys.executable, "-m", "prove", "native_histograms"]
    without_prometheus = {**os.environ, "PATH": "", "PROMETHEUS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=without_prometheus, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOT SHOWN: it takes Prometheus 3" in done.stdout
    assert (OUTPUTS / "native_histograms.txt").read_bytes() == kept


@pytest.mark.slow
def test_an_unknown_proof_is_a_mistake() -> None:
    done = listed("no_such_proof")
    assert done.returncode == 2
    assert "no proof is called no_such_proof" in done.stderr


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_of_the_benchmarks_shows_what_was_kept(name: str) -> None:
    assert (f"## {name}\n" in PAGE.read_text(encoding="utf-8")) == (name not in UNKEPT_BENCHMARKS)
    assert PAGE.read_text(encoding="utf-8") == text(BENCHMARKS)
