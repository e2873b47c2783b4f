"""The examples do what they say, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.processes import ROOT, Exporter, wait_for
from tests.support.servers import ValkeyServer

# What moves in the demo within a minute, in memory, while nothing breaks.
MOVING = (
    "flowrra_tasks_submitted_total",
    "flowrra_tasks_started_total",
    "flowrra_tasks_succeeded_total",
    "flowrra_tasks_failed_total",
    "flowrra_tasks_retried_total",
    "flowrra_tasks_cancelled_total",
    "flowrra_tasks_timed_out_total",
    "flowrra_tasks_cancelled_before_start_total",
    "flowrra_task_exceptions_total",
    "flowrra_task_run_duration_seconds_count",
    "flowrra_task_queue_wait_seconds_sum",
    "flowrra_tasks_running",
    "flowrra_tasks_retrying",
    "flowrra_executor_busy_workers",
    "flowrra_queue_pending_tasks",
    "flowrra_queue_delayed_tasks",
    "flowrra_queue_oldest_pending_timestamp_seconds",
    "flowrra_event_loop_lag_seconds_sum",
    "flowrra_scheduler_runs_total",
    "flowrra_scheduler_lag_seconds_count",
    "shop_orders_total",
)


@pytest.fixture
def demo() -> Iterator[Exporter]:
    exporter = Exporter("examples.demo_app:app", "--shutdown.timeout=6", folder=ROOT)
    yield exporter
    exporter.close()


def _moved(exporter: Exporter) -> set[str]:
    sums = Counter[str]()
    for family in text_string_to_metric_families(exporter.get("/metrics")):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return {name for name in MOVING if sums[name] > 0}


@pytest.mark.slow
def test_the_demo_moves_the_metrics_and_ends_when_asked_to(demo: Exporter) -> None:
    moved: set[str] = set()

    def all_moved() -> bool | None:
        moved.update(_moved(demo))
        return moved == set(MOVING) or None

    try:
        wait_for(all_moved, 150, "every metric has moved")
    except AssertionError:
        pytest.fail(f"never moved: {set(MOVING) - moved}")

    # What it had for later is lost, in memory, and it says so.
    status = demo.terminate()
    assert status == int("tasks lost at the stop" in demo.log), demo.log
    assert "the app has stopped" in demo.log
    assert "Task exception was never retrieved" not in demo.log


@pytest.mark.slow
def test_the_redis_example_runs_in_two_workers_and_is_observed() -> None:
    with ValkeyServer() as server:
        environment = {"REDIS_URL": f"redis://127.0.0.1:{server.port}/0"}
        target = "examples.redis_shop:worker"
        workers = [Exporter(target, folder=ROOT, environment=environment) for _ in range(2)]
        observer = Exporter(target, "--observe", folder=ROOT, environment=environment)
        try:
            run = subprocess.run(
                [sys.executable, "-m", "examples.redis_shop", "40"],
                cwd=ROOT,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert sum(line.startswith("success order") for line in run.stdout.splitlines()) == 40
            assert "flowrra_worker_processes 2" in observer.get("/metrics").splitlines()
            assert "flowrra_tasks_started_total" not in observer.get("/metrics")
            assert [each.terminate() for each in (*workers, observer)] == [0, 0, 0]
        finally:
            for each in (*workers, observer):
                each.close()


@pytest.mark.slow
def test_the_management_api_example_shows_what_the_api_tells() -> None:
    script = ROOT / "examples" / "management_api_example.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, check=True)

    for line in (
        "tasks:   2 registered, 11 pending",
        "  10 attempts: 10 succeeded, 0 retried, 0 failed; exceptions: {}",
        "  2 attempts: 0 succeeded, 1 retried, 1 failed; exceptions: {'ValueError': 2}",
        "fetch_page: success, result='<title>https://example.org/0</title>', error=None",
        "parse_feed: failed, result=None, error='ValueError: https://example.org/feed is no feed'",
        "  app: running",
    ):
        assert line in run.stdout.splitlines(), run.stdout
