"""The thread that renews leases: whatever goes wrong in it, it goes on."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from flowrra import BackendError
from flowrra.brokers.base import Renewal
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import RequestRefusedError
from flowrra.executors.sources.heartbeat import Heartbeat
from flowrra.management import FlowrraManager
from tests.core.apps import until
from tests.redis.apps import QUEUE, redis_app, with_tasks


def test_it_goes_on_after_an_error_that_nobody_foresaw(url: str, caplog: pytest.LogCaptureFixture) -> None:
    told: queue.Queue[Renewal | BackendError] = queue.Queue()
    calls: list[int] = []

    def announcement() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return {"id": "worker"}

    keeper = Heartbeat(
        RedisBroker(url, lease=0.4),
        "io",
        lambda: {"default": ["unknown"]},
        lambda: ["default"],
        lambda: ["add"],
        announcement,
        lambda renewal, _: told.put(renewal),
        told.put,
        lambda *_: None,
    )
    keeper.start()
    first, second, third = (told.get(timeout=5) for _ in range(3))
    keeper.stop(timeout=5)

    # What befalls the announcement doesn't keep the leases from being renewed, neither before nor afterwards.
    assert isinstance(second, BackendError)
    assert "RuntimeError: dictionary changed size" in str(second)
    [line] = [record for record in caplog.records if "dictionary changed size" in record.getMessage()]
    assert line.exc_info is not None
    for renewal in (first, third):
        assert isinstance(renewal, Renewal)
        assert renewal.missing == ["unknown"]


def test_a_queue_that_the_server_refuses_costs_no_other(url: str, look: redis.Redis) -> None:
    """One of its keys has the wrong type, by whomever."""
    for key in ("leases", "workers"):
        look.set(f"{QUEUE}@mail:{key}", "spoilt")
    told: queue.Queue[Renewal | BackendError] = queue.Queue()
    keeper = Heartbeat(
        RedisBroker(url, queue_key=QUEUE, lease=1.0),
        "io",
        lambda: {"mail": ["mail"], "default": ["unknown"]},
        lambda: ["mail", "default"],
        lambda: ["add"],
        lambda: {"id": "worker"},
        lambda renewal, _: told.put(renewal),
        told.put,
        lambda *_: None,
    )
    began_at = keeper.renewed_at
    keeper.start()
    renewal, *errors = (told.get(timeout=10) for _ in range(3))
    assert look.zcard(f"{QUEUE}:workers") == 1
    assert list(look.scan_iter(f"{QUEUE}:names:*"))
    assert look.exists("flowrra:worker:worker"), "its process is told of with the first queue that can be"
    keeper.stop(timeout=10)

    assert renewal == Renewal([], [], ["unknown"])
    assert [type(error) for error in errors] == [RequestRefusedError] * 2
    assert keeper.renewed_at == began_at, "not all of it is renewed"
    assert look.zcard(f"{QUEUE}:workers") == 0
    assert not look.exists("flowrra:worker:worker")


async def test_a_worker_that_has_stopped_leaves_no_sign_of_life(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url)):
        await until(lambda: look.zcard(f"{QUEUE}:workers") and list(look.scan_iter(f"{QUEUE}:names:*")))
    assert look.zcard(f"{QUEUE}:workers") == 0
    assert list(look.scan_iter(f"{QUEUE}:names:*")) == []


async def test_each_renewal_is_a_sign_of_life_of_its_executor(url: str) -> None:
    async with with_tasks(redis_app(url, lease=1.0)) as app:
        manager, began = FlowrraManager(app), datetime.now(UTC)

        async def told() -> dict[str, datetime]:
            return (await manager.get_runtime_stats())["heartbeat_at"]

        first = await told()
        assert first.keys() == {"io"}
        assert abs((first["io"] - began).total_seconds()) < 1.0
        while (await told())["io"] < first["io"] + timedelta(milliseconds=200):
            await asyncio.sleep(0.02)
    assert await told() == {}, "it has stopped, and is not late"


async def test_a_process_that_takes_no_tasks_gives_no_sign_of_life(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        assert (await FlowrraManager(app).get_runtime_stats())["heartbeat_at"] == {}


async def test_all_that_became_due_together_is_given_out_together(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        for n in range(5):
            await app.options(countdown=0.05).submit("add", n, n)
        await asyncio.sleep(0.1)
        broker = RedisBroker(url, queue_key=QUEUE)
        deliveries, _ = await broker.take(10)
        assert len(deliveries) == 5
        await broker.close()


async def test_it_ends_though_all_threads_of_the_loop_s_pool_are_taken(url: str) -> None:
    app = with_tasks(redis_app(url))
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)
    loop.set_default_executor(pool)
    await app.start()
    blocked = loop.run_in_executor(None, gate.wait, 60)
    try:
        async with asyncio.timeout(20):
            await app.stop(wait=False)
        assert not blocked.done()
    finally:
        gate.set()
        await blocked
    assert not [thread for thread in threading.enumerate() if thread.name == "flowrra-lease-keeper"]
