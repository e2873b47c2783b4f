"""A worker with more free slots than one request brings tasks for asks for the next ones while it takes those in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from flowrra import Flowrra, TaskResult, TaskStatus
from flowrra.brokers.base import MAX_BATCH
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import ServerUnavailableError
from flowrra.management import FlowrraManager
from tests.core.apps import final, until
from tests.redis.apps import QUEUE, Gate, counts_of, old_task, redis_app, with_tasks

TASKS = 4 * MAX_BATCH

Answer = tuple[list[Any], float | None]


class Takes:
    """Sees every request for tasks, and may do something with the answer of those that are sent early."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app: Flowrra | None = None
        self.early = 0
        self.on_early: Callable[[Answer], Awaitable[Answer]] | None = None
        self._delivered = 0
        self._take = RedisBroker.take
        takes = self

        async def take(broker: RedisBroker, limit: int, *args: Any, **options: Any) -> Answer:
            return await takes.seen(broker, limit, *args, **options)

        monkeypatch.setattr(RedisBroker, "take", take)

    async def seen(self, broker: RedisBroker, limit: int, *args: Any, **options: Any) -> Answer:
        assert self.app is not None
        is_early = len(self.app.executors["io"].source.held_ids()) < self._delivered  # type: ignore[attr-defined]
        answer = await self._take(broker, limit, *args, **options)
        self.early += is_early
        if is_early and self.on_early is not None:
            then, self.on_early = self.on_early, None
            answer = await then(answer)
        self._delivered += len(answer[0])
        return answer


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Takes:
    return Takes(monkeypatch)


async def a_worker(url: str, takes: Takes, gate: Gate) -> tuple[Flowrra, list[str]]:
    """A worker that has a slot for each of many tasks, which wait already, and their ids."""
    async with with_tasks(redis_app(url, consume=False)) as producer:
        ids = await producer.submit_many(("hold", (n,), {}) for n in range(TASKS))
    takes.app = with_tasks(redis_app(url, workers=TASKS), gate)
    return takes.app, ids


@pytest.mark.slow
async def test_the_next_ones_are_on_their_way_while_some_are_taken_in(url: str, takes: Takes) -> None:
    gate = Gate()
    worker, ids = await a_worker(url, takes, gate)
    async with worker:
        await until(lambda: len(gate.begun) == TASKS)
        assert takes.early > 0
        gate.opened.set()
        assert {(await final(worker, each)).status for each in ids} == {TaskStatus.SUCCESS}
    assert sorted(gate.begun) == list(range(TASKS))


async def test_an_early_answer_that_is_lost_is_given_back_at_once(url: str, takes: Takes) -> None:
    lost: list[int] = []

    async def lose(answer: Answer) -> Answer:
        lost.append(len(answer[0]))
        raise ServerUnavailableError("the answer was lost")

    gate = Gate()
    takes.on_early = lose
    worker, _ = await a_worker(url, takes, gate)
    async with worker:
        async with asyncio.timeout(8):  # a lease lasts longer
            await until(lambda: len(gate.begun) == TASKS)
        gate.opened.set()
    assert lost == [MAX_BATCH]
    assert sorted(gate.begun) == list(range(TASKS))


@pytest.mark.slow
async def test_nothing_that_comes_early_is_lost_by_a_stop(url: str, takes: Takes) -> None:
    """Its tasks are there for another worker as soon as this one has stopped."""
    stopping: list[asyncio.Task[None]] = []

    async def stop(answer: Answer) -> Answer:
        stopping.append(asyncio.ensure_future(worker.stop(wait=False)))
        await asyncio.sleep(0)
        return answer

    takes.on_early = stop
    worker, _ = await a_worker(url, takes, Gate())
    await worker.start()
    await until(lambda: stopping)
    await stopping[0]
    async with with_tasks(redis_app(url, consume=False)) as producer:
        assert await counts_of(producer) == (TASKS, 0, 0, 0)


async def test_a_task_that_is_cancelled_on_its_way_is_cancelled_at_once(
    url: str, look: redis.Redis, takes: Takes
) -> None:
    """Its worker is told of it before it has the task, and asks again: its next heartbeat would be seconds later."""
    cancelling: list[asyncio.Task[bool]] = []

    async with with_tasks(redis_app(url, consume=False)) as producer:

        async def cancel(answer: Answer) -> Answer:
            task_id = answer[0][0].task_id
            cancelling.append(asyncio.ensure_future(producer.cancel_task(task_id)))
            await until(lambda: bool(look.sismember(f"{QUEUE}:cancelled", task_id)))
            # It hears one thing after the other.
            await until(lambda: look.zcard("flowrra:workers") == 1)
            assert await FlowrraManager(producer).resize_workers("io", TASKS + 1, "all") == 1
            await until(lambda: worker.executors["io"].workers == TASKS + 1)
            return answer

        gate = Gate()
        takes.on_early = cancel
        worker, _ = await a_worker(url, takes, gate)
        async with worker:
            await until(lambda: cancelling)
            async with asyncio.timeout(3):
                assert await cancelling[0]
            gate.opened.set()


async def test_what_was_not_taken_in_as_somebody_cancelled_that_is_given_back_at_once(
    url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, is_asked = with_tasks(redis_app(url)), asyncio.Event()
    usual = app.results.get

    async def hang(_: str) -> TaskResult | None:
        is_asked.set()
        return await asyncio.Future()

    monkeypatch.setattr(app.results, "get", hang)
    look.lpush(QUEUE, old_task("t1", "echo"))  # its record is looked for
    async with app:
        await is_asked.wait()
        monkeypatch.setattr(app.results, "get", usual)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert (await app.results.wait_for("t1", 8)).is_success  # a lease lasts longer
