"""`python -m tests.redis_faults.worker URL LEASE PARTITIONS`: a worker process that can be killed. Each run of a task
is written down on the server at once, so that it is known whatever happens to the process afterwards."""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from tests.core import cpu_tasks

RUNS = "test:runs"


def make_app(url: str, lease: float, *, consume: bool = True, partitions: int = 1) -> Flowrra:
    """An app whose ``note`` writes down that it runs, and takes as long as it is told; ``hold`` is CPU-bound."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url, lease=lease, partitions=partitions),
            backend=BackendConfig(url=url, partitions=partitions),
            executor=ExecutorConfig(io_workers=8, cpu_workers=1, consume=consume),
        )
    )
    notes = redis.asyncio.Redis.from_url(url)
    app.on_shutdown(notes.aclose)

    @app.task(name="note", max_retries=20, retry_delay=0.1)
    async def note(number: int, seconds: float) -> int:
        await notes.hincrby(RUNS, str(number), 1)  # type: ignore[misc]
        await asyncio.sleep(seconds)
        return number

    app.task(name="hold", cpu_bound=True)(cpu_tasks.hold)
    return app


async def work(url: str, lease: float, partitions: int) -> None:
    async with make_app(url, lease, partitions=partitions):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
