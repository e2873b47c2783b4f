"""What runs in this process now: each attempt from its begin to its end, the longest running first."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowrra.management import FlowrraManager
from tests.core import cpu_tasks
from tests.core.apps import cpu_app, in_another_thread, memory_app, numbers_of, until, without_a_loop


async def test_each_attempt_is_told_with_its_number_and_its_limit() -> None:
    app = memory_app()
    manager, gate = FlowrraManager(app), asyncio.Event()
    is_first = True

    @app.task(name="first", timeout=60.0)
    async def first() -> None:
        await gate.wait()

    @app.task(name="again", max_retries=1, retry_delay=0.0)
    async def again() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise ConnectionError("as planned")
        await gate.wait()

    async with app:
        assert await manager.list_running_attempts() == []
        ids = [await app.submit(first), await app.options(queue="mail").submit(again)]
        await until(lambda: numbers_of(app, "again")["started"] == 2)
        found: list[Any] = list(await manager.list_running_attempts())
        assert [each["task_id"] for each in found] == ids
        assert [each["task_name"] for each in await manager.list_running_attempts(limit=1)] == ["first"]
        gate.set()
        await until(lambda: without_a_loop(manager.list_running_attempts()) == [])

    one, other = found
    assert (one["task_name"], one["attempt"], one["timeout"]) == ("first", 1, 60.0)
    assert (other["task_name"], other["attempt"], other["timeout"]) == ("again", 2, None)
    assert {(each["executor"], each["worker"]) for each in found} == {("io", app.id)}
    assert [each["queue"] for each in found] == ["default", "mail"]
    assert 0 <= other["elapsed"] <= one["elapsed"]
    begun = datetime.now(UTC) - timedelta(seconds=one["elapsed"])
    assert abs(one["started_at"] - begun) < timedelta(seconds=5)


@pytest.mark.slow
async def test_those_of_both_executors_are_in_one_order(tmp_path: Path) -> None:
    app = cpu_app()
    gate = asyncio.Event()
    app.task(name="hold", cpu_bound=True)(cpu_tasks.hold)

    @app.task(name="wait")
    async def wait() -> None:
        await gate.wait()

    async with app:
        await app.submit("hold", str(tmp_path / "started"), str(tmp_path / "release"))
        await until(lambda: numbers_of(app, "hold")["running"] == 1)
        await app.submit(wait)
        await until(lambda: numbers_of(app, "wait")["running"] == 1)
        found = await FlowrraManager(app).list_running_attempts()
        (tmp_path / "release").touch()
        gate.set()
    assert [(each["task_name"], each["executor"]) for each in found] == [("hold", "cpu"), ("wait", "io")]


async def test_what_blocks_the_loop_is_told_meanwhile() -> None:
    app = memory_app()
    manager = FlowrraManager(app)
    found: list[Any] = []

    @app.task(name="careless")
    async def careless() -> None:
        deadline = time.monotonic() + 5
        while not found and time.monotonic() < deadline:
            time.sleep(0.001)

    async def look() -> None:
        while not (seen := await manager.list_running_attempts()):
            await asyncio.sleep(0.001)
        found.extend(seen)

    async with app:
        looking = asyncio.ensure_future(in_another_thread(look))
        await asyncio.sleep(0)
        await app.wait_for_result(await app.submit(careless))
        await looking
    assert [each["task_name"] for each in found] == ["careless"]


async def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be non-negative"):
        await FlowrraManager(memory_app()).list_running_attempts(limit=-1)
