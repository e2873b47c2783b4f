"""Starts and stops that meet each other, or come from elsewhere than the app's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from flowrra import Flowrra
from tests.core.apps import LoopThread, final, memory_app, numbers_of, until


def app_with_tasks() -> Flowrra:
    app = memory_app()

    @app.task()
    async def quick() -> str:
        return "done"

    @app.task(max_retries=0)
    async def endless() -> None:
        await asyncio.Event().wait()

    return app


def in_a_thread(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def assert_ended(thread: threading.Thread) -> None:
    thread.join(20)
    assert not thread.is_alive()


@contextlib.contextmanager
def blocked_while_starting(app: Flowrra) -> Iterator[threading.Event]:
    """Entered with an event that is set once a startup hook waits, for good."""
    waiting = threading.Event()

    @app.on_startup
    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    yield waiting


class TestAStopDuringTheStart:
    @pytest.mark.parametrize("swallows", [False, True], ids=["cancelled", "that goes on"])
    async def test_ends_it(self, swallows: bool) -> None:
        app = app_with_tasks()
        hook, left, ran = asyncio.Event(), [], []

        @app.lifespan
        @contextlib.asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            yield
            left.append("pool")

        @app.on_startup
        async def wait() -> None:
            hook.set()
            with contextlib.suppress(asyncio.CancelledError if swallows else ()):
                await asyncio.Event().wait()

        app.on_startup(lambda: ran.append("another hook"))
        start = asyncio.create_task(app.start())
        await hook.wait()

        await app.stop()

        assert app.state == "stopped"
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await start
        assert (app.state, left, ran) == ("stopped", ["pool"], [])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_leaves_the_task_that_started_it_uncancelled(self) -> None:
        app = app_with_tasks()
        app.on_startup(lambda: stops.append(asyncio.ensure_future(app.stop())))
        app.on_startup(asyncio.Event().wait)
        stops: list[asyncio.Future[None]] = []

        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await app.start()

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.gather(*stops)

    async def test_by_its_own_hook_ends_it_too(self) -> None:
        app = app_with_tasks()
        app.on_startup(app.stop)
        with pytest.raises(RuntimeError, match="was stopped while it started"):
            await app.start()
        assert app.state == "stopped"

    async def test_two_of_them_end_it_once(self) -> None:
        app = app_with_tasks()
        with blocked_while_starting(app) as waiting:
            start = asyncio.create_task(app.start())
            await until(waiting.is_set)
        await asyncio.gather(app.stop(), app.stop(wait=False))
        with pytest.raises(RuntimeError, match="was stopped"):
            await start

    def test_without_a_loop(self) -> None:
        app = app_with_tasks()
        errors: list[BaseException] = []

        def start() -> None:
            try:
                app.start_sync()
            except RuntimeError as error:
                errors.append(error)

        with blocked_while_starting(app) as waiting:
            starting = in_a_thread(start)
            assert waiting.wait(20)
        app.stop_sync()
        assert_ended(starting)
        assert app.state == "stopped"
        assert [str(error) for error in errors] == ["The app was stopped while it started"]


class TestAStartDuringTheStart:
    async def test_waits_for_it(self) -> None:
        app = app_with_tasks()
        hook, gate = asyncio.Event(), asyncio.Event()

        @app.lifespan
        @contextlib.asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            hook.set()
            await gate.wait()
            yield

        first, second = asyncio.create_task(app.start()), asyncio.create_task(app.start())
        await hook.wait()
        await asyncio.sleep(0)
        assert not second.done()
        gate.set()
        await second
        assert app.has_started
        assert (await final(app, await app.submit("quick"))).result == "done"
        await first
        await app.stop()

    async def test_by_its_own_hook_is_a_no_op(self) -> None:
        app = app_with_tasks()
        app.on_startup(app.start)
        app.on_startup(lambda: asyncio.create_task(app.start()))
        async with asyncio.timeout(20), app:
            assert app.has_started

    async def test_tries_anew_when_that_fails(self) -> None:
        app = app_with_tasks()
        tries: list[int] = []

        @app.on_startup
        async def fail_once() -> None:
            tries.append(len(tries))
            await asyncio.sleep(0)
            if len(tries) == 1:
                raise ConnectionError("no database")

        first, second = await asyncio.gather(app.start(), app.start(), return_exceptions=True)
        assert (repr(first), second) == ("ConnectionError('no database')", None)
        assert (tries, app.has_started) == ([0, 1], True)
        await app.stop()

    async def test_is_told_when_that_is_stopped(self) -> None:
        app = app_with_tasks()
        with blocked_while_starting(app) as waiting:
            starts = [asyncio.create_task(app.start()) for _ in range(2)]
            await until(waiting.is_set)
        await app.stop()
        for start in starts:
            with pytest.raises(RuntimeError, match="was stopped while it started"):
                await start


class TestFromAnotherLoop:
    def test_a_stop_is_carried_out_on_the_app_s_own(self) -> None:
        app = app_with_tasks()
        on: list[asyncio.AbstractEventLoop] = []
        app.on_shutdown(lambda: on.append(asyncio.get_running_loop()))
        with LoopThread() as elsewhere:
            elsewhere.run(app.start())
            asyncio.run(app.stop())
            assert (app.state, on) == ("stopped", [elsewhere.loop])

    def test_a_stop_ends_an_app_with_a_thread_of_its_own_which_can_be_started_again(self) -> None:
        app = app_with_tasks()
        for _ in range(2):
            app.start_sync()
            asyncio.run(app.stop())
            assert app.state == "stopped"
        app.start_sync()
        assert app.wait_for_result_sync(app.submit_sync("quick"), 20).result == "done"
        app.stop_sync()
        assert "flowrra-app" not in {thread.name for thread in threading.enumerate()}

    def test_a_stop_of_an_app_whose_loop_does_not_turn_is_refused(self) -> None:
        app = app_with_tasks()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(app.start())
        with pytest.raises(RuntimeError, match="does not turn"):
            asyncio.run(app.stop())
        loop.run_until_complete(app.stop())
        loop.close()


class TestRunEndsWhenTheAppIsStopped:
    def test_by_a_task(self) -> None:
        app = app_with_tasks()

        @app.task(max_retries=0)
        async def last() -> None:
            stops.append(asyncio.ensure_future(app.stop()))

        stops: list[Any] = []

        @app.on_startup
        async def submit() -> None:
            await app.submit(last)

        running = in_a_thread(app.run)
        assert_ended(running)
        assert app.state == "stopped"

    def test_by_another_thread(self) -> None:
        app = app_with_tasks()
        started = threading.Event()
        app.on_startup(started.set)
        running = in_a_thread(app.run)
        assert started.wait(20)
        asyncio.run(app.stop())
        assert_ended(running)

    def test_while_it_starts(self) -> None:
        app = app_with_tasks()
        with blocked_while_starting(app) as waiting:
            running = in_a_thread(app.run)
            assert waiting.wait(20)
        asyncio.run(app.stop())
        assert_ended(running)


class TestWithoutALoop:
    async def test_what_would_block_the_app_s_own_loop_is_refused(self) -> None:
        app = app_with_tasks()

        @app.task(max_retries=0)
        async def stop_it() -> None:
            app.stop_sync()

        await asyncio.to_thread(app.start_sync)
        record = await final(app, await app.submit(stop_it))
        assert "use await app.stop()" in str(record.error)
        assert (await final(app, await app.submit("quick"))).result == "done"
        await asyncio.to_thread(app.stop_sync)

    def test_to_start_what_starts_already_is_a_no_op_in_its_hooks(self) -> None:
        app = app_with_tasks()
        app.on_startup(app.start_sync)
        assert_ended(in_a_thread(app.start_sync))
        assert app.is_running
        app.stop_sync()

    def test_a_stop_that_does_not_wait_ends_the_waiting_of_another(self) -> None:
        app = app_with_tasks()
        app.start_sync()
        app.submit_sync("endless")
        waiting = in_a_thread(lambda: app.stop_sync(timeout=None))
        while app.state != "stopping":
            assert waiting.is_alive()
        app.stop_sync(wait=False)
        assert_ended(waiting)
        assert (app.state, app.lost_at_stop) == ("stopped", 1)

    @pytest.mark.parametrize("is_seen_by_main_thread", [True, False])
    def test_ctrl_c_in_a_stop_cancels_what_still_runs_and_stops_in_order(self, is_seen_by_main_thread: bool) -> None:
        """A signal may come to any thread; one that comes just as the wait begins is as if another had got it."""
        app = app_with_tasks()
        closed: list[str] = []
        app.on_shutdown(lambda: closed.append("closed"))
        app.start_sync()
        task_id = app.submit_sync("endless")
        while not numbers_of(app, "endless")["running"]:
            pass

        async def interrupt() -> None:
            await until(lambda: app.state == "stopping")
            thread = threading.main_thread() if is_seen_by_main_thread else threading.current_thread()
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGINT)

        assert app._loop is not None
        asyncio.run_coroutine_threadsafe(interrupt(), app._loop)
        with pytest.raises(KeyboardInterrupt):
            app.stop_sync(timeout=None)

        assert (app.state, app.lost_at_stop, closed) == ("stopped", 1, ["closed"])
        record = asyncio.run(app.get_result(task_id))
        assert record is not None
        assert record.status == "cancelled"
