"""The apps that the specifications on a server run on, and what they ask of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import redis

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.partitioned import PartitionedBackend
from flowrra.backends.redis import RedisBackend
from flowrra.config import Queues
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager
from flowrra.partitions import cell_namespace
from tests.core.apps import final
from tests.core.cpu_tasks import hold, pid

QUEUE = "flowrra:queue:io"


class Gate:
    """Lets a test hold its tasks, and know which have begun."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun: list[Any] = []
        self.ended: list[Any] = []


class PromptApp(Flowrra):
    """A test that has failed doesn't wait for the tasks that it holds."""

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.stop(wait=kind is None)


def redis_app(
    url: str,
    *,
    backend: BaseResultBackend | BackendConfig | str | None = "",
    workers: int = 4,
    consume: bool = True,
    ttl: int | None = None,
    namespace: str = "flowrra",
    queues: Queues | None = None,
    **broker: Any,
) -> Flowrra:
    """An app whose waiting tasks and results are at that address, not started yet."""
    if backend == "":
        backend = BackendConfig(url=url, ttl=ttl, namespace=namespace)
    elif isinstance(backend, str):
        backend = BackendConfig(url=backend, ttl=ttl, namespace=namespace)
    return PromptApp(
        Config(
            broker=BrokerConfig(url=url, namespace=namespace, **broker),
            backend=backend,
            executor=ExecutorConfig(io_workers=workers, cpu_workers=1, consume=consume, queues=queues),
        )
    )


def partitioned_backend(url: str, partitions: int = 4, **options: Any) -> PartitionedBackend:
    """A result backend over partitions, all of which are at that address."""
    return PartitionedBackend(
        [RedisBackend(url, namespace=cell_namespace("flowrra", n, partitions), **options) for n in range(partitions)]
    )


def with_tasks(app: Flowrra, gate: Gate | None = None, *, cpu: bool = False) -> Flowrra:
    """The app with tasks of every kind that the tests need."""
    gate = gate or Gate()

    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="echo")
    async def echo(*args: Any, **kwargs: Any) -> list[Any]:
        gate.begun.append(args[0] if args else None)
        return [list(args), kwargs]

    @app.task(name="hold")
    async def held(name: Any = None) -> Any:
        gate.begun.append(name)
        await gate.opened.wait()
        gate.ended.append(name)
        return name

    @app.task(name="fail", max_retries=0)
    async def fail() -> None:
        raise ValueError("boom")

    if cpu:
        app.task(name="pid", cpu_bound=True)(pid)
        app.task(name="cpu_hold", cpu_bound=True, max_retries=0)(hold)
    return app


async def queue_of(app: Flowrra, kind: str = "io") -> dict[str, Any]:
    """What the Management API says of one queue."""
    figures = (await FlowrraManager(app).get_queue_stats())[kind]
    assert figures is not None
    return figures


async def counts_of(app: Flowrra, kind: str = "io") -> tuple[int, int, int, int]:
    """How many tasks are pending, delayed, in flight and dead."""
    figures = await queue_of(app, kind)
    return figures["pending"], figures["delayed"], figures["in_flight"], figures["dead"]


def old_task(task_id: str, name: str, *args: Any, **fields: Any) -> str:
    """A task as flowrra 0.1.8 wrote it."""
    return json.dumps(
        {
            "id": task_id,
            "name": name,
            "args": list(args),
            "kwargs": {},
            "max_retries": 3,
            "retry_delay": 1.0,
            "current_retry": 0,
            "priority": 0,
            "cpu_bound": False,
            **fields,
        }
    )


def calls_of(client: redis.Redis) -> dict[str, int]:
    """How often each command was called since the figures were reset; without those of the asking."""
    stats: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return {name: count for name, count in calls.items() if name.partition("|")[0] not in {"info", "config"}}


def refused(client: redis.Redis, command: str) -> int:
    """How often the server has refused a command, since the figures were reset."""
    stats: dict[str, Any] = client.info("commandstats")  # type: ignore[assignment]
    return stats[f"cmdstat_{command}"]["rejected_calls"] if f"cmdstat_{command}" in stats else 0


def leftovers(client: redis.Redis) -> set[str]:
    """The names of all keys that are not bound to expire, without the index of workers and the counters."""
    names = {key.decode() for key in client.scan_iter()}  # type: ignore[union-attr]
    kept = (":place", ":taken", ":wake", ":workers")
    return {name for name in names if client.pttl(name) == -1 and not name.endswith(kept)}


def let_lapse(look: redis.Redis, *task_ids: str, at: float = 1, queue: str = QUEUE) -> None:
    """As if the workers had not been heard of for longer than their leases; by default those of all tasks.

    Args:
        look: A client of the server.
        task_ids: The tasks.
        at: When their leases ended, in microseconds since 1970.
        queue: The key of the queue that they are in.
    """
    for task_id in task_ids or [each.decode() for each in look.zrange(f"{queue}:leases", 0, -1)]:  # type: ignore[union-attr]
        holder = look.hget(f"{queue}:holders", task_id)
        assert isinstance(holder, bytes)
        look.zadd(f"{queue}:leases", {task_id: at})
        look.hset(f"{queue}:holders", task_id, b"?" + holder.lstrip(b"?"))
    look.delete(f"{queue}:workers")


async def resumed(app: Flowrra) -> float:
    """When a task that was submitted from now on was done, by the clock."""
    while True:
        try:
            assert (await final(app, await app.submit("add", 1, 2), within=10)).result == 3
            return time.time()
        except BackendError:
            await asyncio.sleep(0.01)
