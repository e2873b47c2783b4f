"""The server is away: the app says so, takes no harm, and works again by itself when the server is back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import pytest
import redis
from flowrra_exporter import Exporter
from flowrra_exporter.settings import Address, Settings

from flowrra import BackendConfig, BackendError, BrokerConfig, Config, ExecutorConfig, Flowrra
from tests.core import cpu_tasks
from tests.core.apps import until
from tests.exporter.conftest import Answer, fetch
from tests.redis_faults.conftest import LEASE, Spawn
from tests.redis_faults.test_killed_workers import until_ran
from tests.redis_faults.test_server_away import pid_of
from tests.redis_faults.worker import RUNS, make_app
from tests.support.servers import ValkeyServer

# Seconds in which an app is at work again once the server answers; on a busy machine.
RESUMED = 4.0


def kill_server(url: str) -> None:
    os.kill(pid_of(url), signal.SIGKILL)


def serve_again(server: ValkeyServer, data: Path) -> ValkeyServer:
    return ValkeyServer(port=server.port, data_dir=data, persist=True, appendonly="yes", appendfsync="always")


@pytest.mark.slow
async def test_the_server_may_come_after_the_app(url: str, server: ValkeyServer, data: Path) -> None:
    kill_server(url)
    async with make_app(url, LEASE) as app:
        with pytest.raises(BackendError, match=f"127.0.0.1:{server.port}"):
            await app.submit("note", 1, 0)
        with serve_again(server, data):
            async with asyncio.timeout(RESUMED):
                record = await app.wait_for_result(await app.submit("note", 2, 0))
            assert record.status == "success"
            await app.stop()


@pytest.mark.slow
async def test_work_resumes_soon_after_the_servers_return(url: str, server: ValkeyServer, data: Path) -> None:
    async with make_app(url, LEASE) as app:
        first = await app.submit("note", 1, 0)
        await app.wait_for_result(first, timeout=5)
        kill_server(url)
        await asyncio.sleep(2)
        with serve_again(server, data):
            async with asyncio.timeout(RESUMED):
                record = await app.wait_for_result(await app.submit("note", 2, 0))
            assert record.status == "success"
            await app.stop()


@pytest.mark.slow
async def test_an_outage_is_a_few_lines_of_each_kind_however_often_it_is_tried(
    url: str, server: ValkeyServer, data: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.outage.SAID_EVERY", 1.5)
    caplog.set_level(logging.INFO)

    def lines_of(what: str) -> list[str]:
        return [message for message in caplog.messages if f"{what} executor=io" in message]

    kinds = ["broker not readable", "not listening for cancellations", "leases not renewed"]
    async with make_app(url, LEASE) as app:
        await app.wait_for_result(await app.submit("note", 1, 0), timeout=5)
        kill_server(url)
        await until(lambda: all(len(lines_of(what)) >= 2 for what in kinds))
        for what in kinds:
            begun, still = lines_of(what)[:2]
            assert begun.startswith(f"{what} executor=io times=1 error=")
            assert still.startswith(f"still: {what} executor=io times=")
        with serve_again(server, data):
            await until(lambda: all(lines_of(f"over: {what}") for what in kinds))
            for what in kinds:
                [over] = lines_of(f"over: {what}")
                assert len(lines_of(what)) <= 5
                assert float(over.rpartition("seconds=")[2]) > 1.5
            await app.stop()


@pytest.mark.slow
async def test_outcomes_that_wait_for_the_server_are_said_when_they_begin_to_and_when_they_are_told(
    url: str, server: ValkeyServer, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = asyncio.Event()
    app = make_app(url, LEASE)

    @app.task()
    async def wait_for_gate() -> None:
        await gate.wait()

    def lines() -> list[str]:
        return [message for message in caplog.messages if "outcomes not told executor=io" in message]

    async with app:
        task_id = await app.submit(wait_for_gate)
        await until(lambda: app.executors["io"].busy_workers == 1)
        kill_server(url)
        gate.set()
        await until(lambda: app.executors["io"].broker_errors["settle"] > 3)
        with serve_again(server, data):
            assert (await app.wait_for_result(task_id, timeout=10)).status == "success"
            await until(lambda: len(lines()) == 2)
            begun, over = lines()
            assert begun.startswith("outcomes not told executor=io times=1 error=")
            assert over.startswith("over: outcomes not told executor=io times=")
            await app.stop()


@pytest.mark.slow
async def test_readiness_says_that_the_server_is_away_and_liveness_goes_on(
    url: str, server: ValkeyServer, data: Path
) -> None:
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),), probe_failure_grace=1.0)
    async with make_app(url, LEASE) as app, Exporter(app, settings) as exporter:

        async def ask(path: str) -> Answer:
            return await asyncio.to_thread(fetch, exporter.urls[0], path)

        async def until_ready_is(status: int) -> None:
            async with asyncio.timeout(10):
                while (await ask("/readyz")).status != status:
                    await asyncio.sleep(0.05)

        await until_ready_is(200)
        kill_server(url)
        await until_ready_is(503)
        assert f"127.0.0.1:{server.port}" in (await ask("/readyz?verbose")).text
        assert (await ask("/livez")).status == 200
        with serve_again(server, data):
            await until_ready_is(200)
            assert (await ask("/livez")).status == 200
            await app.stop()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_stop_takes_hardly_longer_than_it_may_although_the_server_is_away(url: str, fault: int) -> None:
    app = make_app(url, LEASE)
    await app.start()
    await app.submit("note", 1, 0.5)
    await asyncio.sleep(0.2)
    server = pid_of(url)
    os.kill(server, fault)
    try:
        await asyncio.sleep(0.5)  # so that there is an outcome to tell
        started = time.monotonic()
        await app.stop(timeout=2)
        assert time.monotonic() - started < (4.5 if fault == signal.SIGKILL else 10)
    finally:
        if fault == signal.SIGSTOP:
            os.kill(server, signal.SIGCONT)


@pytest.mark.slow
async def test_a_blocked_event_loop_does_not_lose_its_leases(url: str, spawn: Spawn) -> None:
    async with make_app(url, LEASE) as app:

        @app.task(name="block")
        async def block() -> str:
            time.sleep(3 * LEASE)  # not awaited: nothing else of this process goes on but its threads
            return "done"

        with redis.Redis.from_url(url) as look:
            other = await app.submit("note", 1, 4 * LEASE)
            await until_ran(look, 1)
            spawn(url)
            record = await app.wait_for_result(await app.submit("block"), timeout=10)
            assert (record.result, record.retries) == ("done", 0)
            await app.wait_for_result(other, timeout=10)
            assert look.hgetall(RUNS) == {b"1": b"1"}


def cpu_app(url: str) -> Flowrra:
    executor = ExecutorConfig(io_workers=1, cpu_workers=2)
    app = Flowrra(Config(broker=BrokerConfig(url=url, lease=LEASE), backend=BackendConfig(url=url), executor=executor))
    app.task(name="hold", cpu_bound=True, max_retries=0)(cpu_tasks.hold)
    app.task(name="pid", cpu_bound=True)(cpu_tasks.pid)
    return app


@pytest.mark.slow
async def test_a_killed_child_costs_only_the_task_in_it(url: str, tmp_path: Path) -> None:
    async with cpu_app(url) as app:
        started, release = tmp_path / "started", tmp_path / "release"
        ids = [await app.submit("hold", str(started) + name, str(release)) for name in ("1", "2")]
        files = [Path(f"{started}{name}") for name in ("1", "2")]
        while not all(file.exists() and file.read_text() for file in files):
            await asyncio.sleep(0.02)
        os.kill(int(files[0].read_text()), signal.SIGKILL)
        lost = await app.wait_for_result(ids[0], timeout=10)
        release.touch()
        kept = await app.wait_for_result(ids[1], timeout=10)
        assert (lost.status, kept.status) == ("failed", "success")
        assert "SIGKILL" in str(lost.error)
        assert (await app.wait_for_result(await app.submit("pid"), timeout=10)).status == "success"


@pytest.mark.slow
async def test_the_children_of_a_killed_worker_end_with_it(url: str, spawn: Spawn, tmp_path: Path) -> None:
    started = tmp_path / "started"
    async with make_app(url, LEASE, consume=False) as producer:
        worker = spawn(url)
        await producer.submit("hold", str(started), str(tmp_path / "release"))
        while not (started.exists() and started.read_text()):
            await asyncio.sleep(0.02)
        worker.kill()
        child = Path("/proc", started.read_text().strip())
        async with asyncio.timeout(5):
            while child.exists():
                await asyncio.sleep(0.02)
