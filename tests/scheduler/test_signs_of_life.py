"""A run whose task is in the memory of another process counts as running for as long as that process says it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flowrra import Config, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.scheduler import Scheduler
from flowrra.scheduler.backends.base import Claims
from tests.core.apps import until

LEASE = 1.2


class Process:
    """An app of several that share a store and their results, each with tasks in its own memory."""

    def __init__(self, path: Path, results: InMemoryBackend) -> None:
        self.app = Flowrra(Config(backend=results))
        self.scheduler: Scheduler = self.app.create_scheduler(str(path), check_interval=0.1)
        self.begun = 0

        @self.app.task("hold")
        async def hold() -> None:
            self.begun += 1
            await asyncio.Event().wait()

    def counts(self) -> dict[str, int]:
        return self.scheduler.run_stats()["runs"].get("hold", {"submitted": 0, "skipped": 0})

    def claim_nothing_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def claim(*_: Any) -> Claims:
            return Claims([], {}, {}, {}, False)

        monkeypatch.setattr(self.scheduler.backend, "claim", claim)

    def say_nothing_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def renew(*_: Any) -> None: ...

        monkeypatch.setattr(self.scheduler.backend, "renew", renew)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Process]:
    monkeypatch.setattr("flowrra.scheduler.submissions.BEAT", LEASE / 4)
    monkeypatch.setattr("flowrra.scheduler.backends.sql.LEASE", round(LEASE * 1e6))
    results = InMemoryBackend()
    return [Process(tmp_path / "s.db", results) for _ in range(2)]


@pytest.mark.slow
async def test_it_is_renewed_though_that_process_claims_nothing_more(
    processes: Sequence[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = processes
    await first.scheduler.schedule_interval("hold", LEASE / 4, max_running=1)
    await first.app.start()
    await until(lambda: first.begun == 1)
    first.claim_nothing_more(monkeypatch)
    await second.app.start()
    await until(lambda: second.counts()["skipped"] >= 10, within=30)  # longer than two leases
    assert (second.counts()["submitted"], second.begun) == (0, 0)
    first.say_nothing_more(monkeypatch)
    await until(lambda: second.begun == 1, within=30)
    for process in processes:
        await process.app.stop(timeout=0.1)


@pytest.mark.slow
async def test_a_task_that_has_ended_is_kept_alive_no_more_though_its_schedule_is_never_due_again(
    processes: Sequence[Process],
) -> None:
    process, gate = processes[0], asyncio.Event()

    @process.app.task("wait")
    async def wait() -> None:
        process.begun += 1
        await gate.wait()

    schedules = [
        await process.scheduler.schedule_once("wait", datetime.now(), max_running=1),  # noqa: DTZ005 - local
        await process.scheduler.schedule_cron("wait", "@yearly", enabled=False, max_running=1),
    ]
    async with process.app:
        await until(lambda: process.begun == 1)
        await process.scheduler.trigger(schedules[1])
        await until(lambda: process.begun == 2)
        runs = await process.scheduler.list_runs()
        before = max(row["alive"] for row in await process.scheduler.backend.list_runs(None, 10))
        deadline = asyncio.get_running_loop().time() + 30
        while min(row["alive"] for row in await process.scheduler.backend.list_runs(None, 10)) <= before:
            assert asyncio.get_running_loop().time() < deadline
            process.scheduler._dispatcher.wake()
            await asyncio.sleep(0.05)
        gate.set()
        submissions = process.scheduler._dispatcher._submissions
        assert {run["task_id"] for run in runs} == set(submissions._kept_alive)
        await until(lambda: not submissions._kept_alive, within=30)
