"""The server is killed and comes back, and connections are cut: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import redis

from flowrra import BackendError
from flowrra.executors.sources import leased
from tests.redis_faults.conftest import LEASE
from tests.redis_faults.worker import RUNS, make_app
from tests.support.servers import ValkeyServer


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as look:
        return int(look.info("server")["process_id"])  # type: ignore[index]


@pytest.mark.slow
async def test_a_killed_server_loses_nothing_that_it_acknowledged(url: str, server: ValkeyServer, data: Path) -> None:
    async with make_app(url, LEASE) as app:
        ids = await app.submit_many(("note", (n, 0.02), {}) for n in range(400))
        await asyncio.sleep(0.2)
        os.kill(pid_of(url), signal.SIGKILL)
        with pytest.raises(BackendError):
            async with asyncio.timeout(10):
                await app.submit("note", 1000, 0)
        with ValkeyServer(port=server.port, data_dir=data, persist=True, appendonly="yes", appendfsync="always"):
            back = time.monotonic()
            await app.wait_for_result(await app.submit("note", 1001, 0), timeout=10)
            records = [await app.wait_for_result(task_id, timeout=15) for task_id in ids]
            with redis.Redis.from_url(url) as look:
                assert look.hlen(RUNS) >= 400
            assert time.monotonic() - back < 15
            await app.stop()
    assert all(record.status == "success" for record in records)


@pytest.mark.slow
async def test_stopping_while_the_server_is_away_comes_to_an_end(url: str) -> None:
    app = make_app(url, LEASE)
    await app.start()
    await app.submit("note", 1, 0.1)
    os.kill(pid_of(url), signal.SIGKILL)
    async with asyncio.timeout(20):
        await app.stop(timeout=2)


@pytest.mark.slow
async def test_an_app_that_was_stopped_meanwhile_can_be_started_again(
    url: str, server: ValkeyServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it could not tell then, it need not tell any more: those tasks run again."""
    monkeypatch.setattr(leased, "FLUSH_TIMEOUT", 0.5)
    app = make_app(url, LEASE)
    await app.start()
    await app.submit("note", 1, 0.3)
    await asyncio.sleep(0.1)
    os.kill(pid_of(url), signal.SIGKILL)
    await app.stop(timeout=1)
    with ValkeyServer(port=server.port, data_dir=data, persist=True, appendonly="yes", appendfsync="always"):
        async with app:
            record = await app.wait_for_result(await app.submit("note", 2, 0), timeout=10)
            assert record.result == 2


@pytest.mark.slow
async def test_nobody_is_left_waiting_when_connections_are_cut_all_along(url: str) -> None:
    async with make_app(url, LEASE) as app:

        async def pair(n: int) -> None:
            record = await app.wait_for_result(await app.submit("note", n, 0), timeout=20)
            assert record.result == n

        async def cut() -> None:
            with redis.Redis.from_url(url) as look:
                while True:
                    await asyncio.sleep(0.1)
                    look.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

        cutting = asyncio.create_task(cut())
        for first in range(0, 1000, 50):
            await asyncio.gather(*(pair(n) for n in range(first, first + 50)))
        cutting.cancel()
