"""What README.md says is so: its programs run, its flags and links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.processes import COMMAND, ROOT, Exporter, wait_for

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_a_program_runs_and_prints_what_it_says(program: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)
    run = subprocess.run(
        [sys.executable, "-W", "error", file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    promised = re.findall(r"print\(.*\)  # ((?:success|failed|True).*)", program)
    assert run.stdout.splitlines()[: len(promised)] == promised


@pytest.mark.slow
def test_the_quick_start_is_served(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(PROGRAMS[0])
    exporter = Exporter("shop:app", folder=tmp_path)
    try:
        done = 'flowrra_tasks_succeeded_total{task="send_receipt"} 1'
        wait_for(lambda: done in exporter.get("/metrics").splitlines() or None, 10, done)
        for path in ("/", "/livez", "/readyz", "/startupz", "/healthz", "/api/stats", "/api/health", "/api/tasks"):
            assert exporter.get(path)
            assert path in README
        assert exporter.terminate() == 0
    finally:
        exporter.close()


def test_the_table_of_flags_is_complete() -> None:
    usage = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    switches = {f"--[no-]{name}" for name in re.findall(r"--no-([\w.-]+)", usage)}
    plain = set(re.findall(r"--[\w.-]+", re.sub(r"--\S+ / --no-\S+", "", usage))) - {"--help", "--version"}

    assert set(re.findall(r"^\| `(--[\w.\[\]-]+)`", README, re.MULTILINE)) == plain | switches


def test_links_within_the_repository_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_what_is_said_of_delivery_is_tested() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/delivery.md").read_text(encoding="utf-8"))
    assert named
    for file, name in named:
        assert re.search(rf"(def|class) {name}\b" if name else "", (ROOT / file).read_text(encoding="utf-8")), (
            f"{file}::{name}"
        )
