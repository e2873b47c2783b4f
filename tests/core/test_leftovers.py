"""What a stop leaves undone is said in one line for each executor, and counted."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from flowrra import Flowrra, Task
from flowrra.brokers import BaseBroker
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, memory_app, until

NOTHING = {"waiting": 0, "delayed": 0, "running": 0}


async def abandoned(app: Flowrra) -> dict[str, int]:
    stats = await FlowrraManager(app).get_runtime_stats()
    return dict(stats["abandoned_at_stop"]["io"])


def lost_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("tasks lost at the stop")]


async def hold() -> None:
    await asyncio.Event().wait()


async def fill(app: Flowrra) -> tuple[str, list[str], str]:
    """One runs, seven wait, one is delayed."""
    running = await app.submit(hold)
    await until(lambda: app.executors["io"].busy_workers == 1)
    waiting = [await app.submit(hold) for _ in range(7)]
    delayed = await app.options(countdown=3600).submit(hold)
    return running, waiting, delayed


@pytest.mark.parametrize("backend", [None, RemoteBackend])
async def test_it_is_one_warning_with_numbers_and_the_first_ids(
    backend: type[RemoteBackend] | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = memory_app(io_workers=1, backend=None if backend is None else backend())
    app.task()(hold)
    await app.start()
    running, waiting, delayed = await fill(app)
    await app.stop(wait=False)
    assert lost_lines(caplog) == [
        "tasks lost at the stop, cancelled executor=io "
        f"waiting=7 waiting_ids={','.join(waiting[:5])},… delayed=1 delayed_ids={delayed} "
        f"running=1 running_ids={running}"
    ]
    assert await abandoned(app) == {"waiting": 7, "delayed": 1, "running": 1}
    assert app.lost_at_stop == 9


async def test_what_waits_for_the_end_of_a_pause_waits(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=1)
    app.task()(hold)
    async with app:
        await FlowrraManager(app).pause_queue("mail")
        waiting = await app.options(queue="mail").submit(hold)
    (line,) = lost_lines(caplog)
    assert line.endswith(f"waiting=1 waiting_ids={waiting} delayed=0 running=0")
    assert await abandoned(app) == {"waiting": 1, "delayed": 0, "running": 0}


async def test_it_adds_up_from_stop_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=1)
    app.task()(hold)
    for _ in range(2):
        await app.start()
        await fill(app)
        await app.stop(wait=False)
    assert len(lost_lines(caplog)) == 2
    assert await abandoned(app) == {"waiting": 14, "delayed": 2, "running": 2}


async def test_what_ends_in_time_or_by_itself_as_it_is_told_to_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = memory_app()

    @app.task()
    async def finish() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    @app.task()
    async def quick() -> None:
        await asyncio.sleep(0.05)

    await app.start()
    await app.submit(finish)
    await app.submit(quick)
    await until(lambda: app.executors["io"].busy_workers == 2)
    await app.stop(timeout=0.3)
    assert lost_lines(caplog) == []
    assert "tasks left to other workers" not in caplog.text
    assert (await abandoned(app), app.lost_at_stop) == (NOTHING, 0)


class TestAnAttemptThatWasEndingAlready:
    """What ended it first is what became of it, whatever the stop does then."""

    @pytest.fixture
    def cleaning_up(self) -> asyncio.Event:
        return asyncio.Event()

    @pytest.fixture(params=[None, "broker"], ids=["in memory", "with a broker"])
    def app(self, request: pytest.FixtureRequest, cleaning_up: asyncio.Event) -> Flowrra:
        app = memory_app(broker=None if request.param is None else ListBroker())

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaning_up.set()
                await asyncio.Event().wait()  # the stop cancels that, too

        app.task(name="work", max_retries=0)(work)
        app.task(name="limited", max_retries=0, timeout=0.05)(work)
        app.task(name="patient", max_retries=3, timeout=0.05)(work)
        return app

    async def test_by_request_is_cancelled_and_not_lost(self, app: Flowrra, cleaning_up: asyncio.Event) -> None:
        async with app:
            task_id = await app.submit("work")
            await until(lambda: app.executors["io"].busy_workers == 1)
            cancelling = asyncio.create_task(app.cancel_task(task_id))
            await cleaning_up.wait()
            await app.stop(wait=False)
            assert await cancelling
        record = await app.get_result(task_id)
        assert record is not None
        assert (record.status, record.error) == ("cancelled", "cancelled while running: by request")
        assert app.lost_at_stop == 0
        counted = app.telemetry.tasks["work"].snapshot()
        assert (counted["cancelled"], counted["released"]) == (1, 0)

    async def test_by_its_time_limit_has_failed_and_is_not_lost(self, app: Flowrra, cleaning_up: asyncio.Event) -> None:
        async with app:
            task_id = await app.submit("limited")
            await cleaning_up.wait()
            await app.stop(wait=False)
        record = await app.get_result(task_id)
        assert record is not None
        assert record.status == "failed"
        assert str(record.error).startswith("TaskTimeoutError")
        assert app.lost_at_stop == 0
        counted = app.telemetry.tasks["limited"].snapshot()
        assert (counted["failed"], counted["timed_out"], counted["cancelled"], counted["released"]) == (1, 1, 0, 0)

    async def test_and_is_cancelled_has_no_other_attempt(self, app: Flowrra, cleaning_up: asyncio.Event) -> None:
        async with app:
            task_id = await app.submit("patient")
            await cleaning_up.wait()
            assert await app.cancel_task(task_id)
            record = await app.get_result(task_id)
        assert record is not None
        assert (record.status, record.retries) == ("cancelled", 0)


async def test_a_retry_that_is_not_due_is_among_the_delayed(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app()

    @app.task(max_retries=1, retry_delay=3600)
    async def fail() -> None:
        raise ValueError

    await app.start()
    await app.submit(fail)
    await until(lambda: app.telemetry.tasks["fail"].snapshot()["retrying"] == 1)
    await app.stop(timeout=0.1)
    assert await abandoned(app) == {"waiting": 0, "delayed": 1, "running": 0}
    assert len(lost_lines(caplog)) == 1


async def test_an_attempt_that_will_not_end_is_lost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.executors.workers.CANCEL_GRACE", 0.1)
    app = memory_app()
    released = asyncio.Event()

    @app.task()
    async def insist() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    await app.start()
    await app.submit(insist)
    await until(lambda: app.executors["io"].busy_workers == 1)
    await app.stop(wait=False)
    released.set()
    assert await abandoned(app) == {"waiting": 0, "delayed": 0, "running": 1}


def test_a_loop_that_was_closed_leaves_its_tasks_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(io_workers=1)
    app.task()(hold)

    async def begin() -> None:
        await app.start()
        await fill(app)

    asyncio.run(begin())  # which cancels the attempt
    asyncio.run(app.stop())
    [line] = lost_lines(caplog)
    assert "waiting=7 " in line
    assert "delayed=1 " in line
    assert "running=1 " in line
    assert app.lost_at_stop == 9


class ListBroker(BaseBroker):
    """Keeps tasks in a list; may be away."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.is_away = False

    async def push(self, task: Task) -> None:
        if self.is_away:
            raise ConnectionError("away")
        self.tasks.append(task)

    async def pop(self, timeout: float | None = None) -> Task | None:
        if self.tasks:
            return self.tasks.pop(0)
        await asyncio.sleep(0.01)
        return None

    async def size(self) -> int:
        return len(self.tasks)


@pytest.mark.parametrize("is_away", [False, True])
async def test_what_a_broker_takes_back_is_not_lost_and_the_rest_is(
    is_away: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    broker = ListBroker()
    app = memory_app(io_workers=1, broker=broker)
    app.task()(hold)
    await app.start()
    task_id = await app.submit(hold)
    await until(lambda: app.executors["io"].busy_workers == 1)
    delayed = await app.options(countdown=3600).submit(hold)
    broker.is_away = is_away
    await app.stop(wait=False)
    left = [message for message in caplog.messages if message.startswith("tasks left to other workers")]
    expected = f"executor=io waiting=0 delayed=1 delayed_ids={delayed} running=1 running_ids={task_id}"
    if is_away:
        assert (len(lost_lines(caplog)), left, app.lost_at_stop) == (1, [], 2)
        assert lost_lines(caplog)[0].endswith(expected)
    else:
        assert (lost_lines(caplog), len(left), app.lost_at_stop) == ([], 1, 0)
        assert left[0].endswith(expected)


PROGRAM = """
import asyncio, os, signal
from flowrra import Config, ExecutorConfig, Flowrra

app = Flowrra(Config(executor=ExecutorConfig(io_workers=1)))

@app.task()
async def hold():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()

@app.on_startup
async def submit():
    for _ in range(5):
        await app.submit(hold)

app.run(shutdown_timeout=0.1)
print("ended", app.lost_at_stop)
raise SystemExit(app.lost_at_stop > 0)
"""


def test_a_program_learns_of_it_after_run() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (1, "ended 5\n"), ended.stderr
    assert "tasks lost at the stop, cancelled executor=io waiting=4" in ended.stderr
