"""Schedules of an app whose queue and results are on a server: the processes of one store are one scheduler."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from flowrra.scheduler.backends.sql_schema import RUNS
from tests.core.apps import until
from tests.redis.apps import Gate, redis_app
from tests.scheduler.processes import program
from tests.scheduler.program import make_app


def sharing(url: str, path: Path, gate: Gate, count: int, **options: Any) -> list[Flowrra]:
    """Apps as in several processes: the same queue, results and schedules, nothing else."""
    apps = [redis_app(url, **options) for _ in range(count)]
    for app in apps:
        app.create_scheduler(str(path), check_interval=0.2)

        @app.task("work")
        async def work(value: Any) -> None:
            gate.begun.append(value)
            await gate.opened.wait()

    return apps


async def runs_of(apps: list[Flowrra], result: str) -> int:
    stats = [await FlowrraManager(app).get_schedule_run_stats() for app in apps]
    return sum(each["runs"].get("work", {}).get(result, 0) for each in stats if each is not None)


@pytest.mark.slow
async def test_four_schedulers_run_each_due_time_once(url: str, tmp_path: Path) -> None:
    gate = Gate()
    gate.opened.set()
    apps = sharing(url, tmp_path / "s.db", gate, 4)
    scheduler = apps[0].scheduler
    assert scheduler is not None
    soon = datetime.now() + timedelta(seconds=0.5)  # noqa: DTZ005 - schedules are local
    for number in range(60):
        await scheduler.schedule_once("work", soon + timedelta(milliseconds=10 * number), (number,))
    async with apps[0], apps[1], apps[2], apps[3]:
        async with asyncio.timeout(10):
            await until(lambda: len(gate.begun) >= 60)
        manager = FlowrraManager(apps[1])
        listed = await manager.list_schedule_runs(limit=100)
        results = [await apps[2].wait_for_result(run["task_id"], timeout=5) for run in listed]
    assert sorted(gate.begun) == list(range(60))
    assert len(results) == 60
    assert all(result.is_success for result in results)
    assert await runs_of(apps, "submitted") == 60


@pytest.mark.slow
async def test_a_run_is_skipped_while_another_process_still_runs_the_one_before(url: str, tmp_path: Path) -> None:
    gate = Gate()
    apps = sharing(url, tmp_path / "s.db", gate, 2)
    async with apps[0], apps[1], asyncio.timeout(10):
        await FlowrraManager(apps[0]).create_schedule_interval("work", 0.1, (1,), max_running=1)
        while min([await runs_of([app], "skipped") for app in apps]) == 0:
            await asyncio.sleep(0.05)
        assert gate.begun == [1]
        gate.opened.set()
        await until(lambda: len(gate.begun) > 1)


async def test_a_run_in_a_queue_of_its_own_is_counted_there(url: str, tmp_path: Path) -> None:
    gate = Gate()
    app = redis_app(url)
    app.create_scheduler(str(tmp_path / "s.db"), check_interval=0.2)

    @app.task("work", queue="mail")
    async def work() -> None:
        gate.begun.append(None)
        await gate.opened.wait()

    async with app, asyncio.timeout(10):
        await FlowrraManager(app).create_schedule_interval("work", 0.1, max_running=1)
        while await runs_of([app], "skipped") < 2:
            await asyncio.sleep(0.02)
        assert len(gate.begun) == 1
        gate.opened.set()
        await until(lambda: len(gate.begun) > 1)


async def leave_unrecorded(app: Flowrra, run_id: str) -> None:
    """What a scheduler leaves that is killed when it has submitted a run, and before it records that."""
    assert app.scheduler is not None
    store = app.scheduler.backend
    assert isinstance(store, SqlSchedulerBackend)
    change = sa.update(RUNS).where(RUNS.c.id == run_id)
    await store._write(change.values(result="claimed", lease=1, fired=None, owner="killed"))


@pytest.mark.parametrize("results", ["expired", "none"])
async def test_a_run_that_was_submitted_and_not_recorded_is_run_once(
    url: str, tmp_path: Path, look: redis.Redis, results: str
) -> None:
    gate = Gate()
    gate.opened.set()
    apps = sharing(url, tmp_path / "s.db", gate, 2, **({"backend": None} if results == "none" else {}))
    async with apps[0], asyncio.timeout(10):
        manager = FlowrraManager(apps[0])
        await manager.create_schedule_once("work", datetime.now(), (1,))  # noqa: DTZ005 - schedules are local
        while await runs_of(apps, "submitted") == 0 or not gate.begun:
            await asyncio.sleep(0.01)
        [run] = await manager.list_schedule_runs()
        await apps[0].wait_for_result(run["task_id"])
    look.delete(f"flowrra:task:{run['task_id']}")
    await leave_unrecorded(apps[1], run["task_id"])
    async with apps[1], asyncio.timeout(10):
        while await runs_of(apps, "submitted") < 2:
            await asyncio.sleep(0.01)
        await apps[1].submit("work", 2)  # behind what may have been queued
        await until(lambda: 2 in gate.begun)
    assert gate.begun == [1, 2]


@pytest.mark.slow
async def test_a_run_counts_as_running_while_the_process_lives_that_has_its_task_in_memory(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = 2.0
    monkeypatch.setattr("flowrra.scheduler.backends.sql.LEASE", round(lease * 1e6))
    path = str(tmp_path / "s.db")
    app = make_app(path, "", url)
    async with program(path, results=url, lease=lease) as other, asyncio.timeout(20):
        await FlowrraManager(app).create_schedule_interval("hold", 0.2, ("other",), max_running=1)
        assert (await other.next_run())[0] == "other"
        async with app:
            manager = FlowrraManager(app)
            await asyncio.sleep(2 * lease)  # it is alive, and says so
            stats = await manager.get_schedule_run_stats()
            assert stats is not None
            assert stats["runs"]["hold"]["submitted"] == 0
            await other.kill()
            async with asyncio.timeout(2 * lease):
                while (await manager.get_schedule_run_stats() or {})["runs"]["hold"]["submitted"] == 0:
                    await asyncio.sleep(0.05)
            await app.stop(wait=False)


async def test_a_run_that_no_queue_knows_any_more_does_not_run_for_ever(
    url: str, tmp_path: Path, look: redis.Redis
) -> None:
    gate = Gate()
    [app] = sharing(url, tmp_path / "s.db", gate, 1)
    async with app, asyncio.timeout(10):
        manager = FlowrraManager(app)
        await manager.create_schedule_interval("work", 0.1, (1,), max_running=1)
        while await runs_of([app], "skipped") == 0:
            await asyncio.sleep(0.02)
        [submitted] = [run for run in await manager.list_schedule_runs() if run["result"] == "submitted"]
        look.hdel("flowrra:queue:io:tasks", submitted["task_id"])  # as after a failover that lost writes
        await until(lambda: len(gate.begun) > 1)
        record = await app.get_result(submitted["task_id"])
        assert record is not None
        assert not record.is_complete
        gate.opened.set()
