"""SAQ on Redis, with its defaults: results are kept for ten minutes, a job is acknowledged when it has ended. See
redis_engine.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from redis_work import Spent, Work, seconds_of_each, stopwatch
from saq import Queue, Worker

SLOTS = 10


async def submit(url: str, count: int) -> Spent:
    queue = Queue.from_url(url)
    await queue.connect()
    await queue.enqueue("no_op", number=0)
    spent = stopwatch()
    for number in range(1, count):
        await queue.enqueue("no_op", number=number)
    return spent()


async def drain(url: str, count: int, slots: int, seconds: float) -> Spent:
    work = Work(count, seconds)
    left, acknowledged = count, asyncio.Event()

    async def no_op(_context: dict[str, Any], *, number: int) -> int:
        return await work.run(number)

    async def count_down(_context: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            acknowledged.set()

    worker = Worker(Queue.from_url(url), [("no_op", no_op)], concurrency=slots, after_process=count_down)
    spent = stopwatch()
    running = asyncio.create_task(worker.start())
    await acknowledged.wait()
    spent_on_all = spent()
    await work.all_ran()
    running.cancel()
    return spent_on_all


async def no_op(_context: dict[str, Any], *, number: int) -> int:
    return number


async def serve(url: str) -> None:
    await Worker(Queue.from_url(url), [("no_op", no_op)], concurrency=SLOTS).start()


async def latency(url: str, count: int) -> list[float]:
    queue = Queue.from_url(url)
    await queue.connect()

    async def round_trip(number: int) -> None:
        job = await queue.enqueue("no_op", number=number)
        # Told by the server; Queue.apply() would look twice a second. Some are told before it listens.
        with contextlib.suppress(TimeoutError):
            await job.refresh(until_complete=1.0)

    return await seconds_of_each(count, round_trip)
