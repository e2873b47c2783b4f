"""A queue that is full delays its own runs, and no others."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from tests.core.apps import until
from tests.core.cpu_tasks import pid


def local_now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - the scheduler's datetimes are local


class Works:
    """An app with one slot, room for one more task, and an IO task that waits for a gate."""

    def __init__(self, path: Path) -> None:
        executor = ExecutorConfig(io_workers=1, cpu_workers=1, max_queue_size=1)
        self.app = Flowrra(Config(executor=executor, backend=InMemoryBackend()))
        self.app.create_scheduler(str(path), check_interval=0.2)
        self.gate = asyncio.Event()
        self.begun: list[int] = []

        @self.app.task("hold")
        async def hold(number: int) -> None:
            self.begun.append(number)
            await self.gate.wait()

        self.app.task("pid", cpu_bound=True)(pid)

    async def schedule(self, task: str, count: int, **options: Any) -> None:
        assert self.app.scheduler is not None
        for number in range(count):
            args = (number,) if task == "hold" else ()
            at = local_now() + timedelta(microseconds=number)
            await self.app.scheduler.schedule_once(task, at, args, **options)

    async def runs(self, task: str) -> list[dict[str, Any]]:
        manager = FlowrraManager(self.app)
        ids = {schedule["id"] for schedule in await manager.list_schedules() if schedule["task_name"] == task}
        return [run for run in await manager.list_schedule_runs(limit=1000) if run["schedule_id"] in ids]

    async def count(self, task: str, result: str) -> int:
        return sum(run["result"] == result for run in await self.runs(task))


@pytest.mark.slow
async def test_a_full_queue_delays_no_run_of_another(tmp_path: Path) -> None:
    works = Works(tmp_path / "s.db")
    await works.schedule("hold", 150)  # more than may be under way at a time
    async with works.app, asyncio.timeout(20):
        await until(lambda: len(works.begun) == 1)
        await works.schedule("pid", 1)
        async with asyncio.timeout(3):
            while await works.count("pid", "submitted") < 1:
                await asyncio.sleep(0.02)
        assert await works.count("hold", "submitted") < 5
        works.gate.set()
        await until(lambda: len(works.begun) == 150)
        assert sorted(works.begun) == list(range(150))


@pytest.mark.slow
async def test_a_run_waits_for_room_for_as_long_as_it_takes_and_is_one_try(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("flowrra.scheduler.submissions.SUBMIT_TIMEOUT", 0.2)
    monkeypatch.setattr("flowrra.scheduler.submissions.BEAT", 0.2)
    monkeypatch.setattr("flowrra.scheduler.backends.sql.LEASE", 600_000)
    works = Works(tmp_path / "s.db")
    await works.schedule("hold", 5, misfire_grace=0.5)
    async with works.app, asyncio.timeout(10):
        await until(lambda: len(works.begun) == 1)
        await asyncio.sleep(1.5)  # more than a lease, than a submission's limit, and than the grace
        works.gate.set()
        await until(lambda: len(works.begun) == 5)
        while await works.count("hold", "submitted") < 5:
            await asyncio.sleep(0.02)
        assert {(run["attempts"], run["error"]) for run in await works.runs("hold")} == {(1, None)}


@pytest.mark.slow
async def test_a_run_that_waits_for_room_at_the_stop_is_left_to_the_next_scheduler(tmp_path: Path) -> None:
    works = Works(tmp_path / "s.db")
    await works.schedule("hold", 5)
    await works.app.start()
    await until(lambda: len(works.begun) == 1)
    await works.app.stop(wait=False)
    assert works.app.scheduler is not None
    store = works.app.scheduler.backend
    left = {run["id"] for run in await store.list_runs(None, 10) if run["result"] == "claimed"}
    assert len(left) == 3
    heir = Works(tmp_path / "s.db")
    heir.gate.set()
    async with heir.app, asyncio.timeout(10):
        await until(lambda: len(heir.begun) == 3)
    await store.close()
