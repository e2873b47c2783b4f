"""The numbers of several processes on one server: none is ever below 0, and each process' own add up."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.brokers import BaseBroker
from flowrra.management import FlowrraManager
from flowrra.task import Task
from tests.redis_faults.proxy import Proxy
from tests.support.servers import ValkeyServer

SEEDS = int(os.environ.get("FLOWRRA_MODEL_SEEDS", "8"))
STEPS = 40
SETTLED = ("succeeded", "failed", "retried", "cancelled", "released")


def make_app(url: str, broker: BaseBroker | None = None, **options: Any) -> Flowrra:
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url) if broker is None else broker,
            backend=BackendConfig(url=url),
            executor=ExecutorConfig(io_workers=3, **options),
        )
    )

    @app.task(name="work", max_retries=2, retry_delay=0.01)
    async def work(fails: int = 0, seconds: float = 0.0) -> None:
        await asyncio.sleep(seconds)
        if random.random() < fails / 3:
            raise ValueError(fails)

    @app.task(name="later", max_retries=1, retry_delay=3)
    async def later() -> None:
        raise ValueError("come again")

    return app


async def numbers(app: Flowrra) -> dict[str, dict[str, Any]]:
    """The app's numbers, of which all are 0 at least, and the attempts add up."""
    stats = await FlowrraManager(app).get_task_stats()
    for name, figures in stats.items():
        below = {key: value for key, value in figures.items() if isinstance(value, int) and value < 0}
        assert not below, (name, figures)
        assert figures["started"] == sum(figures[key] for key in SETTLED) + figures["running"], (name, figures)
        histograms = (*figures["run_duration"].values(), figures["queue_wait"])
        assert all(count >= 0 for histogram in histograms for count in histogram["counts"])
    return stats


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_a_submission_whose_answer_was_lost_is_counted_once(url: str, valkey: ValkeyServer) -> None:
    async with Proxy(valkey.port) as proxy:
        app = make_app(proxy.url, consume=False)
        async with app:
            await app.submit("work")
            for _ in range(9):
                proxy.garbage = b"?no answer\r\n"
                await app.submit("work")
                assert proxy.garbage is None
            await app.submit_many([("work", (), {})] * 5)
            assert (await numbers(app))["work"]["submitted"] == 15
            assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 15


async def test_an_id_that_exists_already_is_no_submission(url: str) -> None:
    async with make_app(url, consume=False) as app:
        for _ in range(3):
            await app.options(task_id="once").submit("work")
        assert (await numbers(app))["work"]["submitted"] == 1


class SimpleBroker(BaseBroker):
    """A user's own, without leases: a queue that two apps share."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[Task] = asyncio.Queue()

    async def push(self, task: Task) -> None:
        await self.tasks.put(task)

    async def pop(self, timeout: float | None = None) -> Task | None:
        try:
            return await asyncio.wait_for(self.tasks.get(), timeout)
        except TimeoutError:
            return None

    async def size(self) -> int:
        return self.tasks.qsize()


@pytest.mark.slow
async def test_a_retry_is_counted_where_it_is_planned_and_not_where_it_runs(url: str) -> None:
    broker = SimpleBroker()
    first, second = make_app(url, broker), make_app(url, broker)
    async with first:
        task_id = await first.submit("later")

        async def waits() -> bool:
            return (await numbers(first))["later"]["retrying"] == 1

        await until(waits)
        await first.stop(wait=False)
    assert (await numbers(first))["later"]["retrying"] == 0
    async with second:
        record = await second.wait_for_result(task_id, 10)
        assert record.status == "failed"
        found = (await numbers(second))["later"]
    assert (found["retrying"], found["started"], found["failed"]) == (0, 1, 1)


@pytest.mark.slow
async def test_a_retry_that_waits_is_no_longer_counted_once_it_is_cancelled(url: str) -> None:
    async with make_app(url, SimpleBroker()) as app:
        task_id = await app.submit("later")

        async def waits() -> bool:
            return (await numbers(app))["later"]["retrying"] == 1

        await until(waits)
        assert await FlowrraManager(app).cancel_task(task_id)
        assert (await numbers(app))["later"]["retrying"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("leases", [True, False], ids=["leases", "simple"])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_two_processes_do_their_numbers_add_up(url: str, seed: int, leases: bool) -> None:
    chance = random.Random(seed)
    broker = None if leases else SimpleBroker()
    apps = [make_app(url, broker) for _ in range(2)]
    ids: list[str] = []

    async def submit(app: Flowrra) -> None:
        name, arguments = chance.choice([("work", (chance.randrange(4), chance.choice([0, 0.02, 0.2]))), ("later", ())])
        if chance.random() < 0.3:
            ids.extend(await app.submit_many([(name, arguments, {})] * 3))
        else:
            ids.append(await app.options(countdown=chance.choice([0, 0.03])).submit(name, *arguments))

    async def cancel(app: Flowrra) -> None:
        if ids:
            await FlowrraManager(app).cancel_task(chance.choice(ids))

    async def restart(app: Flowrra) -> None:
        await app.stop(wait=chance.random() < 0.5, timeout=0.05)
        await numbers(app)
        await app.start()

    async def look(app: Flowrra) -> None:
        await asyncio.sleep(chance.choice([0, 0.01, 0.05]))

    try:
        for app in apps:
            await app.start()
        for _ in range(STEPS):
            step = chance.choices([submit, cancel, restart, look], [6, 3, 1, 4])[0]
            await step(chance.choice(apps))
            for app in apps:
                await numbers(app)
    finally:
        for app in apps:
            await app.stop(wait=False)
    totals = [await numbers(app) for app in apps]
    for figures in (figures for stats in totals for figures in stats.values()):
        assert (figures["running"], figures["retrying"]) == (0, 0)
    submitted = sum(stats[name]["submitted"] for stats in totals for name in stats)
    assert submitted == len(ids)
