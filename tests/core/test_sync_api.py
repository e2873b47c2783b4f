"""Submitting and waiting without an event loop: for threads, and for scripts."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from flowrra import ExecutorNotRunningError, Flowrra, Task, TaskNotFoundError, TaskTimeoutError, current_task
from tests.core.apps import LoopThread, in_another_thread, memory_app, numbers_of, until

TRACE: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")


def working_app(**options: int) -> Flowrra:
    app = memory_app(**options)

    @app.task()
    async def double(number: int, *, plus: int = 0) -> int:
        return number * 2 + plus

    @app.task(max_retries=0)
    async def failing() -> None:
        raise ValueError("boom")

    @app.task()
    async def endless() -> None:
        await asyncio.sleep(3600)

    return app


class TestFromAThread:
    async def test_submit_and_wait(self) -> None:
        app = working_app()

        def thread() -> object:
            task_id = app.submit_sync("double", 21, plus=1)
            return app.wait_for_result_sync(task_id, timeout=5).result

        async with app:
            assert await asyncio.to_thread(thread) == 43

    async def test_the_priority_counts(self) -> None:
        app = memory_app(io_workers=1)
        ran: list[int] = []
        gate = asyncio.Event()

        @app.task()
        async def occupy() -> None:
            await gate.wait()

        @app.task()
        async def note(n: int) -> None:
            ran.append(n)

        def thread() -> None:
            for n in (5, 1, 3):
                app.submit_sync(note, n, priority=n)

        async with app:
            await app.submit(occupy)
            await until(lambda: numbers_of(app, "occupy")["running"] == 1)
            await asyncio.to_thread(thread)
            gate.set()

        assert ran == [1, 3, 5]

    async def test_a_failure_is_returned(self) -> None:
        app = working_app()
        async with app:
            record = await asyncio.to_thread(lambda: app.wait_for_result_sync(app.submit_sync("failing"), timeout=5))
        assert record.error == "ValueError: boom"

    async def test_the_refusals_are_those_of_submit(self) -> None:
        app = working_app()

        async def stranger() -> None: ...

        async with app:
            with pytest.raises(TaskNotFoundError, match="stranger"):
                await asyncio.to_thread(app.submit_sync, stranger)
            with pytest.raises(ValueError, match="not found"):
                await asyncio.to_thread(app.wait_for_result_sync, "unknown", 5)

    async def test_the_time_limit_holds(self) -> None:
        app = working_app()
        await app.start()
        try:
            task_id = await app.submit("endless")
            with pytest.raises(TaskTimeoutError):
                await asyncio.to_thread(app.wait_for_result_sync, task_id, 0.05)
        finally:
            await app.stop(wait=False)

    async def test_a_full_queue_makes_it_wait(self) -> None:
        app = memory_app(io_workers=1, max_queue_size=1)
        gate = asyncio.Event()
        ran: list[int] = []

        @app.task()
        async def occupy() -> None:
            await gate.wait()

        @app.task()
        async def note(n: int) -> None:
            ran.append(n)

        async with app:
            await app.submit(occupy)
            await until(lambda: numbers_of(app, "occupy")["running"] == 1)
            await app.submit(note, 1)
            blocked = asyncio.ensure_future(asyncio.to_thread(app.submit_sync, note, 2))
            done, _ = await asyncio.wait([blocked], timeout=0.1)
            assert not done
            gate.set()
            await blocked

        assert ran == [1, 2]

    async def test_on_the_apps_own_loop_it_is_refused_and_does_not_hang(self) -> None:
        app = working_app()
        async with app:
            with pytest.raises(RuntimeError, match="loop"):
                app.submit_sync("double", 1)
            with pytest.raises(RuntimeError, match="loop"):
                app.wait_for_result_sync("any")

    async def test_from_many_threads_at_once(self) -> None:
        app = working_app()

        def thread(n: int) -> object:
            return app.wait_for_result_sync(app.submit_sync("double", n), timeout=10).result

        async with app:
            results = await asyncio.gather(*(asyncio.to_thread(thread, n) for n in range(20)))

        assert results == [n * 2 for n in range(20)]


class TestFromAnotherLoop:
    """The async methods work there as well; the task runs on the app's own loop."""

    async def test_submit_and_wait(self) -> None:
        app = working_app()

        async def elsewhere() -> object:
            ids = [await app.submit("double", 1), *await app.submit_many([("double", (2,), {})])]
            ids.append(await app.options(countdown=0.01).submit("double", 3))
            return [(await app.wait_for_result(task_id, timeout=5)).result for task_id in ids]

        async with app:
            assert await in_another_thread(elsewhere) == [2, 4, 6]

    async def test_the_task_runs_on_the_apps_own_loop(self) -> None:
        app = memory_app()
        own = asyncio.get_running_loop()

        @app.task()
        async def job() -> bool:
            return asyncio.get_running_loop() is own

        async def elsewhere() -> object:
            return (await app.wait_for_result(await app.submit(job), timeout=5)).result

        async with app:
            assert await in_another_thread(elsewhere) is True

    async def test_the_refusals_are_the_same(self) -> None:
        app = working_app()

        with pytest.raises(ExecutorNotRunningError):
            await in_another_thread(lambda: app.submit("double", 1))
        async with app:
            with pytest.raises(TaskNotFoundError, match="stranger"):
                await in_another_thread(lambda: app.submit("stranger"))

    async def test_middlewares_see_the_context_of_the_submitter(self) -> None:
        app = memory_app()

        class Tracing:
            def on_submit(self, task: Task) -> None:
                task.headers["trace"] = TRACE.get()

            def around_attempt(self, task: Task) -> contextlib.AbstractContextManager[None]:
                return contextlib.nullcontext()

        app.add_middleware(Tracing())

        @app.task()
        async def job() -> str:
            task = current_task()
            assert task is not None
            return task.headers["trace"]

        def thread() -> list[object]:
            TRACE.set("of the thread")
            ids = [app.submit_sync(job), asyncio.run(app.submit(job))]
            return [app.wait_for_result_sync(task_id, timeout=5).result for task_id in ids]

        async with app:
            assert await asyncio.to_thread(thread) == ["of the thread"] * 2


class TestFromAScript:
    def test_while_the_app_runs_in_a_thread(self) -> None:
        with LoopThread() as elsewhere:
            app = working_app()
            elsewhere.run(app.start())
            task_id = app.submit_sync("double", 4)
            assert app.wait_for_result_sync(task_id, timeout=5).result == 8
            elsewhere.run(app.stop())

        assert app.wait_for_result_sync(task_id, timeout=5).result == 8, "a finished result outlives the app"

    def test_before_start_and_after_stop_it_is_refused(self) -> None:
        app = working_app()
        with pytest.raises(ExecutorNotRunningError):
            app.submit_sync("double", 1)
        with LoopThread() as elsewhere:
            elsewhere.run(app.start())
            elsewhere.run(app.stop())
        with pytest.raises(ExecutorNotRunningError):
            app.submit_sync("double", 1)

    def test_who_waits_is_told_when_the_app_stops(self) -> None:
        with LoopThread() as elsewhere:
            app = working_app()
            elsewhere.run(app.start())
            task_id = app.submit_sync("endless")
            answers: list[str] = []
            waiter = threading.Thread(
                target=lambda: answers.append(app.wait_for_result_sync(task_id, timeout=10).status)
            )
            waiter.start()
            elsewhere.run(app.stop(wait=False))
            waiter.join(timeout=5)

        assert answers == ["cancelled"]

    def test_the_time_limit_holds_while_the_loop_is_blocked(self) -> None:
        with LoopThread() as elsewhere:
            app = working_app()
            elsewhere.run(app.start())
            task_id = app.submit_sync("endless")
            release = threading.Event()
            elsewhere.loop.call_soon_threadsafe(release.wait, 3)

            started = time.monotonic()
            with pytest.raises(TaskTimeoutError):
                app.wait_for_result_sync(task_id, timeout=0.1)
            took = time.monotonic() - started
            release.set()
            elsewhere.run(app.stop(wait=False))

        assert took < 2


RUNNER = """
    import asyncio
    from flowrra import Flowrra

    app = Flowrra.from_urls()

    @app.task()
    async def sleep(seconds):
        await asyncio.sleep(seconds)
        print("slept", flush=True)

    @app.on_startup
    def submit_when_it_runs():
        async def submit():
            while True:
                try:
                    await app.submit(sleep, SECONDS)
                    break
                except Exception:
                    await asyncio.sleep(0.01)
            print("ready", flush=True)

        app.submitter = asyncio.ensure_future(submit())

    app.on_shutdown(lambda: print("closed", flush=True))
    app.run()
    print("left", flush=True)
"""


class TestRun:
    """`app.run()` blocks until a signal, and then stops the app."""

    def start(self, seconds: float) -> subprocess.Popen[str]:
        script = textwrap.dedent(RUNNER).replace("SECONDS", str(seconds))
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
    def test_after_a_signal_it_finishes_what_there_is(self, number: signal.Signals) -> None:
        with self.start(seconds=0.3) as process:
            process.send_signal(number)
            output, errors = process.communicate(timeout=10)

        assert output.split("\n") == ["slept", "closed", "left", ""]
        assert (process.returncode, errors) == (0, "")

    def test_a_handler_that_was_not_set_from_python_gives_way_to_the_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        set_handler = signal.signal

        def foreign(number: int, handler: signal.Handlers) -> None:  # as in an interpreter that a server embeds
            set_handler(number, handler)

        app = memory_app()
        app.on_startup(lambda: stops.append(asyncio.ensure_future(app.stop())))
        stops: list[asyncio.Future[None]] = []
        monkeypatch.setattr(signal, "signal", foreign)
        try:
            app.run()
            assert {signal.getsignal(number) for number in before} == {signal.SIG_DFL}
        finally:
            for number, handler in before.items():
                set_handler(number, handler)
        assert app.state == "stopped"

    @pytest.mark.slow
    def test_a_second_signal_hurries(self) -> None:
        with self.start(seconds=3600) as process:
            try:
                process.send_signal(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=0.3)
                process.send_signal(signal.SIGTERM)
                output, _ = process.communicate(timeout=10)
            finally:
                process.kill()

        assert output.split("\n") == ["closed", "left", ""]
        assert process.returncode == 0


SLOW_START = """
    import asyncio
    import contextlib
    import logging
    import signal
    import sys
    import time
    from flowrra import Flowrra

    app = Flowrra.from_urls()

    @app.lifespan
    @contextlib.asynccontextmanager
    async def pool():
        try:
            yield
        finally:
            print("pool closed", flush=True)

    WHAT_HANGS

    app.on_shutdown(lambda: print("closed", flush=True))
    app.run()
    print("left", app.state, flush=True)
"""

HANGING_STARTS = {
    "a hook that awaits": """
    @app.on_startup
    async def wait_for_a_database():
        print("ready", flush=True)
        while True:
            await asyncio.sleep(0.05)
    """,
    "a hook that blocks": """
    @app.on_startup
    def wait_for_a_database():
        print("ready", flush=True)
        while True:
            try:
                time.sleep(3600)
            except Exception:
                pass
    """,
    "a lifespan": """
    @app.lifespan
    @contextlib.contextmanager
    def database():
        print("ready", flush=True)
        time.sleep(3600)
        yield
    """,
}

STUBBORN_STARTS = {
    "a hook that goes on": """
    @app.on_startup
    async def wait_for_a_database():
        is_ready = False
        while True:
            try:
                if not is_ready:
                    is_ready = True
                    print("ready", flush=True)
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                print("told", flush=True)
    """,
    "a clean-up that hangs": """
    @app.on_startup
    async def wait_for_a_database():
        print("ready", flush=True)
        await asyncio.sleep(3600)

    @app.on_shutdown
    def hang():
        print("told", flush=True)
        time.sleep(3600)
    """,
    "a clean-up that hangs after a start that blocked": """
    @app.on_startup
    def wait_for_a_database():
        print("ready", flush=True)
        time.sleep(3600)

    @app.on_shutdown
    async def hang():
        print("told", flush=True)
        await asyncio.sleep(3600)
    """,
}


class TestASignalWhileItStarts:
    def begin(self, what_hangs: str) -> subprocess.Popen[str]:
        script = textwrap.dedent(SLOW_START.replace("    WHAT_HANGS", what_hangs))
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def start(self, what_hangs: str) -> subprocess.Popen[str]:
        process = self.begin(what_hangs)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
    @pytest.mark.parametrize("what", HANGING_STARTS)
    def test_cancels_the_start_and_cleans_up(self, what: str, number: signal.Signals) -> None:
        with self.start(HANGING_STARTS[what]) as process:
            process.send_signal(number)
            output, errors = process.communicate(timeout=10)

        lines = output.splitlines()
        assert [line for line in lines if line != "closed"] == ["pool closed", "left stopped"]
        assert ("closed" in lines) == (what != "a lifespan")  # what was not started is not closed
        assert process.returncode == 0
        assert errors == f"{number.name} while the app starts: its start is cancelled\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
    @pytest.mark.parametrize("what", STUBBORN_STARTS)
    def test_a_second_one_ends_the_process_at_once(self, what: str, number: signal.Signals) -> None:
        with self.start(STUBBORN_STARTS[what]) as process:
            process.send_signal(number)
            assert process.stdout is not None
            assert process.stdout.readline() == "told\n"
            process.send_signal(number)
            try:
                process.communicate(timeout=5)
            finally:
                process.kill()  # if it goes on: it would be waited for

        assert process.returncode == -number

    @pytest.mark.slow
    def test_one_that_comes_as_it_says_that_it_has_started_stops_it(self) -> None:
        signal_in_the_log = """
    class Signal(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("app started"):
                signal.raise_signal(signal.SIGTERM)

    logging.getLogger("flowrra").addHandler(Signal())
    logging.getLogger("flowrra").setLevel("INFO")
        """
        with self.begin(signal_in_the_log) as process:
            output, errors = process.communicate(timeout=10)

        assert output.splitlines() == ["closed", "pool closed", "left stopped"]
        assert process.returncode == 0
        assert errors == ""

    @pytest.mark.slow
    def test_one_that_comes_as_it_has_started_stops_it(self) -> None:
        last_hook = """
    @app.on_startup
    async def last():
        try:
            print("ready", flush=True)
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
        """
        with self.start(last_hook) as process:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=10)

        assert output.splitlines() == ["closed", "pool closed", "left stopped"]
        assert process.returncode == 0
