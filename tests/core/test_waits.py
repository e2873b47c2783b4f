"""Tasks that wait for other tasks inside: what is said when every slot does, and nothing can go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from flowrra import Flowrra
from flowrra.executors import waits
from tests.core.apps import RemoteBackend, final, memory_app, until

WARNING = "every slot waits for a task that needs one"


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "PATIENCE", 0.05)


def family(app: Flowrra, parents: int) -> asyncio.Event:
    """Parents that wait for a child once so many of them run; the event holds those that are told to wait for it."""
    gate, all_run = asyncio.Event(), asyncio.Barrier(parents)

    @app.task()
    async def child() -> str:
        return "child"

    @app.task(max_retries=0)
    async def parent(seconds: float | None = None) -> object:
        await all_run.wait()
        return (await app.wait_for_result(await app.submit(child), seconds)).result

    @app.task(max_retries=0)
    async def parent_in_a_thread(seconds: float) -> object:
        await all_run.wait()
        child_id = await app.submit(child)
        return (await asyncio.to_thread(app.wait_for_result_sync, child_id, seconds)).result

    @app.task(max_retries=0)
    async def parent_of_many(seconds: float) -> None:
        await all_run.wait()
        ids = [await app.submit(child) for _ in range(3)]
        await asyncio.gather(*(app.wait_for_result(child_id, seconds) for child_id in ids))

    @app.task()
    async def slow() -> None:
        await gate.wait()

    @app.task(max_retries=0)
    async def waits_for(task_id: str, seconds: float) -> None:
        await app.wait_for_result(task_id, seconds)

    return gate


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if WARNING in record.getMessage()]


@pytest.mark.slow
@pytest.mark.parametrize("parent", ["parent", "parent_in_a_thread", "parent_of_many"])
@pytest.mark.parametrize("config", [dict, lambda: {"backend": RemoteBackend()}], ids=["memory", "results elsewhere"])
async def test_four_parents_on_four_slots(
    caplog: pytest.LogCaptureFixture, parent: str, config: Callable[[], dict[str, RemoteBackend]]
) -> None:
    app = memory_app(io_workers=4, **config())
    family(app, 4)
    async with app:
        ids = [await app.submit(parent, 0.6) for _ in range(4)]
        records = [await final(app, task_id) for task_id in ids]

    assert any((record.error or "").startswith("TaskTimeoutError") for record in records)
    [warning] = warnings_in(caplog)
    assert f"executor=io slots=4 waiting={parent} for=child" in warning
    assert "raise io_workers" in warning


@pytest.mark.slow
async def test_it_is_said_once_each_time_that_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=2)
    family(app, 2)
    async with app:
        for times in (1, 2):
            ids = [await app.submit("parent", 0.4) for _ in range(2)]
            for task_id in ids:
                await final(app, task_id)
            assert len(warnings_in(caplog)) == times


async def test_tasks_that_wait_for_each_other(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=2)
    family(app, 1)
    async with app:
        for own, other in (("a", "b"), ("b", "a")):
            await app.options(task_id=own).submit("waits_for", other, 0.4)
        await final(app, "a")

    assert "waiting=waits_for for=waits_for" in warnings_in(caplog)[0]


async def test_while_one_goes_on_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    app = memory_app(io_workers=3)
    gate = family(app, 1)
    async with app:
        slow = await app.submit("slow")
        ids = [await app.submit("waits_for", slow, 5), await app.submit("parent")]
        await until(lambda: app.executors["io"].busy_workers == 3)
        await asyncio.sleep(0.3)  # several looks
        gate.set()
        for task_id in ids:
            assert (await final(app, task_id)).status == "success"

    assert warnings_in(caplog) == []


async def test_a_free_slot_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=3)
    family(app, 2)
    async with app:
        ids = [await app.submit("parent") for _ in range(2)]
        assert [(await final(app, task_id)).result for task_id in ids] == ["child", "child"]

    assert warnings_in(caplog) == []
