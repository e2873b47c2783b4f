"""SAQ on Redis; see redis_engine.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from saq import Queue, Worker

SLOTS = 10


async def no_op(_context: dict[str, Any], *, number: int) -> int:
    return number


async def submit(url: str, count: int) -> float:
    queue = Queue.from_url(url)
    await queue.connect()
    await queue.enqueue("no_op", number=0)
    started = time.perf_counter()
    for number in range(1, count):
        await queue.enqueue("no_op", number=number)
    return time.perf_counter() - started


async def drain(url: str, count: int) -> float:
    queue = Queue.from_url(url)
    left, done = count, asyncio.Event()

    async def count_down(_context: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    worker = Worker(queue, [("no_op", no_op)], concurrency=SLOTS, after_process=count_down)
    started = time.perf_counter()
    running = asyncio.create_task(worker.start())
    await done.wait()
    seconds = time.perf_counter() - started
    running.cancel()
    return seconds


async def serve(url: str) -> None:
    await Worker(Queue.from_url(url), [("no_op", no_op)], concurrency=SLOTS).start()


async def latency(url: str, count: int) -> list[float]:
    queue = Queue.from_url(url)
    await queue.connect()
    seconds = []
    for number in range(count + 1):
        started = time.perf_counter()
        job = await queue.enqueue("no_op", number=number)
        # Told by the server; Queue.apply() would look twice a second. Some are told before it listens.
        with contextlib.suppress(TimeoutError):
            await job.refresh(until_complete=1.0)
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)
    return seconds[1:]
