"""The server is there and refuses: nothing hangs, nothing is lost, and errors say what the server said."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis

from flowrra import BackendError
from flowrra.backends.redis import RedisBackend
from flowrra.redis_client import RETRY_FOR
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, with_tasks
from tests.redis_faults.conftest import LEASE
from tests.redis_faults.proxy import Proxy
from tests.support.servers import ValkeyServer, free_port

# A script that keeps the server for itself as long as that.
A_SECOND = """
local function now() local time = redis.call('TIME') return time[1] * 1e6 + time[2] end
local till = now() + 1e6
repeat until now() > till
"""


@pytest.mark.slow
async def test_without_memory_submit_fails_and_what_is_queued_runs_once(url: str) -> None:
    gate = Gate()
    with redis.Redis.from_url(url) as look:
        async with (
            with_tasks(redis_app(url, lease=LEASE, workers=2), gate) as one,
            with_tasks(redis_app(url, lease=LEASE, workers=2), gate),
        ):
            ids = [await one.submit("hold", number) for number in range(10)]
            await until(lambda: len(gate.begun) == 4)
            look.config_set("maxmemory", "1mb")
            with pytest.raises(BackendError, match="OutOfMemoryError"):
                await one.submit("add", 1, 2)
            await asyncio.sleep(2 * LEASE)
            gate.opened.set()
            records = [await final(one, task_id) for task_id in ids]
            look.config_set("maxmemory", "0")
            assert (await final(one, await one.submit("add", 1, 2))).result == 3
    assert {record.status for record in records} == {"success"}
    assert sorted(gate.begun) == list(range(10))


@pytest.mark.slow
async def test_after_a_failover_the_app_goes_over_to_the_new_primary(server: ValkeyServer) -> None:
    with (
        ValkeyServer() as other,
        redis.Redis(port=server.port) as first,
        redis.Redis(port=other.port) as second,
    ):
        second.replicaof("127.0.0.1", server.port)
        await until(lambda: second.info("replication")["master_link_status"] == "up", within=10)
        gate = Gate()
        async with Proxy(server.port) as proxy, with_tasks(redis_app(proxy.url, lease=LEASE), gate) as app:
            ids = [await app.submit("hold", number) for number in range(10)]
            await until(lambda: len(gate.begun) == 4)
            first.wait(1, 1000)
            second.replicaof("NO", "ONE")
            first.replicaof("127.0.0.1", other.port)
            proxy.target = other.port  # as an address that follows the primary does; connections stay where they are
            last = await app.submit("hold", 10)
            gate.opened.set()
            for task_id in [*ids, last]:
                assert (await final(app, task_id, within=10)).status == "success"
        assert second.info("replication")["role"] == "master"


async def test_idle_connections_to_what_is_now_a_replica_are_left() -> None:
    with ValkeyServer() as first, ValkeyServer() as second, redis.Redis(port=first.port) as look:
        async with Proxy(first.port) as proxy:
            backend = RedisBackend(proxy.url)
            await backend.ping()
            look.replicaof("127.0.0.1", free_port())
            proxy.target = second.port  # as an address that follows the primary does
            assert await backend.claim_retry("one", "two") == "two"
            await backend.close()


@pytest.mark.slow
async def test_what_a_busy_server_refuses_is_tried_again(url: str) -> None:
    async with with_tasks(redis_app(url)) as app:
        with redis.Redis.from_url(url, socket_timeout=10) as look:
            look.config_set("lua-time-limit", 10)
            occupied = threading.Thread(target=look.eval, args=(A_SECOND, 0))
            occupied.start()
            await asyncio.sleep(0.1)
            record = await final(app, await app.submit("add", 1, 2))
            await asyncio.to_thread(occupied.join)
    assert record.result == 3


async def test_a_server_that_forgets_all_scripts_is_told_them_again(url: str) -> None:
    async with with_tasks(redis_app(url)) as app:
        with redis.Redis.from_url(url) as look:
            for number in range(20):
                look.script_flush()
                assert (await final(app, await app.submit("add", number, 1))).result == number + 1


async def test_a_password_that_is_no_longer_right_is_an_error_at_once_and_passes(url: str) -> None:
    with redis.Redis.from_url(url) as look:
        look.acl_setuser(
            "flowrra", enabled=True, passwords=["+right"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        async with with_tasks(redis_app(url.replace("//", "//flowrra:right@"))) as app:
            assert (await final(app, await app.submit("add", 1, 2))).result == 3
            look.acl_setuser("flowrra", enabled=True, reset_passwords=True, passwords=["+other"])
            look.client_kill_filter(user="flowrra")
            started = time.monotonic()
            with pytest.raises(BackendError, match="AuthenticationError") as error:
                await app.submit("add", 1, 2)
            assert time.monotonic() - started < RETRY_FOR / 2
            assert "right" not in str(error.value)
            look.acl_setuser("flowrra", enabled=True, passwords=["+right"])
            assert (await final(app, await app.submit("add", 3, 4))).result == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal",
    [
        b"LOADING Valkey is loading the dataset in memory",
        b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"TRYAGAIN Multiple keys request during rehashing of slot",
        b"NOREPLICAS Not enough good replicas to write.",
        b"MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    ],
)
async def test_what_is_refused_for_the_moment_is_tried_again(server: ValkeyServer, refusal: bytes) -> None:
    async with Proxy(server.port) as proxy, with_tasks(redis_app(proxy.url, lease=LEASE)) as app:
        assert (await final(app, await app.submit("add", 1, 2))).result == 3
        proxy.refusal = refusal
        submitting = asyncio.create_task(app.submit("add", 3, 4))
        await asyncio.sleep(0.5)
        assert not submitting.done()
        proxy.refusal = None
        assert (await final(app, await submitting)).result == 7


@pytest.mark.slow
async def test_a_server_that_cannot_write_to_its_disk_says_so_and_the_rest_goes_on_later(server: ValkeyServer) -> None:
    gate = Gate()
    async with Proxy(server.port) as proxy, with_tasks(redis_app(proxy.url, lease=LEASE), gate) as app:
        waiting = await app.submit("hold", 1)
        await until(lambda: gate.begun)
        proxy.refusal = b"MISCONF Errors writing to the AOF file: No space left on device"
        with pytest.raises(BackendError, match="MISCONF Errors writing to the AOF file: No space left on device"):
            await app.submit("add", 1, 2)
        gate.opened.set()
        await until(lambda: gate.ended)
        proxy.refusal = None
        assert (await final(app, waiting)).status == "success"
        assert (await final(app, await app.submit("add", 1, 2))).result == 3
        assert gate.begun == [1]
