"""A real Prometheus scrapes the exporter in both formats, and what it stores is what happened, to the task."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.end_to_end.processes import HERE, TEXT_FORMAT, Exporter, Prometheus, TextOnly, tool, wait_for
from tests.grafana.dashboards import fill_in, queries

pytestmark = pytest.mark.tools

JOBS = ("openmetrics", "text")
OPENMETRICS_FORMAT = "application/openmetrics-text;version=1.0.0"
ENDS = ("succeeded", "failed", "retried", "cancelled", "released")
COUNTERS = ("submitted", "started", *ENDS, "timed_out", "redelivered", "cancelled_before_start")
# Long enough for two scrapes at least.
RATE_INTERVAL = "5s"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Observed(NamedTuple):
    """What was seen of one run of the counted app.

    Attributes:
        exporter, prometheus, text_only: Still running.
        held: What the app knew while all its workers were busy.
        while_held: What the exporter said at that time, by path.
        under_load: What scrapes said while tasks went through.
        truth: What must have been counted in the end.
        span: When it began and ended, as Unix times.
    """

    exporter: Exporter
    prometheus: Prometheus
    text_only: TextOnly
    held: dict[str, Any]
    while_held: dict[str, str]
    under_load: list[Samples]
    truth: dict[str, Any]
    span: tuple[float, float]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """One run of the counted app, scraped from beginning to end."""
    tool("prometheus")
    folder = tmp_path_factory.mktemp("end_to_end")
    started = time.time()
    exporter = Exporter("counted_app:app", folder=HERE, environment={"COUNTED_APP_FOLDER": str(folder)})
    text_only = TextOnly(exporter.url)
    prometheus = None
    try:
        jobs = dict(zip(JOBS, (exporter.address, text_only.address), strict=True))
        prometheus = Prometheus(jobs, folder)
        held = json.loads(_wait_for_file(folder / "held"))
        while_held = {path: exporter.get(path) for path in ("/api/stats", "/livez", "/readyz")}
        while_held["/metrics"] = wait_for(
            lambda: _metrics_with_queues(exporter), 10, "the app's loop has told its figures"
        )
        wait_for(lambda: _has_stored_what_waits(prometheus), 30, "Prometheus has stored what waits, for both jobs")
        (folder / "go").touch()
        under_load = list(_scrape_until(exporter, folder / "truth"))
        prometheus.wait_for_scrapes()
        truth = json.loads((folder / "truth").read_text())
        span = (started, time.time())
        yield Observed(exporter, prometheus, text_only, held, while_held, under_load, truth, span)
    finally:
        if prometheus is not None:
            prometheus.close()
        text_only.close()
        exporter.close()


def _metrics_with_queues(exporter: Exporter) -> str | None:
    """The metrics, unless the machine is so busy that the app's loop didn't answer in time; they then lack its part."""
    metrics = exporter.get("/metrics")
    return metrics if "flowrra_queue_pending_tasks{" in metrics else None


def _has_stored_what_waits(prometheus: Prometheus) -> bool | None:
    found = prometheus.query("flowrra_queue_oldest_pending_timestamp_seconds")
    return {labels["job"] for labels, _ in found} == set(JOBS) or None


def _wait_for_file(path: Path) -> str:
    wait_for(lambda: path.exists() or None, 30, f"the app has written {path.name}")
    return path.read_text()


def _scrape_until(exporter: Exporter, file: Path) -> Iterator[Samples]:
    """Scrapes in a closed loop, in both formats by turns, until there is such a file."""
    deadline = time.monotonic() + 90
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file.name} after 90 s\n{exporter.log}"
        yield _samples(parse_text(exporter.get("/metrics", Accept=TEXT_FORMAT)))
        yield _samples(parse_openmetrics(exporter.get("/metrics", Accept=OPENMETRICS_FORMAT)))


def _samples(families: Iterator[Any]) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def _by_task(samples: Samples, name: str) -> dict[str, float]:
    return {dict(labels)["task"]: value for (found, labels), value in samples.items() if found == name}


# ── while all workers are busy ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_every_door_tells_the_same_number_of_waiting_tasks(observed: Observed) -> None:
    waiting = observed.held["waiting"]
    samples = _samples(parse_text(observed.while_held["/metrics"]))

    assert waiting > 0
    assert observed.held["stats"]["tasks"]["pending"] == waiting
    assert json.loads(observed.while_held["/api/stats"])["tasks"]["pending"] == waiting
    assert samples["flowrra_tasks_pending", ()] == waiting
    assert samples["flowrra_queue_pending_tasks", (("executor", "io"), ("queue", "default"))] == waiting


def test_busy_workers_are_told(observed: Observed) -> None:
    executor = observed.held["stats"]["executors"]["io"]
    samples = _samples(parse_text(observed.while_held["/metrics"]))

    assert executor["busy"] == executor["workers"] > 0
    assert samples["flowrra_executor_busy_workers", (("executor", "io"),)] == executor["busy"]
    assert _by_task(samples, "flowrra_tasks_running")["holds"] == executor["busy"]


def test_busy_workers_are_no_reason_to_fail_a_probe(observed: Observed) -> None:
    assert json.loads(observed.while_held["/livez"])["status"] == "ok"
    assert json.loads(observed.while_held["/readyz"])["status"] == "ok"


# ── under load ──────────────────────────────────────────────────────────────────────────────────────────────


def test_in_every_scrape_what_started_is_what_ended_and_what_runs(observed: Observed) -> None:
    assert len(observed.under_load) > 20
    for samples in observed.under_load:
        started = _by_task(samples, "flowrra_tasks_started_total")
        ended = {end: _by_task(samples, f"flowrra_tasks_{end}_total") for end in ENDS}
        running = _by_task(samples, "flowrra_tasks_running")
        assert started == {task: sum(ended[end][task] for end in ENDS) + running[task] for task in started}


def test_in_no_scrape_more_runs_than_there_are_workers(observed: Observed) -> None:
    workers = observed.held["stats"]["executors"]["io"]["workers"]
    running = [_by_task(samples, "flowrra_tasks_running") for samples in observed.under_load]

    assert all(count >= 0 for each in running for count in each.values())
    assert max(sum(each.values()) for each in running) == workers


def test_counters_never_fall(observed: Observed) -> None:
    before: Samples = {}
    for samples in observed.under_load:
        fallen = {
            key: (before[key], value)
            for key, value in samples.items()
            if key[0].endswith(("_total", "_bucket", "_count", "_sum")) and value < before.get(key, 0)
        }
        assert not fallen
        before = samples


# ── what is stored in the end ───────────────────────────────────────────────────────────────────────────────


def test_the_load_had_some_of_everything(observed: Observed) -> None:
    happened = Counter[str]()
    for counts in observed.truth["tasks"].values():
        happened.update(counts)

    # In memory, nothing is redelivered; and nothing is released but by a worker that stops.
    assert set(happened) == set(COUNTERS) - {"released", "redelivered"}
    assert happened["submitted"] > 5000


def test_no_attempt_ran_that_was_not_planned(observed: Observed) -> None:
    planned = {task: counts["started"] for task, counts in observed.truth["tasks"].items()}

    assert observed.truth["entered"] == planned


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("job", JOBS)
def test_prometheus_has_what_happened(observed: Observed, job: str, counter: str) -> None:
    stored = observed.prometheus.query(f'flowrra_tasks_{counter}_total{{job="{job}"}}')

    assert {labels["task"]: value for labels, value in stored} == {
        task: counts.get(counter, 0) for task, counts in observed.truth["tasks"].items()
    }


@pytest.mark.parametrize("job", JOBS)
def test_prometheus_has_the_exceptions(observed: Observed, job: str) -> None:
    stored = observed.prometheus.query(f'flowrra_task_exceptions_total{{job="{job}"}}')

    assert {(labels["task"], labels["exception"]): value for labels, value in stored} == {
        (task, exception): count
        for task, counts in observed.truth["exceptions"].items()
        for exception, count in counts.items()
    }


@pytest.mark.parametrize("job", JOBS)
def test_prometheus_has_a_run_time_for_each_success_and_each_failure(observed: Observed, job: str) -> None:
    stored = observed.prometheus.query(f'flowrra_task_run_duration_seconds_count{{job="{job}"}}')
    expected = {}
    for task, counts in observed.truth["tasks"].items():
        expected[task, "success"] = counts.get("succeeded", 0)
        expected[task, "error"] = counts.get("failed", 0) + counts.get("retried", 0)

    assert {(labels["task"], labels["outcome"]): value for labels, value in stored} == expected


@pytest.mark.parametrize("job", JOBS)
def test_prometheus_has_a_wait_for_each_attempt(observed: Observed, job: str) -> None:
    stored = observed.prometheus.query(f'flowrra_task_queue_wait_seconds_count{{job="{job}"}}')

    assert {labels["task"]: value for labels, value in stored} == {
        task: counts.get("started", 0) for task, counts in observed.truth["tasks"].items()
    }


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_left_in_the_end(observed: Observed, job: str) -> None:
    gauges = "flowrra_tasks_(running|retrying|pending)|flowrra_queue_(pending|delayed|in_flight|dead)_tasks"
    left = observed.prometheus.query(f'{{__name__=~"{gauges}",job="{job}"}}')

    assert left
    assert {value for _, value in left} == {0}
    assert observed.prometheus.query(f'flowrra_queue_oldest_pending_timestamp_seconds{{job="{job}"}}') == []


def test_each_job_was_scraped_in_its_format_and_without_fault(observed: Observed) -> None:
    assert {target["labels"]["job"]: target["lastError"] for target in observed.prometheus.targets()} == {
        "openmetrics": "",
        "text": "",
    }
    assert all("text/plain" in content_type for content_type in observed.text_only.content_types)
    # In OpenMetrics a counter's name is stated without what its sample ends with.
    assert "flowrra_tasks_started" in observed.prometheus.metric_names("openmetrics")
    assert "flowrra_tasks_started_total" in observed.prometheus.metric_names("text")


# In memory there is nothing that could fail or be unfit; test_shared_queue.py and test_check_command.py have those.
# Nothing is pushed, and no schedule is missed.
NOT_HERE = (
    "flowrra_broker_",
    "flowrra_backend_errors_total",
    "flowrra_executor_heartbeat_",
    "flowrra_otel_exports_total",
    'result=~"missed|skipped"',
)


@pytest.mark.parametrize(
    ("where", "query"), [(where, query) for where, query in queries() if not any(name in query for name in NOT_HERE)]
)
def test_a_dashboard_query_finds_data(observed: Observed, where: str, query: str) -> None:
    one = {"task": "flaky"} if where.startswith("flowrra-task.json") else {}
    filled = fill_in(query, rate_interval=RATE_INTERVAL, job="openmetrics", instance=observed.exporter.address, **one)
    found = observed.prometheus.query_range(filled, *observed.span)

    assert any(not math.isnan(value) for values in found for value in values), where


def test_promtool_has_nothing_to_say_about_the_metrics(observed: Observed) -> None:
    metrics = observed.exporter.get("/metrics", Accept=TEXT_FORMAT)
    check = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=30, check=False
    )

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
