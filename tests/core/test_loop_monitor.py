"""The event loop's truth: how late it is, what holds it up, and that a process that was stopped isn't blamed on it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from flowrra.management import FlowrraManager
from tests.core.apps import memory_app, until


@pytest.mark.slow
async def test_while_a_task_blocks_the_loop_other_threads_see_which_one_and_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = memory_app()
    manager = FlowrraManager(app)
    seen: list[dict[str, Any]] = []

    @app.task()
    async def careless() -> None:
        time.sleep(2.2)

    def look() -> None:
        time.sleep(1.8)
        seen.append(asyncio.run(manager.get_runtime_stats()))

    caplog.set_level(logging.INFO, "flowrra.loop_monitor")
    async with app:
        onlooker = threading.Thread(target=look)
        onlooker.start()
        task_id = await app.submit(careless)
        await app.wait_for_result(task_id, timeout=10)
        await asyncio.to_thread(onlooker.join)
        after = await manager.get_runtime_stats()

    (during,) = seen
    assert during["blocking"]["task"] == {"id": task_id, "name": "careless"}
    assert "time.sleep(2.2)" in during["blocking"]["stack"].splitlines()[-1]
    assert 0.5 < during["blocking"]["seconds"] < 2.2
    assert after["blocking"] is None
    assert after["stalls"] == 1
    assert after["last_stall"]["task"]["name"] == "careless"
    assert sum(after["loop_lag"]["counts"][9:]) == 1, "one beat was late by between 1 and 2.5 s"
    begin, end = (record.getMessage() for record in caplog.records)
    culprit = rf"task careless \({task_id}\), at {re.escape(__file__)}:\d+ in careless: time\.sleep\(2\.2\)"
    assert re.match(rf"event loop blocked for 1\.\d s: {culprit}\n  File ", begin)
    assert re.fullmatch(rf"event loop turns again; blocked for [12]\.\d s: {culprit}", end)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.slow
async def test_a_loop_that_turns_has_nothing_to_report() -> None:
    app = memory_app()
    manager = FlowrraManager(app)
    async with app:
        await asyncio.sleep(0.6)
        stats = await asyncio.to_thread(asyncio.run, manager.get_runtime_stats())

    assert stats["blocking"] is None
    assert stats["last_stall"] is None
    assert stats["stalls"] == 0
    assert sum(stats["loop_lag"]["counts"]) >= 1


STOPPED_PROCESS = """
    import asyncio

    from flowrra import Flowrra
    from flowrra.management import FlowrraManager

    app = Flowrra()

    async def main() -> None:
        async with app:
            print("running", flush=True)
            await asyncio.to_thread(input)
            await asyncio.sleep(1)
            stats = await FlowrraManager(app).get_runtime_stats()
            print(stats["stalls"], round(stats["loop_lag"]["sum"], 1), stats["last_stall"], flush=True)

    asyncio.run(main())
"""


@pytest.mark.slow
def test_a_process_that_was_stopped_is_not_blamed_on_the_loop() -> None:
    """Several of them, each stopped at another moment between two beats."""
    program = [sys.executable, "-c", textwrap.dedent(STOPPED_PROCESS)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.04)
        time.sleep(3)
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.communicate()[0].split() for process in processes]

    assert [(stalls, last_stall) for stalls, _, last_stall in answers] == [("0", "None")] * len(answers)
    assert max(float(lag) for _, lag, _ in answers) < 1


def watching() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "flowrra-loop-monitor"]


def test_it_ends_with_a_loop_that_is_closed_without_stopping_the_app() -> None:
    app = memory_app()
    asyncio.run(app.start())
    for thread in watching():
        thread.join(timeout=5)

    assert watching() == []
    assert app.loop_monitor.is_dead()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_it_ends_with_an_app_and_a_loop_that_nobody_holds() -> None:
    def leave() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(memory_app().start())

    leave()
    gc.collect()
    for thread in watching():
        thread.join(timeout=5)

    assert watching() == []


def test_an_app_that_starts_again_on_another_loop_has_one_watch() -> None:
    app = memory_app()

    async def life() -> None:
        await app.start()
        await until(lambda: len(watching()) == 1)

    asyncio.run(life())
    asyncio.run(life())
