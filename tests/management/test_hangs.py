"""Progress is judged: an executor whose slots are all held by tasks that hang, while others wait, is degraded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.executors import hangs
from flowrra.executors.workers import CANCEL_GRACE
from flowrra.management import FlowrraManager
from flowrra.telemetry import Telemetry
from tests.core.apps import comes_true, memory_app, until
from tests.core.test_polled_broker import ListBroker
from tests.support.servers import ValkeyServer

LOGGER = "flowrra.executors.hangs"


def with_tasks(app: Flowrra) -> Flowrra:
    @app.task()
    async def hang() -> None:
        await asyncio.Event().wait()

    @app.task()
    async def other() -> None:
        await asyncio.Event().wait()

    @app.task(timeout=3600)
    async def limited() -> None:
        await asyncio.Event().wait()

    return app


@asynccontextmanager
async def running(app: Flowrra, *names: str, waiting: int = 0) -> AsyncIterator[FlowrraManager]:
    """The app with these tasks in its slots, and so many more that wait."""
    await app.start()
    try:
        for name in names:
            await app.submit(name)
        await until(lambda: app.executors["io"].busy_workers == len(names))
        for _ in range(waiting):
            await app.submit("hang")
        yield FlowrraManager(app)
    finally:
        await app.stop(wait=False)


def age(app: Flowrra, seconds: float) -> None:
    """Have what runs begun so much earlier."""
    for job in app.executors["io"].running_jobs():
        job.started_at -= seconds


async def is_stuck(manager: FlowrraManager) -> bool:
    """What all the answers say of the IO executor."""
    health, stats, runtime = (
        await manager.health_check(),
        await manager.get_stats(),
        await manager.get_runtime_stats(),
    )
    component, figures = health["components"]["io_executor"], stats["executors"]["io"]
    assert component is not None
    assert figures is not None
    assert component["healthy"] is health["healthy"] is True, "a guess takes no app away"
    said = {
        health["degraded"],
        component.get("degraded", False),
        component["message"].startswith("degraded: "),
        figures["stuck"],
        runtime["stuck"]["io"],
    }
    assert len(said) == 1, said
    return said.pop()


async def test_slots_that_all_hang_while_a_task_waits_are_a_stuck_executor() -> None:
    app = with_tasks(memory_app(io_workers=2))
    async with running(app, "hang", "other", waiting=1) as manager:
        age(app, 50)
        assert not await is_stuck(manager), "a name that has finished nothing yet has a minute"
        age(app, 11)
        assert await is_stuck(manager)
        component = (await manager.health_check())["components"]["io_executor"]
        assert component is not None
        begun = "degraded: tasks wait, and all 2 workers are in tasks that hang: hang (1, since "
        assert component["message"].startswith(begun)
        assert ", other (1, since " in component["message"]
        [hang, _] = app.executors["io"].hanging()
        assert timedelta(seconds=60) < datetime.now(UTC) - hang.since < timedelta(seconds=90)


async def test_while_nothing_waits_nothing_is_stuck() -> None:
    app = with_tasks(memory_app(io_workers=1))
    async with running(app, "hang") as manager:
        age(app, 3600)
        assert not await is_stuck(manager)


async def test_one_slot_that_is_at_work_is_progress() -> None:
    app = with_tasks(memory_app(io_workers=2))
    async with running(app, "hang", "hang", waiting=1) as manager:
        age(app, 3600)
        assert await is_stuck(manager)
        app.executors["io"].running_jobs()[0].started_at += 3600
        assert not await is_stuck(manager)


async def test_a_free_slot_is_progress() -> None:
    app = with_tasks(memory_app(io_workers=2))
    async with running(app, "hang"):
        age(app, 3600)
        await app.submit("hang")  # which takes the slot in the loop's next turn
        assert (app.executors["io"].pending_count(), app.executors["io"].hanging()) == (1, [])


async def test_ten_times_the_longest_run_is_too_long() -> None:
    app = with_tasks(memory_app(io_workers=1))
    app.telemetry.register("hang", "io").count_success(20.0)
    async with running(app, "hang", waiting=1) as manager:
        age(app, 190)
        assert not await is_stuck(manager)
        age(app, 11)
        assert await is_stuck(manager)


async def test_a_time_limit_is_what_the_task_itself_says() -> None:
    app = with_tasks(memory_app(io_workers=1))
    app.telemetry.register("limited", "io").count_success(3000.0)
    async with running(app, "limited", waiting=1) as manager:
        age(app, 3600)
        assert not await is_stuck(manager), "it is told to end just now"
        age(app, CANCEL_GRACE + 1)
        assert await is_stuck(manager)


@pytest.mark.parametrize("runs", [[], [0.5], [0.002, 0.3, 0.1], [11.0] * 1000, [4000.0, 5000.0, 0.5]])
@pytest.mark.parametrize("outcome", ["success", "error"])
def test_the_longest_run_is_that_of_one_attempt_however_many_there_were(outcome: str, runs: list[float]) -> None:
    telemetry = Telemetry(run_bounds=(0.1, 1.0, 10.0)).register("job", "io")
    for seconds in runs:
        if outcome == "success":
            telemetry.count_success(seconds)
        else:
            telemetry.count_failed(seconds, None, False)
    assert telemetry.longest_run == max(runs, default=0.0)


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hangs, "LOOK_EVERY", 0.02)


@pytest.mark.usefixtures("look_often")
async def test_its_beginning_and_its_end_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    app = with_tasks(memory_app(io_workers=1))

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == LOGGER]

    async with running(app, "hang", waiting=1) as manager:
        age(app, 61)
        await until(lambda: len(said()) == 1)
        await asyncio.sleep(0.1)  # in which it looks five times more
        [begun] = said()
        assert begun.startswith("executor stuck")
        assert "executor=io slots=1 hanging=hang (1, since " in begun
        assert await manager.cancel_task(app.executors["io"].running_jobs()[0].task.id)
        await until(lambda: len(said()) == 2)
        assert said()[1].startswith("executor gets on again executor=io seconds=0")


@pytest.mark.usefixtures("look_often")
@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
async def test_of_a_broker_that_is_away_holds_what_it_told_last(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> int:
        raise error("away")

    broker = ListBroker()
    app = with_tasks(memory_app(io_workers=1, broker=broker))
    executor = app.executors["io"]
    async with running(app, "hang"):
        age(app, 61)
        await app.submit("hang")
        await until(lambda: executor.hanging() != [])
        monkeypatch.setattr(broker, "size", refuse)
        await executor._hangs.look()
        assert executor.hanging() != []


async def test_one_that_drains_keeps_nobody_waiting() -> None:
    app = with_tasks(memory_app(io_workers=1))
    async with running(app, "hang", waiting=1) as manager:
        age(app, 61)
        assert await is_stuck(manager)
        await manager.drain_worker()
        assert not await is_stuck(manager)
        await manager.resume_worker()
        assert await is_stuck(manager)


async def test_with_fewer_slots_than_run_it_is_judged_by_all_that_runs() -> None:
    app = with_tasks(memory_app(io_workers=2))
    async with running(app, "hang", "hang", waiting=1) as manager:
        age(app, 61)
        await manager.resize_workers("io", 1)
        assert await is_stuck(manager)
        await manager.resize_workers("io", 3)
        assert not await is_stuck(manager)


async def test_what_waits_for_the_end_of_a_pause_does_not_wait_for_a_slot() -> None:
    app = with_tasks(memory_app(io_workers=1))
    async with running(app, "hang", waiting=1) as manager:
        age(app, 61)
        await manager.pause_queue()
        assert not await is_stuck(manager)


@pytest.mark.usefixtures("look_often")
async def test_what_waits_in_a_queue_of_others_does_not_wait_here() -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        executor = ExecutorConfig(io_workers=1, queues=("mail", "default"))
        app = with_tasks(Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), executor)))
        async with running(app, "hang") as manager:
            age(app, 61)
            await app.options(queue="reports").submit("hang")
            await asyncio.sleep(0.2)
            assert not await is_stuck(manager)
            await app.options(queue="mail").submit("hang")
            await until(lambda: app.executors["io"].hanging() != [])


@pytest.mark.usefixtures("look_often")
@pytest.mark.parametrize("was_looked_at", [True, False], ids=["before the hang", "during the hang"])
async def test_what_waits_in_the_broker_for_its_name_to_be_resumed_does_not_wait_for_a_slot(
    was_looked_at: bool,
) -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = with_tasks(Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(io_workers=1))))
        executor = app.executors["io"]
        async with app:
            manager = FlowrraManager(app)
            await manager.pause_task("other")
            if was_looked_at:
                await app.submit("other")
                await comes_true(lambda: is_parked(manager))
            await app.submit("hang")
            await until(lambda: executor.busy_workers == 1)
            if not was_looked_at:
                await app.submit("other")
            await app.options(countdown=3600).submit("hang")
            age(app, 61)
            assert not await executor.source.has_startable()
            await executor._hangs.look()
            assert not await is_stuck(manager)
            await app.submit("hang")
            await until(lambda: executor.hanging() != [])
            await app.stop(wait=False)


async def is_parked(manager: FlowrraManager) -> bool:
    """Whether a worker has seen that what is pending is of a paused name."""
    queue = (await manager.get_queue_stats())["io"]
    return queue is not None and queue["pending"] == 1 and queue["taken"] == 1 and queue["oldest_pending_at"] is None


@pytest.mark.usefixtures("look_often")
async def test_what_waits_in_the_broker_waits_as_well(caplog: pytest.LogCaptureFixture) -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(io_workers=1)))
        async with running(with_tasks(app), "hang") as manager:
            age(app, 61)
            await asyncio.sleep(0.1)
            assert not await is_stuck(manager)
            await app.submit("hang")
            await until(lambda: app.executors["io"].hanging() != [])
            assert app.executors["io"].pending_count() == 0, "the server has it"
            assert await is_stuck(manager)
            assert "executor stuck" in caplog.text
