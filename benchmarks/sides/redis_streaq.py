"""streaQ on Redis, with its defaults: pickled tasks, results kept for five minutes, a task acknowledged in the
transaction that stores its result, as many fetched ahead as there are slots. See redis_engine.py."""

from __future__ import annotations

import asyncio
from typing import Any

from redis_work import Spent, Work, seconds_of_each, stopwatch, until
from streaq import Worker

SLOTS = 10
# What one pipeline carries.
BATCH = 1_000


def build(url: str, slots: int = SLOTS, work: Work | None = None) -> Worker[Any]:
    worker: Worker[Any] = Worker(redis_url=url, concurrency=slots, handle_signals=False)
    run = (work or Work()).run

    @worker.task
    async def no_op(number: int) -> int:
        return await run(number)

    worker.no_op = no_op  # type: ignore[attr-defined]
    return worker


async def submit(url: str, count: int) -> Spent:
    worker = build(url)
    async with worker:
        await worker.no_op.enqueue(0)
        spent = stopwatch()
        for number in range(1, count):
            await worker.no_op.enqueue(number)
        return spent()


async def submit_many(url: str, count: int) -> Spent:
    worker = build(url)
    async with worker:
        await worker.queue_size()  # connects
        spent = stopwatch()
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            await worker.enqueue_many([worker.no_op.enqueue(number) for number in numbers])
        return spent()


async def drain(url: str, count: int, slots: int, seconds: float) -> Spent:
    work = Work(count, seconds)
    worker = build(url, slots, work)

    async def is_acknowledged() -> bool:
        return await worker.redis.xlen(worker.stream_key + worker.priorities[0]) == 0

    spent = stopwatch()
    running = asyncio.create_task(worker.run_async())
    await work.all_ran()
    await until(is_acknowledged)
    spent_on_all = spent()
    running.cancel()
    return spent_on_all


async def serve(url: str) -> None:
    await build(url).run_async()


async def latency(url: str, count: int) -> list[float]:
    worker = build(url)

    async def round_trip(number: int) -> None:
        task = await worker.no_op.enqueue(number)
        await task.result(10)

    async with worker:
        return await seconds_of_each(count, round_trip)
