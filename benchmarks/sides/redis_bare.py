"""The least that a queue on Redis can do without losing tasks: a stream from which many are taken at once, and one
pipeline that stores their results, acknowledges them and takes the next ones. No records of waiting tasks, priorities,
delays, retries, cancellation or telemetry. See redis_engine.py."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from uuid import uuid4

import redis.asyncio
from redis.exceptions import ResponseError
from redis_work import Spent, Work, stopwatch

STREAM, GROUP, CONSUMER = "bare:queue", "workers", "worker"
BATCH = 100


def encoded(number: int) -> dict[str, str]:
    return {"task": json.dumps({"id": str(uuid4()), "name": "no_op", "args": [number], "kwargs": {}})}


async def submit(url: str, count: int) -> Spent:
    client = redis.asyncio.Redis.from_url(url)
    await client.ping()
    spent = stopwatch()
    for number in range(count):
        await client.xadd(STREAM, encoded(number))
    return spent()


async def submit_many(url: str, count: int) -> Spent:
    client = redis.asyncio.Redis.from_url(url)
    await client.ping()
    spent = stopwatch()
    for first in range(0, count, BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(first, min(first + BATCH, count)):
            pipeline.xadd(STREAM, encoded(number))
        await pipeline.execute()
    return spent()


async def drain(url: str, count: int, _slots: int, seconds: float) -> Spent:
    client, work = redis.asyncio.Redis.from_url(url), Work(count, seconds)
    spent = stopwatch()
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
                "result": await work.run(*task["args"], **task["kwargs"]),
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
    await work.all_ran()
    return spent()
