"""Queues over partitions: each task is in that of its id, together they are one queue, one that fails costs its own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import (
    BackendConfig,
    BackendError,
    BrokerConfig,
    Config,
    ExecutorConfig,
    Flowrra,
    PartialSubmissionError,
    SerializationError,
    Task,
    TaskResult,
    TaskStatus,
    codec,
)
from flowrra.backends.partitioned import PartitionedBackend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Outcome, QueuedTask, Verb
from flowrra.brokers.factory import get_broker
from flowrra.brokers.partitioned import PartitionedBroker
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.sources.fetcher import IDLE_WAIT
from flowrra.executors.sources.partitioned import PartitionedSource
from flowrra.management import FlowrraManager
from flowrra.partitions import cell_namespace, partition_of
from tests.core.apps import comes_true, final, until
from tests.redis.apps import Gate, PromptApp, counts_of, queue_of, redis_app, refused, with_tasks
from tests.support.clusters import Cluster, slot_of
from tests.support.servers import ValkeyServer

PARTITIONS = 4
# Seconds that a server may take to answer.
TIMEOUT = 1.0


def app_of(url: str, gate: Gate | None = None, **options: Any) -> Flowrra:
    """An app with four partitions, not started yet."""
    options = {"partitions": PARTITIONS, **options}
    backend = BackendConfig(url=url, partitions=options["partitions"])
    return with_tasks(redis_app(url, backend=backend, **options), gate)


def id_in(partition: int, number: int = 0) -> str:
    """The id of a task in that partition; another one for each number."""
    ids = (f"task-{number}-{n}" for n in range(1000))
    return next(each for each in ids if partition_of(each, PARTITIONS) == partition)


def cell(partition: int, part: str = "") -> str:
    """The key of a partition's queue, or of a part of it."""
    return f"{cell_namespace('flowrra', partition, PARTITIONS)}:queue:io{part}"


def everywhere(number: int = 0) -> list[str]:
    """The ids of four tasks, one in each partition."""
    return [id_in(partition, number) for partition in range(PARTITIONS)]


async def submit_to_all(app: Flowrra, name: str = "echo", number: int = 0, **options: Any) -> list[str]:
    """Submit a task to each partition. Returns their ids."""
    return [await app.options(task_id=each, **options).submit(name, each) for each in everywhere(number)]


class Commands:
    """The first key of each command that clients sent to the server while this was entered."""

    def __init__(self, look: redis.Redis) -> None:
        self._look = look
        self.keys: list[str] = []

    def __enter__(self) -> Commands:
        self._look.config_set("slowlog-max-len", 10_000)
        self._look.config_set("slowlog-log-slower-than", 0)
        self._look.slowlog_reset()
        return self

    def __exit__(self, *_: object) -> None:
        entries: Any = self._look.slowlog_get(10_000)
        self._look.config_set("slowlog-log-slower-than", -1)
        for command, *words in (entry["command"].decode(errors="replace").split() for entry in entries):
            first = words[2:3] if command == "EVALSHA" else words[:1]
            self.keys += [key for key in first if key.startswith(("{flowrra", "flowrra"))]


# ── what one is ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_one_nothing_is_different(url: str) -> None:
    broker, backend = BrokerConfig(url=url).create_broker(":io"), BackendConfig(url=url).create_backend()
    assert type(broker) is RedisBroker
    assert (broker.queue_key, broker.namespace) == ("flowrra:queue:io", "flowrra")
    assert type(backend) is RedisBackend
    assert backend.namespace == "flowrra"
    assert type(get_broker(url)) is RedisBroker


def test_each_is_a_broker_of_its_own_whose_keys_have_one_hash_tag() -> None:
    config = BrokerConfig(url="redis://redis.example/0", namespace="shop", partitions=3, lease=7)
    broker = config.create_broker(":cpu")
    assert type(broker) is PartitionedBroker
    assert [each.queue_key for each in broker.cells] == [f"{each.namespace}:queue:cpu" for each in broker.cells]
    assert [each.namespace for each in broker.cells] == [cell_namespace("shop", n, 3) for n in range(3)]
    assert {each.lease for each in broker.cells} == {broker.lease} == {7}
    assert (broker.namespace, broker.address) == ("shop", "redis.example:6379/0")


def test_the_key_of_a_queue_comes_behind_the_hash_tag() -> None:
    broker = BrokerConfig(url="redis://redis.example/0", queue_key="jobs", partitions=2).create_broker(":io")
    assert isinstance(broker, PartitionedBroker)
    assert [each.queue_key for each in broker.cells] == [f"{cell_namespace('flowrra', n, 2)}:jobs:io" for n in range(2)]


@pytest.mark.parametrize("number", [0, 65, 1.5, True, "4"])
def test_a_number_that_cannot_be_is_refused(number: Any) -> None:
    for config in (BrokerConfig, BackendConfig):
        with pytest.raises((ValueError, TypeError), match="partitions must be "):
            config(url="redis://redis.example/0", partitions=number)


def test_a_namespace_that_would_break_the_hash_tags_is_refused() -> None:
    assert BrokerConfig(url="redis://redis.example/0", namespace="{shop}").partitions == 1
    for config in (BrokerConfig, BackendConfig):
        with pytest.raises(ValueError, match="namespace must have no braces where it has partitions"):
            config(url="redis://redis.example/0", namespace="{shop}", partitions=2)


def test_the_number_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("BROKER", "BACKEND"):
        monkeypatch.setenv(f"FLOWRRA_{part}_URL", "redis://redis.example/0")
        monkeypatch.setenv(f"FLOWRRA_{part}_PARTITIONS", "8")
    config = Config.from_env()
    assert isinstance(config.broker, BrokerConfig)
    assert isinstance(config.backend, BackendConfig)
    assert (config.broker.partitions, config.backend.partitions) == (8, 8)


# ── one queue ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_and_its_record_are_in_the_partition_of_its_id(url: str, look: redis.Redis) -> None:
    async with app_of(url, consume=False) as app:
        ids = [await app.submit("echo", n) for n in range(40)]
        for partition in range(PARTITIONS):
            own = {each for each in ids if partition_of(each, PARTITIONS) == partition}
            assert own
            assert {each.decode() for each in look.hkeys(cell(partition, ":tasks"))} == own  # type: ignore[union-attr]
            prefix = f"{cell_namespace('flowrra', partition, PARTITIONS)}:task:"
            assert {key.decode().removeprefix(prefix) for key in look.scan_iter(f"{prefix}*")} == own  # type: ignore[union-attr]


async def test_records_are_kept_in_the_same_step_as_tasks(url: str, look: redis.Redis) -> None:
    async with app_of(url) as app:
        await app.submit("add", 1, 2)  # the first one asks for the number of partitions
        with Commands(look) as commands:
            await app.submit("add", 1, 2)
        task_id = await app.submit("add", 1, 2)
        assert (await final(app, task_id)).result == 3
    namespace = cell_namespace("flowrra", partition_of(task_id, PARTITIONS), PARTITIONS)
    assert f"{namespace}:task:{task_id}".encode() in look.keys("*:task:*")
    assert {key for key in commands.keys if not key.startswith("{") or key.endswith("}")} == set()


async def test_results_elsewhere_are_kept_by_themselves(url: str, look: redis.Redis) -> None:
    app = with_tasks(redis_app(url, backend=BackendConfig(url=url), partitions=PARTITIONS))
    async with app:
        ids = [await app.submit("add", n, n) for n in range(8)]
        assert [(await final(app, each)).result for each in ids] == [2 * n for n in range(8)]
    assert len(list(look.scan_iter("flowrra:task:*"))) == 8


async def test_order_and_priorities_hold_within_one(url: str) -> None:
    gate = Gate()
    ids = {(partition, n): id_in(partition, n) for n in range(6) for partition in range(PARTITIONS)}
    async with app_of(url, consume=False) as producer:
        for (_, n), task_id in ids.items():
            await producer.options(task_id=task_id, priority=-(n % 2)).submit("echo", task_id)
    async with app_of(url, gate, workers=1):
        await until(lambda: len(gate.begun) == len(ids))
    for partition in range(PARTITIONS):
        begun = [each for each in gate.begun if partition_of(each, PARTITIONS) == partition]
        assert begun == [ids[partition, n] for n in (1, 3, 5, 0, 2, 4)]


async def test_many_are_submitted_to_all_and_their_ids_are_in_the_order_of_the_calls(url: str) -> None:
    async with app_of(url) as app:
        ids = await app.submit_many([("add", (n, n), {}) for n in range(600)])
        assert {partition_of(each, PARTITIONS) for each in ids} == set(range(PARTITIONS))
        assert [(await final(app, each)).result for each in ids] == [2 * n for n in range(600)]


async def test_an_id_that_is_known_is_submitted_once(url: str) -> None:
    gate = Gate()
    async with app_of(url, gate) as app:
        for _ in range(2):
            for each in await submit_to_all(app):
                await final(app, each)
    assert sorted(gate.begun) == sorted(everywhere())


async def test_figures_are_sums(url: str, look: redis.Redis) -> None:
    async with app_of(url, consume=False) as app:
        for number in range(2):
            await submit_to_all(app, number=number)
        await submit_to_all(app, number=2, countdown=3600)
        await submit_to_all(app, number=3, queue="mail")
        assert await counts_of(app) == (8, 4, 0, 0)
        oldest = min(float(look.zrange(cell(n, ":since"), 0, 0, withscores=True)[0][1]) for n in range(PARTITIONS))  # type: ignore[index]
        assert (await queue_of(app))["oldest_pending_at"].timestamp() * 1e6 == pytest.approx(oldest, abs=1)
        manager = FlowrraManager(app)
        queues = {each["queue"]: each["pending"] for each in await manager.list_queues()}
        assert queues == {"default": 8, "mail": 4}
        stats = await queue_of(app)
        assert (stats["broker"], stats["namespace"], stats["server"]) == ("RedisBroker", "flowrra", url[8:])


async def test_dead_tasks_are_one_list_and_each_can_be_had(url: str, look: redis.Redis) -> None:
    gate = Gate()
    async with app_of(url, consume=False) as app:
        await submit_to_all(app)
        broker = app.executors["io"].broker
        assert isinstance(broker, PartitionedBroker)
        for task_id in everywhere():
            own = broker.cells[partition_of(task_id, PARTITIONS)]
            await own.take(1)
            await own.settle([Outcome(Verb.DEAD_LETTER, task_id, text="a reason")])
        manager = FlowrraManager(app)
        dead = await manager.list_dead_tasks()
        assert [each["task_id"] for each in dead] == everywhere()[::-1]
        assert [each["task_id"] for each in await manager.list_dead_tasks(limit=2)] == everywhere()[:1:-1]
        assert await manager.requeue_dead_task(everywhere()[2])
        assert await manager.delete_dead_task(everywhere()[1])
        assert [each["task_id"] for each in await manager.list_dead_tasks()] == [everywhere()[3], everywhere()[0]]
    async with app_of(url, gate):
        await until(lambda: gate.begun == [everywhere()[2]])


async def test_a_cancellation_and_a_result_go_straight_to_the_partition(url: str, look: redis.Redis) -> None:
    async with app_of(url, consume=False) as app:
        await submit_to_all(app)
        for partition, task_id in enumerate(everywhere()):
            with Commands(look) as commands:
                assert await app.cancel_task(task_id)
                assert (await app.get_result(task_id)).status == "cancelled"  # type: ignore[union-attr]
            assert {key[: key.index("}") + 1] for key in commands.keys} == {
                cell_namespace("flowrra", partition, PARTITIONS)
            }


async def test_a_running_task_is_cancelled_wherever_it_is(url: str) -> None:
    gate = Gate()
    async with app_of(url, gate) as app, app_of(url, consume=False) as other:
        ids = await submit_to_all(app, "hold")
        await until(lambda: len(gate.begun) == PARTITIONS)
        assert await asyncio.gather(*map(other.cancel_task, ids)) == [True] * PARTITIONS


async def test_what_waits_is_purged_from_all(url: str) -> None:
    async with app_of(url, consume=False) as app:
        for number in range(3):
            await submit_to_all(app, number=number)
        assert await FlowrraManager(app).purge_queue("default") == {"done": 12, "left": 0}
        assert await counts_of(app) == (0, 0, 0, 0)


async def test_a_pause_holds_for_all(url: str) -> None:
    gate = Gate()
    async with app_of(url, gate) as app:
        manager = FlowrraManager(app)
        await manager.pause_queue("default")
        await manager.pause_task("hold")
        await submit_to_all(app)
        stats = await manager.get_stats()
        assert (stats["paused"]["queues"], stats["paused"]["tasks"]) == (["default"], ["hold"])
        assert (await queue_of(app))["paused"]
        assert not gate.begun
        await manager.resume_queue("default")
        await until(lambda: len(gate.begun) == PARTITIONS)
        await submit_to_all(app, "hold", 1)
        await comes_true(lambda: is_pending(app, PARTITIONS))
        await manager.resume_task("hold")
        gate.opened.set()
        await until(lambda: len(gate.ended) == PARTITIONS)


async def is_pending(app: Flowrra, count: int) -> bool:
    return (await counts_of(app))[0] == count


async def test_a_process_is_listed_once_and_obeys_orders(url: str) -> None:
    gate = Gate()
    async with app_of(url, gate) as app, app_of(url, consume=False) as other:
        manager = FlowrraManager(other)
        await comes_true(manager.list_workers)
        (worker,) = await manager.list_workers()
        assert worker["id"] == app.id
        await manager.drain_worker(app.id)
        await until(lambda: app.executors["io"].is_draining)
        await submit_to_all(other)
        await manager.resume_worker(app.id)
        await until(lambda: len(gate.begun) == PARTITIONS)


# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_process_tells_from_which_queues_it_takes(url: str) -> None:
    async with (
        app_of(url, consume=False) as producer,
        app_of(url, queues=("sms", "mail")) as chosen,
        app_of(url) as usual,
    ):
        told = [(await FlowrraManager(app).get_stats())["executors"]["io"] for app in (producer, chosen, usual)]
    assert [each and each["queues"] for each in told] == [[], ["sms", "mail"], ["default"]]


@pytest.mark.slow
async def test_a_worker_takes_from_all_at_once(url: str) -> None:
    gate = Gate()
    async with app_of(url, consume=False) as producer:
        for number in range(10):
            await submit_to_all(producer, "hold", number)
    async with app_of(url, gate, workers=10):
        await until(lambda: len(gate.begun) == 10)
        shares = [sum(partition_of(each, PARTITIONS) == n for each in gate.begun) for n in range(PARTITIONS)]
        assert sorted(shares) in ([2, 2, 3, 3], [1, 3, 3, 3])
        gate.opened.set()
        await until(lambda: len(gate.ended) == 40)


async def test_one_slot_serves_all_in_turn(url: str) -> None:
    gate = Gate()
    app = app_of(url, gate, workers=1)

    @app.task(name="slow")
    async def slow(task_id: str) -> None:
        gate.begun.append(task_id)
        await asyncio.sleep(0.03)

    async with app.producer() as producer:
        for number in range(5):
            await submit_to_all(producer, "slow", number)
    async with app:
        await until(lambda: len(gate.begun) >= PARTITIONS)
    first = [partition_of(each, PARTITIONS) for each in gate.begun[:PARTITIONS]]
    assert sorted(first) == list(range(PARTITIONS))


async def test_an_idle_worker_is_woken_by_each(url: str) -> None:
    gate = Gate()
    async with app_of(url, gate) as app:
        for number in range(3):
            for each in everywhere(number):
                await asyncio.sleep(0.02)
                began = time.monotonic()
                await app.options(task_id=each).submit("echo", each)
                await until(lambda each=each: each in gate.begun)  # type: ignore[misc]
                assert time.monotonic() - began < IDLE_WAIT / 2


async def test_a_full_worker_swallows_no_wake_up(url: str) -> None:
    full, free = Gate(), Gate()
    async with app_of(url, full, workers=1) as first:
        await first.submit("hold", "blocked")
        await until(lambda: full.begun)
        # Its connections wait on the server all the same, and longer than those of the one that comes now.
        async with app_of(url, free, workers=1):
            await asyncio.sleep(0.1)
            for number in range(3):
                for each in everywhere(number):
                    began = time.monotonic()
                    await first.options(task_id=each).submit("echo", each)
                    await until(lambda each=each: each in free.begun)  # type: ignore[misc]
                    assert time.monotonic() - began < IDLE_WAIT / 2
        full.opened.set()


@pytest.mark.slow
@pytest.mark.parametrize("is_drained", [True, False])
async def test_what_was_taken_ahead_goes_back_to_where_it_came_from(
    url: str, caplog: pytest.LogCaptureFixture, is_drained: bool
) -> None:
    gate = Gate()
    async with app_of(url, gate, workers=1) as app:
        executor = app.executors["io"]
        assert isinstance(executor.source, PartitionedSource)
        await app.submit("hold")
        await until(lambda: gate.begun)
        executor.source._room.estimate._rate = 1000.0
        await app.submit_many([("echo", (n,), {}) for n in range(12)])
        await until(lambda: executor.pending_count() > 0)
        if is_drained:
            await executor.drain(True)
        await until(lambda: executor.pending_count() == 0)
        await comes_true(lambda: is_pending(app, 12))
        assert await counts_of(app) == (12, 0, 1, 0)
        await executor.drain(False)
        gate.opened.set()
        await until(lambda: len(gate.begun) == 13)
    assert not [each for each in caplog.messages if "outcome" in each or "not know" in each]


async def test_room_that_was_kept_is_free_again_after_a_restart(url: str) -> None:
    gate = Gate()
    app = app_of(url, gate, workers=2)
    for number in range(3):
        async with app:
            await submit_to_all(app, number=number)
            await until(lambda number=number: len(gate.begun) == PARTITIONS * (number + 1))  # type: ignore[misc]


# ── how many there are ──────────────────────────────────────────────────────────────────────────────────────────


async def test_another_number_is_refused_until_it_is_changed(url: str, look: redis.Redis) -> None:
    async with app_of(url) as app:
        await final(app, await app.submit("add", 1, 2))
    text = r"others have 4 partitions, and this process has 2: .* delete the key \{flowrra\.0\}:partitions"
    async with app_of(url, partitions=2) as other:
        source: Any = other.executors["io"].source
        with pytest.raises(BackendError, match=text):
            await other.submit("add", 1, 2)
        with pytest.raises(BackendError, match=text):
            await other.submit_many([("add", (1, 2), {})])
        with pytest.raises(BackendError, match=text):
            await queue_of(other)
        with pytest.raises(BackendError, match=text):
            await source.broker.requests("worker", ["default"])
        with pytest.raises(BackendError, match=text):
            await source.broker.take(1)
        with pytest.raises(BackendError, match=text):
            await source.broker.wait(0.0)
        await until(lambda: other.executors["io"].broker_errors["take"] >= 2)
        broker = (await FlowrraManager(other).health_check())["components"]["broker"]
        assert broker is not None
        assert not broker["healthy"]
        assert "others have 4 partitions" in broker["message"]
        for task in asyncio.all_tasks():
            if task.get_name() == "flowrra-io-partitions":
                task.cancel()  # whoever cancels it, it goes on
        look.delete("{flowrra.0}:partitions")
        assert (await final(other, await other.submit("add", 1, 2))).result == 3
        broker = (await FlowrraManager(other).health_check())["components"]["broker"]
        assert broker is not None
        assert broker["healthy"]


@pytest.mark.parametrize("queue", ["default", "mail"])
async def test_tasks_from_before_there_were_partitions_are_not_forgotten(url: str, queue: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as before:
        await before.options(queue=queue).submit("add", 1, 2)
    async with app_of(url) as app:
        with pytest.raises(BackendError, match="there are tasks in flowrra:queue:io, which were not queued for 4"):
            await app.submit("add", 1, 2)
        async with with_tasks(redis_app(url, queues=("default", "mail"))) as before:
            await comes_true(lambda: is_pending(before, 0))
        assert (await final(app, await app.submit("add", 1, 2))).result == 3


async def test_tasks_that_were_queued_for_an_unknown_number_are_not_forgotten(url: str, look: redis.Redis) -> None:
    async with app_of(url, consume=False) as app:
        await submit_to_all(app)
    look.delete("{flowrra.0}:partitions")
    async with app_of(url, partitions=2) as app:
        with pytest.raises(BackendError, match=r"tasks in \{flowrra\.0\}:queue:io, which were not queued for 2"):
            await app.submit("add", 1, 2)


@pytest.mark.parametrize("where", ["another partition", "the other kind", "a queue of its own", "the dead ones"])
async def test_what_was_queued_for_another_number_is_found_wherever_it_lies(
    url: str, look: redis.Redis, where: str
) -> None:
    tag = cell_namespace("flowrra", 2, PARTITIONS)
    async with app_of(url, consume=False) as app:
        await submit_to_all(app)  # every partition is known by then
        broker = app.executors["io"].broker
        assert isinstance(broker, PartitionedBroker)
        for each in broker.cells:
            await each.take(10)
            await each.settle([Outcome(Verb.COMPLETE, id_in(n), status=TaskStatus.SUCCESS) for n in range(PARTITIONS)])
        assert not list(look.scan_iter("*:tasks"))
        options = app.options(task_id=id_in(2, 7), queue="mail" if where == "a queue of its own" else "default")
        await options.submit("add", 1, 2)
        place = f"{tag}:queue:io"
        if where == "the dead ones":
            await broker.take(1)
            await broker.settle([Outcome(Verb.DEAD_LETTER, id_in(2, 7), text="as planned")])
        elif where == "the other kind":
            place = "{flowrra.0}:queue:cpu"
            look.rename(f"{tag}:queue:io:tasks", f"{place}:tasks")
    look.delete("{flowrra.0}:partitions")
    async with app_of(url, partitions=2) as app:
        with pytest.raises(BackendError, match=f"there are tasks in {re.escape(place)}, which were not queued for 2"):
            await app.submit("add", 1, 2)
        look.delete(f"{place}:tasks", f"{place}:dead:tasks", f"{place}@mail:tasks")
        assert (await final(app, await app.submit("add", 1, 2))).result == 3
        assert look.get("{flowrra.0}:partitions") == b"2"


async def test_partitions_whose_number_an_earlier_version_wrote_are_noted(url: str, look: redis.Redis) -> None:
    look.set("{flowrra.0}:partitions", PARTITIONS)
    async with app_of(url) as app:
        await app.submit("add", 1, 2)
    assert look.smembers("{flowrra.0}:partitions:ever") == {
        cell_namespace("flowrra", n, PARTITIONS).encode() for n in range(PARTITIONS)
    }


async def test_partitions_that_cannot_be_noted_just_now_hold_up_nobody(url: str, look: redis.Redis) -> None:
    look.set("{flowrra.0}:partitions", PARTITIONS)
    look.config_resetstat()
    broker = BrokerConfig(url=url, partitions=PARTITIONS).create_broker(":io")
    look.config_set("min-replicas-to-write", 1)  # and there is none, so that the server takes no writes
    try:
        assert await broker.size() == 0
    finally:
        look.config_set("min-replicas-to-write", 0)
        await broker.close()
    assert refused(look, "sadd") == 1


async def test_a_task_in_another_partition_than_it_should_be_is_settled_where_it_is(
    url: str, look: redis.Redis
) -> None:
    task_id = id_in(2)
    text = codec.encode_task(Task(task_id, "add", (1, 2), {}), None, codec.encode_call((1, 2), {}, "add"))
    async with app_of(url) as app:
        broker = app.executors["io"].broker
        assert isinstance(broker, PartitionedBroker)
        await broker.agree()
        await broker.cells[0].submit([QueuedTask(task_id, 0, 0.0, text, None)])
        await comes_true(lambda: _is_gone(look, cell(0, "tasks")))
        assert not look.exists(cell(0, "holders"), cell(0, "leases"))


async def _is_gone(look: redis.Redis, key: str) -> bool:
    return not look.exists(key)


# ── one that fails ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def other() -> Iterator[ValkeyServer]:
    with ValkeyServer() as other:
        yield other
        other.resume()


def url_of(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def on_two_servers(url: str, other: ValkeyServer, gate: Gate, workers: int = 4) -> Flowrra:
    """An app whose last partition is on another server."""
    urls = [url] * (PARTITIONS - 1) + [url_of(other)]
    spaces = [cell_namespace("flowrra", n, PARTITIONS) for n in range(PARTITIONS)]
    cells = [
        RedisBroker(each, queue_key=f"{space}:queue", namespace=space, socket_timeout=TIMEOUT, lease=8 * TIMEOUT)
        for each, space in zip(urls, spaces, strict=True)
    ]
    results = [RedisBackend(each, namespace=space) for each, space in zip(urls, spaces, strict=True)]
    config = Config(
        broker=PartitionedBroker(cells, "flowrra"),
        backend=PartitionedBackend(results),
        executor=ExecutorConfig(io_workers=workers),
    )
    return with_tasks(PromptApp(config), gate)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["settle", "take"])
async def test_a_server_that_hangs_costs_its_own_tasks_alone(
    url: str, other: ValkeyServer, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    gate, own = Gate(), PARTITIONS - 1
    async with on_two_servers(url, other, gate, workers=1) as app:
        source = app.executors["io"].source
        if operation == "settle":
            begun = await app.options(task_id=id_in(own)).submit("hold", "own")
            await until(lambda: gate.begun)
        else:
            begun = await app.options(task_id=id_in(own), countdown=0.3).submit("hold", "own")
            await asyncio.sleep(0.1)  # a worker has heard of it
        other.freeze()
        gate.opened.set()
        await until(lambda: source.errors[operation])
        for number in range(5):
            for each in everywhere(number)[:own]:
                began = time.monotonic()
                await app.options(task_id=each).submit("add", 1, 2)
                assert (await final(app, each)).result == 3
                assert time.monotonic() - began < TIMEOUT / 2
            await asyncio.sleep(TIMEOUT / 5)
        with pytest.raises(BackendError):
            await app.options(task_id=id_in(own, 1)).submit("echo", "late")
        assert f"partition {own}: " in str(source.error)
        outages = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert any(f" executor=io partition={own} " in line for line in outages)
        assert not any(f"partition={n}" in line for line in outages for n in range(own))
        with pytest.raises(BackendError):  # a sum without one of them would be wrong
            await source.figures()
        other.resume()
        assert (await final(app, begun)).result == "own"
        await app.options(task_id=id_in(own, 1)).submit("echo", "late")
        await until(lambda: "late" in gate.begun)
        await until(lambda: source.error is None)


@pytest.mark.slow
async def test_a_pause_that_failed_for_one_is_none_until_it_is_made_again(
    url: str, other: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_two_servers(url, other, Gate()) as app:
        manager, source = FlowrraManager(app), app.executors["io"].source

        async def is_shown() -> list[bool | None]:
            pauses = await source.pauses()
            return [(await source.figures()).paused, "default" in pauses.queues, "add" in pauses.names]

        other.freeze()
        with pytest.raises(BackendError):
            await manager.pause_queue()
        with pytest.raises(BackendError):
            await manager.pause_task("add")
        other.resume()
        await until(lambda: source.error is None)
        assert await is_shown() == [False, False, False]
        assert "paused in some partitions only, pause or resume it again executor=io times=1 error=add, default" in str(
            caplog.messages
        )
        assert await manager.pause_queue() is True
        assert await manager.pause_task("add") is True
        assert await is_shown() == [True, True, True]


@pytest.mark.slow
async def test_of_many_it_is_said_which_are_queued(url: str, other: ValkeyServer) -> None:
    async with on_two_servers(url, other, Gate()) as app:
        await submit_to_all(app)
        other.freeze()
        with pytest.raises(PartialSubmissionError) as error:
            await app.submit_many([("add", (n, n), {}) for n in range(40)])
        other.resume()
        assert {partition_of(each, PARTITIONS) for each in error.value.queued} == {0, 1, 2}
        assert {partition_of(each, PARTITIONS) for each in error.value.unsure} == {3}
        assert len(error.value.queued) + len(error.value.unsure) == 40
        assert [(await final(app, each)).result for each in error.value.queued]


async def test_arguments_that_cannot_be_written_are_said_and_what_was_queued_beside_them(url: str) -> None:
    async with app_of(url) as app:
        with pytest.raises(SerializationError):
            await app.submit_many([("echo", (object(),), {})])
        with pytest.raises(PartialSubmissionError) as error:
            await app.submit_many([("echo", (n,), {}) for n in range(40)] + [("echo", (object(),), {})])
        assert error.value.queued
        assert not error.value.unsure
        for each in error.value.queued:
            await final(app, each)


async def test_what_servers_say_of_themselves_is_the_worst_of_them(url: str, other: ValkeyServer) -> None:
    broker = on_two_servers(url, other, Gate()).config.broker
    assert isinstance(broker, PartitionedBroker)
    with redis.Redis(port=other.port) as look:
        look.config_set("maxmemory", "500mb")
        look.config_set("maxmemory-policy", "allkeys-lru")
    unfit = await broker.unfitness()
    assert "set noeviction" in str(unfit["eviction"])
    assert "set appendonly yes" in str(unfit["no_persistence"])
    assert (unfit["replica"], unfit["old_version"]) == ("", "")
    assert broker.server_figures.memory_limit == 500 * 1024 * 1024
    assert 0 < (broker.server_figures.memory_used or 0) < 500 * 1024 * 1024
    await broker.close()


async def test_as_any_broker_it_can_be_pushed_to_and_popped_from(url: str) -> None:
    broker = BrokerConfig(url=url, partitions=PARTITIONS).create_broker(":io")
    for each in everywhere():
        await broker.push(Task(each, "add", (1, 2), {}))
    assert await broker.size() == PARTITIONS
    popped = [await broker.pop(timeout=1) for _ in range(PARTITIONS)]
    assert sorted(each.id for each in popped if each is not None) == sorted(everywhere())
    assert await broker.pop(timeout=0.05) is None
    for each in everywhere(1):
        popping = asyncio.create_task(broker.pop(timeout=IDLE_WAIT))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await broker.push(Task(each, "add", (1, 2), {}))
        assert (await popping).id == each  # type: ignore[union-attr]
        assert time.monotonic() - began < IDLE_WAIT / 2
    await broker.close()


async def test_it_is_heard_of_a_cancellation_in_each_until_one_cannot_be_heard(url: str, look: redis.Redis) -> None:
    broker = BrokerConfig(url=url, partitions=PARTITIONS).create_broker(":io")
    assert isinstance(broker, PartitionedBroker)
    for each in everywhere():
        await broker.push(Task(each, "add", (1, 2), {}))
    assert len((await broker.take(PARTITIONS))[0]) == PARTITIONS
    heard: list[str] = []
    listening = asyncio.create_task(broker.listen(heard.append))
    channels = [cell(n, ":control:0") for n in range(PARTITIONS)]
    await until(lambda: all(count for _, count in look.pubsub_numsub(*channels)))  # type: ignore[union-attr]
    for each in everywhere():
        await broker.cancel(TaskResult(each, TaskStatus.CANCELLED, "add"))
    await until(lambda: sorted(heard) == sorted(everywhere()))
    look.client_kill_filter(_type="pubsub")
    with pytest.raises(BackendError):
        await listening
    await broker.close()


# ── over the nodes of a cluster ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_a_cluster_has_them_on_all_its_nodes_and_goes_on_when_one_hands_over(tmp_path: Path) -> None:
    ids = [id_in(n % PARTITIONS, n) for n in range(200)]
    with Cluster(tmp_path) as cluster:
        async with app_of(cluster.url) as app:
            primaries = {n: cluster.primary_of(slot_of(cell(n))) for n in range(PARTITIONS)}
            assert len(set(primaries.values())) == 3
            for each in ids[:100]:
                await app.options(task_id=each).submit("echo", each)
            for each in ids[:100]:
                assert (await final(app, each)).result == [[each], {}]
            for number, port in primaries.items():
                with cluster.look(port or 0) as node:
                    assert int(node.get(cell(number, ":taken")) or 0) == 25  # type: ignore[arg-type]
            assert await app.cancel_task(await app.options(countdown=60, task_id=id_in(2, 500)).submit("echo"))
            stats = await queue_of(app)
            assert (stats["taken"], stats["namespace"], stats["broker"]) == (100, "flowrra", "RedisBroker")
            with_replica = next(n for n, port in primaries.items() if port in cluster.ports[:2])
            handing_over = asyncio.create_task(asyncio.to_thread(cluster.fail_over, slot_of(cell(with_replica))))
            for each in ids[100:]:
                await app.options(task_id=each).submit("echo", each)
            await handing_over
            for each in ids[100:]:
                assert (await final(app, each)).result == [[each], {}]


@pytest.mark.slow
async def test_on_a_cluster_one_is_a_cell_and_another_number_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with app_of(cluster.url, partitions=1) as app:
            assert (await final(app, await app.submit("add", 1, 2))).result == 3
            assert (await queue_of(app))["namespace"] == "flowrra"
            async with app_of(cluster.url) as other:
                with pytest.raises(BackendError, match="others have 1 partitions, and this process has 4"):
                    await other.submit("add", 1, 2)


@pytest.mark.slow
async def test_on_a_cluster_what_was_queued_for_another_number_is_found_on_any_node(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        async with app_of(cluster.url, consume=False) as app:
            await app.options(task_id=id_in(2)).submit("add", 1, 2)
        primaries = [cluster.primary_of(slot_of(place)) for place in ("{flowrra.0}", cell(2))]
        assert len(set(primaries)) == 2
        with cluster.look(primaries[0] or 0) as node:
            node.delete("{flowrra.0}:partitions")
        async with app_of(cluster.url, partitions=3) as other:
            with pytest.raises(BackendError, match=f"there are tasks in {re.escape(cell(2))}, which were not queued"):
                await other.submit("add", 1, 2)
