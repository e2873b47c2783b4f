"""What a scrape holds: every figure of the Management API under its name, and nothing that isn't known."""

from __future__ import annotations

import asyncio
import gzip
import math
import shutil
import time
from asyncio.subprocess import PIPE, STDOUT
from datetime import UTC, datetime
from typing import Any

import pytest
from flowrra_exporter.metrics.catalog import CATALOG
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.exporter.conftest import Serve, fetch, until
from tests.exporter.contract import ContractApp, MinimalApp, broken, never, task_stats


async def test_every_figure_is_served_under_its_name(serve: Serve) -> None:
    service = await serve(ContractApp())
    scrape = await service.get()
    assert scrape.status == 200
    mail = {"task": "send_email"}
    expected: list[tuple[str, dict[str, str], float]] = [
        ("flowrra_app_running", {}, 1),
        ("flowrra_tasks_pending", {}, 7),
        ("flowrra_healthy", {}, 1),
        ("flowrra_component_healthy", {"component": "app"}, 1),
        ("flowrra_executor_running", {"executor": "io"}, 1),
        ("flowrra_executor_workers", {"executor": "io"}, 4),
        ("flowrra_executor_busy_workers", {"executor": "io"}, 3),
        ("flowrra_executor_waiting_tasks", {"executor": "io"}, 5),
        ("flowrra_executor_stuck", {"executor": "io"}, 0),
        ("flowrra_executor_draining", {"executor": "io"}, 0),
        ("flowrra_executor_queue_info", {"executor": "io", "queue": "default"}, 1),
        ("flowrra_executor_queue_info", {"executor": "io", "queue": "mail"}, 1),
        ("flowrra_executor_heartbeat_timestamp_seconds", {"executor": "io"}, 1_700_000_050),
        ("flowrra_executor_worker_restarts_total", {"executor": "io"}, 2),
        ("flowrra_executor_abandoned_tasks_total", {"executor": "io", "state": "waiting"}, 4),
        ("flowrra_executor_abandoned_tasks_total", {"executor": "io", "state": "running"}, 1),
        ("flowrra_tasks_registered", {"executor": "io"}, 1),
        ("flowrra_tasks_registered", {"executor": "cpu"}, 1),
        (
            "flowrra_queue_info",
            {"executor": "io", "queue": "default", "broker": "memory", "namespace": "flowrra", "server": ""},
            1,
        ),
        ("flowrra_queue_pending_tasks", {"executor": "io", "queue": "default"}, 7),
        ("flowrra_queue_delayed_tasks", {"executor": "io", "queue": "default"}, 2),
        ("flowrra_queue_in_flight_tasks", {"executor": "io", "queue": "default"}, 3),
        ("flowrra_queue_dead_tasks", {"executor": "io", "queue": "default"}, 0),
        ("flowrra_queue_unknown_tasks", {"executor": "io", "queue": "default"}, 1),
        ("flowrra_queue_paused", {"executor": "io", "queue": "default"}, 0),
        ("flowrra_queue_paused_tasks", {"executor": "io", "queue": "default"}, 1),
        ("flowrra_queue_oldest_pending_timestamp_seconds", {"executor": "io", "queue": "default"}, 1_700_000_000.25),
        ("flowrra_queue_taken_tasks_total", {"executor": "io", "queue": "default"}, 40),
        ("flowrra_queue_drain_seconds", {"executor": "io", "queue": "default"}, 12.5),
        ("flowrra_broker_unfit", {"reason": "eviction"}, 1),
        ("flowrra_broker_unfit", {"reason": "clock"}, 0),
        ("flowrra_broker_clock_offset_seconds", {}, -0.25),
        ("flowrra_broker_lease_seconds", {}, 20),
        ("flowrra_broker_memory_used_bytes", {}, 1_000_000),
        ("flowrra_broker_memory_limit_bytes", {}, 4_000_000),
        ("flowrra_worker_processes", {}, 3),
        ("flowrra_worker_slots", {"executor": "io"}, 10),
        ("flowrra_worker_busy_slots", {"executor": "io"}, 5),
        ("flowrra_app_stopping", {}, 0),
        ("flowrra_tasks_submitted_total", mail, 10),
        ("flowrra_tasks_started_total", mail, 9),
        ("flowrra_tasks_succeeded_total", mail, 5),
        ("flowrra_tasks_failed_total", mail, 1),
        ("flowrra_tasks_retried_total", mail, 2),
        ("flowrra_tasks_cancelled_total", mail, 0),
        ("flowrra_tasks_released_total", mail, 0),
        ("flowrra_tasks_timed_out_total", mail, 1),
        ("flowrra_tasks_redelivered_total", mail, 0),
        ("flowrra_tasks_cancelled_before_start_total", mail, 0),
        ("flowrra_tasks_running", mail, 1),
        ("flowrra_tasks_retrying", mail, 1),
        ("flowrra_task_oldest_running_timestamp_seconds", mail, 1_700_000_100),
        ("flowrra_task_exceptions_total", {**mail, "exception": "ValueError"}, 2),
        ("flowrra_task_exceptions_total", {**mail, "exception": "TimeoutError"}, 1),
        ("flowrra_task_run_duration_seconds_bucket", {**mail, "outcome": "success", "le": "0.1"}, 3),
        ("flowrra_task_run_duration_seconds_bucket", {**mail, "outcome": "success", "le": "1.0"}, 4),
        ("flowrra_task_run_duration_seconds_bucket", {**mail, "outcome": "success", "le": "+Inf"}, 5),
        ("flowrra_task_run_duration_seconds_count", {**mail, "outcome": "success"}, 5),
        ("flowrra_task_run_duration_seconds_sum", {**mail, "outcome": "success"}, 4.5),
        ("flowrra_task_run_duration_seconds_count", {**mail, "outcome": "error"}, 3),
        ("flowrra_task_queue_wait_seconds_count", mail, 9),
        ("flowrra_task_queue_wait_seconds_sum", mail, 0.25),
        ("flowrra_event_loop_lag_seconds_count", {}, 103),
        ("flowrra_event_loop_lag_seconds_sum", {}, 1.75),
        ("flowrra_event_loop_stalls_total", {}, 1),
        ("flowrra_watchers", {}, 2),
        ("flowrra_event_subscriber_dropped_total", {}, 6),
        ("flowrra_event_subscriber_errors_total", {}, 8),
        ("flowrra_broker_errors_total", {"operation": "pop"}, 4),
        ("flowrra_backend_errors_total", {"operation": "store"}, 5),
    ]
    served = scrape.samples
    for name, labels, value in expected:
        assert served.get((name, frozenset(labels.items()))) == value, (name, labels)


async def test_the_exporter_tells_about_itself(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    for collector in ("app", "executors", "queue", "workers", "tasks", "scheduler", "health", "runtime", "python"):
        assert scrape.value("flowrra_collector_success", collector=collector) == 1
        assert 0 <= (scrape.value("flowrra_collector_duration_seconds", collector=collector) or -1) < 5
    assert scrape.value("flowrra_exporter_series") == len(scrape.samples)
    assert scrape.value("flowrra_exporter_series_dropped") == 0
    assert any(name == "flowrra_exporter_info" and ("mode", "library") in labels for name, labels in scrape.samples)


async def test_every_metric_of_the_catalog_can_be_served(serve: Serve) -> None:
    names = {name for name, _ in (await (await serve(ContractApp())).get()).samples}
    names.add("flowrra_build_info")  # this app isn't flowrra's
    # With --otel.metrics only.
    names |= {"flowrra_otel_exports_total", "flowrra_otel_points_total", "flowrra_otel_last_export_timestamp_seconds"}
    names.add("flowrra_exporter_web_config_in_order")  # where there is one
    names.add("flowrra_exporter_log_records_dropped_total")  # of the command only, which has a log of its own
    names.add("flowrra_registered_series_dropped")  # by reason, where there is one
    assert {metric.name for metric in CATALOG if not names & set(metric.sample_names)} == set()


async def test_known_counters_are_there_from_the_start_at_0(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    for metric in CATALOG:
        if metric.type == "counter" and metric.labels == ("task",):
            assert scrape.value(metric.name, task="resize") == 0
    assert scrape.value("flowrra_task_run_duration_seconds_count", task="resize", outcome="error") == 0


async def test_both_formats_hold_the_same_samples(serve: Serve) -> None:
    service = await serve(ContractApp())
    text, openmetrics = await service.get(), await service.get(Accept="application/openmetrics-text")
    assert text.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.headers["Vary"] == "Accept, Accept-Encoding"
    names = {
        (sample.name, frozenset(sample.labels.items()))
        for family in parse_openmetrics(openmetrics.text)
        for sample in family.samples
    }
    assert names == set(text.samples)


@pytest.mark.slow
async def test_gzip_is_the_same_text_smaller(serve: Serve) -> None:
    app = ContractApp()
    app.tasks.update({f"task{i}": task_stats() for i in range(300)})
    service = await serve(app)
    plain, packed = await service.get(), await service.get(Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 5
    assert set(packed.samples) == set(plain.samples)
    assert gzip.decompress(packed.body).endswith(b"\n")


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=abc", "q=q=q;;,", "\x80\xff", "*/*;q=-1"])
async def test_no_accept_header_fails_a_scrape(serve: Serve, accept: str) -> None:
    assert (await (await serve(MinimalApp())).get(Accept=accept)).status == 200


# What can't be read is absent.


async def test_a_figure_that_is_none_is_absent(serve: Serve) -> None:
    app = ContractApp()
    app.queues["io"].update(delayed=None, dead=None, paused=None, oldest_pending_at=None, drain_seconds=None)
    app.tasks["send_email"].update(oldest_running_at=None, redelivered=None)
    scrape = await (await serve(app)).get()
    names = {name for name, _ in scrape.samples}
    assert not names & {
        "flowrra_queue_delayed_tasks",
        "flowrra_queue_dead_tasks",
        "flowrra_queue_paused",
        "flowrra_queue_oldest_pending_timestamp_seconds",
        "flowrra_queue_drain_seconds",
        "flowrra_task_oldest_running_timestamp_seconds",
    }
    assert scrape.value("flowrra_tasks_redelivered_total", task="send_email") is None
    assert scrape.value("flowrra_queue_pending_tasks", executor="io", queue="default") == 7
    assert scrape.value("flowrra_collector_success", collector="queue") == 1


async def test_what_is_not_known_of_the_broker_is_absent_and_both_queues_count_once(serve: Serve) -> None:
    app = ContractApp()
    app.queues["cpu"] = {**app.queues["io"], "unfit": {"eviction": False, "clock": True, "replica": None}}
    scrape = await (await serve(app)).get()
    unfit = {labels: value for (name, labels), value in scrape.samples.items() if name == "flowrra_broker_unfit"}
    assert unfit == {frozenset({("reason", "eviction")}): 1, frozenset({("reason", "clock")}): 1}

    for queue in app.queues.values():
        queue["unfit"] = None
    scrape = await (await serve(app)).get()
    assert "flowrra_broker_unfit" not in {name for name, _ in scrape.samples}
    assert scrape.value("flowrra_collector_success", collector="queue") == 1


async def test_a_component_that_is_not_configured_is_absent(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value("flowrra_component_healthy", component="cpu_executor") is None
    assert scrape.value("flowrra_executor_workers", executor="cpu") is None


@pytest.mark.parametrize(
    ("change", "collector"),
    [
        ({"queues": {"io": "nonsense"}}, "queue"),
        ({"queues": {"io": {"pending": 1}}}, "queue"),
        ({"queues": {"io": {"broker": "b", "namespace": "n", "unfit": "very"}}}, "queue"),
        ({"tasks": {"a": task_stats(submitted="many")}}, "tasks"),
        ({"tasks": {"a": task_stats(queue_wait={"bounds": (1.0,), "counts": (1,), "sum": 1})}}, "tasks"),
        ({"tasks": {"a": task_stats(oldest_running_at=17)}}, "tasks"),
        ({"tasks": ["a"]}, "tasks"),
        ({"workers": None}, "workers"),
        ({"runtime": None}, "runtime"),
        ({"runtime": {"broker_errors": {"pop": []}}}, "runtime"),
        ({"health": {"healthy": True, "components": {"app": "fine"}}}, "health"),
        ({"health": {}}, "health"),
    ],
)
async def test_nonsense_costs_its_own_metrics_only(serve: Serve, change: dict[str, Any], collector: str) -> None:
    app = ContractApp()
    vars(app).update(change)
    scrape = await (await serve(app)).get()
    assert scrape.status == 200
    for name in ("app", "executors", "queue", "workers", "tasks", "scheduler", "health", "runtime", "python"):
        assert scrape.value("flowrra_collector_success", collector=name) == (0 if name == collector else 1), name
    prefix = {
        "queue": "flowrra_queue_",
        "workers": "flowrra_worker_",
        "tasks": "flowrra_task_",
        "runtime": "flowrra_event_",
        "health": "flowrra_h",
    }
    assert not [name for name, _ in scrape.samples if name.startswith(prefix[collector])]


async def test_a_source_that_fails_is_absent_and_comes_back(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    app.before["list_queues"] = broken
    scrape = await service.get()
    assert scrape.value("flowrra_collector_success", collector="queue") == 0
    assert scrape.value("flowrra_queue_pending_tasks", executor="io", queue="default") is None
    assert scrape.value("flowrra_app_running") == 1
    del app.before["list_queues"]
    assert (await service.get()).value("flowrra_queue_pending_tasks", executor="io", queue="default") == 7


async def test_a_health_check_that_fails_is_absent_rather_than_0(serve: Serve) -> None:
    app = ContractApp()
    app.before["health_check"] = broken
    scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_healthy") is None
    assert scrape.value("flowrra_collector_success", collector="health") == 0


@pytest.mark.slow
async def test_a_source_that_hangs_costs_one_deadline_then_nothing(serve: Serve) -> None:
    app = ContractApp()
    app.before["list_queues"] = never
    service = await serve(app, collect_timeout=2.0)
    first, second = await service.get(), await service.get()
    for scrape in (first, second):
        assert scrape.value("flowrra_collector_success", collector="queue") == 0
        assert scrape.value("flowrra_app_running") == 1
    assert 2.0 / 2 < first.seconds < 2 * 2.0
    assert second.seconds < 2.0 / 2


@pytest.mark.slow
async def test_a_source_that_hangs_costs_one_deadline_on_a_busy_loop_too(serve: Serve) -> None:
    app = ContractApp()
    app.before["list_queues"] = never
    service = await serve(app, collect_timeout=(deadline := 1.5))
    busy = asyncio.create_task(turn_slowly(0.06))
    scrapes = await asyncio.to_thread(lambda: [fetch(service.url) for _ in range(4)])
    busy.cancel()
    assert [scrape.value("flowrra_collector_success", collector="queue") for scrape in scrapes] == [0] * 4
    assert max(scrape.seconds for scrape in scrapes[1:]) < 0.5 * deadline


async def turn_slowly(seconds: float) -> None:
    """Makes each turn of the loop take so long."""
    while True:
        time.sleep(seconds)
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_a_scraper_gets_what_there_is_within_its_own_deadline(serve: Serve) -> None:
    app, release = ContractApp(), asyncio.Event()
    app.before["list_queues"] = release.wait
    service = await serve(app)
    patient = asyncio.create_task(service.get())
    hasty = await service.get(X_Prometheus_Scrape_Timeout_Seconds="2")
    assert hasty.seconds < 2
    assert not patient.done()
    release.set()
    assert hasty.value("flowrra_collector_success", collector="queue") == 0
    assert hasty.value("flowrra_app_running") == 1
    assert (await patient).value("flowrra_queue_pending_tasks", executor="io", queue="default") == 7
    assert app.calls["list_queues"] == 1


@pytest.mark.parametrize("header", ["", "soon", "nan", "-1", "0", "1e400"])
async def test_a_scrape_timeout_that_makes_no_sense_is_ignored(serve: Serve, header: str) -> None:
    scrape = await (await serve(MinimalApp())).get(X_Prometheus_Scrape_Timeout_Seconds=header)
    assert scrape.value("flowrra_app_running") == 1


@pytest.mark.tools
async def test_promtool_has_nothing_to_say(serve: Serve) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the path")
    scrape = await (await serve(ContractApp())).get()
    check = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    said, _ = await check.communicate(scrape.body)
    assert (said.decode(), check.returncode) == ("", 0)


# Many scrapers.


@pytest.mark.slow
async def test_scrapes_at_the_same_time_share_one_collection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine ten requests take longer to arrive than a collection is shared for.
    monkeypatch.setattr("flowrra_exporter.metrics.collection._SHARED_SECONDS", 10.0)
    app, release = ContractApp(), asyncio.Event()
    app.before["list_queues"] = release.wait
    service = await serve(app)
    scrapes = [asyncio.create_task(service.get()) for _ in range(10)]
    await until(lambda: bool(app.calls.get("list_queues")))
    await asyncio.sleep(1)  # let them all arrive
    release.set()
    for scrape in await asyncio.gather(*scrapes):
        assert scrape.value("flowrra_queue_pending_tasks", executor="io", queue="default") == 7
    assert app.calls["list_queues"] == 1
    assert app.calls["get_task_stats"] == 1


async def test_past_the_cap_scrapes_are_turned_away_while_probes_go_on(serve: Serve) -> None:
    app, release = ContractApp(), asyncio.Event()
    app.before["list_queues"] = release.wait
    service = await serve(app, max_concurrent_scrapes=2)
    scrapes = [asyncio.create_task(service.get()) for _ in range(6)]
    await until(lambda: sum(scrape.done() for scrape in scrapes) == 4)
    assert (await service.get("/livez")).status == 200
    release.set()
    answers = await asyncio.gather(*scrapes)
    assert sorted(answer.status for answer in answers) == [200, 200, 503, 503, 503, 503]
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status == 503)
    assert (await service.get()).status == 200


@pytest.mark.slow
async def test_a_scrape_that_the_exporters_end_overtakes_is_answered_with_what_there_is(serve: Serve) -> None:
    app = ContractApp()
    app.before["list_queues"] = never
    service = await serve(app)
    scrape = asyncio.create_task(service.get())
    await until(lambda: bool(app.calls.get("list_queues")))
    await service.get(X_Prometheus_Scrape_Timeout_Seconds="0.8")  # once it is answered, the others' figures are there
    await asyncio.to_thread(service.exporter.close)
    assert (await scrape).status == 200
    assert (await scrape).value("flowrra_collector_success", collector="queue") == 0
    assert (await scrape).value("flowrra_app_running") == 1


# Other apps than today's flowrra.


async def test_the_least_app_serves_what_it_has(serve: Serve) -> None:
    scrape = await (await serve(MinimalApp())).get()
    assert scrape.value("flowrra_app_running") == 1
    assert scrape.value("flowrra_executor_workers", executor="io") == 4
    assert scrape.value("flowrra_executor_busy_workers", executor="io") is None
    assert scrape.value("flowrra_healthy") == 1
    served = {dict(labels)["collector"] for name, labels in scrape.samples if name == "flowrra_collector_success"}
    assert served == {"app", "executors", "health", "python"}


async def test_without_queue_stats_only_a_pending_count_above_0_is_believed(serve: Serve) -> None:
    app = MinimalApp()
    service = await serve(app)
    assert (await service.get()).value("flowrra_tasks_pending") is None
    app.stats["tasks"]["pending"] = 3
    assert (await service.get()).value("flowrra_tasks_pending") == 3


async def test_with_queue_stats_0_pending_is_a_figure(serve: Serve) -> None:
    app = ContractApp()
    app.stats["tasks"]["pending"] = 0
    assert (await (await serve(app)).get()).value("flowrra_tasks_pending") == 0


async def test_plain_numbers_that_turn_out_to_wait_are_a_failure_not_a_hang(serve: Serve) -> None:
    class Waiting(ContractApp):
        async def get_task_stats(self) -> Any:
            await asyncio.sleep(0)
            return {}

    scrape = await (await serve(Waiting())).get()
    assert scrape.value("flowrra_collector_success", collector="tasks") == 0
    assert scrape.value("flowrra_collector_success", collector="runtime") == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        {"bounds": (0.1, 1.0), "counts": (0, "many", 0), "sum": 0.0},
        {"bounds": (0.1, 1.0), "counts": (0, 0.5, 0), "sum": 0.0},
        {"bounds": (0.1, 1.0), "counts": (0, math.nan, 0), "sum": 0.0},
        {"bounds": (0.1, "1.0"), "counts": (0, 0, 0), "sum": 0.0},
        {"bounds": (0.1, 1.0), "counts": (0, 0, 0), "sum": None},
        {"bounds": (0.1, 1.0), "counts": (0, 0), "sum": 0.0},
        {"bounds": (0.1, 1.0)},
    ],
)
async def test_a_histogram_that_is_none_costs_its_own_source_and_not_the_scrape(serve: Serve, nonsense: Any) -> None:
    app = ContractApp()
    app.tasks["odd"] = task_stats(queue_wait=nonsense)
    scrape = await (await serve(app)).get()
    assert scrape.status == 200
    assert scrape.value("flowrra_collector_success", collector="tasks") == 0
    assert scrape.value("flowrra_collector_success", collector="runtime") == 1
    assert "flowrra_task_queue_wait_seconds" not in scrape.body.decode()


async def test_naive_datetimes_of_older_apps_are_local_time(serve: Serve) -> None:
    app = ContractApp()
    local = datetime.fromtimestamp(1_700_000_000, UTC).astimezone().replace(tzinfo=None)
    app.queues["io"]["oldest_pending_at"] = local
    scrape = await (await serve(app)).get()
    assert (
        scrape.value("flowrra_queue_oldest_pending_timestamp_seconds", executor="io", queue="default") == 1_700_000_000
    )
