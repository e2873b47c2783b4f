"""Where runs go: to a callback, an app, or executors of one's own, and with which options."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from flowrra import BrokerConfig, Config, Flowrra, IOExecutor, TaskResult, TaskStatus
from flowrra.registry import TaskRegistry
from flowrra.scheduler import ScheduledTask, Scheduler, ScheduleType
from flowrra.scheduler.backends import SQLiteSchedulerBackend
from flowrra.scheduler.models import Run
from flowrra.scheduler.target import Target
from flowrra.submission import SubmitOptions
from tests.core.cpu_tasks import pid
from tests.support.servers import ValkeyServer

NOW = 1_000_000_000_000_000
SECOND = 1_000_000
DAY = 24 * 3600.0


class App:
    """What a scheduler needs of an app; it notes what is submitted."""

    def __init__(self) -> None:
        self.registry = TaskRegistry()
        self.registry.task(name="note")(self.note)
        self.submitted: list[tuple[str, tuple[Any, ...], dict[str, Any], SubmitOptions]] = []
        self.target = Target(self.registry, dict)
        self.target.use_app(self.submit, self.get_result, dict)

    async def note(self, *args: object, **kwargs: object) -> None: ...

    async def submit(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: SubmitOptions) -> str:
        self.submitted.append((name, args, kwargs, options))
        return str(options.task_id)

    async def get_result(self, task_id: str) -> None: ...


def run_of(until: int, **fields: Any) -> Run:
    task = ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", (1,), {"b": 2}, **fields)
    return Run(f"a@{NOW}", task, NOW, 1, until)


async def test_an_app_is_told_the_options_of_the_schedule() -> None:
    app = App()
    await app.target.submit(run_of(NOW, max_retries=7, retry_delay=0.5, priority=3), NOW, 5.0)
    [(name, args, kwargs, options)] = app.submitted
    assert (name, args, kwargs) == ("note", (1,), {"b": 2})
    assert (options.task_id, options.max_retries, options.retry_delay) == (f"a@{NOW}", 7, 0.5)
    assert options.priority == -3, "lower ones run first there"


@pytest.mark.parametrize(
    ("remaining", "remembered"),
    [(-5.0, 60.0), (0.0, 60.0), (100.0, 160.0), (6.99 * DAY, 6.99 * DAY + 60), (9 * DAY, 7 * DAY)],
)
async def test_a_run_is_remembered_for_as_long_as_it_may_be_submitted_again(
    remaining: float, remembered: float
) -> None:
    app = App()
    await app.target.submit(run_of(NOW + round(remaining * SECOND)), NOW, 5.0)
    assert app.submitted[0][3].remember == pytest.approx(remembered)


async def test_a_submission_that_takes_too_long_is_said_to_and_a_time_out_of_its_own_is_its_own() -> None:
    app = App()

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    async def fail(*_: Any, **__: Any) -> None:
        raise TimeoutError("its own")

    app.target.callback = hang
    with pytest.raises(TimeoutError, match=r"its submission did not end within 0\.05 s"):
        await app.target.submit(run_of(NOW), NOW, 0.05)
    app.target.callback = fail
    with pytest.raises(TimeoutError, match="its own"):
        await app.target.submit(run_of(NOW), NOW, 5.0)


async def test_a_callback_that_would_end_the_program_only_fails() -> None:
    async def leave(*args: object, **kwargs: object) -> None:
        raise SystemExit(3)

    app = App()
    app.target.callback = leave
    with pytest.raises(RuntimeError, match=r"its submission raised SystemExit\(3\)"):
        await app.target.submit(run_of(NOW), NOW, 5.0)


async def test_the_clock_is_that_of_the_broker_if_there_is_one() -> None:
    with ValkeyServer() as server:
        for broker in (None, BrokerConfig(url=f"redis://127.0.0.1:{server.port}/0")):
            app = Flowrra(Config(broker=broker))

            @app.task()
            async def note() -> None: ...

            async with app:
                before = time.time()
                now = await Target(app.registry, lambda app=app: app.executors).clock()
                assert now is None if broker is None else before - 0.001 <= now <= time.time() + 0.001


async def test_a_scheduler_with_executors_of_its_own_submits_to_them(tmp_path: Any) -> None:
    registry, done = TaskRegistry(), asyncio.Event()

    @registry.task()
    async def note() -> str:
        done.set()
        return "noted"

    registry.task(name="pid", cpu_bound=True)(pid)
    executor = IOExecutor(registry=registry)
    await executor.start()
    scheduler = Scheduler(SQLiteSchedulerBackend(str(tmp_path / "s.db")), registry, io_executor=executor)
    await scheduler.start()
    task_id = await scheduler.trigger(await scheduler.schedule_interval("note", 60, max_running=1))
    await asyncio.wait_for(done.wait(), 10)
    record = await executor.wait_for_result(task_id, 10)
    assert (record.status, record.result) == (TaskStatus.SUCCESS, "noted")
    with pytest.raises(ValueError, match="no executor for task 'pid'"):
        await scheduler.trigger(await scheduler.schedule_interval("pid", 60))
    await scheduler.stop()
    await executor.stop()


@pytest.mark.parametrize("of_app", [True, False])
async def test_a_run_is_unfinished_until_its_record_is_complete(of_app: bool) -> None:
    """Whoever keeps it: an app, or an executor of one's own."""
    records: dict[str, TaskResult] = {}

    async def get_result(task_id: str) -> TaskResult | None:
        return records.get(task_id)

    app = App()
    if of_app:
        app.target.use_app(app.submit, get_result, dict)
        target = app.target
    else:
        target = Target(app.registry, lambda: {"io": SimpleNamespace(broker=None, get_result=get_result)})  # type: ignore[dict-item]
    assert not await target.is_unfinished("note", "a")
    for status, is_unfinished in ((TaskStatus.RUNNING, True), (TaskStatus.SUCCESS, False)):
        records["a"] = TaskResult("a", status)
        assert await target.is_unfinished("note", "a") is is_unfinished


@dataclass
class Order:
    number: int


@pytest.mark.parametrize("to_callback", [False, True])
async def test_arguments_are_rebuilt_for_the_function_that_gets_them(to_callback: bool) -> None:
    app, seen = App(), []

    async def ship(order: Order) -> None: ...

    async def submit(function: object, *args: object) -> None:
        seen.append((function, args))

    app.registry.task(name="ship")(ship)
    if to_callback:
        app.target.callback = submit
    task = ScheduledTask("a", "ship", ScheduleType.INTERVAL, "60", ({"number": 7},))
    await app.target.submit(Run(f"a@{NOW}", task, NOW, 1, NOW), NOW, 5.0)
    assert seen == ([(app.registry.get("ship"), (Order(7),))] if to_callback else [])
    assert [args for _, args, _, _ in app.submitted] == ([] if to_callback else [(Order(7),)])


def test_a_task_waits_in_memory_where_neither_a_broker_nor_a_callback_takes_it() -> None:
    app = App()
    app.registry.task(name="pid", cpu_bound=True)(pid)
    executors: dict[str, Any] = {"io": SimpleNamespace(broker=None)}
    target = Target(app.registry, lambda: executors)
    assert target.is_there
    assert (target.is_in_memory("note"), target.is_in_memory("pid")) == (True, False)
    executors["io"].broker = object()
    assert not target.is_in_memory("note")
    executors["io"].broker, target.callback = None, app.note
    assert not target.is_in_memory("note")
    assert not Target(app.registry, dict).is_there
    assert app.target.is_there
