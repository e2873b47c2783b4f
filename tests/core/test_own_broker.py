"""The broker that examples/own_broker.py has a user write."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from examples.own_broker import SQLiteBroker
from flowrra import Config, ExecutorConfig, Flowrra, Task
from flowrra.brokers import BaseBroker
from flowrra.exceptions import BackendError
from flowrra.executors.sources import polled
from flowrra.management import FlowrraManager
from tests.core.apps import final, until
from tests.core.test_middleware import Told


def app_on(path: Path, *, consume: bool = True) -> Flowrra:
    app = Flowrra(Config(broker=SQLiteBroker(path), executor=ExecutorConfig(consume=consume)))

    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    return app


@pytest.mark.slow
async def test_an_app_runs_what_it_submits(tmp_path: Path) -> None:
    async with app_on(tmp_path / "queue") as app:
        assert (await final(app, await app.submit("add", 1, 2))).result == 3


@pytest.mark.slow
async def test_what_one_process_submits_another_one_runs(tmp_path: Path) -> None:
    async with app_on(tmp_path / "queue", consume=False) as producer:
        await producer.submit("add", 1, 2)
        queues = await FlowrraManager(producer).get_queue_stats()
        assert queues["io"] is not None
        assert (queues["io"]["pending"], queues["io"]["broker"], queues["io"]["shared"]) == (1, "SQLiteBroker", True)
        async with app_on(tmp_path / "queue") as worker:

            def succeeded() -> bool:
                return worker.telemetry.tasks["add"].snapshot()["succeeded"] == 1

            await until(succeeded)


async def test_the_most_urgent_comes_first_and_none_twice(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "queue")
    for task_id, priority in (("late", 5), ("first", 0), ("second", 0)):
        await broker.push(Task(task_id, "add", (1, 2), {}, priority=priority))
    taken = await asyncio.gather(*(broker.pop(0) for _ in range(4)))
    assert sorted(task.id for task in taken if task is not None) == ["first", "late", "second"]
    assert await broker.size() == 0
    await broker.push(Task("a", "add", (1, 2), {}, priority=1))
    await broker.push(Task("b", "add", (1, 2), {}))
    assert [task.id for task in (await broker.pop(0), await broker.pop(0)) if task] == ["b", "a"]


class Refusing(SQLiteBroker):
    """Takes tasks until it is told not to."""

    is_refusing = False

    async def push(self, task: Task) -> None:
        if self.is_refusing:
            raise BackendError("no more")
        await super().push(task)


@pytest.mark.slow
async def test_what_runs_goes_back_to_the_broker_at_a_stop_and_is_run_by_the_next(tmp_path: Path) -> None:
    begun, told = asyncio.Event(), Told()
    app = Flowrra(Config(broker=SQLiteBroker(tmp_path / "queue")))
    app.add_middleware(told)

    @app.task(name="hold")
    async def hold() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        await app.submit(hold)
        await begun.wait()
        await app.stop(wait=False)
    assert [status for _, _, status, _ in told.outcomes] == ["released"]
    assert app.telemetry.tasks["hold"].snapshot()["released"] == 1
    assert await SQLiteBroker(tmp_path / "queue").size() == 1


@pytest.mark.slow
async def test_what_a_broker_does_not_take_back_is_cancelled_and_told_so_once(tmp_path: Path) -> None:
    begun, told, events = asyncio.Event(), Told(), []
    broker = Refusing(tmp_path / "queue")
    app = Flowrra(Config(broker=broker))
    app.add_middleware(told)

    @app.task(name="hold")
    async def hold() -> None:
        begun.set()
        await asyncio.sleep(60)

    async def note(event: dict[str, Any]) -> None:
        events.append(event["task"]["status"])

    app.events.bus.subscribe(note)
    try:
        async with app:
            task_id = await app.submit(hold)
            await begun.wait()
            broker.is_refusing = True
            await app.stop(wait=False)
    finally:
        await app.events.bus.unsubscribe(note)
    record = await app.get_result(task_id)
    assert record is not None
    assert (record.status, record.error) == (
        "cancelled",
        "cancelled: the app stopped, and the broker did not take it back",
    )
    counted = app.telemetry.tasks["hold"].snapshot()
    assert (counted["cancelled"], counted["released"]) == (1, 0)
    assert [status for _, _, status, _ in told.outcomes] == ["cancelled"]
    assert events == ["pending", "running", "cancelled"]


class Slow(SQLiteBroker):
    """Takes its time to take a task back: longer than an attempt is left between two tellings to end."""

    seconds = 0.0

    async def push(self, task: Task) -> None:
        await asyncio.sleep(self.seconds)
        await super().push(task)


@pytest.mark.slow
async def test_what_runs_goes_back_to_a_slow_broker_too(tmp_path: Path) -> None:
    begun, broker = asyncio.Event(), Slow(tmp_path / "queue")
    app = Flowrra(Config(broker=broker))

    @app.task(name="hold")
    async def hold() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        task_id = await app.submit(hold)
        await begun.wait()
        broker.seconds = 1.5
        await app.stop(wait=False)
    assert await broker.size() == 1
    record = await app.get_result(task_id)
    assert record is not None
    assert record.status == "pending"
    assert app.telemetry.tasks["hold"].snapshot()["released"] == 1


class TestWhatIsNotDueYet:
    """A stop gives it back, and whoever takes it then waits for its time."""

    @pytest.mark.slow
    async def test_a_delayed_task_keeps_its_time_over_restarts(self, tmp_path: Path) -> None:
        async with app_on(tmp_path / "queue") as app:
            task_id = await app.options(countdown=3600).submit("add", 1, 2)
        assert app.lost_at_stop == 0
        for _ in range(2):
            async with app_on(tmp_path / "queue") as worker:
                source = worker.executors["io"].source
                await until(lambda source=source: source.workers.queue.delayed == 1)
                (job,) = source.workers.queue.delayed_items()
                assert job.task.id == task_id
                assert 3500 < job.ready_at - time.monotonic() <= 3600
                assert job.telemetry.snapshot()["started"] == 0

    @pytest.mark.slow
    async def test_is_run_when_it_is_due(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(polled, "POP_TIMEOUT", 0.05)  # the stop waits for it
        async with app_on(tmp_path / "queue") as app:
            due = time.time() + 0.5
            await app.options(countdown=0.5).submit("add", 1, 2)
            await app.stop(wait=False)
        async with app_on(tmp_path / "queue") as worker:
            await until(lambda: worker.telemetry.tasks["add"].snapshot()["succeeded"] == 1)
        assert time.time() >= due - 0.01

    @pytest.mark.slow
    async def test_a_retry_keeps_its_time_too_and_is_counted_as_one(self, tmp_path: Path) -> None:
        app = Flowrra(Config(broker=SQLiteBroker(tmp_path / "queue")))

        @app.task(name="fail", max_retries=1, retry_delay=3600)
        async def fail() -> None:
            raise ValueError("not today")

        numbers = app.telemetry.tasks["fail"].snapshot
        async with app:
            task_id = await app.submit(fail)
            await until(lambda: numbers()["retried"] == 1)
        assert numbers()["retrying"] == 0
        async with app:
            await until(lambda: app.executors["io"].source.workers.queue.delayed == 1)
            record = await app.get_result(task_id)
            assert record is not None
            assert (record.status, record.retries) == ("retrying", 1)
            assert (numbers()["started"], numbers()["retrying"]) == (1, 1)
        assert numbers()["retrying"] == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("due_at", ["soon", float("nan"), 1_000_000_000.0], ids=str)
    async def test_a_time_that_is_none_or_over_is_now(self, tmp_path: Path, due_at: Any) -> None:
        broker = SQLiteBroker(tmp_path / "queue")
        await broker.push(Task("task", "add", (1, 2), {}, due_at=due_at))
        async with app_on(tmp_path / "queue") as worker:
            await until(lambda: worker.telemetry.tasks["add"].snapshot()["succeeded"] == 1)

    async def test_a_broker_that_keeps_the_fields_of_0_1_8_alone_has_it_run_at_once(self) -> None:
        app = Flowrra(Config(broker=OldBroker()))

        @app.task(name="remind")
        async def remind() -> str:
            return "reminded"

        async with app:
            task_id = await app.options(countdown=3600).submit(remind)
        async with app:
            assert (await final(app, task_id)).result == "reminded"


class OldBroker(BaseBroker):
    """Written for flowrra 0.1.8, whose tasks had these fields."""

    FIELDS = ("id", "name", "args", "kwargs", "max_retries", "retry_delay", "current_retry", "priority", "cpu_bound")

    def __init__(self) -> None:
        self._tasks: list[dict[str, Any]] = []

    async def push(self, task: Task) -> None:
        self._tasks.append({name: getattr(task, name) for name in self.FIELDS})

    async def pop(self, timeout: float | None = None) -> Task | None:
        await asyncio.sleep(0.005)
        return Task(**self._tasks.pop(0)) if self._tasks else None

    async def size(self) -> int:
        return len(self._tasks)
