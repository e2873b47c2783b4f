"""The network resets, swallows and garbles: errors come in bounded time, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from flowrra import BackendConfig, BackendError
from tests.core.apps import final
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
            with pytest.raises(BackendError, match="TimeoutError"):
                await app.submit("add", 1, 2)
            assert time.monotonic() - started < 5
            gate.opened.set()
            proxy.swallows = False
            assert (await final(app, waiting, within=15)).status == "success"
            assert (await final(app, await app.submit("add", 1, 2), within=15)).result == 3


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
