"""What a process knows by itself is told whatever its broker does: killed, stopped, or with a key of the wrong type."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra, SchedulerConfig
from flowrra.brokers import BaseBroker
from flowrra.management import FlowrraManager
from flowrra.task import Task
from tests.exporter.conftest import Serve
from tests.support.servers import ValkeyServer

LONGEST = 1.5
"""Seconds; the deadline is half a second, and the machine may be busy."""


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def pid_of(server: ValkeyServer) -> int:
    with redis.Redis(port=server.port) as look:
        return int(look.info("server")["process_id"])  # type: ignore[index]


def kill(server: ValkeyServer) -> None:
    os.kill(pid_of(server), signal.SIGKILL)


def spoil(server: ValkeyServer) -> None:
    with redis.Redis(port=server.port) as look:
        look.flushall()
        for kind in ("io", "cpu"):
            look.set(f"flowrra:queue:{kind}", "no queue")
            look.set(f"flowrra:queue:{kind}:pending", "no queue")


@pytest.fixture(params=["killed", "stopped", "wrong-type"])
def hurt(request: pytest.FixtureRequest, server: ValkeyServer) -> Iterator[Callable[[], None]]:
    """What befalls the server."""
    if request.param == "stopped":
        pid = pid_of(server)
        yield lambda: os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
    else:
        yield lambda: (kill if request.param == "killed" else spoil)(server)


def shop(server: ValkeyServer) -> Flowrra:
    url = f"redis://127.0.0.1:{server.port}/0"
    app = Flowrra(Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url)))

    @app.task(name="pay")
    async def pay() -> None:
        pass

    return app


@pytest.mark.slow
async def test_the_statistics_answer_in_time_and_say_what_is_unknown(
    server: ValkeyServer, hurt: Callable[[], None]
) -> None:
    app = shop(server)
    await app.start()
    try:
        manager = FlowrraManager(app)
        while (await manager.get_stats())["tasks"] != {"registered": 1, "pending": 0}:
            await asyncio.sleep(0.05)  # the first connection takes its time on a busy machine
        hurt()
        for _ in range(2):
            started = time.monotonic()
            stats = await manager.get_stats()
            assert time.monotonic() - started < LONGEST
            assert stats["app"] == {"running": True}
            io = {"running": True, "workers": 4, "busy": 0, "waiting": 0, "stuck": False, "draining": False}
            assert stats["executors"] == {"io": {**io, "queues": ["default"]}, "cpu": None}
            assert (stats["tasks"]["registered"], stats["tasks"]["pending"]) == (1, None)
            assert stats["tasks"]["pending_error"]
            json.dumps(stats)
        started = time.monotonic()
        health = await manager.health_check()
        assert time.monotonic() - started < LONGEST
        assert health["components"]["app"]["healthy"]
    finally:
        await app.stop(wait=False)


@pytest.mark.slow
async def test_scrape_page_and_api_show_what_the_process_knows(
    server: ValkeyServer, hurt: Callable[[], None], serve: Serve
) -> None:
    app = shop(server)
    await app.start()
    try:
        service = await serve(app)
        assert (await service.get()).value("flowrra_tasks_pending") == 0
        hurt()
        scrape = await service.get()
        assert scrape.value("flowrra_app_running") == 1
        assert any(name == "flowrra_build_info" for name, _ in scrape.samples)
        assert scrape.value("flowrra_executor_running", executor="io") == 1
        assert scrape.value("flowrra_executor_workers", executor="io") == 4
        assert scrape.value("flowrra_executor_busy_workers", executor="io") == 0
        assert scrape.value("flowrra_tasks_pending") is None
        assert scrape.value("flowrra_collector_success", collector="app") == 0
        assert scrape.value("flowrra_collector_success", collector="executors") == 1
        stats = await service.get("/api/stats")
        assert stats.status == 200
        told = json.loads(stats.text)
        assert told["tasks"]["pending"] is None
        assert told["executors"]["io"]["workers"] == 4
        page = (await service.get("/")).text
        slots = page[page.index("Slots in use") :][:300]
        assert "of " in slots
        assert "\N{EN DASH}" not in slots.partition("Succeeded")[0]
    finally:
        await app.stop(wait=False)


class OddBroker(BaseBroker):
    """A user's own, that raises what it likes."""

    async def push(self, task: Task) -> None: ...

    async def pop(self, timeout: float | None = None) -> Task | None:
        await asyncio.sleep(timeout or 0)
        return None

    async def size(self) -> int:
        raise KeyError("size")


async def test_a_users_own_broker_may_raise_anything() -> None:
    app = Flowrra(Config(broker=OddBroker()))

    @app.task(name="pay")
    async def pay() -> None:
        pass

    tasks = (await FlowrraManager(app).get_stats())["tasks"]
    assert tasks == {"registered": 1, "pending": None, "pending_error": "'size'"}


async def test_a_schedule_store_that_is_away_costs_its_own_numbers_only(tmp_path: Any) -> None:
    store = tmp_path / "schedules.db"
    app = Flowrra(Config(scheduler=SchedulerConfig(database_url=f"sqlite:///{store}", enabled=True)))

    @app.task(name="pay")
    async def pay() -> None:
        pass

    scheduler = app.create_scheduler(f"sqlite:///{store}")

    async def broken(*_: Any) -> Any:
        raise OSError("disk gone")

    scheduler.backend.figures = broken  # type: ignore[method-assign]
    stats = await FlowrraManager(app).get_stats()
    assert stats["app"] == {"running": False}
    assert stats["scheduler"] == {
        "enabled": True,
        "running": False,
        "schedules": None,
        "total_schedules": None,
        "enabled_schedules": None,
        "error": "disk gone",
    }
