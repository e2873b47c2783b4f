"""The small in-memory app that most specifications run on, and ways to wait for what happens in it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from flowrra import Config, ExecutorConfig, Flowrra, TaskResult
from flowrra.backends import BaseResultBackend, InMemoryBackend
from flowrra.management import FlowrraManager

Answer = TypeVar("Answer")

OUTCOMES = ("succeeded", "failed", "retried", "cancelled", "released")


def memory_app(*, io_workers: int = 4, max_queue_size: int = 1000, **config: Any) -> Flowrra:
    """An app without a server, not started yet."""
    executor = ExecutorConfig(io_workers=io_workers, max_queue_size=max_queue_size)
    return Flowrra(Config(executor=executor, **config))


def cpu_app(*, cpu_workers: int = 1, max_tasks_per_child: int | None = None, **config: Any) -> Flowrra:
    """An app without a server that can run CPU-bound tasks, not started yet."""
    executor = ExecutorConfig(cpu_workers=cpu_workers, max_tasks_per_child=max_tasks_per_child)
    return Flowrra(Config(executor=executor, **{"backend": InMemoryBackend(), **config}))


class RemoteBackend(BaseResultBackend):
    """Results as in another process: every operation takes some turns of the loop, and what is kept is a copy."""

    def __init__(self) -> None:
        self._chance = random.Random(20261123)
        self._memory = InMemoryBackend()
        self.stored: dict[str, list[str]] = {}

    async def _travel(self) -> None:
        for _ in range(self._chance.randint(1, 4)):
            await asyncio.sleep(0)

    async def store(self, task_id: str, result: TaskResult) -> None:
        copy = TaskResult.from_dict(result.to_dict)
        await self._travel()
        self.stored.setdefault(task_id, []).append(copy.status.value)
        await self._memory.store(task_id, copy)

    async def get(self, task_id: str) -> TaskResult | None:
        await self._travel()
        return await self._memory.get(task_id)

    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        return await self._memory.wait_for(task_id, timeout)


BACKENDS: dict[str, Callable[[], BaseResultBackend]] = {"memory": InMemoryBackend, "remote": RemoteBackend}


def watchers_of(app: Flowrra) -> int:
    """How many watch changes of the app's tasks in this process."""
    return app.results.watchers + app.events.watchers.watchers


async def comes_true(condition: Callable[[], Awaitable[object]], within: float = 8.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Return once the condition holds; TimeoutError when it doesn't within that many seconds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)


async def record_of(app: Flowrra, task_id: str) -> TaskResult:
    """The record as it stands now; it must exist."""
    record = await app.get_result(task_id)
    assert record is not None, f"no record of {task_id}"
    return record


async def final(app: Flowrra, task_id: str, *, within: float = 10.0) -> TaskResult:
    """The finished record."""
    return await app.wait_for_result(task_id, timeout=within)


def without_a_loop(query: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of a query that promises to need no event loop: it must not wait for anything."""
    try:
        query.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    query.close()
    raise AssertionError("the query waited for something")


def numbers_of(app: Flowrra, task_name: str) -> dict[str, Any]:
    """What the app has counted for one task."""
    return without_a_loop(FlowrraManager(app).get_task_stats())[task_name]


def assert_counts_add_up(numbers: dict[str, Any], *, running: int | None = None) -> None:
    """Each attempt that started has ended in exactly one way, or is running."""
    ended = sum(numbers[outcome] for outcome in OUTCOMES)
    assert numbers["started"] == ended + numbers["running"], numbers
    assert numbers["running"] >= 0, numbers
    if running is not None:
        assert numbers["running"] == running, numbers


def in_another_loop(make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Run a coroutine to its end under an event loop of this thread's own."""
    return asyncio.run(make())


async def in_another_thread(make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """The same, in another thread, while the caller's loop goes on."""
    return await asyncio.to_thread(in_another_loop, make)


class LoopThread:
    """An event loop in a thread of its own, for apps that live elsewhere than the test."""

    def __enter__(self) -> LoopThread:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.loop.shutdown_asyncgens())  # as asyncio.run() does: clients are closed with their loop
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        assert not self._thread.is_alive(), "the loop of the other thread didn't stop"
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Answer], *, within: float = 10.0) -> Answer:
        """Run a coroutine there and return its answer here."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=within)
