"""`python -m prove.targets.scheduling schedule|work REDIS_URL STORE_URL LEASE`: one of several processes that schedule
into a broker, or one that runs what they submit and writes each run down on the server."""

from __future__ import annotations

import asyncio
import sys
import time

import redis.asyncio

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, current_task
from flowrra.scheduler.backends import sql

RUNS, READY = "prove:runs", "prove:ready"


def make_app(redis_url: str, store_url: str | None, *, consume: bool) -> Flowrra:
    """An app whose one task writes down its id and when it ran."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=redis_url),
            backend=BackendConfig(url=redis_url),
            executor=ExecutorConfig(io_workers=16, cpu_workers=1, consume=consume),
        )
    )
    if store_url is not None:
        app.create_scheduler(store_url, check_interval=1.0)
    notes = redis.asyncio.Redis.from_url(redis_url)
    app.on_shutdown(notes.aclose)

    @app.task(name="note")
    async def note(_number: int) -> None:
        task = current_task()
        assert task is not None
        await notes.rpush(RUNS, f"{task.id} {time.time()}")  # type: ignore[misc]

    return app


async def serve(role: str, redis_url: str, store_url: str) -> None:
    works = role == "work"
    async with make_app(redis_url, None if works else store_url, consume=works):
        async with redis.asyncio.Redis.from_url(redis_url) as notes:
            await notes.incr(READY)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sql.LEASE = round(float(sys.argv[4]) * 1_000_000)
    asyncio.run(serve(*sys.argv[1:4]))
