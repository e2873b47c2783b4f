"""taskiq's stream broker on Redis, which acknowledges, by default when the result is saved, and its result backend,
which keeps results for good; see redis_engine.py."""

from __future__ import annotations

import asyncio

import redis.asyncio
from redis_work import Spent, Work, seconds_of_each, stopwatch, until
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

SLOTS = 10
# By default a result is looked for five times a second.
CHECK_INTERVAL = 0.001


def build(url: str, work: Work | None = None) -> RedisStreamBroker:
    # From the beginning of the stream: the tasks are there before the worker is.
    broker = RedisStreamBroker(url, consumer_id="0").with_result_backend(RedisAsyncResultBackend(url))
    run = (work or Work()).run

    @broker.task(task_name="no_op")
    async def no_op(number: int) -> int:
        return await run(number)

    broker.no_op = no_op
    return broker


async def submit(url: str, count: int) -> Spent:
    broker = build(url)
    await broker.startup()
    await broker.no_op.kiq(0)
    spent = stopwatch()
    for number in range(1, count):
        await broker.no_op.kiq(number)
    return spent()


async def drain(url: str, count: int, slots: int, seconds: float) -> Spent:
    work = Work(count, seconds)
    broker = build(url, work)
    broker.is_worker_process = True
    client = redis.asyncio.Redis.from_url(url)

    async def is_acknowledged() -> bool:
        held = await client.xpending(broker.queue_name, broker.consumer_group_name)
        return bool(held["pending"] == 0)

    spent = stopwatch()
    receiver = asyncio.create_task(run_receiver_task(broker, max_async_tasks=slots, run_startup=True))
    await work.all_ran()
    await until(is_acknowledged)
    spent_on_all = spent()
    receiver.cancel()
    return spent_on_all


async def serve(url: str) -> None:
    broker = build(url)
    broker.is_worker_process = True
    await run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True)


async def latency(url: str, count: int) -> list[float]:
    broker = build(url)
    await broker.startup()

    async def round_trip(number: int) -> None:
        task = await broker.no_op.kiq(number)
        await task.wait_result(check_interval=CHECK_INTERVAL, timeout=10)

    return await seconds_of_each(count, round_trip)
