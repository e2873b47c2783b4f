"""Sentinels make another server the primary: workers, producers and who listens go over to it by themselves, and with
`min_replicas` nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from flowrra import BackendError, Flowrra
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from flowrra.redis_client import RedisServer
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, resumed, with_tasks
from tests.support.sentinels import Topology

pytestmark = pytest.mark.slow

# Seconds in which an app is at work again once a replica was promoted; on a busy machine.
RESUMED = 4.0
TASKS = 300


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    with Topology(tmp_path) as topology:
        yield topology


BLOWS: dict[str, Callable[[Topology, int], None]] = {
    "killed": lambda topology, primary: topology.kill(primary),
    "stopped": lambda topology, primary: topology.stop(primary),
    "switched": lambda topology, _: topology.fail_over("COORDINATED"),
    "switched without asking it": lambda topology, _: topology.fail_over(),
}


class TestAnApp:
    @pytest.mark.parametrize("blow", BLOWS)
    async def test_goes_over_to_the_new_primary(self, topology: Topology, blow: str) -> None:
        [former] = topology.primaries()
        async with with_tasks(redis_app(topology.url)) as app:
            await resumed(app)
            BLOWS[blow](topology, former)
            promoted = await topology.promoted(former)
            assert await resumed(app) - promoted < RESUMED

    @pytest.mark.parametrize("blow", BLOWS)
    async def test_loses_nothing_that_a_replica_had(self, topology: Topology, blow: str) -> None:
        [former] = topology.primaries()
        acknowledged: list[str] = []
        async with with_tasks(redis_app(topology.url, min_replicas=1, lease=2.0)) as app:

            async def submit() -> None:
                for number in range(TASKS):
                    try:
                        acknowledged.append(await app.submit("add", number, 0))
                    except BackendError:
                        await asyncio.sleep(0.1)

            submitting = asyncio.create_task(submit())
            await until(lambda: len(acknowledged) > TASKS // 3)
            BLOWS[blow](topology, former)
            await topology.promoted(former)
            await submitting
            if blow == "stopped":
                topology.resume(former)
            assert len(acknowledged) > TASKS // 2
            for task_id in acknowledged:
                assert (await final(app, task_id, within=20)).status == "success"

    async def test_has_its_cancellations_told_by_the_new_primary(self, topology: Topology) -> None:
        [former] = topology.primaries()
        gate = Gate()
        async with (
            with_tasks(redis_app(topology.url, min_replicas=1), gate) as worker,
            with_tasks(redis_app(topology.url, consume=False)) as other,
        ):
            task_id = await other.submit("hold", 1)
            await until(lambda: gate.begun == [1])
            topology.stop(former)
            await topology.promoted(former)
            await resumed(worker)
            async with asyncio.timeout(RESUMED):
                while not await cancelled(other, task_id):
                    await asyncio.sleep(0.05)
            assert (await final(other, task_id)).status == "cancelled"

    async def test_has_its_changes_told_by_the_new_primary(self, topology: Topology) -> None:
        [former] = topology.primaries()
        async with with_tasks(redis_app(topology.url, min_replicas=1)) as app:
            watching = FlowrraManager(app).watch()
            seen: list[str] = []

            async def watch() -> None:
                async for event in watching:
                    seen.append(str(event))

            task = asyncio.create_task(watch())
            await resumed(app)
            await until(lambda: any("success" in each for each in seen))
            topology.stop(former)
            await topology.promoted(former)
            await resumed(app)
            task_id = await app.submit("add", 1, 2)
            await until(lambda: any(task_id in each for each in seen), within=RESUMED)
            task.cancel()
            await asyncio.wait({task})
            await watching.aclose()

    async def test_keeps_its_leases_by_the_new_primary(self, topology: Topology) -> None:
        [former] = topology.primaries()
        broker = RedisBroker(topology.url, min_replicas=1)
        try:
            assert await asyncio.to_thread(broker.renew, []) is not None
            topology.kill(former)
            await topology.promoted(former)
            async with asyncio.timeout(RESUMED):
                while True:
                    try:
                        await asyncio.to_thread(broker.renew, [])
                        break
                    except BackendError:
                        await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(broker.withdraw, None)
            await broker.close()

    async def test_leaves_a_former_primary_that_still_answers(self, topology: Topology) -> None:
        """As one does that was cut off from the sentinels, and not from the app."""
        [former] = topology.primaries()
        async with with_tasks(redis_app(topology.url)) as app:
            await resumed(app)
            topology.fail_over()
            await topology.promoted(former)
            broker = app.executors["io"].source.broker
            assert isinstance(broker, RedisBroker)
            await until(lambda: broker.server.primary not in (None, ("127.0.0.1", former)), within=RESUMED)
            task_id = await app.submit("add", 1, 2)
            [primary] = [port for port in topology.primaries() if port != former]
            with topology.look(primary) as look:
                assert look.exists(f"flowrra:task:{task_id}")

    async def test_comes_back_with_the_former_primary_as_a_replica(self, topology: Topology) -> None:
        [former] = topology.primaries()
        async with with_tasks(redis_app(topology.url)) as app:
            topology.stop(former)
            await topology.promoted(former)
            await resumed(app)
            topology.resume(former)
            await until(lambda: former not in topology.primaries(), within=20)
            await resumed(app)


async def cancelled(app: Flowrra, task_id: str) -> bool:
    try:
        return await app.cancel_task(task_id)
    except BackendError:
        return False


class TestSentinels:
    async def test_may_be_lost_but_for_one(self, topology: Topology) -> None:
        nowhere = 1
        url = topology.url_of([nowhere, nowhere + 1, topology.sentinel_ports[0]])  # nobody listens at these
        async with with_tasks(redis_app(url)) as app:
            await resumed(app)

    async def test_are_all_still_asked_after_many_connections_were_made_at_once(self, topology: Topology) -> None:
        silent, *others = sorted(topology.sentinel_ports)
        server = RedisServer(topology.url, slot_of="flowrra")
        clients = [server.dedicated_client() for _ in range(20)]
        topology.stop_sentinel(silent)
        await asyncio.gather(*(client.ping() for client in clients))
        topology.resume_sentinel(silent)
        for sentinel in others:
            topology.kill_sentinel(sentinel)
        await asyncio.gather(*(client.connection_pool.disconnect() for client in clients))
        await asyncio.gather(*(client.ping() for client in clients))
        for client in clients:
            await client.aclose()
        await server.close()

    async def test_need_give_no_more_rights_than_the_documentation_says(self, topology: Topology) -> None:
        page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
        command = re.search(r"^ACL SETUSER .* \+sentinel.*$", page, re.MULTILINE)
        assert command is not None
        for port in topology.sentinel_ports:
            with redis.Redis(port=port) as sentinel:
                sentinel.execute_command(*command[0].split())
        async with with_tasks(redis_app(f"{topology.url}?sentinel_username=flowrra&sentinel_password=other")) as app:
            await resumed(app)

    async def test_that_are_all_gone_are_named_in_the_error(self) -> None:
        url = "redis+sentinel://me:Hunter2@127.0.0.1:1,127.0.0.1:2/shop/0?sentinel_password=Hunter3"
        broker = RedisBroker(url)
        with pytest.raises(
            BackendError, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2/shop/0 could not .*No sentinel names a primary"
        ) as caught:
            await broker.ping()
        await broker.close()
        assert "Hunter" not in str(caught.value)

    async def test_and_servers_have_passwords_of_their_own(self, tmp_path: Path) -> None:
        with Topology(tmp_path, password="Hunter2", sentinel_password="Hunter3") as topology:
            async with with_tasks(redis_app(topology.url)) as app:
                await resumed(app)
            wrong = RedisBroker(topology.url.replace("Hunter3", "Hunter4"))
            with pytest.raises(BackendError, match=r"names a primary of 'shop': AuthenticationError") as caught:
                await wrong.ping()
            await wrong.close()
            assert "Hunter" not in str(caught.value)
