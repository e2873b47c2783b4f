"""Schedules in an app: what is due is submitted once, whoever is watching."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sides.schedules import write
from flowrra import Flowrra
from flowrra.management import FlowrraManager
from flowrra.scheduler.backends.sql import LEASE
from flowrra.scheduler.local_time import LOCAL


def local_now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - the scheduler's datetimes are local


def counting_app(path: Path, ran: asyncio.Queue[object]) -> Flowrra:
    app = Flowrra()
    app.create_scheduler(str(path))

    @app.task()
    async def note(value: object) -> None:
        ran.put_nowait(value)

    return app


async def test_due_rows_fire_at_start_exactly_once_with_many_schedulers(tmp_path: Path) -> None:
    ran: asyncio.Queue[object] = asyncio.Queue()
    apps = [counting_app(tmp_path / "s.db", ran) for _ in range(4)]
    scheduler = apps[0].scheduler
    assert scheduler is not None
    for number in range(50):
        await scheduler.schedule_once("note", local_now() - timedelta(minutes=5), (number,))
    await asyncio.gather(*(app.start() for app in apps))
    async with asyncio.timeout(5):
        found = [await ran.get() for _ in range(50)]
    await asyncio.gather(*(app.stop() for app in apps))
    assert sorted(found, key=str) == sorted(range(50), key=str)
    assert ran.empty()


@pytest.mark.slow
async def test_an_interval_fires_without_drift_and_reads_back_as_given(tmp_path: Path) -> None:
    ran: asyncio.Queue[object] = asyncio.Queue()
    app = counting_app(tmp_path / "s.db", ran)
    async with app, asyncio.timeout(5):
        manager = FlowrraManager(app)
        first = await manager.create_schedule_interval("note", 0.2, (1,))
        assert await manager.create_schedule_interval("note", 0.20, (1,)) == first
        for _ in range(3):
            await ran.get()
        stats = await manager.get_schedule_run_stats()
        assert stats is not None
        assert stats["runs"]["note"]["submitted"] >= 3
        [schedule] = await manager.list_schedules()
        assert (schedule["schedule"], schedule["schedule_type"]) == ("0.2", "interval")
        assert (await manager.health_check())["components"]["scheduler"]["healthy"] is True


async def test_a_database_of_0_1_8_is_upgraded_and_an_unreadable_row_is_isolated(tmp_path: Path) -> None:
    path, ran = tmp_path / "old.db", asyncio.Queue[object]()
    write(path, 2, local_now().timestamp() - 1, 0.0)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE scheduled_tasks SET schedule = 'nonsense' WHERE id = 'schedule-0'")
    connection.close()
    app = counting_app(path, ran)
    async with app, asyncio.timeout(5):
        await ran.get()
        stats = await FlowrraManager(app).get_scheduler_stats()
    assert stats is not None
    assert (stats["total_schedules"], stats["broken_schedules"]) == (2, 1)


async def test_without_a_scheduler_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="no scheduler"):
        await FlowrraManager(Flowrra()).create_schedule_cron("note", "@daily")


async def test_processes_with_different_tasks_share_a_store(tmp_path: Path) -> None:
    ran: asyncio.Queue[object] = asyncio.Queue()
    apps = {name: Flowrra() for name in ("bake", "sell")}
    for name, app in apps.items():
        app.create_scheduler(str(tmp_path / "s.db"), check_interval=0.1)

        @app.task(name)
        async def note(value: object, name: str = name) -> None:
            ran.put_nowait((name, value))

    for number in range(20):
        for name, app in apps.items():
            assert app.scheduler is not None
            await app.scheduler.schedule_once(name, local_now(), (number,))
    await asyncio.gather(*(app.start() for app in apps.values()))
    async with asyncio.timeout(5):
        found = {await ran.get() for _ in range(40)}
    assert found == {(name, number) for name in apps for number in range(20)}
    runs = await FlowrraManager(apps["sell"]).list_schedule_runs()
    assert {run["attempts"] for run in runs} == {1}
    await asyncio.gather(*(app.stop() for app in apps.values()))


async def test_what_was_claimed_by_a_process_that_is_gone_is_left_to_one_that_knows_the_task(tmp_path: Path) -> None:
    app = counting_app(tmp_path / "s.db", asyncio.Queue())
    scheduler = app.scheduler
    assert scheduler is not None
    await scheduler.schedule_once("note", local_now(), (1,))
    now, store = round(local_now().timestamp() * 1_000_000), scheduler.backend
    assert (await store.claim(now, LOCAL, "other", 10, ["else"])).runs == []
    assert await store.next_due(["else"]) is None
    assert len((await store.claim(now, LOCAL, "gone", 10, ["note"])).runs) == 1
    later = now + 2 * LEASE
    assert (await store.claim(later, LOCAL, "other", 10, ["else"])).runs == []
    assert await store.next_due(["else"]) is None
    assert len((await store.claim(later, LOCAL, "heir", 10, ["note"])).runs) == 1
    await store.close()


async def test_a_task_that_is_unregistered_after_its_run_was_claimed_fails_that_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: asyncio.Queue[object] = asyncio.Queue()
    app = counting_app(tmp_path / "s.db", ran)

    @app.task("brief")
    async def brief_one() -> None: ...

    assert app.scheduler is not None
    brief = await app.scheduler.schedule_once("brief", local_now() - timedelta(seconds=1))
    await app.scheduler.schedule_once("note", local_now(), (1,))
    claim = app.scheduler.backend.claim

    async def claiming(*args: Any) -> Any:
        claims = await claim(*args)
        app.registry.unregister("brief")
        return claims

    monkeypatch.setattr(app.scheduler.backend, "claim", claiming)
    async with app, asyncio.timeout(20):
        assert await ran.get() == 1
        while not (run := (await app.scheduler.list_runs(brief))[0])["error"]:
            await asyncio.sleep(0.02)
        assert (run["result"], run["error"][:17]) == ("claimed", "TaskNotFoundError")
        assert app.scheduler.run_stats()["store_errors"] == {"claim": 0, "settle": 0}
