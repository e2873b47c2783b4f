"""All that an app keeps on a cluster lies in one slot. Workers, producers and who listens follow it by themselves,
whether its primary fails or it is moved to another node; nothing that was acknowledged is lost by that, and nothing is
ever done with half of what there is."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import BackendError, Flowrra
from flowrra.backends import InMemoryBackend, get_backend
from flowrra.backends.listing import TaskFilter
from flowrra.backends.partitioned import PartitionedBackend
from flowrra.backends.redis import RedisBackend
from flowrra.backends.redis_completions import RECHECK
from flowrra.brokers.partitioned import PartitionedBroker
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from flowrra.partitions import cell_namespace
from flowrra.task import TaskResult, TaskStatus
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, resumed, with_tasks
from tests.redis.test_partitioned_backend import Watch, by_task, run
from tests.support.clusters import Cluster, slot_of

pytestmark = pytest.mark.slow

# Of the only partition that an app has here.
NAMESPACE = cell_namespace("flowrra", 0, 1)
SLOT = slot_of(NAMESPACE)
# Seconds in which an app is at work again once the slot has a primary; on a busy machine.
RESUMED = 4.0
TASKS = 300


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """A cluster with nothing in it, in which every node is well. Which of them has the slot is another matter."""
    yield nodes
    nodes.heal()


def app_on(cluster: Cluster, gate: Gate | None = None, **options: Any) -> Flowrra:
    return with_tasks(redis_app(cluster.url, **options), gate)


BLOWS: dict[str, Callable[[Cluster, int], None]] = {
    "killed": lambda cluster, primary: cluster.kill(primary),
    "switched": lambda cluster, _: cluster.fail_over(SLOT),
}
MOVES: dict[str, Callable[[Cluster, int, int], None]] = {
    "key by key": Cluster.move,
    "at once": Cluster.move_at_once,
}


class Load:
    """Tasks that are submitted one after the other while something happens, and how often each has run."""

    def __init__(self, app: Flowrra) -> None:
        self._app = app
        self.acknowledged: list[str] = []
        self.runs = Counter[int]()

        @app.task(name="note")
        async def note(number: int) -> None:
            self.runs[number] += 1

    async def submit(self) -> None:
        for number in range(TASKS):
            while True:
                try:
                    # The same id is the same task: what was queued although it failed is not queued twice.
                    task_id = await self._app.options(task_id=f"note-{number}").submit("note", number)
                except BackendError:
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged.append(task_id)
                    break

    async def during(self, blow: Callable[[], Any]) -> None:
        """Submit all; the blow comes in between."""
        submitting = asyncio.create_task(self.submit())
        await until(lambda: len(self.acknowledged) > TASKS // 3)
        await asyncio.to_thread(blow)
        async with asyncio.timeout(60):  # on a busy machine, more nodes than one may take each other for dead
            await submitting

    async def statuses(self) -> Counter[str]:
        return Counter([(await final(self._app, each, within=20)).status for each in self.acknowledged])


class TestAnApp:
    async def test_has_its_results_elsewhere(self, cluster: Cluster) -> None:
        gate = Gate()
        async with app_on(cluster, gate, backend=InMemoryBackend()) as app:
            assert (await final(app, await app.submit("add", 1, 2))).result == 3
            held = await app.submit("hold", 1)
            await until(lambda: gate.begun == [1])
            waiting = await app.options(countdown=60).submit("add", 1, 2)
            for task_id in (held, waiting):
                assert await app.cancel_task(task_id)
                assert (await final(app, task_id)).status == "cancelled"

    async def test_does_all_that_it_does_on_one_server(self, cluster: Cluster) -> None:
        gate = Gate()
        async with app_on(cluster, gate, min_replicas=1) as app:
            manager = FlowrraManager(app)
            watching, seen = manager.watch(), list[str]()

            async def watch() -> None:
                async for event in watching:
                    seen.append(str(event))

            watcher = asyncio.create_task(watch())
            await until(lambda: app.results.watchers)
            ids = await app.submit_many([("add", (number, 1), {}) for number in range(50)])
            assert [(await final(app, each)).result for each in ids] == [number + 1 for number in range(50)]
            late = await app.options(countdown=0.2).submit("add", 1, 1)
            assert (await final(app, late)).result == 2
            held = await app.submit("hold", 1)
            await until(lambda: gate.begun == [1])
            assert await app.cancel_task(held)
            assert (await final(app, held)).status == "cancelled"
            page = await manager.list_tasks(status="success", limit=20)
            assert [task["task_name"] for task in page["tasks"]] == ["add"] * 20
            assert await _pending(app) == 0
            assert [worker["id"] for worker in await manager.list_workers()] == [app.id]
            await manager.pause_queue("default")
            waiting = await app.submit("add", 2, 2)
            assert await _pending(app) == 1
            await manager.resume_queue("default")
            assert (await final(app, waiting)).result == 4
            await until(lambda: any(waiting in each for each in seen))
            watcher.cancel()
            await asyncio.wait({watcher})
            await watching.aclose()
            assert await app.results.clear() >= 53
            assert (await manager.list_tasks(limit=1))["tasks"] == []

    @pytest.mark.parametrize("blow", BLOWS)
    async def test_goes_over_to_the_new_primary(self, cluster: Cluster, blow: str) -> None:
        former = cluster.the_primary_of(SLOT)
        async with app_on(cluster, min_replicas=1) as app:
            await resumed(app)
            BLOWS[blow](cluster, former)
            promoted = await cluster.promoted(SLOT, former)
            assert await resumed(app) - promoted < RESUMED

    @pytest.mark.parametrize("blow", BLOWS)
    async def test_loses_nothing_that_a_replica_had(self, cluster: Cluster, blow: str) -> None:
        former = cluster.the_primary_of(SLOT)
        async with app_on(cluster, min_replicas=1, lease=2.0) as app:
            load = Load(app)
            await load.during(lambda: BLOWS[blow](cluster, former))
            assert await load.statuses() == {"success": TASKS}

    async def test_goes_on_with_what_it_runs_when_the_primary_changes(self, cluster: Cluster) -> None:
        """The connections by which workers know each other are those of one server: nobody is taken for dead."""
        former, gate, other = cluster.the_primary_of(SLOT), Gate(), Gate()
        async with app_on(cluster, gate, min_replicas=1) as app, app_on(cluster, other, workers=1):
            task_ids = [await app.submit("hold", number) for number in range(3)]
            await until(lambda: len(gate.begun + other.begun) == 3)
            cluster.kill(former)
            await cluster.promoted(SLOT, former)
            await asyncio.sleep(4.0)  # as long as it takes to find that a worker is gone
            gate.opened.set()
            other.opened.set()
            for task_id in task_ids:
                assert (await final(app, task_id)).status == "success"
            assert len(gate.begun + other.begun) == 3

    async def test_has_its_changes_and_cancellations_told_when_the_primary_stands_still(self, cluster: Cluster) -> None:
        former, gate = cluster.the_primary_of(SLOT), Gate()
        async with app_on(cluster, gate, min_replicas=1) as worker, app_on(cluster, consume=False) as other:
            watching, seen = FlowrraManager(worker).watch(), list[str]()

            async def watch() -> None:
                async for event in watching:
                    seen.append(str(event))

            watcher = asyncio.create_task(watch())
            task_id = await worker.submit("hold", 1)  # which waits for the replica
            await until(lambda: gate.begun == [1])
            cluster.stop(former)
            promoted = await cluster.promoted(SLOT, former)
            assert await resumed(worker) - promoted < RESUMED
            # Before that, it would find out by its next heartbeat.
            await until(lambda: _listeners(cluster, former), within=RESUMED)
            async with asyncio.timeout(RESUMED):
                while not await _cancelled(other, task_id):
                    await asyncio.sleep(0.05)
            assert (await final(other, task_id)).status == "cancelled"
            await until(lambda: any(task_id in each and "cancelled" in each for each in seen), within=RESUMED)
            watcher.cancel()
            await asyncio.wait({watcher})
            await watching.aclose()

    async def test_survives_that_the_cluster_is_down(self, cluster: Cluster) -> None:
        async with app_on(cluster) as app:
            await resumed(app)
            alone = cluster.the_primary_of(16383)  # it has no replica, and without it no slot is served
            cluster.kill(alone)
            await until(lambda: "cluster_state:fail" in _cluster_info(cluster, cluster.the_primary_of(SLOT)))
            with pytest.raises(BackendError, match="cluster is down"):
                await app.submit("add", 1, 2)
            cluster.restart(alone)
            await resumed(app)


class TestASlotThatIsMoved:
    @pytest.mark.parametrize("way", MOVES)
    async def test_loses_nothing_and_runs_nothing_twice(self, cluster: Cluster, way: str) -> None:
        source, target = cluster.the_primary_of(SLOT), cluster.other_primary(SLOT)
        async with app_on(cluster, min_replicas=1) as app:
            load = Load(app)
            await load.during(lambda: MOVES[way](cluster, SLOT, target))
            assert await load.statuses() == {"success": TASKS}
            assert load.runs == dict.fromkeys(range(TASKS), 1)
            broker = _broker_of(app)
            assert broker.server.primary == ("127.0.0.1", target)
            await until(lambda: _connected(cluster, source) == 0, within=RESUMED)

    @pytest.mark.parametrize("is_queue_a_key", [False, True])
    async def test_is_left_alone_while_its_keys_are_on_two_nodes(self, cluster: Cluster, is_queue_a_key: bool) -> None:
        target = cluster.other_primary(SLOT)
        async with app_on(cluster, consume=False) as app:
            broker = _broker_of(app)
            if is_queue_a_key:  # as where 0.1.8 left tasks
                _push_as_before(cluster)
            ids = [await app.submit("add", number, 0) for number in range(40)]
            pending = await _pending(app)
            source = cluster.begin_moving(SLOT, target)
            for more in (0, 20, 20):
                cluster.move_keys(SLOT, source, target, more)
                # A part of the keys is there by now: whatever is answered must be right, or be no answer.
                with pytest.raises(BackendError, match=f"slot {SLOT} is being moved to another node"):
                    await broker.take(1)
                told = await asyncio.gather(_pending(app), *(_status(app, task_id) for task_id in ids))
                assert set(told) <= {pending, "pending", "not told"}
            with pytest.raises(BackendError):
                await app.results.clear()
            cluster.move_keys(SLOT, source, target)
            cluster.end_moving(SLOT, source, target)
            assert (await app.executors["io"].source.figures()).pending == pending
            records = [await app.get_result(task_id) for task_id in ids]
            assert {None if record is None else record.status for record in records} == {"pending"}

    @pytest.mark.parametrize("way", MOVES)
    async def test_takes_those_along_who_wait_for_its_tasks(self, cluster: Cluster, way: str) -> None:
        target, gate = cluster.other_primary(SLOT), Gate()
        async with app_on(cluster, gate), app_on(cluster, consume=False) as other:
            task_id = await other.submit("hold", 1)
            waiting = asyncio.create_task(final(other, task_id))
            await until(lambda: gate.begun == [1])
            await asyncio.to_thread(MOVES[way], cluster, SLOT, target)
            await resumed(other)
            # By then its waiter would not have looked for itself.
            gate.opened.set()
            async with asyncio.timeout(0.5 * RECHECK):
                assert (await waiting).status == "success"

    async def test_is_found_at_once_also_by_what_is_not_asked_twice(self, cluster: Cluster) -> None:
        broker = RedisBroker(cluster.url, queue_key=f"{NAMESPACE}:queue:io", namespace=NAMESPACE)
        await broker.take(1)
        await asyncio.to_thread(broker.renew, [])
        try:
            await asyncio.to_thread(cluster.move, SLOT, cluster.other_primary(SLOT))
            await asyncio.to_thread(broker.renew, [])
            await broker.take(1)
        finally:
            await asyncio.to_thread(broker.withdraw, None)
            await broker.close()

    async def test_is_asked_of_the_next_nodes_when_those_that_are_named_first_are_gone(self, cluster: Cluster) -> None:
        backend = RedisBackend(cluster.url_of([1, 2, 3, 4, 5, 6, cluster.ports[-1]]), namespace=NAMESPACE)
        await backend.store("one", TaskResult("one", TaskStatus.PENDING))
        assert (await backend.get("one")) is not None
        await backend.close()


class TestNodes:
    @pytest.mark.parametrize(
        ("kind", "name"), [("unknown-endpoint", ""), ("hostname", "localhost"), ("hostname", ""), ("ip", "localhost")]
    )
    async def test_may_announce_names_or_none(self, cluster: Cluster, kind: str, name: str) -> None:
        try:
            await asyncio.to_thread(cluster.announce, kind, name)
            async with app_on(cluster) as app:
                await resumed(app)
                host = "localhost" if (kind, name) == ("hostname", "localhost") else "127.0.0.1"
                assert _broker_of(app).server.primary == (host, cluster.the_primary_of(SLOT))
        finally:
            await asyncio.to_thread(cluster.announce, "ip", "")


class TestRefusals:
    async def test_a_user_needs_no_more_rights_than_the_documentation_says(self, cluster: Cluster) -> None:
        page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
        command = re.search(r"^ACL SETUSER .*\+cluster\|slots.*$", page, re.MULTILINE)
        assert command is not None
        for port in cluster.ports:
            with cluster.look(port) as node:
                node.execute_command(*command[0].split())
        url = cluster.url.replace("://", "://clustered:secret@")
        async with with_tasks(redis_app(url)) as app:
            await resumed(app)
            assert len(await FlowrraManager(app).list_workers()) == 1

    async def test_of_a_wrong_password_are_errors_at_once(self, cluster: Cluster) -> None:
        wrong = RedisBackend(cluster.url.replace("://", "://me:Hunter2@"), namespace=NAMESPACE)
        began = time.monotonic()
        with pytest.raises(BackendError, match="AuthenticationError") as caught:
            await wrong.get("one")
        assert time.monotonic() - began < 1.0
        assert "Hunter" not in str(caught.value)
        await wrong.close()

    async def test_of_a_server_that_is_no_cluster_say_so(self, url: str) -> None:
        backend = RedisBackend(url.replace("redis://", "redis+cluster://"), namespace=NAMESPACE)
        with pytest.raises(BackendError, match="cluster support disabled"):
            await backend.get("one")
        await backend.close()

    async def test_of_a_node_that_is_addressed_as_a_server_say_what_to_do(self, cluster: Cluster) -> None:
        other = cluster.other_primary(SLOT)
        backend = RedisBackend(f"redis://127.0.0.1:{other}/0", namespace=NAMESPACE)
        with pytest.raises(BackendError, match=r"a node of a cluster: begin the URL with redis\+cluster://"):
            await backend.get("one")
        await backend.close()

    async def test_of_nodes_that_are_all_gone_name_them(self) -> None:
        backend = RedisBackend("redis+cluster://me:Hunter2@127.0.0.1:1,127.0.0.1:2", namespace=NAMESPACE)
        with pytest.raises(
            BackendError, match=rf"127\.0\.0\.1:1,127\.0\.0\.1:2 could not .*No node tells where slot {SLOT}"
        ):
            await backend.ping()
        await backend.close()


def _broker_of(app: Flowrra) -> RedisBroker:
    broker = app.executors["io"].source.broker
    assert isinstance(broker, PartitionedBroker)
    [cell] = broker.cells
    assert isinstance(cell, RedisBroker)
    return cell


async def _cancelled(app: Flowrra, task_id: str) -> bool:
    try:
        return await app.cancel_task(task_id)
    except BackendError:
        return False


async def _status(app: Flowrra, task_id: str) -> str:
    try:
        async with asyncio.timeout(0.1):
            record = await app.get_result(task_id)
    except (BackendError, TimeoutError):
        return "not told"
    return "gone" if record is None else record.status


class TestResultsOverPartitions:
    async def test_are_one_list_and_one_stream_while_a_slot_is_moved_and_its_primary_fails(
        self, cluster: Cluster
    ) -> None:
        backend = get_backend(cluster.url, partitions=4)
        assert isinstance(backend, PartitionedBackend)
        namespace = backend.cells[1].namespace
        slot = slot_of(namespace)
        async with Watch(backend) as watch:
            expected = await run(backend, *range(40))
            await asyncio.to_thread(cluster.move, slot, cluster.other_primary(slot))
            expected += await run(backend, *range(40, 80))
            await until(lambda: len(watch.told) == len(expected))
            former = cluster.the_primary_of(slot)
            with cluster.look(former) as primary:
                primary.set(f"{namespace}:latest", 1)
                assert primary.wait(1, 2000) == 1
            cluster.kill(former)
            await cluster.promoted(slot, former)
            expected += await run(backend, *range(80, 120))
            await until(lambda: len(watch.told) == len(expected), within=20)
        assert (by_task(watch.told), watch.missed) == (expected, [])
        page = await backend.find(TaskFilter(), 50)
        assert [each.task_id for each in page.records] == [f"t{number:06}" for number in range(119, 69, -1)]
        assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 120}
        await backend.close()


async def _pending(app: Flowrra) -> int | str:
    try:
        async with asyncio.timeout(0.1):
            return (await app.executors["io"].source.figures()).pending
    except (BackendError, TimeoutError):
        return "not told"


def _cluster_info(cluster: Cluster, port: int) -> str:
    with cluster.look(port) as node:
        info: Any = node.execute_command("CLUSTER", "INFO")
        return str(info)


# What connections do that are none of an app's: this test's, and the node's that moved keys here.
OF_OTHERS = ("client|list", "cluster|nodes", "restore-asking")


def _connected(cluster: Cluster, port: int) -> int:
    """How many connections of apps a node has."""
    with cluster.look(port) as node:
        listed: Any = node.client_list()
        return sum(each["cmd"] not in OF_OTHERS and each["flags"] == "N" for each in listed)


def _listeners(cluster: Cluster, former: int) -> int:
    """How many workers listen to cancellations at the slot's new primary."""
    primary = cluster.primary_of(SLOT, former)
    assert primary is not None
    with cluster.look(primary) as node:
        [(_, count)] = node.pubsub_numsub(f"{NAMESPACE}:queue:io:control:0")
        return int(count)


def _push_as_before(cluster: Cluster) -> None:
    with redis.Redis(port=cluster.the_primary_of(SLOT)) as node:
        node.lpush(f"{NAMESPACE}:queue:io", "{}")
