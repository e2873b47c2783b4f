"""Sources that fail, hang or talk nonsense, those that are switched off, and bounds that were chosen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.metrics import circuit_breaker
from flowrra_exporter.metrics.circuit_breaker import Breaker
from flowrra_exporter.metrics.collectors import NAMES
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from flowrra import Flowrra
from tests.exporter.conftest import Answer, Serve, Service

FAMILY_OF = {
    "app": "flowrra_app_running",
    "executors": "flowrra_executor_workers",
    "queue": "flowrra_queue_pending_tasks",
    "workers": "flowrra_worker_processes",
    "tasks": "flowrra_tasks_submitted_total",
    "health": "flowrra_healthy",
    "runtime": "flowrra_event_loop_lag_seconds_count",
    "python": "process_start_time_seconds",
}


def app_with_a_task() -> Flowrra:
    app = Flowrra()

    @app.task()
    async def work() -> None: ...

    return app


def names(answer: Answer) -> set[str]:
    return {name for name, _ in answer.samples}


class TestBreaker:
    def test_three_failures_in_a_row_open_it_and_it_is_tried_again_every_five_seconds(self) -> None:
        now = [100.0]
        source = Breaker(clock=lambda: now[0])
        for _ in range(2):
            source.failed()
            assert source.refusal is None
        source.succeeded()
        for _ in range(3):
            assert source.refusal is None
            assert not source.is_open
            source.failed()
        for _ in range(100):  # however long it lasts
            assert source.is_open
            assert source.refusal is not None
            assert "to be asked again in 5 s" in source.refusal
            now[0] += 5
            assert source.refusal is None
            source.failed()

    def test_one_success_closes_it(self) -> None:
        now = [0.0]
        source = Breaker(clock=lambda: now[0])
        for _ in range(5):
            source.failed()
        now[0] += 100
        source.succeeded()
        source.failed()
        assert source.refusal is None
        assert not source.is_open


class Manager:
    """A Management API whose statistics do as they are told."""

    def __init__(self, stats: Any, seconds: float = 0.0) -> None:
        self.calls = 0
        self.under_way = False
        self.stats = stats
        self.seconds = seconds

    async def get_stats(self) -> Any:
        self.calls += 1
        self.under_way = True
        await asyncio.sleep(self.seconds)
        self.under_way = False
        if isinstance(self.stats, Exception):
            raise self.stats
        if self.stats == "hang":
            await asyncio.Event().wait()
        return self.stats

    async def health_check(self) -> Any:
        return {"healthy": True, "components": {}}


async def scrapes(service: Service, times: int, **headers: str) -> list[Answer]:
    return [await service.get(**headers) for _ in range(times)]


@pytest.mark.parametrize("nonsense", [None, 5, "text", [], {"app": 1}, {"app": {"running": "yes", "version": []}}])
async def test_nonsense_costs_only_the_sources_own_families(serve: Serve, nonsense: Any) -> None:
    service = await serve(Manager(nonsense))
    answer = await service.get()
    assert answer.status == 200
    assert answer.value("flowrra_collector_success", collector="health") == 1
    assert answer.value("flowrra_healthy") == 1
    assert answer.value("flowrra_app_running") is None


async def test_a_source_that_keeps_failing_is_left_alone_and_said_to_fail(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(RuntimeError("no database"))
    service = await serve(manager)
    asked = []
    for answer in await scrapes(service, 6):
        asked.append(manager.calls)
        assert answer.value("flowrra_collector_success", collector="app") == 0
        assert answer.value("flowrra_healthy") == 1
    assert asked[-1] == asked[2]
    assert caplog.text.count("collector app fails: RuntimeError: no database") == 1


@pytest.mark.slow
async def test_a_source_that_is_well_again_is_seen_by_the_next_scrape_however_long_it_was_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE", 0.05)
    manager = Manager(RuntimeError("no database"))
    service = await serve(manager)
    for _ in range(15):
        await service.get()
        await asyncio.sleep(0.05)
    failed = manager.calls
    assert failed > 10
    manager.stats = {"app": {"running": True}}
    await asyncio.sleep(0.05)
    answer = await service.get()

    assert answer.value("flowrra_app_running") == 1
    assert answer.value("flowrra_collector_success", collector="app") == 1


@pytest.mark.slow
async def test_a_source_that_keeps_failing_slowly_holds_up_no_scrape_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE", 0.05)
    manager = Manager(RuntimeError("no database"), seconds=1.5)
    service = await serve(manager)
    relied_on = await scrapes(service, 3)
    assert min(answer.seconds for answer in relied_on) > 1.4
    for _ in range(3):
        await asyncio.sleep(0.1)
        trial = await service.get()
        assert manager.under_way, "it was waited for until it failed"
        assert trial.seconds > 0.4
        assert trial.value("flowrra_healthy") == 1
        await service.get()
        assert manager.under_way, "while a trial goes on, there is no other"
        await asyncio.sleep(1.5)
    manager.stats = {"app": {"running": True}}
    manager.seconds = 0.9  # too slow for a trial, and in time for those who rely on it
    await asyncio.sleep(0.1)
    await service.get()
    await asyncio.sleep(1.0)
    assert (await service.get()).value("flowrra_app_running") == 1


@pytest.mark.slow
async def test_a_source_that_hangs_holds_up_one_scrape_and_no_other(serve: Serve) -> None:
    service = await serve(Manager("hang"), collect_timeout=2.0)
    answers = await scrapes(service, 5)
    for answer in answers:
        assert answer.value("flowrra_collector_success", collector="app") == 0
        assert answer.value("flowrra_collector_success", collector="health") == 1
    assert answers[0].seconds < 2 * 2.0
    assert max(answer.seconds for answer in answers[1:]) < 2.0 / 2


@pytest.mark.slow
async def test_a_scrapers_own_deadline_is_kept(serve: Serve) -> None:
    service = await serve(Manager("hang"), collect_timeout=30.0)
    answer = await service.get(X_Prometheus_Scrape_Timeout_Seconds="2")
    assert answer.status == 200
    assert answer.seconds < 2
    assert answer.value("flowrra_healthy") == 1


class Hanging(Collector):
    """A collector of the user's in prometheus_client's registry."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def collect(self) -> Iterator[Any]:
        self.released.wait(30)
        return iter(())

    def describe(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.slow
async def test_a_users_registered_collector_that_hangs_holds_up_the_first_scrape_at_most(serve: Serve) -> None:
    hanging = Hanging()
    REGISTRY.register(hanging)
    app = app_with_a_task()
    try:
        async with app:
            service = await serve(app, collector_python_timeout=2.0)
            answers = await scrapes(service, 5)
            for answer in answers:
                assert answer.value("flowrra_app_running") == 1
                assert answer.value("flowrra_collector_success", collector="python") == 0
            assert answers[0].seconds < 2 * 2.0
            assert max(answer.seconds for answer in answers[1:]) < 2.0 / 2
    finally:
        REGISTRY.unregister(hanging)
        hanging.released.set()


@pytest.mark.parametrize("name", FAMILY_OF)
async def test_a_collector_that_is_switched_off_is_absent_and_the_others_stay(serve: Serve, name: str) -> None:
    app = app_with_a_task()
    async with app:
        service = await serve(app, **{f"collector_{name}": False})
        answer = await service.get()
    for other, family in FAMILY_OF.items():
        assert (family in names(answer)) == (other != name), family
    assert answer.value("flowrra_collector_success", collector=name) is None


def test_each_collector_has_a_switch() -> None:
    assert set(FAMILY_OF) <= set(NAMES)


async def test_chosen_bounds_are_those_of_the_buckets(serve: Serve) -> None:
    app = app_with_a_task()
    async with app:
        service = await serve(
            app,
            histogram_run_duration_bounds=(0.5, 2.0),
            histogram_queue_wait_bounds=(1.0,),
            histogram_loop_lag_bounds=(0.25,),
        )
        await app.wait_for_result(await app.submit("work"), timeout=5)
        answer = await service.get()
    bounds: dict[str, set[str]] = {}
    for name, labels in answer.samples:
        if name.startswith("flowrra_") and name.endswith("_bucket"):
            bounds.setdefault(name, set()).add(dict(labels)["le"])
    assert bounds["flowrra_task_run_duration_seconds_bucket"] == {"0.5", "2.0", "+Inf"}
    assert bounds["flowrra_task_queue_wait_seconds_bucket"] == {"1.0", "+Inf"}
    assert bounds["flowrra_event_loop_lag_seconds_bucket"] == {"0.25", "+Inf"}


async def test_bounds_for_an_app_that_has_counted_already_are_refused(serve: Serve) -> None:
    app = app_with_a_task()
    async with app:
        await app.wait_for_result(await app.submit("work"), timeout=5)
        with pytest.raises(UsageError, match="bounds"):
            await serve(app, histogram_run_duration_bounds=(0.5, 2.0))
