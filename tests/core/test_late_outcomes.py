"""Outcomes that a result backend does not take, as it is away: stored when it is back, and never too many."""

from __future__ import annotations

import asyncio

import pytest

from flowrra import Flowrra, TaskResult
from flowrra.backoff import Backoff
from flowrra.executors import records, workers
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, final, memory_app, until

MOST = 2


class Away(RemoteBackend):
    """Takes on new tasks, and while it is away no outcomes."""

    is_away = False
    asked = 0

    async def store(self, task_id: str, result: TaskResult) -> None:
        if self.is_away and result.is_complete:
            self.asked += 1
            raise ConnectionError("away")
        await super().store(task_id, result)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr(records, "MAX_LATE", MOST)
    monkeypatch.setattr(records, "Backoff", lambda: Backoff(0.01, 0.02))
    return Away()


async def test_so_many_wait_beside_the_slots_and_each_other_one_keeps_its_own(backend: Away) -> None:
    app: Flowrra = memory_app(io_workers=1, backend=backend)
    ran: list[int] = []

    @app.task()
    async def note(n: int) -> None:
        ran.append(n)

    async with app:
        manager = FlowrraManager(app)
        assert (await manager.get_runtime_stats())["backend_errors"] == {"get": 0, "store": 0}
        for _ in range(2):  # what was late once counts no more when it is stored
            ran.clear()
            backend.is_away, backend.asked = True, 0
            ids = [await app.submit(note, n) for n in range(MOST + 3)]
            await until(lambda: backend.asked >= 6 * (MOST + 1))
            assert ran == list(range(MOST + 1))
            assert app.executors["io"].busy_workers == 1
            backend.is_away = False
            assert {(await final(app, task_id)).status for task_id in ids} == {"success"}
            assert ran == list(range(MOST + 3))
        assert (await manager.get_runtime_stats())["backend_errors"]["store"] >= 12 * (MOST + 1)


async def test_a_cancellation_does_not_wait_for_them(backend: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CANCEL_GRACE", 20.0)
    app: Flowrra = memory_app(io_workers=1, backend=backend)

    @app.task()
    async def hold() -> None:
        await asyncio.Event().wait()

    async with app:
        task_id = await app.submit(hold)
        await until(lambda: app.executors["io"].busy_workers == 1)
        backend.is_away = True
        async with asyncio.timeout(10):
            assert await FlowrraManager(app).cancel_task(task_id)
        backend.is_away = False
        assert (await final(app, task_id)).status == "cancelled"


async def test_at_a_stop_they_are_given_up(backend: Away, caplog: pytest.LogCaptureFixture) -> None:
    app: Flowrra = memory_app(io_workers=1, backend=backend)

    @app.task()
    async def quick() -> None:
        pass

    backend.is_away = True
    async with asyncio.timeout(10), app:
        task_id = await app.submit(quick)
        await until(lambda: backend.asked >= 2)
        await app.stop(timeout=0.1)
    assert f"outcome not stored, given up task=quick id={task_id} status=success" in caplog.text
