"""Tasks and results that are large for the network: they come through one by one rather than never, and who submits
many of them hears which are queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from flowrra import (
    BackendConfig,
    BrokerConfig,
    Config,
    ExecutorConfig,
    Flowrra,
    PartialSubmissionError,
    TaskResult,
    TaskStatus,
)
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Outcome, QueuedTask, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.codec import encode_call, encode_task
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager
from flowrra.redis_client import SLOWEST_LINK
from flowrra.task import Task
from tests.core.apps import final, numbers_of
from tests.redis.apps import calls_of
from tests.redis_faults.proxy import Proxy
from tests.support.servers import ValkeyServer

KILOBYTE = 1000


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def slow(server: ValkeyServer) -> AsyncIterator[Proxy]:
    """A network of 6 MB a second."""
    async with Proxy(server.port) as proxy:
        proxy.rate = 6000 * KILOBYTE
        yield proxy


def app_at(url: str, *, timeout: float = 1.0, consume: bool = True) -> Flowrra:
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url, socket_timeout=timeout, lease=4.0, max_deliveries=2),
            backend=BackendConfig(url=url, socket_timeout=timeout),
            executor=ExecutorConfig(io_workers=16, consume=consume),
        )
    )

    @app.task(name="measure")
    async def measure(text: str) -> int:
        return len(text)

    return app


@pytest.mark.slow
@pytest.mark.parametrize("size", [600 * KILOBYTE, 3_000 * KILOBYTE])
async def test_a_queue_of_them_is_drained(server: ValkeyServer, slow: Proxy, size: int) -> None:
    """All that sixteen slots could take would need far longer than an answer may take."""
    count = 20 if size < 1000 * KILOBYTE else 4
    async with app_at(f"redis://127.0.0.1:{server.port}/0", timeout=5.0, consume=False) as producer:
        ids = [await producer.submit("measure", "x" * size) for _ in range(count)]
        async with app_at(slow.url, timeout=0.4) as app:
            for task_id in ids:
                record = await asyncio.wait_for(producer.executors["io"].wait_for_result(task_id), 40)
                assert (record.status, record.result) == (TaskStatus.SUCCESS, size)
            assert numbers_of(app, "measure")["redelivered"] == 0
            assert await FlowrraManager(app).list_dead_tasks() == []


async def test_a_take_is_bounded_by_bytes(server: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"
    async with app_at(url, consume=False) as producer:
        sizes = [10, 10, 50, 200, 10, 10, 10, 90]
        for size in sizes:
            await producer.submit("measure", "x" * size * KILOBYTE)
        broker = RedisBroker(url, queue_key="flowrra:queue:io")
        takes = []
        while deliveries := (await broker.take(100, 100 * KILOBYTE))[0]:
            takes.append([len(each.task.args[0]) // KILOBYTE for each in deliveries if each.task is not None])
        await broker.close()
    # In their order; one that is larger than all may have comes alone.
    assert takes == [[10, 10, 50], [200], [10, 10, 10], [90]]


@pytest.mark.slow
async def test_what_is_larger_than_anything_may_be_is_put_aside_unread(server: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"
    with redis.Redis.from_url(url) as look:
        async with app_at(url, consume=False) as producer:
            good = await producer.submit("measure", "x")
        look.hset("flowrra:queue:io:tasks", "huge", b"0|0|%016d|1|" % 0 + b"x" * (66 * 1024 * 1024))
        look.zadd("flowrra:queue:io:ready", {"0" * 16 + "huge": -1})
        async with app_at(url) as app:
            assert (await final(app, good, within=20)).result == 1
            async with asyncio.timeout(20):
                while not (dead := await FlowrraManager(app).list_dead_tasks()):
                    await asyncio.sleep(0.05)
        assert dead[0]["task_id"] == "huge"
        assert "at most" in dead[0]["reason"]
        assert int(look.memory_usage("flowrra:queue:io:dead:tasks") or 0) < 1_000_000  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 500 * KILOBYTE])
async def test_who_submits_many_hears_which_are_queued(server: ValkeyServer, size: int) -> None:
    calls: list[Any] = [("measure", ("x" * size,), {}) for _ in range(600 if size < KILOBYTE else 60)]
    async with Proxy(server.port) as proxy, app_at(proxy.url, timeout=0.5, consume=False) as producer:
        submitting = asyncio.create_task(producer.submit_many(calls))
        with redis.Redis(port=server.port) as look:
            while look.hlen("flowrra:queue:io:tasks") == 0:
                await asyncio.sleep(0)
            proxy.swallows = True
            with pytest.raises(PartialSubmissionError) as caught:
                await submitting
            proxy.swallows = False
            there = {each.decode() for each in look.hkeys("flowrra:queue:io:tasks")}  # type: ignore[union-attr]
    error = caught.value
    assert isinstance(error, BackendError)
    assert set(error.queued) <= there <= {*error.queued, *error.unsure}
    assert len(error.queued) + len(error.unsure) <= len(calls)
    assert f"{len(error.queued)} tasks are queued" in str(error)
    assert numbers_of(producer, "measure")["submitted"] == len(error.queued)


@pytest.fixture
async def slowest(server: ValkeyServer) -> AsyncIterator[Proxy]:
    """A network that is as slow as one may be: an answer in a second has 1 MB at most."""
    async with Proxy(server.port) as proxy:
        proxy.rate = SLOWEST_LINK
        yield proxy


def result_of(size: int, task_id: str = "1", status: TaskStatus = TaskStatus.SUCCESS) -> TaskResult:
    return TaskResult(task_id, status, "measure", result="x" * size, submitted_at=datetime.now(UTC))


Read = Callable[[RedisBackend], Awaitable[Any]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "read",
    [lambda results: results.get("1"), lambda results: results.list_by_status("success")],
    ids=["by its id", "in a list"],
)
async def test_a_large_result_is_read_in_the_time_that_it_needs(
    server: ValkeyServer, slowest: Proxy, read: Read
) -> None:
    near = RedisBackend(f"redis://127.0.0.1:{server.port}/0")
    far = RedisBackend(slowest.url, socket_timeout=1.0)
    await near.store("1", result_of(2_500 * KILOBYTE))
    found = await read(far)
    [record] = found if isinstance(found, list) else [found]
    assert len(record.result) == 2_500 * KILOBYTE
    for backend in (near, far):
        await backend.close()


@pytest.mark.slow
async def test_large_results_that_end_together_are_stored_and_read_together(
    server: ValkeyServer, slowest: Proxy
) -> None:
    near = RedisBackend(f"redis://127.0.0.1:{server.port}/0")
    far = RedisBackend(slowest.url, socket_timeout=1.0)
    ids = [str(number) for number in range(12)]
    await asyncio.gather(*(far.store(each, result_of(300 * KILOBYTE, each)) for each in ids))
    assert [record.status for record in await asyncio.gather(*map(near.wait_for, ids))] == ["success"] * 12
    read = await asyncio.gather(*(far.wait_for(each, 30) for each in ids))
    assert [len(record.result) for record in read] == [300 * KILOBYTE] * 12
    for backend in (near, far):
        await backend.close()


async def test_a_store_is_bounded_by_bytes(server: ValkeyServer) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{server.port}/0")
    await backend.store("first", result_of(1, "first"))  # the server knows the script from now on
    with redis.Redis(port=server.port) as look:
        look.config_resetstat()
        await asyncio.gather(*(backend.store(str(n), result_of(500 * KILOBYTE, str(n))) for n in range(40)))
        # The first goes alone; then as many as have 8 MB.
        assert calls_of(look)["evalsha"] == 4
    await backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["cancel", "requeue", "list", "get"])
async def test_steps_with_a_large_task_have_the_time_that_it_needs(
    server: ValkeyServer, slowest: Proxy, step: str
) -> None:
    url, size = f"redis://127.0.0.1:{server.port}/0", 2_500 * KILOBYTE
    near, far = RedisBroker(url), RedisBroker(slowest.url, socket_timeout=1.0)
    results = RedisBackend(slowest.url)
    assert far.keeps_records_of(results)
    entry = encode_task(Task("1", "measure", ("x" * size,), {}), None, encode_call(("x" * size,), {}, "measure"))
    await near.submit([QueuedTask("1", 0, 0.0, entry, None)])
    if step != "cancel":
        await near.take(1)
        await near.settle([Outcome(Verb.DEAD_LETTER, "1", text="a reason")])
    record = result_of(size)
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "cancel": lambda: far.cancel(record),
        "requeue": lambda: far.requeue_dead("1", record),
        "list": far.list_dead,
        "get": lambda: far.get_dead("1"),
    }
    # A server that doesn't know a script is sent all of it twice.
    await near.cancel(result_of(1, "nobody's"))
    await near.requeue_dead("nobody's", None)
    assert await steps[step]()
    for each in (near, far, results):
        await each.close()
