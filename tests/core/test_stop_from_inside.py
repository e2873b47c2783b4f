"""Stops that are called by what they wait for, or given up by who called them: the app stops all the same."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flowrra import Config, ExecutorConfig, Flowrra, IOExecutor, current_task
from flowrra.events import event_bus
from flowrra.supervision import spawn
from tests.core.apps import final, memory_app, until

# Seconds that a stop which waits for nothing is given.
SOON = 10.0


def run_in_a_thread(app: Flowrra) -> threading.Thread:
    """Carry out ``app.run()``; a run that never ends fails the test, and nothing else."""
    thread = threading.Thread(target=app.run, daemon=True)
    thread.start()
    return thread


def assert_ended(thread: threading.Thread) -> None:
    thread.join(SOON)
    assert not thread.is_alive()


@pytest.fixture
def subscribed() -> Iterator[Callable[[Any], None]]:
    """Subscribes to the events of all apps, for the duration of the test."""
    before = event_bus.subscribers
    yield event_bus.subscribe
    event_bus.subscribers = before


class TestByATask:
    @pytest.mark.parametrize("timeout", [1.0, None], ids=["a second", "however long"])
    def test_ends_run_once_that_task_is_done(self, timeout: float | None) -> None:
        app = memory_app()
        ids: list[str] = []

        @app.task(max_retries=0)
        async def leave() -> str:
            await app.stop(timeout=timeout)
            return app.state

        @app.on_startup
        async def submit() -> None:
            ids.append(await app.submit(leave))

        assert_ended(run_in_a_thread(app))
        assert app.state == "stopped"
        assert app.lost_at_stop == 0
        record = asyncio.run(app.get_result(ids[0]))
        assert record is not None
        assert (record.status, record.result) == ("success", "stopping")

    async def test_or_by_what_it_waits_for(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def leave() -> str:
            await asyncio.create_task(app.stop(timeout=None))
            return "left"

        await app.start()
        task_id = await app.submit(leave)
        record = await final(app, task_id)
        await until(lambda: app.state == "stopped")
        assert (record.status, record.result) == ("success", "left")

    def test_on_a_thread_that_it_waits_for_ends_the_app_s_own_thread(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def leave() -> str:
            await asyncio.to_thread(app.stop_sync, timeout=None)
            return "left"

        app.start_sync()
        (loop,) = [thread for thread in threading.enumerate() if thread.name == "flowrra-app"]
        app.submit_sync(leave)
        assert_ended(loop)
        assert (app.state, app.lost_at_stop) == ("stopped", 0)

    async def test_by_what_it_has_left_running_returns_when_the_app_has_stopped(self) -> None:
        app = memory_app()
        told: list[str] = []
        ended = asyncio.Event()
        keep: list[asyncio.Task[None]] = []

        async def leave() -> None:
            await ended.wait()
            await app.stop()
            told.append(app.state)

        @app.task(max_retries=0)
        async def begin() -> None:
            keep.append(asyncio.create_task(leave()))

        await app.start()
        await final(app, await app.submit(begin))
        ended.set()
        await asyncio.wait_for(keep[0], SOON)
        assert told == ["stopped"]

    async def test_lets_the_hooks_be_no_part_of_it(self) -> None:
        app = memory_app()
        seen: list[object] = []

        @app.task(max_retries=0)
        async def leave() -> None:
            await app.stop()

        @app.on_shutdown
        def look() -> None:
            seen.append(current_task())

        await app.start()
        await app.submit(leave)
        await until(lambda: app.state == "stopped")
        assert seen == [None]

    async def test_says_what_fails_then(self, caplog: pytest.LogCaptureFixture) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def leave() -> None:
            await app.stop()

        @app.on_shutdown
        def fail() -> None:
            raise ValueError("the pool is gone")

        await app.start()
        await app.submit(leave)
        await until(lambda: app.state == "stopped")
        await until(lambda: [text for text in caplog.messages if "the pool is gone" in text])
        caplog.clear()

    async def test_of_an_executor_that_is_used_alone(self) -> None:
        executor = IOExecutor(Config(executor=ExecutorConfig(io_workers=1)))

        @executor.task(max_retries=0)
        async def leave() -> str:
            await executor.stop(timeout=None)
            return "left"

        await executor.start()
        task_id = await executor.submit(leave)
        await until(lambda: executor.state == "stopped")
        record = await executor.results.get(task_id)
        assert record is not None
        assert (record.status, record.result) == ("success", "left")


class TestByAHook:
    async def test_at_the_shutdown_returns_at_once(self) -> None:
        app = memory_app()
        told: list[str] = []

        @app.on_shutdown
        async def down() -> None:
            await app.stop()
            told.append(app.state)

        await app.start()
        await asyncio.wait_for(app.stop(wait=False), SOON)
        assert (told, app.state) == (["stopping"], "stopped")

    async def test_in_another_task_or_thread_that_it_waits_for_as_well(self) -> None:
        app = memory_app()
        app.on_shutdown(lambda: asyncio.create_task(app.stop()))
        app.on_shutdown(lambda: asyncio.to_thread(app.stop_sync))
        await app.start()
        await asyncio.wait_for(app.stop(), SOON)
        assert app.state == "stopped"

    async def test_at_the_end_of_a_lifespan_too(self) -> None:
        app = memory_app()
        told: list[str] = []

        @app.lifespan
        @contextlib.asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            yield
            await app.stop()
            told.append("left")

        async with asyncio.timeout(SOON):
            async with app:
                pass
        assert (told, app.state) == (["left"], "stopped")

    async def test_by_what_a_lifespan_has_begun_returns_when_no_task_runs(self) -> None:
        app = memory_app()
        told: list[str] = []
        wanted = asyncio.Event()

        async def watch() -> None:
            await wanted.wait()
            await app.stop()
            told.append("no task runs")

        @app.lifespan
        @contextlib.asynccontextmanager
        async def watched() -> AsyncIterator[None]:
            async with asyncio.TaskGroup() as group:  # its end waits for those who watch
                group.create_task(watch())
                yield
            told.append("left")

        await app.start()
        wanted.set()
        await until(lambda: app.state == "stopped")
        assert told == ["no task runs", "left"]


class TestByASubscriber:
    async def test_it_returns_at_once(self, subscribed: Callable[[Any], None]) -> None:
        app = memory_app()
        told: list[str] = []

        @app.task()
        async def quick() -> None:
            pass

        async def leave(event: dict[str, Any]) -> None:
            if event["task"]["status"] == "success":
                await app.stop()
                told.append(app.state)

        await app.start()
        subscribed(leave)
        await app.submit(quick)
        await until(lambda: app.state == "stopped")
        assert told == ["stopping"]
        assert app.events.dropped == 0


class TestThatIsGivenUp:
    @pytest.mark.parametrize("holds", ["a task", "a hook"])
    def test_goes_on_and_ends_run(self, holds: str) -> None:
        app = memory_app()
        gate = threading.Event()
        given_up = threading.Event()
        keep: list[asyncio.Task[None]] = []

        async def until_open() -> None:
            while not gate.is_set():
                await asyncio.sleep(0.01)

        app.task(name="held")(until_open)
        if holds == "a hook":
            app.on_shutdown(until_open)

        async def give_up() -> None:
            if holds == "a task":
                await app.submit("held")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(app.stop(timeout=None), 0.1)
            given_up.set()

        # In an empty context: it is not the hook that stops the app.
        app.on_startup(lambda: keep.append(spawn(give_up())))
        running = run_in_a_thread(app)
        assert given_up.wait(SOON)
        assert app.state == "stopping"
        gate.set()
        assert_ended(running)
        assert (app.state, app.lost_at_stop) == ("stopped", 0)

    async def test_is_hurried_by_another(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def endless() -> None:
            await asyncio.Event().wait()

        await app.start()
        await app.submit(endless)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.stop(timeout=None), 0.1)
        await asyncio.wait_for(app.stop(wait=False), SOON)
        assert (app.state, app.lost_at_stop) == ("stopped", 1)

    async def test_in_its_middle_leaves_the_lifespans_all_the_same(self) -> None:
        app = memory_app()
        left: list[str] = []
        leaving = asyncio.Event()

        @app.lifespan
        @contextlib.asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            try:
                yield
            finally:
                left.append("pool")

        @app.task()
        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                leaving.set()
                await asyncio.sleep(0.2)

        await app.start()
        await app.submit(stubborn)
        await until(lambda: app.executors["io"].busy_workers == 1)
        stopping = asyncio.create_task(app.stop(wait=False))
        await leaving.wait()
        stopping.cancel()
        await until(lambda: app.state == "stopped")
        assert left == ["pool"]
        assert stopping.cancelled()


async def test_what_a_lifespan_entered_is_left_by_the_task_that_entered_it() -> None:
    app = memory_app()
    tasks: list[asyncio.Task[Any] | None] = []

    @app.lifespan
    @contextlib.asynccontextmanager
    async def scope() -> AsyncIterator[None]:
        tasks.append(asyncio.current_task())
        yield
        tasks.append(asyncio.current_task())

    async with app:
        pass
    assert tasks == [asyncio.current_task()] * 2
