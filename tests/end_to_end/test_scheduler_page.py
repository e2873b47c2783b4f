"""What docs/scheduler.md says is so: its programs print what they promise, and its metrics are the catalog's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from flowrra_exporter.metrics.catalog import CATALOG

from tests.end_to_end.processes import ROOT

PAGE = (ROOT / "docs" / "scheduler.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_a_program_prints_what_it_says(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


def test_the_table_of_metrics_is_that_of_the_catalog() -> None:
    described = {metric.name: metric.labels for metric in CATALOG if metric.name.startswith("flowrra_schedule")}
    named = re.findall(r"`(flowrra_schedule\w+)(?:{([a-z,]+)})?`", PAGE)
    assert {name: tuple(labels.split(",")) if labels else () for name, labels in named} == described
