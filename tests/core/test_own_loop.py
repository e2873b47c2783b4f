"""The event loop of `app.run()` and `app.start_sync()` ends, whatever goes on though it was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from flowrra import own_loop
from tests.core.apps import memory_app, numbers_of


async def go_on(gate: asyncio.Event) -> None:
    """Until the gate opens, whoever cancels it."""
    while not gate.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await gate.wait()


def test_what_cleans_up_when_it_is_cancelled_is_waited_for() -> None:
    told: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            told.append("cleaned up")

    async def main() -> None:
        tasks.append(asyncio.create_task(clean_up()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    own_loop.run(main())
    assert told == ["cleaned up"]
    assert tasks[0].cancelled()


def test_what_goes_on_is_left_to_itself_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_loop, "GRACE", 0.05)

    async def main() -> None:
        tasks.append(asyncio.create_task(go_on(asyncio.Event()), name="consumer"))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    own_loop.run(main())
    assert not tasks[0].done()
    assert [message for message in caplog.messages if "left to themselves: consumer" in message]


def test_threads_of_its_pool_are_waited_for_and_may_need_it() -> None:
    told: list[str] = []

    async def answer() -> str:
        return "answered"

    def ask(loop: asyncio.AbstractEventLoop) -> None:
        go.wait(10)
        told.append(asyncio.run_coroutine_threadsafe(answer(), loop).result(10))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, ask, loop)
        loop.call_later(0.05, go.set)

    go = threading.Event()
    own_loop.run(main())
    assert told == ["answered"]


def test_threads_that_go_on_are_left_to_themselves_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_loop, "GRACE", 0.05)
    gate = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, gate.wait, 30)

    ended = threading.Thread(target=lambda: own_loop.run(main()), daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
    assert not gate.is_set()
    assert [message for message in caplog.messages if message.startswith("threads of the event loop's pool go on")]
    gate.set()


def test_what_the_loop_runs_may_fail() -> None:
    async def main() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        own_loop.run(main())


async def test_an_app_is_not_run_on_a_loop_that_runs() -> None:
    with pytest.raises(RuntimeError, match=r"use await app.start\(\)"):
        memory_app().run()


@pytest.mark.slow
def test_an_app_with_a_thread_of_its_own_stops_though_a_task_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app()

    @app.task()
    async def consume() -> None:
        await go_on(asyncio.Event())

    app.start_sync()
    app.submit_sync(consume)
    while not numbers_of(app, "consume")["running"]:
        pass
    app.stop_sync(wait=False)
    assert (app.state, app.lost_at_stop) == ("stopped", 1)
    caplog.clear()


def test_an_app_with_a_thread_of_its_own_stops_though_a_thread_of_a_task_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_loop, "GRACE", 0.05)
    app, gate, blocking = memory_app(), threading.Event(), threading.Event()

    def block() -> None:
        blocking.set()
        gate.wait(30)

    @app.task()
    async def blocked() -> None:
        await asyncio.to_thread(block)

    app.start_sync()
    app.submit_sync(blocked)
    assert blocking.wait(10)
    stopping = threading.Thread(target=lambda: app.stop_sync(wait=False), daemon=True)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    assert not gate.is_set()
    assert (app.state, app.lost_at_stop) == ("stopped", 1)
    gate.set()
    caplog.clear()


PROGRAM = """
    import asyncio
    from flowrra import Flowrra

    app = Flowrra()

    @app.task()
    async def consume():
        print("ready", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    @app.on_startup
    async def submit():
        await app.submit(consume)

    SHUTDOWN

    app.run(shutdown_timeout=0.1)
    print("left", app.lost_at_stop, flush=True)
"""


def started(shutdown: str = "") -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM.replace("    SHUTDOWN", shutdown))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_run_returns_though_a_task_goes_on() -> None:
    with started() as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "left 1\n")


@pytest.mark.slow
@pytest.mark.parametrize("hangs", ["await asyncio.sleep(3600)", "time.sleep(3600)"], ids=["awaits", "blocks"])
def test_a_third_signal_ends_a_process_whose_shutdown_hangs(hangs: str) -> None:
    shutdown = f"""
    import time

    @app.on_shutdown
    async def hang():
        print("hangs", flush=True)
        {hangs}
    """
    with started(shutdown) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        for _ in range(60):  # those that come while it is busy are one
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                break
    assert process.returncode == -signal.SIGINT
