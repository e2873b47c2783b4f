"""A task whose name a worker doesn't know waits for one that does: during a deploy old and new ones share a queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from flowrra import Flowrra, TaskStatus
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from tests.core.apps import final, numbers_of, until
from tests.redis.apps import QUEUE, calls_of, counts_of, leftovers, old_task, queue_of, redis_app, with_tasks


def knows(app: Flowrra, *names: str) -> Flowrra:
    """The app with tasks of these names, which return what they are given."""

    for name in names:

        @app.task(name=name)
        async def same(value: Any = None) -> Any:
            return value

    return app


async def unknown_of(app: Flowrra) -> int:
    count: int = (await queue_of(app))["unknown"]
    return count


@pytest.mark.slow
async def test_one_of_four_workers_knows_them_and_none_dies(url: str, look: redis.Redis) -> None:
    old = knows(redis_app(url), "both", "leaving")
    new = [knows(redis_app(url), "both") for _ in range(3)]
    async with knows(redis_app(url, consume=False), "both", "leaving") as producer, old:
        for app in new:
            await app.start()
        ids = await producer.submit_many([("leaving" if n % 2 else "both", (n,), {}) for n in range(200)])
        assert [(await final(producer, task_id)).result for task_id in ids] == list(range(200))
        assert await counts_of(producer) == (0, 0, 0, 0)
        assert await unknown_of(producer) == 0
        for app in new:
            await app.stop()
    assert all("leaving" not in app.telemetry.tasks for app in new)
    assert numbers_of(old, "leaving")["succeeded"] == 100
    assert numbers_of(old, "leaving")["redelivered"] == 0


async def test_they_are_purged_with_what_else_waits(url: str) -> None:
    async with knows(redis_app(url, consume=False), "new") as producer, knows(redis_app(url), "old") as old:
        ids = await producer.submit_many([("new", (n,), {}) for n in range(5)])
        async with asyncio.timeout(5):
            while await unknown_of(old) < 5:
                await asyncio.sleep(0.01)
        assert await FlowrraManager(producer).purge_queue(name="old") == {"done": 0, "left": 0}
        assert await FlowrraManager(producer).purge_queue(name="new") == {"done": 5, "left": 0}
        assert {(await final(producer, task_id)).status for task_id in ids} == {TaskStatus.CANCELLED}


async def test_they_wait_are_counted_and_said(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with knows(redis_app(url, consume=False), "new") as producer, knows(redis_app(url), "old") as old:
        ids = await producer.submit_many([("new", (n,), {}) for n in range(50)])
        async with asyncio.timeout(5):
            while await unknown_of(old) < 50:
                await asyncio.sleep(0.01)
        assert await counts_of(old) == (0, 0, 0, 0)
        assert "unknown task, left to other workers task='new'" in caplog.text
        # Nobody is busy with them, and what is known is run beside them.
        assert (await final(old, await old.submit("old", 1))).result == 1
        record = await producer.get_result(ids[0])
        assert record is not None
        assert record.status is TaskStatus.PENDING
        # A worker of the new version arrives: it has them at once.
        async with knows(redis_app(url), "new", "old") as new:
            for n, task_id in enumerate(ids):
                assert (await final(new, task_id)).result == n
        assert await unknown_of(old) == 0


async def test_an_idle_worker_that_knows_them_is_woken(url: str) -> None:
    """Though the one that was woken for them first is another one."""
    async with (
        knows(redis_app(url, consume=False), "rare") as producer,
        knows(redis_app(url), "rare") as one,
        knows(redis_app(url), "other") as two,
        knows(redis_app(url), "other") as three,
    ):
        assert one.is_running
        assert two.is_running
        assert three.is_running
        for _ in range(20):
            task_id = await producer.submit("rare", 1)
            # Far less than an idle worker waits before it looks by itself.
            assert (await final(producer, task_id, within=2)).result == 1


@pytest.mark.slow
async def test_a_task_that_is_registered_later_is_taken(url: str) -> None:
    async with knows(redis_app(url, consume=False), "late") as producer:
        task_id = await producer.submit("late", 1)
        async with knows(redis_app(url, lease=2.0), "old") as app:
            async with asyncio.timeout(5):
                while not await unknown_of(app):
                    await asyncio.sleep(0.01)
            knows(app, "late")
            assert (await final(producer, task_id, within=6)).result == 1


async def test_their_order_and_priority_are_kept(url: str, look: redis.Redis) -> None:
    order: list[int] = []
    async with knows(redis_app(url, consume=False), "mine") as producer:
        async with knows(redis_app(url), "other") as other:
            for n, priority in enumerate((5, 0, -5, 0)):
                await producer.submit("mine", n, priority=priority)
            async with asyncio.timeout(5):
                while await unknown_of(other) < 4:
                    await asyncio.sleep(0.01)
        for n, priority in enumerate((1, -9), 4):
            await producer.submit("mine", n, priority=priority)
        app = redis_app(url, workers=1)

        @app.task(name="mine")
        async def mine(n: int) -> None:
            order.append(n)

        # Once the worker has said which names it knows; it may take what is ready before that.
        operator = FlowrraManager(producer)
        await operator.pause_queue()
        async with app:
            await until(lambda: any(look.sismember(key, "mine") for key in look.keys(f"{QUEUE}:names:*")))
            await operator.resume_queue()
            await until(lambda: len(order) == 6)
    assert order == [5, 2, 1, 3, 4, 0]


async def test_can_be_cancelled(url: str, look: redis.Redis) -> None:
    async with knows(redis_app(url), "other") as app, knows(redis_app(url, consume=False), "mine") as producer:
        task_id = await producer.submit("mine", 1)
        async with asyncio.timeout(5):
            while not await unknown_of(app):
                await asyncio.sleep(0.01)
        assert await producer.cancel_task(task_id) is True
        assert (await final(producer, task_id)).status is TaskStatus.CANCELLED
        assert await unknown_of(app) == 0
    assert not {name for name in leftovers(look) if "unknown" in name}


@pytest.mark.slow
async def test_wait_no_longer_than_is_configured(url: str) -> None:
    async with knows(redis_app(url, consume=False), "nobody_knows") as producer:
        task_id = await producer.submit("nobody_knows", 1)
        async with knows(redis_app(url, lease=1.0, unknown_ttl=0.6), "other") as app:
            record = await final(producer, task_id, within=10)
            (dead,) = await FlowrraManager(app).list_dead_tasks()
            assert await counts_of(app) == (0, 0, 0, 1)
            assert await unknown_of(app) == 0
    assert record.status is TaskStatus.FAILED
    assert "'nobody_knows' not registered" in str(record.error)
    assert (dead["task_id"], dead["task_name"], dead["args"]) == (task_id, "nobody_knows", (1,))


@pytest.mark.slow
async def test_wait_for_as_long_as_a_worker_that_knows_them_lives(url: str, look: redis.Redis) -> None:
    """However busy it is."""
    opened = asyncio.Event()
    busy = redis_app(url, lease=1.0, unknown_ttl=0.3, workers=1)

    @busy.task(name="mine")
    async def mine(value: Any) -> Any:
        await opened.wait()
        return value

    async with knows(redis_app(url, consume=False), "mine") as producer, busy:
        first = await producer.submit("mine", 1)
        await until(lambda: numbers_of(busy, "mine")["running"])
        async with knows(redis_app(url, lease=1.0, unknown_ttl=0.3), "other") as other:
            second = await producer.submit("mine", 2)
            async with asyncio.timeout(5):
                while not await unknown_of(other):
                    await asyncio.sleep(0.01)
            await asyncio.sleep(1.2)  # four times as long as they would wait without it
            assert await unknown_of(other) == 1
            opened.set()
            for task_id in (first, second):
                assert (await final(producer, task_id)).is_success
    assert look.zcard(f"{QUEUE}:dead") == 0


@pytest.mark.slow
async def test_of_old_releases_too_and_without_a_storm(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url)) as app:
        look.config_resetstat()
        look.lpush(QUEUE, old_task("t1", "nobody_knows"))
        look.lpush(f"{QUEUE}:wake", "1")
        async with asyncio.timeout(5):
            while not await unknown_of(app):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        calls = calls_of(look)
    assert calls.get("evalsha", 0) < 20, calls


async def test_a_thousand_unknown_names_cost_a_take_nothing(url: str) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    producer = redis_app(url, consume=False)
    names = [f"name{n}" for n in range(1000)]
    async with knows(producer, *names, "known"):
        await producer.submit_many([(name, (), {}) for name in names])
        while deliveries := (await broker.take(250))[0]:
            await broker.settle([Outcome(Verb.NACK, each.task_id, text=each.task.name) for each in deliveries])  # type: ignore[union-attr]
        assert await unknown_of(producer) == 1000
        await asyncio.to_thread(broker.announce, None, ["known"], 60.0)
        await producer.submit("known", 1)
        (delivery,), _ = await broker.take(10)
        assert delivery.task is not None
        assert delivery.task.name == "known"
        # And one that comes to know one of them gets that one.
        await asyncio.to_thread(broker.announce, None, ["name500"], 60.0)
        assert [each.task.name for each in (await broker.take(10))[0] if each.task] == ["name500"]
    await asyncio.to_thread(broker.withdraw, None)
    await broker.close()
