"""Every attempt starts from what was submitted, and so does the record: whatever an attempt, the caller, a subscriber
or a reader does to arguments reaches nobody else."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.brokers.base import BaseBroker
from flowrra.events import event_bus
from flowrra.task import Task
from tests.core.apps import RemoteBackend, final, record_of, until
from tests.settlement.test_misbehaving_tasks import PLACES, config_of

SCALARS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def spoil(value: Any) -> None:
    """Change everything in it that can be changed."""
    if isinstance(value, list):
        for each in value:
            spoil(each)
        value.append("spoilt")
    elif isinstance(value, dict):
        for each in value.values():
            spoil(each)
        value["spoilt"] = True
    elif isinstance(value, set | bytearray | deque):
        value.clear()


def spoiling_app(config: Config, seen: list[Any]) -> Flowrra:
    app = Flowrra(config)

    @app.task(name="spoil", max_retries=2, retry_delay=0.0)
    async def task(*args: Any, **kwargs: Any) -> None:
        seen.append(json.dumps([args, kwargs], sort_keys=True))
        spoil(list(args))
        spoil(kwargs)
        raise ValueError("again")

    return app


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
def test_three_attempts_see_the_same(empty_servers: tuple[str, str], where: str) -> None:
    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(args=st.lists(DATA, max_size=3), kwargs=st.dictionaries(st.sampled_from("abc"), DATA, max_size=2))
    def check(args: list[Any], kwargs: dict[str, Any]) -> None:
        submitted = json.dumps([args, kwargs], sort_keys=True)

        async def run() -> None:
            seen: list[Any] = []
            async with spoiling_app(config_of(where, empty_servers), seen) as app:
                record = await final(app, await app.submit("spoil", *args, **kwargs))
            assert seen == [submitted] * 3
            assert json.dumps([record.args, record.kwargs], sort_keys=True) == submitted
            assert json.dumps([args, kwargs], sort_keys=True) == submitted

        asyncio.run(run())

    check()


@pytest.mark.parametrize("where", PLACES)
async def test_what_the_caller_does_afterwards(empty_servers: tuple[str, str], where: str) -> None:
    seen: list[Any] = []
    async with spoiling_app(config_of(where, empty_servers), seen) as app:
        order: dict[str, Any] = {"lines": [1]}
        keywords: dict[str, Any] = {"a": [2]}
        one = await app.options(countdown=0.05).submit("spoil", order)
        (other,) = await app.submit_many([("spoil", (order,), keywords)])
        spoil(order)
        spoil(keywords)
        for task_id in (one, other):
            record = await final(app, task_id)
            assert record.args[0] == {"lines": [1]}
        assert sorted(set(seen)) == ['[[{"lines": [1]}], {"a": [2]}]', '[[{"lines": [1]}], {}]']


@pytest.mark.parametrize("where", PLACES)
async def test_what_subscribers_and_readers_do(empty_servers: tuple[str, str], where: str) -> None:
    def subscriber(event: dict[str, Any]) -> None:
        spoil(list(event["task"]["args"]))
        spoil(event["task"]["result"])

    async def echo(items: list[int]) -> dict[str, list[int]]:
        return {"items": items}

    app = Flowrra(config_of(where, empty_servers))
    app.task()(echo)
    event_bus.subscribe(subscriber)
    try:
        async with app:
            task_id = await app.submit(echo, [1, 2])
            for _ in range(3):
                record = await final(app, task_id)
                assert (record.args, record.result) == (([1, 2],), {"items": [1, 2]})
                spoil(list(record.args))
                spoil(record.result)
    finally:
        await event_bus.unsubscribe(subscriber)


@dataclass
class Basket:
    """What only memory carries."""

    items: list[Any] = field(default_factory=list)


@pytest.mark.parametrize(
    "make", [lambda: {1, 2}, lambda: bytearray(b"ab"), lambda: deque([1]), lambda: Basket([1, {"a": [2]}])]
)
async def test_other_data_in_memory(make: Any) -> None:
    seen: list[Any] = []
    app = Flowrra()

    @app.task(max_retries=2, retry_delay=0.0)
    async def task(value: Any) -> None:
        seen.append(repr(value))
        spoil(value.items if isinstance(value, Basket) else value)
        raise ValueError("again")

    async with app:
        value = make()
        record = await final(app, await app.submit(task, value))
    assert seen == [repr(make())] * 3
    assert (repr(value), repr(record.args)) == (repr(make()), repr((make(),)))


async def test_what_stands_for_more_than_its_value_is_shared() -> None:
    """An event, a lock, a client: such an argument is the very object that was passed."""
    app = Flowrra()

    @app.task()
    async def signal(event: asyncio.Event, clients: dict[str, Any]) -> None:
        clients["pool"].append("used")
        event.set()

    class Pool:
        def __init__(self) -> None:
            self.log: list[str] = []

        def append(self, line: str) -> None:
            self.log.append(line)

    event, pool = asyncio.Event(), Pool()
    async with app:
        await final(app, await app.submit(signal, event, {"pool": pool}))
    assert event.is_set()
    assert pool.log == ["used"]


class ListBroker(BaseBroker):
    """A user's own broker, that keeps the very objects."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    async def push(self, task: Task) -> None:
        self.tasks.append(task)

    async def pop(self, timeout: float | None = None) -> Task | None:
        if self.tasks:
            return self.tasks.pop(0)
        await asyncio.sleep(0.01)
        return None

    async def size(self) -> int:
        return len(self.tasks)


@pytest.mark.parametrize("backend", [InMemoryBackend, RemoteBackend])
async def test_with_a_broker_of_the_users_own(backend: Any) -> None:
    seen: list[Any] = []
    app = spoiling_app(Config(broker=ListBroker(), backend=backend()), seen)
    async with app:
        order = {"lines": [1]}
        task_id = await app.submit("spoil", order)
        spoil(order)
        record = await final(app, task_id)
    assert seen == ['[[{"lines": [1]}], {}]'] * 3
    assert record.args == ({"lines": [1]},)


async def test_what_a_stopping_worker_gives_back(empty_servers: tuple[str, str]) -> None:
    url, _ = empty_servers
    config = Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url), executor=ExecutorConfig(io_workers=1))
    begun, seen = asyncio.Event(), []

    def app_with(*, holds: bool) -> Flowrra:
        app = Flowrra(config)

        @app.task(name="spoil")
        async def task(order: dict[str, Any]) -> None:
            seen.append(json.dumps(order))
            spoil(order)
            begun.set()
            if holds:
                await asyncio.Event().wait()

        return app

    first = app_with(holds=True)
    await first.start()
    task_id = await first.submit("spoil", {"lines": [1]})
    await begun.wait()
    await first.stop(wait=False)
    async with app_with(holds=False) as second:
        await until(lambda: len(seen) == 2)
        record = await final(second, task_id)
        assert (await record_of(second, task_id)).args == record.args == ({"lines": [1]},)
    assert seen == ['{"lines": [1]}'] * 2
