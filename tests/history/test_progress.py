"""A running task tells how far it is: in queries and events, at most twice a second."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import re
import signal
from typing import Any

import pytest

from flowrra import Flowrra, current_task
from flowrra.backends import InMemoryBackend
from flowrra.events import event_bus
from flowrra.management import FlowrraManager
from flowrra.task import MAX_PROGRESS_MESSAGE, Progress, Task, TaskResult
from tests.core.apps import cpu_app, final, memory_app, until
from tests.core.cpu_tasks import count_to
from tests.history.conftest import Place
from tests.redis.apps import redis_app
from tests.redis_faults.test_server_away import pid_of
from tests.support.servers import ValkeyServer


class Steps:
    """A task ``steps`` that tells what a test has it tell."""

    def __init__(self, app: Flowrra) -> None:
        self.wanted: asyncio.Queue[tuple[Any, ...] | None] = asyncio.Queue()

        @app.task(name="steps", max_retries=1, retry_delay=0.001)
        async def steps() -> None:
            while (step := await self.wanted.get()) is not None:
                if step == ():
                    raise ValueError("again")
                task = current_task()
                assert task is not None
                task.progress(*step)


async def shown(app: Flowrra, task_id: str, done: float | None) -> dict[str, Any]:
    """The task, as soon as it shows that progress."""
    manager = FlowrraManager(app)
    async with asyncio.timeout(10):
        while True:
            found = await manager.get_task(task_id)
            if found is not None and (found["progress"] or {"done": None})["done"] == done:
                return dict(found)
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_what_a_retry_tells_right_after_the_attempt_before_is_told(place: Place) -> None:
    app, end = place(), asyncio.Event()

    @app.task(name="twice", max_retries=1, retry_delay=0.05)
    async def twice() -> None:
        task = current_task()
        assert task is not None
        await asyncio.sleep(0.03)  # its running state is written before
        task.progress(task.attempt)
        await asyncio.sleep(0.03)
        if task.attempt == 1:
            raise ValueError("again")
        await end.wait()

    async with app:
        await shown(app, await app.submit("twice"), 2)
        end.set()


async def test_what_is_left_of_an_attempt_tells_nothing_of_the_next_one(place: Place) -> None:
    app, end = place(), asyncio.Event()
    left: list[tuple[contextvars.Context, Task]] = []

    @app.task(name="twice", max_retries=1, retry_delay=0.0)
    async def twice() -> None:
        task = current_task()
        assert task is not None
        if task.attempt == 1:
            left.append((contextvars.copy_context(), task))
            raise ValueError("again")
        task.progress(2)
        await end.wait()

    async with app:
        task_id = await app.submit("twice")
        await shown(app, task_id, 2)
        context, task = left[0]
        await asyncio.to_thread(context.run, task.progress, 1)
        end.set()
        record = await final(app, task_id)
        assert record.progress is not None
        assert record.progress.done == 2


@pytest.mark.slow
async def test_while_a_server_is_away_only_the_latest_waits_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.executors.progress.INTERVAL", 0.01)
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        async with redis_app(url) as app:
            steps, settler = Steps(app), app.executors["io"].source._settler  # type: ignore[attr-defined]
            task_id = await app.submit("steps")
            steps.wanted.put_nowait((0,))
            await shown(app, task_id, 0)
            os.kill(pid_of(url), signal.SIGKILL)
            n = 0
            async with asyncio.timeout(20):
                while n < 50 or not settler.is_failing:
                    n += 1
                    steps.wanted.put_nowait((n,))
                    await asyncio.sleep(0.03)
            assert settler.backlog <= 10
            with ValkeyServer(port=server.port):
                steps.wanted.put_nowait((1000,))
                steps.wanted.put_nowait(None)
                await app.stop()


@pytest.mark.slow
async def test_is_on_the_record_and_stays_there(place: Place) -> None:
    async with place() as app:
        steps = Steps(app)
        task_id = await app.submit("steps")
        steps.wanted.put_nowait((3, 10, "downloading"))
        found = (await shown(app, task_id, 3))["progress"]
        assert (found["total"], found["message"]) == (10, "downloading")
        assert found["at"].tzinfo is not None
        steps.wanted.put_nowait((10.5,))
        found = (await shown(app, task_id, 10.5))["progress"]
        assert (found["total"], found["message"]) == (None, "")
        steps.wanted.put_nowait(None)
        record = await final(app, task_id)
        assert record.progress is not None
        assert record.progress.done == 10.5
        (listed,) = (await FlowrraManager(app).list_tasks())["tasks"]
        assert (listed["progress"] or {})["done"] == 10.5
        assert TaskResult.from_dict(record.to_dict) == record


async def test_each_attempt_begins_without_any(place: Place) -> None:
    async with place() as app:
        steps = Steps(app)
        task_id = await app.submit("steps")
        for step in ((3, 10), ()):
            steps.wanted.put_nowait(step)
        async with asyncio.timeout(10):
            while (found := await FlowrraManager(app).get_task(task_id)) is None or len(found["attempts"]) < 2:
                await asyncio.sleep(0.005)
        assert found["progress"] is None
        steps.wanted.put_nowait(None)
        assert (await final(app, task_id)).progress is None


@pytest.mark.slow
async def test_is_kept_twice_a_second_at_most_and_the_latest_in_the_end(place: Place) -> None:
    app = place()
    told: list[float] = []

    async def listen(event: dict[str, Any]) -> None:
        if event["task"].get("progress") and event["task"]["status"] == "running":
            told.append(event["task"]["progress"]["done"])

    event_bus.subscribe(listen)
    try:
        async with app:
            steps = Steps(app)
            task_id = await app.submit("steps")
            steps.wanted.put_nowait((0, 1000))
            await until(lambda: told == [0])
            for n in range(1000):
                steps.wanted.put_nowait((n, 1000))
            await until(lambda: told[-1] == 999)
            steps.wanted.put_nowait(None)
            await final(app, task_id)
    finally:
        await event_bus.unsubscribe(listen)
    assert len(told) <= 4


async def test_can_be_told_by_a_thread_of_the_task(place: Place) -> None:
    app = place()

    @app.task(name="threaded")
    async def threaded() -> None:
        task = current_task()
        assert task is not None
        await asyncio.to_thread(task.progress, 7, 9)

    async with app:
        assert ((await final(app, await app.submit("threaded"))).progress or Progress(0, 0, "", None)).done == 7  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "server"])
async def test_of_a_cpu_bound_task_comes_from_its_process(where: str, request: pytest.FixtureRequest) -> None:
    app = cpu_app() if where == "memory" else redis_app(request.getfixturevalue("url"))
    app.task(name="count_to", cpu_bound=True)(count_to)
    async with app:
        task_id = await app.submit("count_to", 20, 0.1)
        seen: set[float] = set()
        async with asyncio.timeout(20):
            while not (found := await FlowrraManager(app).get_task(task_id)) or found["status"] != "success":
                if found and found["progress"]:
                    seen.add(found["progress"]["done"])
                await asyncio.sleep(0.02)
        assert found["progress"] is not None
        assert (found["progress"]["done"], found["progress"]["message"]) == (20, "step 20")
        assert len(seen) >= 2
        if where == "server":  # in memory the record itself is looked at
            assert len(seen) <= 8
        # What its thread still tells afterwards neither shows anywhere nor harms the next call.
        for _ in range(3):
            assert (await final(app, await app.submit("count_to", 2, 0.1))).result == 2
        assert app.executors["cpu"].worker_restarts == 0
        assert ((await FlowrraManager(app).get_task(task_id)) or found)["progress"] == found["progress"]


async def test_one_that_would_be_stored_late_does_not_undo_the_outcome() -> None:
    """A backend of a user's own may take its time, and do one thing before another."""
    gate = asyncio.Event()

    class Slow(InMemoryBackend):
        async def store(self, task_id: str, result: TaskResult) -> None:
            copy = result.copy()
            if copy.progress is not None and not copy.is_complete:
                await gate.wait()
            self.keep(task_id, copy)

    app = memory_app(backend=Slow())
    async with app:
        steps = Steps(app)
        task_id = await app.submit("steps")
        steps.wanted.put_nowait((1, 2))
        steps.wanted.put_nowait(None)
        await until(lambda: steps.wanted.empty())
        await asyncio.sleep(0)
        gate.set()
        assert (await final(app, task_id)).status.value == "success"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ((-1,), "done must be between 0"),
        ((math.nan,), "done must be between 0"),
        ((math.inf,), "done must be between 0"),
        (("3",), "done must be a number, not a str"),
        ((True,), "done must be a number, not a bool"),
        ((1, "ten"), "total must be a number"),
        ((1, -2), "total must be between 0"),
        ((1, 2, b"x"), "message must be a text, not a bytes"),
    ],
)
async def test_nonsense_is_an_error_of_the_task(step: tuple[Any, ...], why: str) -> None:
    app = memory_app()

    @app.task(name="nonsense", max_retries=0)
    async def nonsense() -> None:
        task = current_task()
        assert task is not None
        task.progress(*step)

    async with app:
        assert why in ((await final(app, await app.submit("nonsense"))).error or "")


async def test_a_message_is_cut_and_made_writable(place: Place) -> None:
    async with place() as app:
        steps = Steps(app)
        task_id = await app.submit("steps")
        steps.wanted.put_nowait((1, 2, "\ud800" + "x" * 10_000))
        message = (await shown(app, task_id, 1))["progress"]["message"]
        assert len(message) <= MAX_PROGRESS_MESSAGE
        assert re.fullmatch(r"\?x+", message)
        steps.wanted.put_nowait(None)
        await final(app, task_id)


async def test_outside_of_a_task_there_is_nothing_to_tell() -> None:
    app = memory_app()
    kept: list[Any] = []

    @app.task(name="keep")
    async def keep() -> None:
        kept.append(current_task())

    async with app:
        await final(app, await app.submit("keep"))
    with pytest.raises(RuntimeError, match="Only code that runs in a task"):
        kept[0].progress(1)


def test_after_a_loop_that_was_closed_meanwhile_the_same_task_is_told_of_at_once() -> None:
    app, told = memory_app(), asyncio.Event()

    @app.task(name="once")
    async def once() -> None:
        task = current_task()
        assert task is not None
        task.progress(1)
        await told.wait()

    async def note(event: dict[str, Any]) -> None:
        if event["task"].get("progress"):
            told.set()

    async def run() -> None:
        nonlocal told
        told = asyncio.Event()
        event_bus.subscribe(note)
        try:
            async with app, asyncio.timeout(10):
                await app.options(task_id="mine").submit("once")
                await told.wait()
        finally:
            await event_bus.unsubscribe(note)
        await app.results.delete("mine")

    asyncio.run(run())
    asyncio.run(run())
