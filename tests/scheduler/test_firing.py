"""Schedules in an app: what is due is submitted once, whoever is watching."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.sides.schedules import write
from flowrra import Flowrra
from flowrra.management import FlowrraManager


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
