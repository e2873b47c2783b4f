"""FlowrraCollector: a program's own prometheus_client registry holds the app's families."""

from __future__ import annotations

import asyncio
import threading

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.prometheus_collector import FlowrraCollector
from flowrra_exporter.settings import Address, Settings
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flowrra import Flowrra
from tests.exporter.conftest import fetch

LOCAL = Settings(web_listen_address=(Address("127.0.0.1", 0),))


async def test_the_programs_registry_holds_what_the_app_counted() -> None:
    app, registry = Flowrra(), CollectorRegistry()

    @app.task(name="double")
    async def double(number: int) -> int:
        return number * 2

    async with app, FlowrraCollector(app, registry):
        for number in range(3):
            await app.wait_for_result(await app.submit(double, number), timeout=5)
        text = (await asyncio.to_thread(generate_latest, registry)).decode()
        value = registry.get_sample_value
        succeeded = await asyncio.to_thread(value, "flowrra_tasks_succeeded_total", {"task": "double"})
    assert succeeded == 3
    assert 'flowrra_task_run_duration_seconds_count{outcome="success",task="double"} 3.0' in text


async def test_afterwards_the_registry_is_as_before() -> None:
    app, registry = Flowrra(), CollectorRegistry()
    async with FlowrraCollector(app, registry) as collector:
        pass
    assert generate_latest(registry) == b""
    with pytest.raises(RuntimeError, match="not running"):
        collector.collect()


async def test_a_registry_that_the_program_has_emptied_meanwhile_takes_another() -> None:
    app, registry = Flowrra(), CollectorRegistry()
    async with FlowrraCollector(app, registry) as collector:
        registry.unregister(collector)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]
    async with FlowrraCollector(app, registry):
        assert b"flowrra_build_info" in await asyncio.to_thread(generate_latest, registry)


async def test_a_registry_takes_one_at_a_time_and_says_what_to_do() -> None:
    app, other, registry = Flowrra(), Flowrra(), CollectorRegistry()
    async with app, other, FlowrraCollector(app, registry) as first:
        for second in (FlowrraCollector(other, registry), FlowrraCollector(app, registry), first):
            with pytest.raises(RuntimeError, match=r"one for each registry, such as FlowrraCollector\(app, Collector"):
                await second.__aenter__()
        async with FlowrraCollector(other, CollectorRegistry()):
            text = (await asyncio.to_thread(generate_latest, registry)).decode()
        assert text.count("\nflowrra_healthy 1.0\n") == 1
    async with app, FlowrraCollector(app, registry):
        pass
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]


async def test_collected_on_the_apps_own_loop_it_says_nothing_of_health_and_all_that_needs_no_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, registry = Flowrra(), CollectorRegistry()

    @app.task(name="work")
    async def work() -> None:
        pass

    async with app, FlowrraCollector(app, registry):
        await app.wait_for_result(await app.submit(work), timeout=5)
        text = generate_latest(registry).decode()  # here, on the loop itself
        assert "\nflowrra_healthy" not in text
        assert 'flowrra_tasks_succeeded_total{task="work"} 1.0' in text
        assert "on the app's own event loop" in caplog.text
        elsewhere = (await asyncio.to_thread(generate_latest, registry)).decode()
        assert "\nflowrra_healthy 1.0" in elsewhere


async def test_its_families_are_those_of_a_scrape() -> None:
    app = Flowrra()

    @app.task(name='quo"ted\nline')
    async def work() -> None:
        pass

    async with app, FlowrraCollector(app, CollectorRegistry()) as collector, Exporter(app, LOCAL) as exporter:
        await app.wait_for_result(await app.submit(work), timeout=5)
        accept = "application/openmetrics-text"
        scrape = await asyncio.to_thread(fetch, exporter.urls[0], "/metrics", "GET", Accept=accept)
        parsed = text_string_to_metric_families(scrape.text)
        collected = await asyncio.to_thread(collector.collect)

    # A program that serves by itself has neither a registry that we read nor a server of ours.
    not_ours = ("flowrra_registered_", "flowrra_exporter_background_")
    served = {
        family.name: _shape(family)
        for family in parsed
        if family.name.startswith("flowrra_") and not family.name.startswith(not_ours)
    }
    assert {family.name: _shape(family) for family in collected} == served


def _shape(family: Metric) -> tuple[object, ...]:
    """All but values that differ from one moment to the next, and the exporter's own names of collectors."""
    steady = family.type in ("counter", "info") or family.name == "flowrra_task_run_duration_seconds"
    samples = [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        if steady and not sample.name.endswith(("_sum", "_bucket"))
        else (sample.name, tuple(sorted(sample.labels.items())))
        for sample in family.samples
        if sample.labels.get("collector") != "python"
    ]
    return family.type, family.documentation, family.unit, samples
