"""A server that has no memory left takes on nothing new, and all that it has is run to its end: what frees memory, and
what says that work was done, goes through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, Flowrra, TaskResult, TaskStatus, codec, current_task
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Cancellation, Outcome, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager
from tests.core.apps import final, until
from tests.redis.apps import QUEUE, counts_of, redis_app
from tests.support.servers import ValkeyServer


class FullServer:
    """A server whose memory can be filled up, and emptied again."""

    def __init__(self, server: ValkeyServer) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        self.look = redis.Redis.from_url(self.url)

    def fill(self) -> None:
        self.look.config_set("maxmemory-policy", "noeviction")
        self.look.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            self.look.set("more", "x")

    def empty(self) -> None:
        self.look.config_set("maxmemory", 0)


@pytest.fixture
def full() -> Iterator[FullServer]:
    with ValkeyServer() as server:
        found = FullServer(server)
        yield found
        found.look.close()


def busy_app(url: str, **options: Any) -> Flowrra:
    """Tasks that succeed, fail, are tried again, and return something that takes memory."""
    app = redis_app(url, **options)

    @app.task(name="retried", max_retries=2, retry_delay=0.0)
    async def retried(number: int) -> str:
        task = current_task()
        assert task is not None
        if task.attempt < 3:
            raise ValueError(f"attempt {task.attempt}")
        return "done" * 100

    @app.task(name="good")
    async def good(number: int) -> str:
        return "x" * 1000

    @app.task(name="bad", max_retries=0)
    async def bad(number: int) -> None:
        raise ValueError("boom")

    @app.task(name="long")
    async def long(number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    return app


NAMES = ("retried", "good", "bad", "long")


@pytest.mark.slow
async def test_a_full_queue_drains_itself(full: FullServer) -> None:
    async with busy_app(full.url, consume=False) as producer:
        ids = await producer.submit_many([(NAMES[n % 4], (n,), {}) for n in range(400)])
    full.fill()
    async with busy_app(full.url, workers=10) as app:
        for task_id in ids:
            record = await final(app, task_id, within=15)
            assert record.is_complete
            assert record.is_success is (record.task_name != "bad")
        await until(lambda: not full.look.exists(f"{QUEUE}:leases") and not full.look.exists(f"{QUEUE}:tasks"))
        with pytest.raises(BackendError):
            await app.submit("good", 1)
        full.empty()
        assert (await final(app, await app.submit("good", 1))).is_success


@pytest.mark.slow
async def test_also_when_results_are_on_another_full_server(full: FullServer) -> None:
    with ValkeyServer() as server:
        other = FullServer(server)
        async with busy_app(full.url, backend=BackendConfig(url=other.url), consume=False) as producer:
            ids = await producer.submit_many([(NAMES[n % 4], (n,), {}) for n in range(100)])
        full.fill()
        other.fill()
        async with busy_app(full.url, backend=BackendConfig(url=other.url), workers=10) as app:
            for task_id in ids:
                assert (await final(app, task_id, within=15)).is_complete
            # A new record is refused, and so is its task: nothing is half there.
            with pytest.raises(BackendError):
                await app.submit("good", 1)
        assert not full.look.exists(f"{QUEUE}:tasks")
        other.look.close()


async def test_every_verb_is_heard(full: FullServer) -> None:
    results = RedisBackend(full.url)
    broker = RedisBroker(full.url, queue_key=QUEUE)
    assert broker.keeps_records_of(results)
    async with busy_app(full.url, consume=False) as app:
        ids = await app.submit_many([("good", (n,), {}) for n in range(10)])
        held = {each.task_id: each for each in (await broker.take(8))[0]}
        full.fill()
        done, later, released, refused, buried, running, *_ = held
        text = codec.encode_task(held[later].task, None, held[later].call)  # type: ignore[arg-type]
        record = codec.encode_record(TaskResult(running, TaskStatus.RUNNING, "good", submitted_at=datetime.now(UTC)))
        outcomes = [
            Outcome(Verb.RETRY, later, 60.0, text),
            Outcome(Verb.RELEASE, released),
            Outcome(Verb.NACK, refused, text="unheard_of"),
            Outcome(Verb.DEAD_LETTER, buried, text="a reason"),
            Outcome(Verb.RUNNING, running, record=record),
            Outcome(Verb.COMPLETE, done, status=TaskStatus.SUCCESS),
        ]
        # One after the other, as one that frees memory would help the next.
        for outcome in outcomes:
            assert await broker.settle([outcome]) == [Verdict.SETTLED], outcome
        assert (await broker.take(1))[0]
        assert await broker.recover([running]) > 0
        assert await asyncio.to_thread(broker.renew, list(held))
        cancelled = TaskResult(ids[9], TaskStatus.CANCELLED, "good", submitted_at=datetime.now(UTC))
        assert await broker.cancel(cancelled) is Cancellation.CANCELLED
        asked = TaskResult(running, TaskStatus.CANCELLED, "good", submitted_at=datetime.now(UTC))
        assert await broker.cancel(asked) is Cancellation.RUNNING
        assert await broker.claim_dead(buried, "anew") == "anew"
        await broker.release_dead(buried, "anew")
        assert await broker.requeue_dead(buried, None) is True
    await asyncio.to_thread(broker.withdraw, None)
    await broker.close()
    await results.close()


async def test_what_is_seen_of_it_is_seen_as_before(full: FullServer) -> None:
    async with busy_app(full.url, workers=2) as app:
        manager = FlowrraManager(app)
        full.fill()
        for task_name in ("long", "good"):
            with pytest.raises(BackendError):
                await app.submit(task_name, 1)
        assert await counts_of(app) == (0, 0, 0, 0)
        (worker,) = await manager.list_workers()
        await until(lambda: full.look.pttl(f"flowrra:worker:{worker['id']}") > 14_000, within=10)
        assert (await manager.list_workers())[0]["id"] == worker["id"]
    async with busy_app(full.url, consume=False) as observer:
        assert await FlowrraManager(observer).list_workers() == []
