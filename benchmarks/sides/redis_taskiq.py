"""taskiq's stream broker on Redis, which acknowledges; see redis_engine.py."""

from __future__ import annotations

import asyncio
import time

from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

SLOTS = 10
# By default a result is looked for five times a second.
CHECK_INTERVAL = 0.001

counted = 0
wanted = 0
done: asyncio.Event


def build(url: str) -> RedisStreamBroker:
    # From the beginning of the stream: the tasks are there before the worker is.
    broker = RedisStreamBroker(url, consumer_id="0").with_result_backend(RedisAsyncResultBackend(url))

    @broker.task(task_name="no_op")
    async def no_op(number: int) -> int:
        global counted
        counted += 1
        if counted == wanted:
            done.set()
        return number

    broker.no_op = no_op
    return broker


async def submit(url: str, count: int) -> float:
    broker = build(url)
    await broker.startup()
    await broker.no_op.kiq(0)
    started = time.perf_counter()
    for number in range(1, count):
        await broker.no_op.kiq(number)
    return time.perf_counter() - started


async def drain(url: str, count: int) -> float:
    global wanted, done
    wanted, done = count, asyncio.Event()
    broker = build(url)
    broker.is_worker_process = True
    started = time.perf_counter()
    receiver = asyncio.create_task(run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True))
    await done.wait()
    seconds = time.perf_counter() - started
    receiver.cancel()
    return seconds


async def serve(url: str) -> None:
    broker = build(url)
    broker.is_worker_process = True
    await run_receiver_task(broker, max_async_tasks=SLOTS, run_startup=True)


async def latency(url: str, count: int) -> list[float]:
    broker = build(url)
    await broker.startup()
    seconds = []
    for number in range(count + 1):
        started = time.perf_counter()
        task = await broker.no_op.kiq(number)
        await task.wait_result(check_interval=CHECK_INTERVAL, timeout=10)
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)
    return seconds[1:]
