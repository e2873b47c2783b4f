"""FlowrraCollector: a program's own prometheus_client registry holds the app's families."""

from __future__ import annotations

import asyncio
import os

import pytest
from flowrra_exporter.prometheus_collector import FlowrraCollector
from prometheus_client import CollectorRegistry, generate_latest

from flowrra import Flowrra


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


async def test_a_process_that_inherited_it_is_told_to_start_it_after_the_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FlowrraCollector(Flowrra(), CollectorRegistry()) as collector:
        child = os.getpid() + 1
        monkeypatch.setattr(os, "getpid", lambda: child)
        with pytest.raises(RuntimeError, match="start it after the fork"):
            collector.collect()
        monkeypatch.undo()
