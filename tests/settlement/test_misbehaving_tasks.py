"""Between the end of an attempt and its settlement nothing that user data does leaves the attempt unsettled: every task
ends, whoever waits is told, no slot and no lease is held, and what is counted is what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, TaskResult
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, assert_counts_add_up, final, numbers_of, until
from tests.settlement.misbehaviour import CASES, Case, EvilKindError

RETRIES = 2


def config_of(where: str, urls: tuple[str, str]) -> Config:
    """Where tasks and results are: "memory", "server" (the first), "elsewhere" (the other one), or a user's "own"."""
    tasks, results = where.split("+")
    backends: dict[str, Any] = {
        "memory": InMemoryBackend(),
        "own": RemoteBackend(),
        "server": BackendConfig(url=urls[0]),
        "elsewhere": BackendConfig(url=urls[1]),
    }
    return Config(
        broker=BrokerConfig(url=urls[0], lease=2.0) if tasks == "server" else None,
        backend=backends[results],
        executor=ExecutorConfig(io_workers=2, cpu_workers=1),
    )


PLACES = [
    "memory+memory",
    "memory+own",
    "memory+elsewhere",
    "server+server",
    "server+elsewhere",
    "server+memory",
    "server+own",
]


def as_io_task(func: Callable[..., Any]) -> Callable[..., Any]:
    async def task(*args: Any) -> Any:
        return func(*args)

    return task


async def fine(number: int) -> int:
    return number + 1


def fine_in_a_process(number: int) -> int:
    return number + 1


async def assert_all_end(app: Flowrra, urls: tuple[str, str], cases: list[Case], good: Callable[..., Any]) -> None:
    order, items = {"id": 7, "lines": [1, 2]}, ["a", ["b"]]
    manager = FlowrraManager(app)
    outcomes: dict[str, list[TaskResult]] = {}
    async with app:
        ids = {case.name: [await app.submit(case.name, order, items) for _ in range(6)] for case in cases}
        for name, its_ids in ids.items():
            outcomes[name] = [await final(app, task_id, within=90) for task_id in its_ids]
        # More of them than there are slots: none is held.
        assert (await final(app, await app.submit(good, 1), within=30)).result == 2
        await until(lambda: not any(numbers_of(app, name)["running"] for name in ids))
        numbers = {name: numbers_of(app, name) for name in ids}
        queues = await manager.get_queue_stats()
        if app.config.broker is not None:
            with redis.Redis.from_url(urls[0]) as look:
                await until(lambda: not list(look.scan_iter("*:leases")) and not list(look.scan_iter("*:holders")))
            assert all(queue is None or queue["dead"] == 0 for queue in queues.values())

    # What the caller has, and what the record shows, is what was submitted.
    assert (order, items) == ({"id": 7, "lines": [1, 2]}, ["a", ["b"]])
    for case in cases:
        assert_agree(case, outcomes[case.name], numbers[case.name])


def assert_agree(case: Case, outcomes: list[TaskResult], numbers: dict[str, Any]) -> None:
    """Records and counters agree, and are what the case may lead to."""
    assert {record.status.value for record in outcomes} <= case.outcomes, outcomes
    assert_counts_add_up(numbers, running=0)
    recorded = [record.status.value for record in outcomes]
    assert (numbers["succeeded"], numbers["failed"]) == (recorded.count("success"), recorded.count("failed"))
    assert numbers["retrying"] == 0
    for record in outcomes:
        assert (list(record.args[0].items()), list(record.args[1])) == ([("id", 7), ("lines", [1, 2])], ["a", ["b"]])


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_on_the_event_loop(empty_servers: tuple[str, str], case: Case, where: str) -> None:
    app = Flowrra(config_of(where, empty_servers))
    app.task(name=case.name, max_retries=RETRIES, retry_delay=0.0)(as_io_task(case.func))
    app.task(name="fine")(fine)
    await assert_all_end(app, empty_servers, [case], fine)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory+memory", "server+server", "server+elsewhere"])
async def test_in_worker_processes(empty_servers: tuple[str, str], where: str) -> None:
    app = Flowrra(config_of(where, empty_servers))
    for case in CASES:
        app.task(name=case.name, cpu_bound=True, max_retries=1, retry_delay=0.0)(case.func)
    app.task(name="fine", cpu_bound=True)(fine_in_a_process)
    await assert_all_end(app, empty_servers, CASES, fine_in_a_process)


@pytest.mark.parametrize("where", PLACES)
async def test_errors_that_cannot_be_compared_with_retry_on(empty_servers: tuple[str, str], where: str) -> None:
    app = Flowrra(config_of(where, empty_servers))

    @app.task(max_retries=2, retry_delay=0.0, retry_on=EvilKindError)
    async def picky() -> None:
        raise ValueError("not one of those")

    async with app:
        record = await final(app, await app.submit(picky))
    assert record.status == "failed"
    # After the stop: where results are elsewhere, the record is there a moment before the attempt is counted.
    assert_counts_add_up(numbers_of(app, "picky"), running=0)


@pytest.mark.parametrize("where", ["memory+memory", "server+server"])
async def test_subscribers_that_cannot_be_looked_up(empty_servers: tuple[str, str], where: str) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, event: dict[str, Any]) -> None:
            raise AssertionError("it can't be called")

    app = Flowrra(config_of(where, empty_servers))
    app.task(name="fine")(fine)
    subscriber = Unhashable()
    app.events.bus.subscribe(subscriber)
    try:
        async with app:
            assert (await final(app, await app.submit(fine, 1))).result == 2
            assert app.events.errors > 0
    finally:
        await app.events.bus.unsubscribe(subscriber)
