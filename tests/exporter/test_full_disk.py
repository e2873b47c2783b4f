"""A schedule store whose disk is full: readiness goes with the firing, and comes back with it."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from tests.exporter.conftest import FREE_PORT, Command, Run


def wait_until_ready(command: Command, status: int, seconds: float = 20.0) -> float:
    """Waits until /readyz has this status; returns how often schedules had fired by then."""
    deadline = time.monotonic() + seconds
    while command.get("/readyz").status != status:
        assert time.monotonic() < deadline, command.get("/readyz").text
        time.sleep(0.1)
    return fired(command)


def fired(command: Command) -> float:
    return command.get().value("flowrra_scheduler_runs_total", task="report", result="submitted") or 0.0


@pytest.mark.slow
def test_readiness_comes_back_with_the_firing(run: Run, tmp_path: Path) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "--probe.failure-grace=0", "scheduled:app", FOLDER=str(tmp_path))
    command.ready()
    wait_until_ready(command, 200)
    # No file may grow: what a full disk says, but for its number.
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    before = wait_until_ready(command, 503)
    assert "scheduler" in command.get("/readyz").text
    assert command.get("/livez").status == 200
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until_ready(command, 200)
    deadline = time.monotonic() + 10
    while fired(command) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert command.get("/readyz").status == 200
    command.signal()
    assert command.wait() == 0
