"""Health: an app is healthy when its workers live and its loop turns, not when a flag says so."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.core.apps import LoopThread, final, memory_app, numbers_of, until
from tests.core.test_polled_broker import ListBroker

COMPONENTS = {"app", "io_executor", "cpu_executor", "scheduler"}


def working_app(**options: int) -> Flowrra:
    app = memory_app(**options)

    @app.task()
    async def quick() -> str:
        return "done"

    @app.task()
    async def hold(gate: asyncio.Event) -> None:
        await gate.wait()

    return app


def assert_shape(health: dict[str, Any]) -> None:
    """The documented shape, which a consumer iterates over without looking."""
    assert set(health) >= {"healthy", "timestamp", "components"}
    assert type(health["healthy"]) is bool
    assert set(health["components"]) >= COMPONENTS
    for component in health["components"].values():
        assert component is None or (type(component["healthy"]) is bool and isinstance(component["message"], str))
    assert health["healthy"] == all(each["healthy"] for each in health["components"].values() if each is not None)
    json.dumps(health["components"])


async def test_before_start_and_after_stop_it_is_not_healthy() -> None:
    app = working_app()
    manager = FlowrraManager(app)

    before = await manager.health_check()
    async with app:
        during = await manager.health_check()
    after = await manager.health_check()

    for health, healthy in ((before, False), (during, True), (after, False)):
        assert_shape(health)
        assert health["healthy"] is healthy
        assert health["components"]["app"]["healthy"] is healthy
        assert health["components"]["io_executor"]["healthy"] is healthy
    assert before["components"]["io_executor"] == after["components"]["io_executor"]
    assert before["components"]["io_executor"]["message"] == "not running"


async def test_while_it_stops_it_says_so() -> None:
    app, gate = working_app(), asyncio.Event()
    manager = FlowrraManager(app)
    await app.start()
    await app.submit("hold", gate)
    await until(lambda: app.executors["io"].busy_workers)
    assert (await manager.get_runtime_stats())["stopping"] is False
    stopping = asyncio.create_task(app.stop())
    await until(lambda: app.executors["io"].state == "stopping")
    assert (await manager.get_runtime_stats())["stopping"] is True
    components = (await manager.health_check())["components"]
    assert components["app"]["message"] == "stopping: running tasks may finish, new ones are refused"
    assert components["io_executor"]["message"] == "stopping"
    gate.set()
    await stopping


async def test_of_a_server_that_does_not_answer_is_said_how_long_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("flowrra.management.health.PING_TIMEOUT", 0.05)
    broker = ListBroker()
    app = memory_app(broker=broker)

    @app.task()
    async def work() -> None: ...

    async with app:
        for asked in ("ping", "size"):
            monkeypatch.setattr(broker, asked, hang)
        manager = FlowrraManager(app)
        component = (await manager.health_check())["components"]["broker"]
        assert component == {"healthy": False, "message": "no answer within 0.05 s"}
        tasks = (await manager.get_stats())["tasks"]
        assert (tasks["pending"], tasks["pending_error"]) == (None, "no answer within 0.05 s")


async def test_what_is_not_configured_is_none() -> None:
    async with Flowrra() as app:
        health = await FlowrraManager(app).health_check()

    assert_shape(health)
    assert health["healthy"] is True
    components = health["components"]
    assert components["io_executor"] is components["cpu_executor"] is components["scheduler"] is None


async def test_the_timestamp_is_now_in_utc() -> None:
    before = datetime.now(UTC)
    health = await FlowrraManager(working_app()).health_check()

    assert health["timestamp"].utcoffset() == timedelta(0)
    assert before <= health["timestamp"] <= datetime.now(UTC)
    assert datetime.fromisoformat(health["timestamp"].isoformat()) == health["timestamp"]


async def test_an_app_whose_start_failed_is_not_healthy() -> None:
    app = working_app()

    @app.on_startup
    def fails() -> None:
        raise ConnectionError("no database")

    with pytest.raises(ConnectionError):
        await app.start()

    health = await FlowrraManager(app).health_check()
    assert_shape(health)
    assert health["healthy"] is False


async def test_while_it_starts_it_is_not_healthy_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.management.health.STUCK_AFTER", 0.0)  # what waits then is not stuck
    app = working_app()
    manager = FlowrraManager(app)
    seen: list[dict[str, Any]] = []

    @app.on_startup
    async def look() -> None:
        for _ in range(2):
            seen.append(dict(await manager.health_check()))
            await app.submit("quick")

    async with app:
        pass
    for health in seen:
        assert_shape(health)
        assert health["healthy"] is False
        assert health["components"]["io_executor"]["message"].startswith("starting: ")


async def test_busy_workers_are_healthy_workers() -> None:
    app = working_app(io_workers=2)
    gate = asyncio.Event()
    async with app:
        for _ in range(10):
            await app.submit("hold", gate)
        await until(lambda: numbers_of(app, "hold")["running"] == 2)
        health = await FlowrraManager(app).health_check()
        gate.set()

    assert_shape(health)
    assert health["healthy"] is True


async def test_failing_tasks_do_not_make_an_app_unhealthy() -> None:
    app = memory_app()

    @app.task(max_retries=0)
    async def failing() -> None:
        raise ValueError

    async with app:
        for _ in range(20):
            await final(app, await app.submit(failing))
        assert (await FlowrraManager(app).health_check())["healthy"] is True


async def test_while_it_drains_it_says_so() -> None:
    app = working_app()
    gate = asyncio.Event()
    await app.start()
    await app.submit("hold", gate)
    await until(lambda: numbers_of(app, "hold")["running"] == 1)
    stop = asyncio.ensure_future(app.stop())
    await until(lambda: not app.is_running)

    health = await FlowrraManager(app).health_check()
    gate.set()
    await stop

    assert_shape(health)
    assert health["healthy"] is False


@pytest.mark.slow
def test_a_loop_that_is_blocked_is_not_healthy_until_it_turns_again() -> None:
    with LoopThread() as elsewhere:
        app = working_app()
        manager = FlowrraManager(app)
        elsewhere.run(app.start())
        assert asyncio.run(manager.health_check())["healthy"] is True

        release, turns_again = threading.Event(), threading.Event()
        elsewhere.loop.call_soon_threadsafe(release.wait, 15)
        elsewhere.loop.call_soon_threadsafe(turns_again.set)
        unhealthy = wait_for_health(manager, False, within=10)
        asyncio.run(manager.health_check())
        answered_meanwhile = not turns_again.is_set()
        release.set()
        healthy = wait_for_health(manager, True, within=5)
        elsewhere.run(app.stop())

    assert answered_meanwhile, "the answer doesn't wait for the blocked loop"
    assert_shape(unhealthy)
    assert_shape(healthy)
    messages = [each["message"] for each in unhealthy["components"].values() if each and not each["healthy"]]
    assert any("block" in message for message in messages), messages


def wait_for_health(manager: FlowrraManager, healthy: bool, *, within: float) -> dict[str, Any]:
    """Ask from this thread until the answer is the wanted one."""
    deadline = time.monotonic() + within
    while True:
        health = asyncio.run(manager.health_check())
        if health["healthy"] is healthy or time.monotonic() > deadline:
            assert health["healthy"] is healthy, health
            return health
        time.sleep(0.02)


def test_an_app_whose_loop_was_closed_without_stopping_is_not_healthy() -> None:
    app = working_app()
    manager = FlowrraManager(app)

    asyncio.run(app.start())

    health = asyncio.run(manager.health_check())
    assert_shape(health)
    assert health["healthy"] is False


def test_an_app_whose_loop_has_been_left_is_not_healthy() -> None:
    loop = asyncio.new_event_loop()
    try:
        app = working_app()
        loop.run_until_complete(app.start())

        health = asyncio.run(FlowrraManager(app).health_check())

        assert_shape(health)
        assert health["healthy"] is False
        loop.run_until_complete(app.stop())
    finally:
        loop.close()


async def test_an_app_survives_that_every_asyncio_task_is_cancelled_and_stays_or_gets_healthy() -> None:
    app = working_app(io_workers=2)
    gate = asyncio.Event()
    manager = FlowrraManager(app)
    async with app:
        for _ in range(2):
            await app.submit("hold", gate)
        await until(lambda: numbers_of(app, "hold")["running"] == 2)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

        async with asyncio.timeout(5):
            while not (await manager.health_check())["healthy"]:
                await asyncio.sleep(0.01)
        gate.set()
        assert (await final(app, await app.submit("quick"))).result == "done"
