"""`flowrra worker --processes N`: one that ends is replaced, a signal ends all, and what can't run comes to an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowrra.command import processes
from flowrra.management import FlowrraManager
from tests.command import shop
from tests.command.conftest import APP, Flowrra, Process, finished, until

pytestmark = pytest.mark.slow

# Ends as soon as it is imported, without an error that says why.
CRASHES = "import os\nos._exit(3)\n"
# Starts a program that reads its standard input to the end, as ssh and ffmpeg do.
READS = """\
import asyncio
from pathlib import Path

from flowrra import Flowrra

app = Flowrra()


@app.on_startup
async def convert() -> None:
    program = await asyncio.create_subprocess_exec("cat")
    await program.wait()
    Path("converted").touch()
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def three(url: str, flowrra: Flowrra) -> Iterator[Process]:
    with Process(url, "worker", APP, "--processes", "3", "--io-workers", "5") as process:
        yield process
        process.end(signal.SIGTERM)


@pytest.fixture
def pids(flowrra: Flowrra) -> Callable[[], set[int]]:
    """The processes that live."""
    return lambda: {worker["pid"] for worker in flowrra("workers", "--json").answer if is_alive(worker["pid"])}


def test_each_has_the_slots(flowrra: Flowrra, three: Process, pids: Callable[[], set[int]]) -> None:
    until(lambda: len(pids()) == 3)
    assert three.popen.pid not in pids()
    assert flowrra("stats", "--json").answer["workers"]["slots"]["io"]["slots"] == 15


def test_one_that_is_killed_is_replaced(flowrra: Flowrra, three: Process, pids: Callable[[], set[int]]) -> None:
    before = until(lambda: len(found := pids()) == 3 and found)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not is_alive(victim))
    after = until(lambda: len(found := pids()) == 3 and found)
    assert victim not in after
    assert len(after & before) == 2
    ran = three.end(signal.SIGTERM)
    assert ran.status == 0
    assert f"worker process ended pid={victim} by=signal SIGKILL" in ran.err


def test_the_tasks_of_one_that_is_killed_run_again(url: str, flowrra: Flowrra, pids: Callable[[], set[int]]) -> None:
    options = ("--processes", "4", "--io-workers", "2")
    with Process(url, "worker", APP, *options, variables={"SHOP_LEASE": "1"}) as process:
        before = until(lambda: len(found := pids()) == 4 and found)
        task_ids = [flowrra("submit", "hold", "3").out.strip() for _ in range(8)]
        running = until(
            lambda: len(found := flowrra("tasks", "--status", "running", "--json").answer["tasks"]) == 8 and found
        )
        victim = min(before)
        lost = {task["task_id"] for task in running if f"-{victim}-" in task["worker"]}
        assert lost
        os.kill(victim, signal.SIGKILL)
        tasks = [finished(flowrra, task_id) for task_id in task_ids]
        assert {task["status"] for task in tasks} == {"success"}
        assert {task["task_id"] for task in tasks if len(task["attempts"]) == 2} == lost
        assert len(until(lambda: len(found := pids()) == 4 and found) - before) == 1
        assert process.end(signal.SIGTERM).status == 0


async def test_sigterm_under_load_loses_nothing(url: str, flowrra: Flowrra, pids: Callable[[], set[int]]) -> None:
    """What had begun has its outcome, what had not waits for the next ones: each task has run once."""
    with Process(url, "worker", APP, "--processes", "4", "--io-workers", "5") as process:
        await asyncio.to_thread(until, lambda: len(pids()) == 4)
        async with shop.app.producer() as producer:
            task_ids = await producer.submit_many([("hold", (0.05,), {})] * 1000)
            manager = FlowrraManager(producer)
            while (await manager.count_tasks())["success"] < 100:
                await asyncio.sleep(0.01)
            ran = await asyncio.to_thread(process.end, signal.SIGTERM)
            assert ran.status == 0
            counts = await manager.count_tasks()
            assert counts["success"] >= 100
            assert counts["pending"] == 1000 - counts["success"] > 0
            with Process(url, "worker", APP, "--processes", "4", "--io-workers", "20") as process:
                results = [await producer.wait_for_result(task_id, timeout=60) for task_id in task_ids]
                assert {(result.status.value, result.retries) for result in results} == {("success", 0)}
                assert await asyncio.to_thread(process.end, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_all_and_loses_nothing(
    flowrra: Flowrra, three: Process, pids: Callable[[], set[int]], number: signal.Signals
) -> None:
    before = until(lambda: len(found := pids()) == 3 and found)
    for _ in range(30):
        flowrra("submit", "send", "me")
    assert three.end(number).status == 0
    assert not any(map(is_alive, before))
    tasks = flowrra("tasks", "--json").answer["tasks"]
    assert {task["status"] for task in tasks} <= {"success", "pending"}
    assert len(tasks) == 30


def test_ctrl_c_lets_running_tasks_finish(url: str, flowrra: Flowrra) -> None:
    """It reaches the whole group, and a process that is told twice doesn't wait."""
    task_id = flowrra("submit", "hold", "1.5").out.strip()
    with Process(url, "worker", APP, "--processes", "1", start_new_session=True) as process:
        until(lambda: flowrra("task", task_id, "--json").answer["status"] == "running")
        os.killpg(process.popen.pid, signal.SIGINT)
        assert process.end().status == 0
    assert flowrra("task", task_id, "--json").answer["status"] == "success"


async def test_those_that_have_lived_for_a_while_are_replaced_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AT_ONCE", 0.0)
    monkeypatch.setattr(processes, "MOST_AT_ONCE", 2)
    lines = tmp_path / "lines"
    program = f"open({str(lines)!r}, 'a').write('begun\\n')"
    running = asyncio.create_task(processes.Processes([["-c", program]], 1.0).run())
    while not running.done() and (not lines.exists() or len(lines.read_text().splitlines()) < 4):
        await asyncio.sleep(0.05)
    assert not running.done()
    signal.raise_signal(signal.SIGTERM)
    assert await running == 0


async def test_one_that_has_run_is_tried_again_where_it_finds_its_port_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one process that dies ends all others, which do well."""
    monkeypatch.setattr(processes, "AT_ONCE", 0.5)
    runs, other = tmp_path / "runs", tmp_path / "other"
    program = (
        f"import sys, time; runs = open({str(runs)!r}, 'a+'); runs.seek(0); before = len(runs.read())\n"
        "print('.', end='', file=runs, flush=True)\n"
        "time.sleep(1 if before == 0 else 0 if before < 3 else 60)\n"
        "sys.exit(9 if before == 0 else 2)"
    )
    well = f"import time; open({str(other)!r}, 'a').write('.'); time.sleep(60)"
    running = asyncio.create_task(processes.Processes([["-c", program], ["-c", well]], 5.0).run())
    while not running.done() and (not runs.exists() or len(runs.read_text()) < 4):
        await asyncio.sleep(0.05)
    assert not running.done()
    assert other.read_text() == "."
    signal.raise_signal(signal.SIGTERM)
    assert await running == 0


async def test_one_that_a_nameless_signal_has_killed_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    program = (
        f"import os, signal, time; runs = open({str(runs)!r}, 'a+'); runs.seek(0); is_first = not runs.read()\n"
        "print('.', end='', file=runs, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGRTMIN + 6) if is_first else time.sleep(60)"
    )
    running = asyncio.create_task(processes.Processes([["-c", program]], 5.0).run())
    while not running.done() and (not runs.exists() or len(runs.read_text()) < 2):
        await asyncio.sleep(0.05)
    assert not running.done()
    signal.raise_signal(signal.SIGTERM)
    assert await running == 0
    assert f"by=signal {signal.SIGRTMIN + 6}" in caplog.text


async def test_those_that_end_as_they_are_told_to_have_their_own_status(tmp_path: Path) -> None:
    for turn in range(5):
        end = tmp_path / str(turn)
        program = f"import os, time\nwhile not os.path.exists({str(end)!r}): time.sleep(0.01)"
        supervisor = processes.Processes([["-c", program]] * 2, 5.0)
        running = asyncio.create_task(supervisor.run())
        while len(supervisor._running) < 2:
            await asyncio.sleep(0.01)
        end.touch()
        for process in supervisor._running:  # has ended, and this loop doesn't know it yet
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        signal.raise_signal(signal.SIGTERM)
        assert await running == 0


async def test_a_process_that_nobody_would_replace_any_more_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(processes.Processes):
        async def _pause(self, seconds: float) -> None:
            raise ZeroDivisionError

    program = "import sys, time; time.sleep(60) if sys.argv[1:] else sys.exit(3)"
    with pytest.raises(ZeroDivisionError):
        await Broken([["-c", program], ["-c", program, "lives"]], 5.0).run()


def test_they_end_with_their_parent(three: Process, pids: Callable[[], set[int]]) -> None:
    before = until(lambda: len(found := pids()) == 3 and found)
    three.popen.kill()
    until(lambda: not any(map(is_alive, before)))


@pytest.mark.parametrize("option", ["--processes=1", "--reload"])
def test_what_tasks_start_finds_the_end_of_its_standard_input(tmp_path: Path, option: str) -> None:
    (tmp_path / "reads.py").write_text(READS)
    with Process("", "worker", "reads:app", option, folder=tmp_path) as process:
        until((tmp_path / "converted").exists)
        assert process.end(signal.SIGTERM).status == 0


async def test_one_that_starts_anew_in_haste_waits_longer_each_time() -> None:
    pauses: list[float] = []

    class Counted(processes.Processes):
        async def _pause(self, seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 4:
                signal.raise_signal(signal.SIGTERM)
                await super()._pause(60)

    assert await Counted([["-c", f"raise SystemExit({processes.RELOADED})"]], 5.0, reloads=True).run() == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_one_that_ends_at_once_again_and_again(url: str, tmp_path: Path) -> None:
    (tmp_path / "crashes.py").write_text(CRASHES)
    with Process(url, "worker", "crashes:app", "--processes", "2", folder=tmp_path) as process:
        ran = process.end()
    assert ran.status == 1
    assert "a worker process ended at once for the 5th time: all are ended" in ran.err
    assert 5 <= ran.err.count("by=status 3") <= 10


def test_one_that_is_started_wrongly_is_not_tried_again(url: str) -> None:
    with Process(url, "worker", "nowhere:app", "--processes", "2") as process:
        ran = process.end()
    assert ran.status == 2
    assert "There is no module 'nowhere'" in ran.err
    assert "replaced" not in ran.err


def test_tasks_that_one_has_lost_are_status_1(url: str) -> None:
    arguments = ("tests.command.shop:impatient", "--processes", "1", "--shutdown-timeout", "0.1")
    with Process(url, "worker", *arguments) as process:
        assert process.popen.stdout is not None
        assert process.popen.stdout.readline() == "begun\n"
        assert process.end(signal.SIGTERM).status == 1
