"""A worker process that is killed costs time, and no task."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
import redis

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.redis_faults.conftest import LEASE, Spawn
from tests.redis_faults.worker import RUNS, make_app


async def until_ran(look: redis.Redis, count: int) -> dict[bytes, bytes]:
    while True:
        runs: Any = look.hgetall(RUNS)
        if len(runs) >= count:
            return runs  # type: ignore[no-any-return]
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 4])
async def test_none_of_the_tasks_is_lost_when_workers_are_killed_in_turn(
    url: str, spawn: Spawn, partitions: int
) -> None:
    count, kills = 600, 3
    with redis.Redis.from_url(url) as look:
        async with make_app(url, LEASE, consume=False, partitions=partitions) as producer:
            ids = await producer.submit_many(("note", (n, 0.02), {}) for n in range(count))
            survivor = spawn(url, partitions)
            for kill in range(1, kills + 1):
                victim = spawn(url, partitions)
                await until_ran(look, kill * 120)
                victim.kill()
            records = [await producer.wait_for_result(task_id, timeout=20) for task_id in ids]
            assert survivor.poll() is None
        runs = await until_ran(look, count)

    assert all(record.status == "success" for record in records)
    assert len(runs) == count
    # Only what a killed worker was running, or had run and not told, runs again.
    twice = sum(int(times) - 1 for times in runs.values())
    assert twice <= kills * 64


@pytest.mark.slow
async def test_what_a_killed_worker_ran_runs_elsewhere_although_nothing_else_happens(url: str, spawn: Spawn) -> None:
    with redis.Redis.from_url(url) as look:
        async with make_app(url, LEASE, consume=False) as producer:
            victim = spawn(url)
            await producer.submit("note", 1, 0.5)
            await until_ran(look, 1)
            victim.kill()
            killed = time.monotonic()
            spawn(url)
            while look.hget(RUNS, "1") != b"2":
                await asyncio.sleep(0.05)
            assert time.monotonic() - killed < LEASE + 7


@pytest.mark.slow
async def test_a_killed_worker_is_no_longer_listed(url: str, spawn: Spawn) -> None:
    async with make_app(url, LEASE, consume=False) as observer:
        victim = spawn(url)
        while victim.pid not in await pids(observer):
            await asyncio.sleep(0.05)
        victim.kill()
        async with asyncio.timeout(20):
            while victim.pid in await pids(observer):
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_what_a_stopped_worker_ran_runs_elsewhere_and_its_late_outcome_counts_for_nothing(
    url: str, spawn: Spawn
) -> None:
    with redis.Redis.from_url(url) as look:
        async with make_app(url, LEASE, consume=False) as producer:
            stopped = spawn(url)
            task_id = await producer.submit("note", 1, 0.5)
            await until_ran(look, 1)
            stopped.send_signal(signal.SIGSTOP)
            spawn(url)
            first = await producer.wait_for_result(task_id, timeout=10)
            stopped.send_signal(signal.SIGCONT)
            last = await producer.submit("note", 2, 0.5)
            await producer.wait_for_result(last, timeout=10)
            assert look.hget(RUNS, "1") == b"2"
            assert await producer.get_result(task_id) == first
            assert not look.exists("flowrra:queue:io:leases")


@pytest.mark.slow
async def test_an_app_that_does_not_consume_runs_none_of_the_tasks(url: str, spawn: Spawn) -> None:
    async with make_app(url, LEASE, consume=False) as producer:
        spawn(url)
        spawn(url)
        ids = await producer.submit_many(("note", (n, 0), {}) for n in range(1000))
        for task_id in ids:
            await producer.wait_for_result(task_id, timeout=20)
        tasks = await FlowrraManager(producer).get_task_stats()
    assert tasks["note"]["started"] == 0


async def pids(app: Flowrra) -> set[int]:
    return {worker["pid"] for worker in await FlowrraManager(app).list_workers()}
