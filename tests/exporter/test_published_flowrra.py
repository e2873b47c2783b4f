"""The exporter in front of the published flowrra 0.1.8: no error, no figure that isn't so."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.exporter.conftest import FREE_PORT, Command, Run

PUBLISHED = ("flowrra==0.1.8", "aiosqlite==0.21.0")  # the latter for its scheduler


@pytest.fixture(scope="module")
def published(pytestconfig: pytest.Config) -> Path:
    """A folder with the published flowrra, which goes before this one on the path."""
    folder = Path(pytestconfig.cache.mkdir("published-flowrra"))  # type: ignore[union-attr]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes that share the tests install it once
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    if not all((folder / package.partition("==")[0]).exists() for package in PUBLISHED):
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PUBLISHED]
        ended = subprocess.run(install, capture_output=True, text=True, timeout=100, check=False)
        if ended.returncode:
            pytest.skip(f"can't install {PUBLISHED[0]}: {ended.stderr.strip()[-200:]}")


@pytest.fixture
def command(run: Run, published: Path) -> Command:
    path = os.pathsep.join([str(published), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = run(f"--web.listen-address={FREE_PORT}", "told:make", PYTHONPATH=path)
    command.ready()
    return command


@pytest.mark.slow
def test_it_serves_app_executor_and_health_metrics(command: Command) -> None:
    scrape = command.get()
    assert any(("version", "0.1.8") in labels for name, labels in scrape.samples if name == "flowrra_build_info")
    assert scrape.value("flowrra_app_running") == 1
    assert scrape.value("flowrra_executor_running", executor="io") == 1
    assert scrape.value("flowrra_executor_workers", executor="io") == 2
    assert scrape.value("flowrra_healthy") == 1
    assert scrape.value("flowrra_component_healthy", component="io_executor") == 1
    assert scrape.value("flowrra_tasks_registered", executor="io") == 2
    collectors = {
        labels: value for (name, labels), value in scrape.samples.items() if name == "flowrra_collector_success"
    }
    assert len(collectors) == 6
    assert set(collectors.values()) == {1}


@pytest.mark.slow
def test_its_schedules_are_served_with_local_times_as_instants(run: Run, published: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(published), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # A naive time taken as UTC would be hours off.
    command = run(
        f"--web.listen-address={FREE_PORT}", "scheduled:app", PYTHONPATH=path, FOLDER=str(tmp_path), TZ="Asia/Kathmandu"
    )
    command.ready()
    scrape = command.get()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 1
    assert scrape.value("flowrra_scheduler_running") == 1
    assert scrape.value("flowrra_scheduler_schedules", state="enabled") == 3
    assert scrape.value("flowrra_scheduler_schedules", state="disabled") == 1
    assert scrape.value("flowrra_component_healthy", component="scheduler") == 1
    next_run = "flowrra_schedule_next_run_timestamp_seconds"
    following = scrape.value(next_run, schedule="often", task="report")
    assert following is not None
    assert abs(following - time.time()) < 5
    nightly = scrape.value(next_run, schedule="nightly", task="report")
    assert nightly is not None
    at_night = datetime.fromtimestamp(nightly, ZoneInfo("Asia/Kathmandu"))
    assert (at_night.hour, at_night.minute) == (3, 0)
    assert sum(name == next_run for name, _ in scrape.samples) == 2


@pytest.mark.slow
def test_its_count_of_waiting_tasks_is_not_believed(command: Command) -> None:
    for _ in range(5):
        command.tell("submit 60")  # two run, three wait; 0.1.8 says that 0 wait
    command.wait_for_line("submitted 5")
    assert command.get("/api/stats").text.count('"pending": 0') == 1
    assert command.get().value("flowrra_tasks_pending") is None


@pytest.mark.slow
def test_probes_and_the_api_answer(command: Command) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/healthz", "/api/stats", "/api/health", "/api/tasks"):
        assert command.get(path).status == 200


@pytest.mark.slow
def test_a_blocked_loop_is_seen_and_the_end_is_clean(command: Command) -> None:
    command.tell("block 1")
    deadline = time.monotonic() + 5
    while command.get().value("flowrra_healthy") == 1:
        assert time.monotonic() < deadline, "the block went unnoticed"
    assert command.get("/readyz").status == 503
    command.signal()
    assert command.wait() == 0
    assert command.err == []
    assert "Traceback" not in command.log
