"""Two worker processes and an observer that takes no tasks: pauses, resizes, drains under load, and one that dies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.redis.worker_process import RUNS, WorkerProcess, app_for

pytestmark = pytest.mark.slow


class Observer:
    """A process that takes no tasks: it submits, steers and looks.

    Attributes:
        app, manager: Its own.
    """

    def __init__(self, app: Flowrra, look: redis.Redis) -> None:
        self.app, self.manager, self._look = app, FlowrraManager(app), look

    def runs(self) -> list[tuple[int, str]]:
        """What has begun: the number of the task, and the name of the worker."""
        lines: list[bytes] = self._look.lrange(RUNS, 0, -1)  # type: ignore[assignment]
        return [(number, name) for number, name, _ in map(json.loads, lines)]

    async def submit(self, count: int, seconds: float, queue: str = "default") -> None:
        for number in range(count):
            await self.app.options(queue=queue).submit("note", number, seconds)

    async def until(self, condition: Callable[[], object], within: float = 30.0) -> None:
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_known(self, *workers: WorkerProcess) -> dict[int, str]:
        """The ids of the workers by pid, once all have announced themselves."""
        async with asyncio.timeout(30):
            while True:
                found = {each["pid"]: each["id"] for each in await self.manager.list_workers()}
                if found.keys() >= {each.pid for each in workers}:
                    return found
                await asyncio.sleep(0.05)

    async def until_settled(self, queue: str) -> None:
        """Return once no worker holds a task of the queue."""
        async with asyncio.timeout(10):
            while any(each["in_flight"] for each in await self.manager.list_queues() if each["queue"] == queue):
                await asyncio.sleep(0.02)

    async def stands_still(self) -> int:
        """How many have begun, once that has stayed so for a while."""
        begun = len(self.runs())
        await asyncio.sleep(1.0)
        assert len(self.runs()) == begun
        return begun


@pytest.fixture
async def observer(url: str, look: redis.Redis) -> AsyncIterator[Observer]:
    async with app_for(url, consume=False) as app:
        yield Observer(app, look)


async def test_a_pause_during_a_full_load(url: str, observer: Observer) -> None:
    with WorkerProcess(url, "one") as one, WorkerProcess(url, "other") as other:
        await observer.until_known(one, other)
        await observer.submit(600, 0.02)
        await observer.until(lambda: len(observer.runs()) > 50)
        assert await observer.manager.pause_queue() is True
        await asyncio.sleep(0.3)  # they are told at once, and had some just in their hands
        begun = await observer.stands_still()
        assert begun < 600
        await observer.until_settled("default")
        (queue,) = await observer.manager.list_queues()
        assert (queue["pending"], queue["paused"]) == (600 - begun, True)
        assert await observer.manager.resume_queue() is True
        await observer.until(lambda: len(observer.runs()) == 600)
        assert Counter(number for number, _ in observer.runs()) == Counter(range(600))
        assert {name for _, name in observer.runs()} == {"one", "other"}


async def test_a_pause_of_a_task_during_a_full_load(url: str, observer: Observer) -> None:
    with WorkerProcess(url, "one") as one, WorkerProcess(url, "other") as other:
        await observer.until_known(one, other)
        await observer.submit(600, 0.02)
        await observer.until(lambda: len(observer.runs()) > 50)
        assert await observer.manager.pause_task("note") is True
        await asyncio.sleep(0.3)
        begun = await observer.stands_still()
        await observer.until_settled("default")
        (queue,) = await observer.manager.list_queues()
        assert (queue["pending"], queue["unknown"]) == (600 - begun, 0)
        assert await observer.manager.resume_task("note") is True
        await observer.until(lambda: len(observer.runs()) == 600)
        assert Counter(number for number, _ in observer.runs()) == Counter(range(600))


async def test_a_resize_from_10_to_1_to_50_under_load(url: str, observer: Observer) -> None:
    with WorkerProcess(url, "one", slots=10) as one, WorkerProcess(url, "other", slots=10) as other:
        await observer.until_known(one, other)
        await observer.submit(400, 0.1)
        await observer.until(lambda: len(observer.runs()) >= 40)
        assert await observer.manager.resize_workers("io", 1, "all") == 2
        await asyncio.sleep(1.5)
        before = len(observer.runs())
        await asyncio.sleep(2.0)
        # Two slots, ten tasks a second each at the most.
        assert 10 <= len(observer.runs()) - before <= 41
        assert await observer.manager.resize_workers("io", 50, "all") == 2
        before = len(observer.runs())
        await observer.until(lambda: len(observer.runs()) - before >= 100, within=5)
        async with asyncio.timeout(10):
            while {each["executors"]["io"]["slots"] for each in await observer.manager.list_workers()} != {50}:
                await asyncio.sleep(0.1)
        await observer.until(lambda: len(observer.runs()) == 400)
        assert Counter(number for number, _ in observer.runs()) == Counter(range(400))


async def test_two_queues_of_which_the_worker_of_one_dies(url: str, observer: Observer) -> None:
    with WorkerProcess(url, "mail", "mail") as victim, WorkerProcess(url, "default", "default") as other:
        await observer.until_known(victim, other)
        await observer.submit(100, 0.05, "mail")
        await observer.submit(100, 0.05, "default")
        await observer.until(lambda: sum(name == "mail" for _, name in observer.runs()) >= 10)
        victim.kill()
        begun = sum(name == "mail" for _, name in observer.runs())
        await observer.until(lambda: sum(name == "default" for _, name in observer.runs()) == 100)
        await observer.until_settled("default")
        assert sum(name == "mail" for _, name in observer.runs()) == begun
        found = {each["queue"]: each for each in await observer.manager.list_queues()}
        assert (found["mail"]["pending"] or 0) + (found["mail"]["in_flight"] or 0) > 0
        assert (found["default"]["pending"], found["default"]["in_flight"]) == (0, 0)
        with WorkerProcess(url, "mail again", "mail") as again:
            await observer.until_known(again)
            await observer.until(
                lambda: {number for number, name in observer.runs() if name != "default"} == set(range(100))
            )
            # What the victim had may have begun twice; nothing else did.
            twice = Counter(number for number, name in observer.runs() if name != "default")
            assert sum(count > 1 for count in twice.values()) <= 4
            assert max(twice.values()) <= 2


async def test_a_drain_of_one_of_two(url: str, observer: Observer) -> None:
    with WorkerProcess(url, "one") as one, WorkerProcess(url, "other") as other:
        ids = await observer.until_known(one, other)
        await observer.submit(600, 0.02)
        await observer.until(lambda: {name for _, name in observer.runs()} == {"one", "other"})
        assert await observer.manager.drain_worker(ids[one.pid]) is True
        await asyncio.sleep(0.3)
        begun = sum(name == "one" for _, name in observer.runs())
        await observer.until(lambda: len(observer.runs()) == 600)
        assert sum(name == "one" for _, name in observer.runs()) == begun
        async with asyncio.timeout(10):
            while not {each["id"]: each["draining"] for each in await observer.manager.list_workers()}[ids[one.pid]]:
                await asyncio.sleep(0.1)
        assert await observer.manager.resume_worker(ids[one.pid]) is True
        await observer.submit(600, 0.02)
        await observer.until(lambda: sum(name == "one" for _, name in observer.runs()) > begun)
