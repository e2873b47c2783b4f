"""The metrics of prometheus_client's default registry: served beside ours, and unable to harm them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flowrra_exporter.metrics.collector import Incomplete
from flowrra_exporter.metrics.collectors.python import PythonCollector
from flowrra_exporter.metrics.samples import Family, ForeignFamily
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily

from tests.exporter.conftest import Serve, until
from tests.exporter.contract import ContractApp


class Custom:
    """A user's own collector: runs whatever it is given."""

    def __init__(self, collect: Callable[[], Any]) -> None:
        self._collect = collect

    def collect(self) -> Any:
        return self._collect()

    def describe(self) -> list[Any]:
        return []


async def test_process_and_python_metrics_stand_in_the_same_scrape(serve: Serve) -> None:
    names = {name for name, _ in (await (await serve(ContractApp())).get()).samples}
    assert {"process_resident_memory_bytes", "python_gc_collections_total", "python_info"} <= names


async def test_the_users_metrics_stand_in_the_same_scrape(serve: Serve, register: Callable[[Any], Any]) -> None:
    orders = register(Counter("shop_orders", "Orders.", ["kind"], registry=None))
    orders.labels("book").inc(3)
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value("shop_orders_total", kind="book") == 3
    assert not [name for name, _ in scrape.samples if name.endswith("_created")]


async def test_where_names_clash_ours_wins_and_the_log_says_so_once(
    serve: Serve, register: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    register(Gauge("flowrra_healthy", "Mine.", registry=None)).set(17)
    register(Counter("flowrra_tasks_submitted", "Mine.", ["task"], registry=None)).labels("send_email").inc(99)
    service = await serve(ContractApp())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            scrape = await service.get()
            assert scrape.value("flowrra_healthy") == 1
            assert scrape.value("flowrra_tasks_submitted_total", task="send_email") == 10
            assert scrape.value("flowrra_exporter_series_dropped") == 2
    clashes = [record.getMessage() for record in caplog.records if "its name is taken" in record.getMessage()]
    assert len(clashes) == 2
    assert any("flowrra_healthy" in clash for clash in clashes)


async def test_a_sample_that_would_pass_for_one_of_our_histograms_is_a_clash(
    serve: Serve, register: Callable[[Any], Any]
) -> None:
    register(Gauge("flowrra_task_queue_wait_seconds_count", "Mine.", ["task"], registry=None)).labels("x").set(1)
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value("flowrra_task_queue_wait_seconds_count", task="x") is None


async def test_a_users_collector_that_raises_costs_only_itself(serve: Serve, register: Callable[[Any], Any]) -> None:
    def fail() -> Any:
        raise RuntimeError("database gone")

    register(Custom(fail))
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value("flowrra_collector_success", collector="python") == 0
    assert scrape.value("flowrra_app_running") == 1
    assert "process_resident_memory_bytes" in {name for name, _ in scrape.samples}


@pytest.mark.slow
async def test_a_users_collector_that_hangs_costs_one_deadline_and_one_thread(
    serve: Serve, register: Callable[[Any], Any]
) -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def hang() -> Any:
        entered.release()
        release.wait(30)
        return [GaugeMetricFamily("late", "Late.", value=1)]

    register(Custom(hang))
    service = await serve(ContractApp(), collector_python_timeout=2.0)
    try:
        first, second = await service.get(), await service.get()
        for scrape in (first, second):
            assert scrape.value("flowrra_collector_success", collector="python") == 0
            assert scrape.value("flowrra_app_running") == 1
        assert first.seconds < 2 * 2.0
        assert second.seconds < 2.0 / 2
        assert entered.acquire(blocking=False)
        assert not entered.acquire(blocking=False)
    finally:
        release.set()
    await until(lambda: not any(thread.name == "flowrra-exporter-registry" for thread in threading.enumerate()))
    assert (await service.get()).value("late") == 1


async def test_a_users_collector_may_be_slow_without_holding_up_probes(
    serve: Serve, register: Callable[[Any], Any]
) -> None:
    release = threading.Event()
    register(Custom(lambda: release.wait(30) and []))
    service = await serve(ContractApp())
    scrape = asyncio.create_task(service.get())
    try:
        assert (await service.get("/livez")).status == 200
        assert not scrape.done()
    finally:
        release.set()
        await scrape


async def collected(collector: PythonCollector) -> dict[str, ForeignFamily]:
    """The registered families by their names, though some may have failed."""
    try:
        families = await collector.collect()
    except Incomplete as incomplete:
        families = incomplete.families
    return {family.name: family for family in families if not isinstance(family, Family)}


async def test_names_that_older_scrapers_cannot_read_are_escaped_and_told_apart() -> None:
    registry = CollectorRegistry()
    Gauge("shop.orders", "Dotted.", registry=registry).set(1)
    Gauge("shop_orders", "Underscored.", registry=registry).set(2)
    Gauge("shop.till", "Dotted alone.", registry=registry).set(3)
    families = await collected(PythonCollector(1.0, registry))
    assert {name: family.samples[0].value for name, family in families.items()} == {
        "U__shop_2e_orders": 1,
        "shop_orders": 2,
        "shop_till": 3,
    }


async def test_what_came_before_a_failure_is_kept() -> None:
    registry = CollectorRegistry()
    Gauge("early", "Early.", registry=registry).set(1)

    def fail() -> Any:
        yield GaugeMetricFamily("half", "The first half.", value=1)
        raise RuntimeError("gone")

    registry.register(Custom(fail))  # type: ignore[arg-type]
    Gauge("later", "Registered after it.", registry=registry).set(1)
    with pytest.raises(Incomplete, match="1 of 4 registered collectors fail: Custom: it raised RuntimeError: gone"):
        await PythonCollector(1.0, registry).collect()
    assert list(await collected(PythonCollector(1.0, registry))) == ["early", "later", "half"]
