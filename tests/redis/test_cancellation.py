"""Cancelling tasks that another process has, or nobody yet: each ends in exactly one way."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import TaskStatus, codec
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, final, numbers_of, until
from tests.redis.apps import QUEUE, Gate, counts_of, leftovers, let_lapse, redis_app, with_tasks

RACES = 60

LISTED_AS_CANCELLED = {
    "flowrra:status:cancelled",
    "flowrra:status:cancelled:add",
    "flowrra:listed",
    "flowrra:finished:86400000",
    "flowrra:finished:ttls",
}


class TestFromAnotherProcess:
    """The app that cancels is not the one that runs tasks."""

    async def test_pending_and_delayed(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            manager = FlowrraManager(app)
            pending = await app.submit("add", 1, 1)
            delayed = await app.options(countdown=60).submit("add", 1, 1)
            for task_id in (pending, delayed):
                assert await manager.cancel_task(task_id) is True
                record = await final(app, task_id)
                assert record.status is TaskStatus.CANCELLED
                assert record.finished_at is not None
                assert await manager.cancel_task(task_id) is False
            assert await manager.cancel_task("unknown") is False
            assert await counts_of(app) == (0, 0, 0, 0)
            assert len(await manager.list_cancelled_tasks()) == 2
            assert numbers_of(app, "add")["cancelled_before_start"] == 2
        assert leftovers(look) == LISTED_AS_CANCELLED

    async def test_waiting_for_a_retry(self, url: str) -> None:
        app = redis_app(url)

        @app.task(name="flaky", retry_delay=60)
        async def flaky() -> None:
            raise ValueError("boom")

        async with app, with_tasks(redis_app(url, consume=False)) as other:
            task_id = await app.submit("flaky")
            while (await counts_of(app))[1] == 0:
                await asyncio.sleep(0.01)
            assert await other.cancel_task(task_id) is True
            record = await final(app, task_id)
        assert (record.status, record.retries) == (TaskStatus.CANCELLED, 1)

    async def test_running(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url), gate) as app, with_tasks(redis_app(url, consume=False)) as other:
            task_id = await app.submit("hold")
            await until(lambda: gate.begun)
            begun = time.monotonic()
            assert await other.cancel_task(task_id) is True
            assert time.monotonic() - begun < 1.5  # its worker was told, and did not find out when it renewed
            assert (await final(app, task_id)).status is TaskStatus.CANCELLED
            await until(lambda: not look.exists(f"{QUEUE}:leases"))

        assert gate.ended == []
        assert numbers_of(app, "hold")["cancelled"] == 1
        assert not look.exists(f"{QUEUE}:cancelled")

    async def test_running_on_while_its_worker_stops(self, url: str) -> None:
        gate, app = Gate(), redis_app(url)
        async with with_tasks(app, gate), with_tasks(redis_app(url, consume=False)) as other:
            task_id = await other.submit("hold")
            await until(lambda: gate.begun)
            stopping = asyncio.create_task(app.stop(timeout=60))
            await until(lambda: app.executors["io"].state == "stopping")
            assert await other.cancel_task(task_id) is True
            await stopping
            assert (await final(other, task_id)).status is TaskStatus.CANCELLED
        assert gate.ended == []

    @pytest.mark.slow
    async def test_running_in_a_process(self, url: str, tmp_path: Path) -> None:
        started, release = tmp_path / "started", tmp_path / "release"
        producer = with_tasks(redis_app(url, consume=False), cpu=True)
        async with with_tasks(redis_app(url), cpu=True) as app, producer:
            task_id = await app.submit("cpu_hold", str(started), str(release))
            await until(started.exists, within=10)
            assert await producer.cancel_task(task_id) is True
            assert (await final(producer, task_id)).status is TaskStatus.CANCELLED
            # Its slot works on.
            assert (await final(app, await app.submit("pid"), within=10)).status is TaskStatus.SUCCESS

    async def test_taken_ahead(self, url: str) -> None:
        """A task that its worker has taken and not begun."""
        gate = Gate()
        async with with_tasks(redis_app(url, workers=1), gate) as app:
            warm = await app.submit_many([("add", (1, 1), {})] * 300)
            await final(app, warm[-1])
            ids = await app.submit_many([("hold", (n,), {}) for n in range(3)])
            await until(lambda: gate.begun)
            assert await app.cancel_task(ids[2]) is True
            gate.opened.set()
            records = [await final(app, task_id) for task_id in ids]

        assert [record.status.value for record in records] == ["success", "success", "cancelled"]
        assert gate.begun == [0, 1]

    @pytest.mark.parametrize("backend", ["another database", "another kind"])
    async def test_with_results_elsewhere(self, url: str, backend: str) -> None:
        results: Any = url[:-1] + "1" if backend == "another database" else RemoteBackend()
        gate = Gate()
        async with with_tasks(redis_app(url, backend=results, workers=1), gate) as app:
            running = await app.submit("hold")
            await until(lambda: gate.begun)
            pending = await app.submit("add", 1, 1)
            for task_id in (pending, running):
                assert await app.cancel_task(task_id) is True
                assert (await final(app, task_id)).status is TaskStatus.CANCELLED
            # The record is elsewhere, and may be there before the queue has heard.
            async with asyncio.timeout(5):
                while await counts_of(app) != (0, 0, 0, 0):
                    await asyncio.sleep(0.002)


async def test_of_a_worker_that_died_is_carried_out_by_the_next(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url, consume=False)) as producer:
        task_id = await producer.submit("add", 1, 1)
        broker = producer.executors["io"].broker
        await broker.take(1)  # type: ignore[union-attr]
        cancelling = asyncio.create_task(producer.cancel_task(task_id))
        await until(lambda: look.scard(f"{QUEUE}:cancelled"))
        let_lapse(look)
        async with with_tasks(redis_app(url)) as worker:
            assert await cancelling is True
            assert (await final(worker, task_id)).status is TaskStatus.CANCELLED
        assert numbers_of(worker, "add")["cancelled_before_start"] == 1
    assert leftovers(look) == LISTED_AS_CANCELLED


async def test_of_what_is_to_be_retried_later_is_not_held_back(url: str, look: redis.Redis) -> None:
    """An idle worker is woken to end it, however long the retry would have waited."""
    broker = RedisBroker(url, queue_key=QUEUE)
    async with with_tasks(redis_app(url, consume=False)) as producer:
        task_id = await producer.submit("add", 1, 1)
        (delivery,), _ = await broker.take(1)
        assert delivery.task is not None
        cancelling = asyncio.create_task(producer.cancel_task(task_id))
        await until(lambda: look.scard(f"{QUEUE}:cancelled"))
        look.delete(f"{QUEUE}:wake")
        text = codec.encode_task(delivery.task, delivery.submitted_at, delivery.call)
        await broker.settle([Outcome(Verb.RETRY, task_id, 3600.0, text)])
        assert look.llen(f"{QUEUE}:wake") == 1
        async with with_tasks(redis_app(url)):
            assert await cancelling is True
    await broker.close()


async def test_a_race_with_the_end_has_one_outcome(url: str, look: redis.Redis) -> None:
    chance = random.Random(20261125)
    app = redis_app(url, workers=8)

    @app.task(name="brief")
    async def brief(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    outcomes = {"cancelled": 0, "success": 0}
    async with app, with_tasks(redis_app(url, consume=False)) as other:

        async def race() -> None:
            task_id = await app.submit("brief", chance.uniform(0, 0.01))
            await asyncio.sleep(chance.uniform(0, 0.015))
            did_cancel = await chance.choice([app, other]).cancel_task(task_id)
            record = await final(app, task_id)
            assert record.status is (TaskStatus.CANCELLED if did_cancel else TaskStatus.SUCCESS)
            outcomes[record.status.value] += 1

        for _ in range(RACES // 4):
            await asyncio.gather(*(race() for _ in range(4)))
        await until(lambda: not look.exists(f"{QUEUE}:leases"))
        assert await counts_of(app) == (0, 0, 0, 0)

    numbers = numbers_of(app, "brief")
    assert min(outcomes.values()) > 0, outcomes
    assert numbers["succeeded"] == outcomes["success"]
    # What the other one cancelled is of a task that it does not know, and counted nowhere.
    assert numbers["cancelled"] + numbers["cancelled_before_start"] <= outcomes["cancelled"]
    assert not look.exists(f"{QUEUE}:cancelled")
