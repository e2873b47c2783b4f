"""Results on another server than the tasks, which refuses to keep them for a while: each outcome is kept afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra, TaskStatus
from flowrra.brokers.redis import RedisBroker
from flowrra.executors import hangs
from flowrra.executors.sources import fetcher
from flowrra.management import FlowrraManager
from tests.core.apps import comes_true, final, numbers_of, record_of, until
from tests.core.test_polled_broker import ListBroker
from tests.redis.apps import QUEUE, Gate, counts_of, let_lapse, redis_app, with_tasks
from tests.redis.test_databases import at
from tests.support.servers import ValkeyServer


class Results:
    """A server for results only."""

    def __init__(self, server: ValkeyServer, client: redis.Redis) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        self._client = client

    def refuse(self) -> None:
        """Give out what is there, and keep nothing, as a replica does."""
        self._client.replicaof("127.0.0.1", 1)  # type: ignore[no-untyped-call]

    def refuse_all(self) -> None:
        """Give out and keep nothing, as a replica does that may not tell what may be old."""
        self._client.config_set("replica-serve-stale-data", "no")
        self.refuse()

    def leave(self) -> None:
        """Answer nobody but this, as while it loads its data."""
        self._client.config_set("requirepass", "another")
        self._client.execute_command("AUTH", "another")
        self._client.client_kill_filter(_type="normal", skipme=True)

    def come_back(self) -> None:
        """Answer again."""
        self._client.config_set("requirepass", "")

    def accept(self) -> None:
        """Keep results again."""
        self._client.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]


@pytest.fixture
def results() -> Iterator[Results]:
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        yield Results(server, client)


async def has_refused(app: Flowrra) -> None:
    """Return once the server has refused a record of the app's."""
    executor = app.executors["io"]
    count = executor.backend_errors["store"]
    await until(lambda: executor.backend_errors["store"] > count)


@pytest.mark.slow
async def test_what_is_delivered_too_often_is_failed(url: str, look: redis.Redis, results: Results) -> None:
    worker = RedisBroker(url, queue_key=QUEUE)
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        await worker.take(1)
        let_lapse(look)
        results.refuse()
        async with with_tasks(redis_app(url, backend=results.url, lease=1.0, max_deliveries=1)) as app:
            await has_refused(app)
            assert look.zcard(f"{QUEUE}:dead") == 0, "it would be dead with nobody told"
            results.accept()
            record = await final(producer, task_id)
            assert record.status is TaskStatus.FAILED
            assert "given up after 1 deliveries" in str(record.error)
            await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
    await worker.close()


@pytest.mark.slow
async def test_what_a_worker_left_runs_once_elsewhere_although_nothing_tells_of_its_attempts(
    url: str, look: redis.Redis, results: Results
) -> None:
    """Their records are looked for together: of one after the other, the leases would end before the last is there."""
    count, gate = 20, Gate()
    left = RedisBroker(url, queue_key=QUEUE)
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        ids = await producer.submit_many(("hold", (number,), {}) for number in range(count))
        await left.take(count)
        let_lapse(look)
        results.refuse_all()
        async with with_tasks(redis_app(url, backend=results.url, workers=count, lease=3.0), gate):
            await until(lambda: len(gate.begun) >= count, within=20)
            results.accept()
            gate.opened.set()
            assert {(await final(producer, each)).status for each in ids} == {TaskStatus.SUCCESS}
    assert sorted(gate.begun) == list(range(count))
    await left.close()


@pytest.mark.slow
async def test_other_tasks_begin_while_it_cannot_be_said_that_some_are_given_up(
    url: str, look: redis.Redis, results: Results
) -> None:
    count, gate = 20, Gate()
    left = RedisBroker(url, queue_key=QUEUE)
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        ids = await producer.submit_many(("hold", (number,), {}) for number in range(count))
        await left.take(count)
        let_lapse(look)
        other = await producer.submit("hold", "other")
        results.refuse_all()
        async with with_tasks(redis_app(url, backend=results.url, lease=4.0, max_deliveries=1), gate):
            await until(lambda: gate.begun == ["other"], within=20)
            results.accept()
            gate.opened.set()
            assert (await final(producer, other)).status is TaskStatus.SUCCESS
            assert {(await final(producer, each, within=20)).status for each in ids} == {TaskStatus.FAILED}
    assert gate.begun == ["other"]
    await left.close()


@pytest.mark.slow
async def test_what_was_cancelled_while_its_worker_died_is_cancelled(
    url: str, look: redis.Redis, results: Results
) -> None:
    worker = RedisBroker(url, queue_key=QUEUE)
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        await worker.take(1)
        cancelling = asyncio.create_task(producer.cancel_task(task_id))
        await until(lambda: look.scard(f"{QUEUE}:cancelled"))
        let_lapse(look)
        results.refuse()
        async with with_tasks(redis_app(url, backend=results.url, lease=1.0)) as app:
            await has_refused(app)
            assert await counts_of(app) == (0, 0, 1, 0)
            results.accept()
            assert (await final(producer, task_id)).status is TaskStatus.CANCELLED
            await comes_true(lambda: _is_empty(app))
        await cancelling
    assert numbers_of(app, "echo")["cancelled_before_start"] == 1
    await worker.close()


@pytest.mark.slow
async def test_what_was_cancelled_before_its_worker_began_it_is_cancelled(
    url: str, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken ahead, as far as the worker is quick enough for that; else it is cancelled in its queue."""
    monkeypatch.setattr(fetcher, "STALE_AFTER", 60.0)
    gate = Gate()
    async with with_tasks(redis_app(url, backend=results.url, workers=1, lease=1.0), gate) as app:
        warm = await app.submit_many([("add", (1, 1), {})] * 300)
        await final(app, warm[-1])
        running = await app.submit("hold", 0)
        await until(lambda: gate.begun)
        task_id = await app.submit("hold", 1)
        await asyncio.sleep(0.1)
        results.refuse()
        cancelling = asyncio.create_task(app.cancel_task(task_id))
        await has_refused(app)
        results.accept()
        assert (await final(app, task_id)).status is TaskStatus.CANCELLED
        await cancelling
        gate.opened.set()
        assert (await final(app, running)).is_success
        await comes_true(lambda: _is_empty(app))
    assert gate.begun == [0]


@pytest.mark.slow
async def test_what_was_cancelled_in_its_queue_is_cancelled(url: str, results: Results) -> None:
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as app:
        task_id = await app.submit("echo")
        results.refuse()
        assert await app.cancel_task(task_id) is True
        assert (await record_of(app, task_id)).status is TaskStatus.PENDING
        results.accept()
        assert (await final(app, task_id)).status is TaskStatus.CANCELLED


@pytest.mark.slow
async def test_what_no_worker_has_known_for_too_long_is_failed(url: str, look: redis.Redis, results: Results) -> None:
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        app = redis_app(url, backend=results.url, lease=1.0, unknown_ttl=0.5)
        app.task(name="other")(_nothing)
        results.refuse()
        async with app:
            await has_refused(app)
            results.accept()
            record = await final(producer, task_id, within=20)
            assert record.status is TaskStatus.FAILED
            assert "'echo' not registered" in str(record.error)
            await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
            (dead,) = await FlowrraManager(app).list_dead_tasks()
            assert dead["task_id"] == task_id


@pytest.mark.slow
async def test_what_cannot_be_read_is_failed_once_its_record_can_be_read(
    url: str, look: redis.Redis, results: Results
) -> None:
    async with with_tasks(redis_app(url, backend=results.url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        entry = look.hget(f"{QUEUE}:tasks", task_id)
        assert isinstance(entry, bytes)
        look.hset(f"{QUEUE}:tasks", task_id, entry[:-1])
        app = with_tasks(redis_app(url, backend=results.url, lease=1.0))
        results.leave()
        async with app:
            await until(lambda: app.executors["io"].backend_errors["get"])
            assert look.zcard(f"{QUEUE}:dead") == 0
            results.come_back()
            assert (await final(producer, task_id, within=20)).status is TaskStatus.FAILED
            await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)


async def _nothing() -> None: ...


async def _is_empty(app: Flowrra) -> bool:
    return await counts_of(app) == (0, 0, 0, 0)


def _let_expire(address: str) -> None:
    """Take away what finished records there are, as if their time was over."""
    with redis.Redis.from_url(address) as client:
        for key in client.scan_iter("*:finished:*", _type="list"):
            due = [b"1 " + entry.split(b" ", 1)[1] for entry in client.lrange(key, 0, -1)]
            client.delete(key, *client.scan_iter("*:task:*"))
            client.rpush(key, *due)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("kind", ["redis", "memory", "own"])
async def test_what_has_expired_is_counted_no_more_though_nobody_writes(
    url: str, kind: str, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hangs, "LOOK_EVERY", 0.05)
    broker = {"redis": BrokerConfig(url=url), "memory": None, "own": ListBroker()}[kind]
    app = Flowrra(Config(broker=broker, backend=BackendConfig(url=at(url, 1), partitions=partitions)))
    async with with_tasks(app):
        assert (await final(app, await app.submit("add", 1, 2))).is_success
        assert await app.results.count() == {(TaskStatus.SUCCESS, "add"): 1}
        _let_expire(at(url, 1))

        async def is_empty() -> bool:
            return not await app.results.count()

        await comes_true(is_empty)
