"""The least that a queue on Redis can do without losing tasks: a stream from which many are taken at once, and one
pipeline that stores their results, acknowledges them and takes the next ones. No records of waiting tasks, priorities,
delays, retries, cancellation or telemetry. See redis_engine.py."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import redis.asyncio
from redis.exceptions import ResponseError

STREAM, GROUP, CONSUMER = "bare:queue", "workers", "worker"
BATCH = 100


async def no_op(number: int) -> int:
    return number


def encoded(number: int) -> dict[str, str]:
    return {"task": json.dumps({"id": str(uuid4()), "name": "no_op", "args": [number], "kwargs": {}})}


async def submit(url: str, count: int) -> float:
    client = redis.asyncio.Redis.from_url(url)
    await client.ping()
    started = time.perf_counter()
    for number in range(count):
        await client.xadd(STREAM, encoded(number))
    return time.perf_counter() - started


async def submit_many(url: str, count: int) -> float:
    client = redis.asyncio.Redis.from_url(url)
    await client.ping()
    started = time.perf_counter()
    for first in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(first, min(first + BATCH, count)):
            pipeline.xadd(STREAM, encoded(number))
        await pipeline.execute()
    return time.perf_counter() - started


async def drain(url: str, count: int) -> float:
    client = redis.asyncio.Redis.from_url(url)
    started = time.perf_counter()
    with contextlib.suppress(ResponseError):  # it is there already
        await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    taken = await client.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=BATCH)
    done = 0
    while done < count:
        entries = taken[0][1]
        pipeline = client.pipeline(transaction=False)
        for _, fields in entries:
            task = json.loads(fields[b"task"])
            record = {
                "task_id": task["id"],
                "status": "success",
                "result": await no_op(*task["args"], **task["kwargs"]),
                "finished_at": datetime.now(UTC).isoformat(),
            }
            pipeline.set(f"bare:task:{task['id']}", json.dumps(record), ex=86400)
            pipeline.publish(f"bare:complete:{task['id']}", "done")
        ids = [entry for entry, _ in entries]
        pipeline.xack(STREAM, GROUP, *ids)
        pipeline.xdel(STREAM, *ids)
        pipeline.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=BATCH)
        taken = (await pipeline.execute())[-1]
        done += len(entries)
    return time.perf_counter() - started
