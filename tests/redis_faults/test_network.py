"""The network resets, swallows and garbles: errors come in bounded time, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
import redis

from flowrra import BackendConfig, BackendError, TaskResult, TaskStatus
from flowrra.backends import redis_completions
from flowrra.backends.redis import RedisBackend
from flowrra.brokers import redis as broker_module
from flowrra.brokers.redis import RedisBroker
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, with_tasks
from tests.redis_faults.proxy import Proxy
from tests.support.servers import ValkeyServer


@pytest.mark.slow
async def test_connections_that_are_reset_cost_nobody_a_result(server: ValkeyServer) -> None:
    async with Proxy(server.port) as proxy, with_tasks(redis_app(proxy.url, lease=1.0, max_deliveries=20)) as app:

        async def resetting() -> None:
            while True:
                # Once more when something was reached in between, however busy the machine.
                await asyncio.sleep(0.1)
                await reached.wait()
                reached.clear()
                proxy.reset()

        reached = asyncio.Event()
        disturbing = asyncio.create_task(resetting())
        for first in range(0, 200, 20):
            ids = []
            for number in range(first, first + 20):
                ids.append(await app.submit("add", number, 1))
                reached.set()
            for number, task_id in enumerate(ids, first):
                assert (await final(app, task_id, within=10)).result == number + 1
                reached.set()
        disturbing.cancel()


@pytest.mark.slow
async def test_a_network_that_swallows_everything_is_an_error_in_bounded_time(server: ValkeyServer) -> None:
    gate = Gate()
    async with Proxy(server.port) as proxy:
        backend = BackendConfig(url=proxy.url, socket_timeout=0.5)
        async with with_tasks(redis_app(proxy.url, backend=backend, lease=1.0, socket_timeout=0.5), gate) as app:
            waiting = await app.submit("hold", 1)
            proxy.swallows = True
            started = time.monotonic()
            with pytest.raises(BackendError, match=r"could not queue tasks: TimeoutError(: \S.*)?$"):
                await app.submit("add", 1, 2)
            assert time.monotonic() - started < 5
            gate.opened.set()
            proxy.swallows = False
            assert (await final(app, waiting, within=15)).status == "success"
            assert (await final(app, await app.submit("add", 1, 2), within=15)).result == 3


@pytest.mark.slow
@pytest.mark.parametrize("is_asked_for_more", [True, False])
async def test_a_listening_connection_that_is_forgotten_on_the_way_is_made_anew(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_asked_for_more: bool
) -> None:
    """It is found out by what the server does not confirm, or when nothing was heard for long."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(redis_completions, "GLANCE", 0.05)
    monkeypatch.setattr(redis_completions, "MAX_BLOCK", 60.0 if is_asked_for_more else 0.3)
    # What is not told is not found out by itself.
    monkeypatch.setattr(redis_completions, "RECHECK", 60.0)
    near = RedisBackend(f"redis://127.0.0.1:{server.port}/0")
    async with Proxy(server.port) as proxy:
        far = RedisBackend(proxy.url, socket_timeout=0.5)
        await near.store("1", TaskResult("1", TaskStatus.PENDING))
        waits = [asyncio.create_task(far.wait_for("1", 30))]
        with redis.Redis(port=server.port) as look:
            await until(lambda: look.pubsub_channels("flowrra:complete:1"))
        proxy.forget()
        if is_asked_for_more:
            waits.append(asyncio.create_task(far.wait_for("1", 30)))
            waits.append(asyncio.create_task(far.wait_for("2", 30)))
        await until(lambda: "over: not listening for results" in caplog.text)
        assert "no answer within 0.5 s" in caplog.text
        for task_id in ("1", "2"):
            await near.store(task_id, TaskResult(task_id, TaskStatus.SUCCESS))
        assert [(await wait).is_success for wait in waits] == [True] * len(waits)
        await far.close()
    await near.close()


@pytest.mark.slow
async def test_a_connection_that_waits_for_cancellations_and_is_forgotten_is_made_anew(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_module, "MAX_BLOCK", 0.3)
    async with Proxy(server.port) as proxy:
        broker = RedisBroker(proxy.url)
        cancelled: asyncio.Queue[None] = asyncio.Queue()
        listening = asyncio.create_task(broker.listen(lambda _: None, on_request=lambda: cancelled.put_nowait(None)))
        # While the server answers, it is left alone, however little is said.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(listening), 1.5)
        await broker.pause_queue("default", True)
        await cancelled.get()
        proxy.forget()
        with pytest.raises(BackendError, match="could not listen for cancellations: TimeoutError: no answer within"):
            await listening
        await broker.close()


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff" * 99, b"*-7\r\n$x\r\n"])
async def test_garbage_on_the_wire_does_not_stay(server: ValkeyServer, garbage: bytes) -> None:
    async with Proxy(server.port) as proxy, with_tasks(redis_app(proxy.url, lease=1.0)) as app:
        for number in range(5):
            proxy.garbage = garbage
            try:
                task_id = await app.submit("add", number, 1)
            except BackendError:
                continue
            await app.get_result(task_id)
        assert (await final(app, await app.submit("add", 1, 2), within=10)).result == 3
