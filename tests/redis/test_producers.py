"""Programs that submit and wait: what connections they hold, from what loops and threads, and who runs their tasks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import BackendError, Config, ExecutorConfig, Flowrra, Task
from flowrra.backends import InMemoryBackend
from flowrra.backends.redis_completions import RECHECK
from flowrra.brokers import BaseBroker
from flowrra.management import FlowrraManager
from tests.core.apps import final, numbers_of, until
from tests.exporter.certificates import Issuer, Pair
from tests.management.test_published_document import example_under
from tests.redis.apps import Gate, calls_of, counts_of, redis_app, with_tasks
from tests.support.servers import ValkeyServer


def connections(look: redis.Redis) -> int:
    """Of everybody but the asking one."""
    return len(look.client_list()) - 1  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def tls_front(pair: Pair, port: int) -> AsyncIterator[int]:
    """A port that speaks TLS, in front of one that doesn't: not every server is built with it."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class TestProducer:
    async def test_runs_nothing_itself(self, url: str) -> None:
        gate = Gate()
        producer = with_tasks(redis_app(url, consume=False), gate)
        async with producer:
            assert await FlowrraManager(producer).list_workers() == []
            ids = [await producer.submit("echo", n) for n in range(5)]
            await asyncio.sleep(0.1)
            assert (gate.begun, await counts_of(producer)) == ([], (5, 0, 0, 0))
            async with with_tasks(redis_app(url)):
                results = [(await final(producer, task_id)).result for task_id in ids]

        assert results == [[[n], {}] for n in range(5)]
        assert numbers_of(producer, "echo")["started"] == 0

    async def test_has_no_slots_and_is_healthy(self, url: str) -> None:
        producer = with_tasks(redis_app(url, workers=7, consume=False), cpu=True)
        manager = FlowrraManager(producer)
        async with producer:
            ids = [await producer.submit("add", n, 1) for n in range(5)]
            ids.append(await producer.options(countdown=3600).submit("add", 1, 1))
            stats = await manager.get_stats()
            health = await manager.health_check()
            assert await manager.list_workers() == []
            for executor in stats["executors"].values():
                assert executor == {
                    "running": True,
                    "workers": 0,
                    "busy": 0,
                    "waiting": 0,
                    "stuck": False,
                    "draining": False,
                    "queues": [],
                }
            assert stats["tasks"]["pending"] == 5
            assert health["healthy"] is True
            for kind in ("io_executor", "cpu_executor"):
                assert health["components"][kind]["message"] == "running, leaves its tasks to other processes"
            async with with_tasks(redis_app(url, workers=7)) as worker:
                await final(producer, ids[0])
                assert [each["executors"]["io"]["slots"] for each in await manager.list_workers()] == [7]
                assert (await FlowrraManager(worker).get_stats())["executors"]["io"]["workers"] == 7

    async def test_has_no_slots_with_a_broker_of_any_kind(self) -> None:
        class Queue(BaseBroker):
            """The least that is a broker."""

            def __init__(self) -> None:
                self.tasks: list[Task] = []

            async def push(self, task: Task) -> None:
                self.tasks.append(task)

            async def pop(self, timeout: float | None = None) -> Task | None:
                await asyncio.sleep(0.01)
                return self.tasks.pop() if self.tasks else None

            async def size(self) -> int:
                return len(self.tasks)

        for consume in (True, False):
            config = Config(broker=Queue(), executor=ExecutorConfig(io_workers=7, consume=consume))
            async with with_tasks(Flowrra(config)) as app:
                manager = FlowrraManager(app)
                stats, workers = await manager.get_stats(), await manager.list_workers()
                assert stats["executors"]["io"]["workers"] == (7 if consume else 0)
                assert [each["executors"]["io"]["slots"] for each in workers] == ([7] if consume else [])
                assert (await manager.health_check())["healthy"] is True

    async def test_is_none_in_memory_where_tasks_run_all_the_same(self) -> None:
        config = Config(executor=ExecutorConfig(io_workers=7, consume=False))
        async with with_tasks(Flowrra(config)) as app:
            manager = FlowrraManager(app)
            assert (await final(app, await app.submit("add", 1, 1))).result == 2
            assert (await manager.get_stats())["executors"]["io"]["workers"] == 7
            assert [each["executors"]["io"]["slots"] for each in await manager.list_workers()] == [7]

    @pytest.mark.slow
    async def test_many_tasks_take_few_round_trips(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            await app.submit("add", 0, 0)
            look.config_resetstat()
            ids = await app.submit_many([("add", (n, n), {}) for n in range(10_000)])
            calls = calls_of(look)
            assert len(set(ids)) == 10_000
            assert (await counts_of(app))[0] == 10_001

        assert calls["evalsha"] == 40, calls

    async def test_concurrent_submits_share_round_trips(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            await app.submit("add", 0, 0)
            look.config_resetstat()
            await asyncio.gather(*(app.submit("add", n, n) for n in range(500)))

            assert calls_of(look)["evalsha"] <= 10

    @pytest.mark.slow
    def test_without_a_loop_and_from_threads(self, url: str, look: redis.Redis) -> None:
        app = with_tasks(redis_app(url))
        before = connections(look)
        app.start_sync()
        try:
            with ThreadPoolExecutor(8) as threads:
                ids = list(threads.map(lambda n: app.submit_sync("add", n, n), range(200)))
                records = list(threads.map(lambda each: app.wait_for_result_sync(each, timeout=10), ids))
        finally:
            app.stop_sync()

        assert [record.result for record in records] == [2 * n for n in range(200)]
        assert connections(look) == before

    def test_many_threads_wait_at_the_same_time(self, url: str, look: redis.Redis) -> None:
        """Each on a loop of its own, which ends while its listening connection may just be being made."""
        app = with_tasks(redis_app(url))
        app.start_sync()
        try:
            ids = [app.submit_sync("add", n, n) for n in range(20)]
            begun = time.monotonic()
            with ThreadPoolExecutor(20) as threads:
                records = list(threads.map(lambda each: app.wait_for_result_sync(each, timeout=10), ids))
            took = time.monotonic() - begun
        finally:
            app.stop_sync()

        assert [record.result for record in records] == [2 * n for n in range(20)]
        assert took < 3


# In a process of its own, as what a closed loop leaves behind is complained of whenever it is collected.
CLOSED_WITHOUT_A_STOP = """
    import asyncio, sys, time
    from tests.core.apps import final
    from tests.redis.apps import redis_app, with_tasks

    app = with_tasks(redis_app(sys.argv[1]))

    async def work():
        took = []
        for _ in range(5):
            await asyncio.sleep(0.05)
            begun = time.monotonic()
            await final(app, await app.submit("add", 1, 2))
            took.append(time.monotonic() - begun)
        return min(took)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.start())
    loop.run_until_complete(work())
    loop.close()

    async def again():
        async with asyncio.timeout(10), app:
            return await work()

    print(asyncio.run(again()))
"""


class TestConnections:
    async def test_are_closed_at_stop_and_made_anew(self, url: str, look: redis.Redis) -> None:
        app = with_tasks(redis_app(url))
        before = connections(look)
        for _ in range(3):
            async with app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
                assert connections(look) > before
            await until(lambda: connections(look) == before)

    def test_on_one_event_loop_after_the_other(self, url: str, look: redis.Redis) -> None:
        app = with_tasks(redis_app(url))
        before = connections(look)

        async def work() -> Any:
            async with app:
                return (await final(app, await app.submit("add", 1, 2))).result

        assert [asyncio.run(work()) for _ in range(3)] == [3, 3, 3]
        assert connections(look) == before

    @pytest.mark.slow
    def test_on_a_loop_after_one_that_was_closed_without_a_stop(self, url: str) -> None:
        """What was under way on the first one neither holds up the second, nor its stop."""
        program = [sys.executable, "-c", textwrap.dedent(CLOSED_WITHOUT_A_STOP), url]
        finished = subprocess.run(program, capture_output=True, text=True, timeout=30, check=False)

        assert finished.returncode == 0, finished.stderr
        assert float(finished.stdout) < RECHECK / 2

    @pytest.mark.slow
    def test_a_manager_asks_on_a_new_loop_each_time(self, url: str, look: redis.Redis) -> None:
        """As in a Flask view: `asyncio.run` for each request, with the app in its own thread or not at all."""
        app = with_tasks(redis_app(url))
        manager = FlowrraManager(app)
        before = connections(look)
        for _ in range(5):
            assert asyncio.run(manager.get_stats())["tasks"]["pending"] == 0
            assert asyncio.run(manager.list_pending_tasks()) == []
        assert connections(look) == before
        app.start_sync()
        try:
            task_id = app.submit_sync("add", 1, 2)
            app.wait_for_result_sync(task_id, timeout=5)
            while_running = connections(look)
            for _ in range(10):
                assert asyncio.run(manager.get_stats())["app"]["running"] is True
                assert (asyncio.run(manager.get_task_result(task_id)) or {})["result"] == 3
                assert asyncio.run(manager.health_check())["healthy"] is True
            # The app itself may still be making some of its own.
            assert connections(look) <= while_running + 5
        finally:
            app.stop_sync()
        assert connections(look) == before

    def test_the_documented_flask_views_answer_request_after_request(self, url: str, look: redis.Redis) -> None:
        example = example_under("Flask Example")
        assert "Flowrra.from_urls()" in example
        program: dict[str, Any] = {"__name__": "flask_example"}
        exec(example.replace("from_urls()", f"from_urls(broker={url!r}, backend={url!r})"), program)
        client = program["app"].test_client()
        before = connections(look)
        for is_running in (False, True):
            if is_running:
                program["flowrra"].start_sync()
            for _ in range(5):
                assert client.get("/api/stats").get_json()["app"]["running"] is is_running
                assert client.get("/api/health").get_json()["healthy"] is is_running
        program["flowrra"].stop_sync()
        assert connections(look) == before

    async def test_of_a_unix_socket(self, tmp_path: Path) -> None:
        with ValkeyServer(unix_socket_path=tmp_path / "s") as server:
            async with with_tasks(redis_app(f"unix://{server.unix_socket_path}?db=1")) as app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
                assert await FlowrraManager(app).list_workers()

    @pytest.mark.slow
    async def test_over_tls(self, url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
        issuer, stranger = Issuer(tmp_path, "issuer"), Issuer(tmp_path, "stranger")
        async with tls_front(issuer.issue("server"), valkey.port) as port:
            address = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs="
            async with with_tasks(redis_app(f"{address}{issuer.file}")) as app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
                assert await FlowrraManager(app).list_workers()
            async with with_tasks(redis_app(f"{address}{stranger.file}", consume=False)) as app:
                with pytest.raises(BackendError, match="CERTIFICATE_VERIFY_FAILED"):
                    await app.submit("add", 1, 2)

    @pytest.mark.parametrize("is_elsewhere", [False, True])
    async def test_of_a_user_with_few_rights(self, url: str, look: redis.Redis, is_elsewhere: bool) -> None:
        results = InMemoryBackend() if is_elsewhere else ""
        rights = ("~shop:*", "&shop:*", "+@all", "-@admin", "-@dangerous", "+info")
        look.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret:pass/", *rights)
        address = url.replace("redis://", "redis://worker:s3cret%3Apass%2F@")
        try:
            async with with_tasks(redis_app(address, namespace="shop", backend=results)) as app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
                assert await app.cancel_task(await app.options(countdown=60).submit("add", 1, 2))
            async with with_tasks(redis_app(address, consume=False)) as app:
                with pytest.raises(BackendError, match="NoPermission") as raised:
                    await app.submit("add", 1, 2)
            wrong = with_tasks(redis_app(address.replace("pass", "past"), namespace="shop", consume=False))
            async with wrong:
                with pytest.raises(BackendError, match="Authentication") as refused:
                    await wrong.submit("add", 1, 2)
        finally:
            look.execute_command("ACL", "DELUSER", "worker")
        assert "s3cret" not in str(raised.value) + str(refused.value)


class TestWorkers:
    async def test_know_of_each_other_and_are_gone_after_a_stop(self, url: str) -> None:
        one, two = with_tasks(redis_app(url, workers=3)), with_tasks(redis_app(url, workers=2))
        watcher = with_tasks(redis_app(url, consume=False))
        manager = FlowrraManager(watcher)
        async with watcher, one:
            async with two:
                while len(await manager.list_workers()) < 2:
                    await asyncio.sleep(0.01)
                known = {each["id"]: each for each in await manager.list_workers()}
                assert set(known) == {one.id, two.id}
                assert known[one.id]["executors"]["io"] == {"slots": 3, "busy": 0}
                assert known[two.id]["started_at"] == two.started_at
                assert known[two.id]["heartbeat_at"] >= two.started_at
            assert [each["id"] for each in await manager.list_workers()] == [one.id]
        assert await manager.list_workers() == []
