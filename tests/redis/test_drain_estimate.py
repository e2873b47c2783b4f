"""The estimate for a shared queue goes by what all workers take, whoever asks."""

from __future__ import annotations

import pytest
import redis

from flowrra.brokers.redis import RedisBroker
from flowrra.queue_flow import QueueFlow
from tests.redis.apps import QUEUE, queue_of, redis_app, with_tasks


async def test_an_observer_sees_what_two_workers_take(url: str) -> None:
    observer = with_tasks(redis_app(url))
    now = 0.0
    observer.queue_flows["io"] = QueueFlow(lambda: now)
    workers = [RedisBroker(url, queue_key=QUEUE), RedisBroker(url, queue_key=QUEUE)]
    async with with_tasks(redis_app(url, consume=False)) as producer:
        await producer.submit_many([("echo", (number,), {}) for number in range(100)])
        await producer.options(countdown=3600).submit("echo", 1)
    assert (await queue_of(observer))["drain_seconds"] is None
    for worker in workers:
        taken, _ = await worker.take(20)
        assert len(taken) == 20
    now = 20.0
    assert (await queue_of(observer))["drain_seconds"] == 60 / (40 / 20)
    while (await workers[0].take(20))[0]:
        pass
    assert (await queue_of(observer))["drain_seconds"] == 0.0
    for worker in workers:
        await worker.close()
    await observer.stop()


@pytest.mark.parametrize("written", [b"no number", b"9" * 1000, b"-5"])
async def test_what_a_stranger_wrote_costs_the_estimate_alone(url: str, look: redis.Redis, written: bytes) -> None:
    look.set(f"{QUEUE}:taken", written)
    async with with_tasks(redis_app(url)) as app:
        task_id = await app.submit("echo", 5)
        assert (await app.wait_for_result(task_id, timeout=10)).is_success
        assert (await queue_of(app))["drain_seconds"] == 0.0
