"""The processes of CPU-bound tasks: how they die, are stopped and replaced, and what that does to tasks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowrra.executors.processes import messages
from flowrra.executors.processes.worker import WorkerProcess
from flowrra.management import FlowrraManager
from flowrra.task import Task
from tests.core import cpu_tasks
from tests.core.apps import assert_counts_add_up, cpu_app, final, in_another_loop, numbers_of, record_of, until
from tests.core.test_cpu_tasks import result_of, with_tasks


def is_alive(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def children() -> set[int]:
    """The worker processes of this process."""
    own = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and b"spawn_main" in command:
            own.add(int(stat.parent.name))
    return own


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    assert {pid for pid in children() - before if is_alive(pid)} == set()


async def lines_of(path: Path, count: int = 1) -> list[int]:
    """The numbers that tasks have noted in a file, once there are as many."""
    await until(lambda: path.exists() and len(path.read_text().split()) >= count, within=10)
    return [int(line) for line in path.read_text().split()]


class Files:
    """Where tasks of a test say that they have started, and wait to be let go."""

    def __init__(self, folder: Path) -> None:
        self.started = folder / "started"
        self.release = folder / "release"
        self.cleaned = folder / "cleaned"

    async def started_pids(self, count: int = 1) -> list[int]:
        return await lines_of(self.started, count)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class TestDeath:
    @pytest.mark.slow
    async def test_a_killed_process_costs_only_its_own_task_which_is_retried(self, files: Files) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.hold, cpu_tasks.hold_once, retry_delay=0)
        other = files.started.with_name("other")
        async with app:
            held = await app.submit(cpu_tasks.hold, str(other), str(files.release))
            killed = await app.submit(cpu_tasks.hold_once, str(files.started))
            [pid], [other_pid] = await files.started_pids(), await lines_of(other)
            os.kill(pid, signal.SIGKILL)
            record = await final(app, killed)
            files.release.touch()
            untouched = await final(app, held)

        assert (record.status, record.retries) == ("success", 1)
        assert record.result != pid
        assert (untouched.result, untouched.retries) == (other_pid, 0)
        numbers = numbers_of(app, "hold_once")
        assert (numbers["retried"], numbers["exceptions"]) == (1, {"WorkerLostError": 1})
        assert_counts_add_up(numbers, running=0)
        assert (await FlowrraManager(app).get_runtime_stats())["worker_restarts"] == {"cpu": 1}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("function", "args", "how"),
        [
            (cpu_tasks.kill_itself, (), "was killed by SIGKILL, as when memory runs out, while it ran the task"),
            (cpu_tasks.exit_at_once, (3,), "ended with exit code 3 while it ran the task"),
            (cpu_tasks.exit_at_once, (0,), "ended with exit code 0 while it ran the task"),
        ],
    )
    async def test_a_task_that_kills_its_process_fails_and_says_how(
        self, function: Callable[..., None], args: tuple[int, ...], how: str
    ) -> None:
        app = with_tasks(cpu_app(), function, cpu_tasks.pid, max_retries=1, retry_delay=0)
        async with app:
            record = await final(app, await app.submit(function, *args), within=10)
            assert await result_of(app, cpu_tasks.pid) != os.getpid()

        assert (record.status, record.retries) == ("failed", 1)
        assert record.error == f"WorkerLostError: The worker process {how}"
        assert app.executors["cpu"].worker_restarts == 2

    async def test_retry_on_decides_about_a_lost_process_too(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.kill_itself, retry_on=ValueError)
        async with app:
            assert (await final(app, await app.submit(cpu_tasks.kill_itself), within=10)).retries == 0

    @pytest.mark.slow
    async def test_an_idle_process_that_is_killed_costs_nothing(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid, max_retries=0)
        async with app:
            for _ in range(3):
                pid = await result_of(app, cpu_tasks.pid)
                os.kill(pid, signal.SIGKILL)
                # Without a turn of the loop: it can't know yet.
                assert await result_of(app, cpu_tasks.pid) != pid
        assert numbers_of(app, "pid")["succeeded"] == 6

    @pytest.mark.slow
    async def test_a_storm_of_kills_loses_no_task(self) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.burn, max_retries=50, retry_delay=0)
        chance = random.Random(11)
        async with app:
            ids = [await app.submit(cpu_tasks.burn, 0.03) for _ in range(20)]
            for _ in range(12):
                await asyncio.sleep(0.1)
                if victims := children():
                    os.kill(chance.choice(sorted(victims)), signal.SIGKILL)
            for task_id in ids:
                assert (await final(app, task_id, within=10)).status == "success"
        assert_counts_add_up(numbers_of(app, "burn"), running=0)
        assert app.executors["cpu"].worker_restarts >= 5

    async def test_a_fork_that_holds_the_connection_does_not_hide_a_death(self, tmp_path: Path) -> None:
        started = tmp_path / "started"
        app = with_tasks(cpu_app(), cpu_tasks.leave_a_fork, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.leave_a_fork, str(started))
            pid, fork = await lines_of(started, 2)
            os.kill(pid, signal.SIGKILL)
            record = await final(app, task_id, within=2)
        os.kill(fork, signal.SIGKILL)

        assert (record.error or "").startswith("WorkerLostError: The worker process was killed by SIGKILL")

    @pytest.mark.slow
    async def test_a_process_whose_connection_is_closed_is_ended(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.close_its_connection, cpu_tasks.pid, max_retries=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.close_its_connection), within=5)
            await result_of(app, cpu_tasks.pid)

        assert (record.error or "").startswith("WorkerLostError")

    async def test_signals_to_all_processes_are_left_to_the_app(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.signals_from_elsewhere, cpu_tasks.pid)
        async with app:
            assert await result_of(app, cpu_tasks.signals_from_elsewhere) == "unmoved"
            pid = await result_of(app, cpu_tasks.pid)
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            assert await result_of(app, cpu_tasks.pid) == pid

    async def test_processes_that_can_not_be_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid, max_retries=0)
        async with app:
            with monkeypatch.context() as broken:
                broken.setattr("multiprocessing.spawn._python_exe", os.fsencode(tmp_path / "no-python"))
                record = await final(app, await app.submit(cpu_tasks.pid), within=10)
            assert await result_of(app, cpu_tasks.pid) != os.getpid()

        assert (record.error or "").startswith("WorkerLostError: ")
        assert "if __name__ == '__main__'" in (record.error or "")

    @pytest.mark.slow
    async def test_one_that_does_not_begin_in_time_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flowrra.executors.processes.worker.START_TIMEOUT", 0.1)
        app = with_tasks(cpu_app(), cpu_tasks.take, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.take, cpu_tasks.SleepsElsewhere(os.getpid()))
            record = await final(app, task_id, within=cpu_tasks.PATIENCE / 2)

        why = "was ended as it had not begun after 0 s before it could run the task"
        assert (record.error or "").startswith(f"WorkerLostError: The worker process {why}")

    @pytest.mark.slow
    async def test_a_process_is_replaced_after_so_many_tasks(self) -> None:
        app = with_tasks(cpu_app(max_tasks_per_child=2), cpu_tasks.pid)
        async with app:
            pids = [await result_of(app, cpu_tasks.pid) for _ in range(6)]
            await until(lambda: not any(is_alive(pid) for pid in pids))

        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
        assert app.executors["cpu"].worker_restarts == 0


class TestTheWrongAnswer:
    """A task's result is the one that its own process gave for its own call."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("function", "args"),
        [
            (cpu_tasks.fork_and_return, ("returns",)),
            (cpu_tasks.fork_and_return, ("raises",)),
            (cpu_tasks.fork_and_return, ("exits",)),
            (cpu_tasks.fork_and_return, ("ignores its end",)),
            (cpu_tasks.fork_in_a_thread, ()),
            (cpu_tasks.fork_by_multiprocessing, ("returns",)),
            (cpu_tasks.fork_by_multiprocessing, ("raises",)),
        ],
    )
    async def test_a_fork_that_comes_back_from_the_task_says_nothing(
        self, function: Callable[..., Any], args: tuple[str, ...]
    ) -> None:
        app = with_tasks(cpu_app(), function, cpu_tasks.pid, cpu_tasks.echo, max_retries=0)
        async with app:
            pid = await result_of(app, cpu_tasks.pid)
            assert await result_of(app, function, *args) == "the parent's"
            for n in range(8):
                assert await result_of(app, cpu_tasks.echo, n) == n
            assert await result_of(app, cpu_tasks.pid) == pid

    @pytest.mark.slow
    async def test_nor_does_one_that_outlives_its_worker_process(self, tmp_path: Path) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.come_back_as_a_daemon, cpu_tasks.echo, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.come_back_as_a_daemon, str(tmp_path / "daemon"))
            record = await final(app, task_id, within=10)
            [daemon] = await lines_of(tmp_path / "daemon")
            await until(lambda: not is_alive(daemon))
            assert await result_of(app, cpu_tasks.echo, 1) == 1

        assert record.error == "WorkerLostError: The worker process ended with exit code 0 while it ran the task"

    async def test_what_a_fork_raises_is_printed_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.fork_and_return)
        async with app:
            assert await result_of(app, cpu_tasks.fork_and_return, "raises") == "the parent's"

        assert capfd.readouterr().err.splitlines()[-1] == "ValueError: the child's"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "text", [b"?", b"?" * 17, b"?" * 1000, b"\0" * 17], ids=["byte", "header", "much", "zeros"]
    )
    async def test_a_process_whose_task_writes_to_its_connection_is_ended(
        self, text: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.write_to_its_connection, cpu_tasks.echo, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.write_to_its_connection, text)
            record = await final(app, task_id, within=10)
            assert await result_of(app, cpu_tasks.echo, 1) == 1

        what = "was ended, as it sent what is no answer to its call,"
        assert record.error == f"WorkerLostError: The worker process {what} while it ran the task"
        assert f"it {what.rstrip(',')}" in caplog.text
        assert app.executors["cpu"].worker_restarts == 1

    @pytest.mark.slow
    async def test_also_one_that_writes_there_when_its_task_is_over(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.write_to_its_connection_later, cpu_tasks.echo, max_retries=0)
        async with app:
            assert await result_of(app, cpu_tasks.write_to_its_connection_later, b"?" * 100) == "done"
            await until(lambda: app.executors["cpu"].worker_restarts == 1)
            assert await result_of(app, cpu_tasks.echo, 1) == 1

    @pytest.mark.slow
    async def test_an_answer_goes_into_no_file_that_a_task_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        app = with_tasks(cpu_app(), cpu_tasks.use_the_number_of_its_connection, cpu_tasks.echo, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.use_the_number_of_its_connection, str(path))
            record = await final(app, task_id, within=10)
            assert await result_of(app, cpu_tasks.echo, 1) == 1

        assert (record.error or "").startswith("WorkerLostError: The worker process ended with exit code 1")
        assert path.read_bytes() == b"mine"

    async def test_standard_output_and_error_are_no_part_of_it(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.shout, cpu_tasks.echo)
        async with app:
            assert await result_of(app, cpu_tasks.shout) == "shouted"
            assert await result_of(app, cpu_tasks.echo, 1) == 1


class TestTimeLimit:
    @pytest.mark.slow
    async def test_it_ends_the_process_after_its_clean_up(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.hold_and_clean_up, timeout=0.2, max_retries=0)
        async with app:
            task_id = await app.submit(cpu_tasks.hold_and_clean_up, str(files.started), str(files.cleaned))
            record = await final(app, task_id)
            [pid] = await files.started_pids()
            assert not is_alive(pid)

        assert (record.status, files.cleaned.read_text()) == ("failed", "cleaned up\n")
        assert record.error == f"TaskTimeoutError: Task '{task_id}' did not complete within 0.2s"
        assert record.traceback is not None
        assert "time.sleep(PATIENCE)" in record.traceback  # where it was
        assert "child.py" not in record.traceback
        numbers = numbers_of(app, "hold_and_clean_up")
        assert (numbers["timed_out"], numbers["failed"]) == (1, 1)
        assert_counts_add_up(numbers, running=0)
        assert app.executors["cpu"].worker_restarts == 0

    @pytest.mark.slow
    async def test_a_process_that_ignores_it_is_killed(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flowrra.executors.processes.worker.TERMINATION_GRACE", 0.2)
        app = with_tasks(cpu_app(), cpu_tasks.hold_stubbornly, timeout=0.2, max_retries=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.hold_stubbornly, str(files.started)))
            [pid] = await files.started_pids()
            assert not is_alive(pid)

        assert (record.error or "").startswith("TaskTimeoutError")

    @pytest.mark.slow
    async def test_an_attempt_within_its_limit_is_not_disturbed_by_it(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid, timeout=0.3)
        async with app:
            pids = set()
            for _ in range(3):
                pids.add(await result_of(app, cpu_tasks.pid))
                await asyncio.sleep(0.15)

        assert len(pids) == 1

    @pytest.mark.slow
    async def test_starting_and_importing_don_t_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "slow_to_import.py").write_text(
            textwrap.dedent("""
                import multiprocessing
                import time

                if multiprocessing.parent_process() is not None:
                    time.sleep(0.6)


                def quick():
                    return "in time"
            """)
        )
        monkeypatch.syspath_prepend(tmp_path)
        import slow_to_import  # type: ignore[import-not-found]

        app = with_tasks(cpu_app(), slow_to_import.quick, timeout=0.3, max_retries=0)
        async with app:
            assert await result_of(app, slow_to_import.quick) == "in time"
        del sys.modules["slow_to_import"]

    @pytest.mark.slow
    async def test_a_timed_out_attempt_is_retried_in_another_process(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.hold_once, timeout=0.2, retry_delay=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.hold_once, str(files.started)))
            first, second = await files.started_pids(2)

        assert (record.status, record.result, record.retries) == ("success", second, 1)
        assert first != second


class TestCancel:
    async def test_a_waiting_task(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.hold, cpu_tasks.pid)
        async with app:
            held = await app.submit(cpu_tasks.hold, str(files.started), str(files.release))
            waiting = await app.submit(cpu_tasks.pid)
            await files.started_pids()
            assert await app.cancel_task(waiting) is True
            files.release.touch()
            assert (await final(app, held)).status == "success"

        assert (await record_of(app, waiting)).status == "cancelled"

    @pytest.mark.slow
    async def test_a_running_task(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.hold_and_clean_up, cpu_tasks.pid)
        async with app:
            task_id = await app.submit(cpu_tasks.hold_and_clean_up, str(files.started), str(files.cleaned))
            [pid] = await files.started_pids()
            assert await app.cancel_task(task_id) is True
            assert not is_alive(pid)
            assert await app.cancel_task(task_id) is False
            assert await result_of(app, cpu_tasks.pid) != pid

        record = await record_of(app, task_id)
        assert (record.status, record.error) == ("cancelled", "cancelled while running: by request")
        assert files.cleaned.read_text() == "cleaned up\n"
        assert_counts_add_up(numbers_of(app, "hold_and_clean_up"), running=0)

    @pytest.mark.slow
    async def test_one_that_returns_nevertheless_has_succeeded(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.swallow_the_end, cpu_tasks.pid)
        async with app:
            task_id = await app.submit(cpu_tasks.swallow_the_end, str(files.started))
            await files.started_pids()
            assert await app.cancel_task(task_id) is False
            record = await record_of(app, task_id)
            assert await result_of(app, cpu_tasks.pid) != os.getpid()

        assert (record.status, record.result) == ("success", "went on")

    @pytest.mark.slow
    async def test_one_whose_process_is_still_starting(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid)
        async with app:
            task_id = await app.submit(cpu_tasks.pid)
            await until(lambda: app.executors["cpu"].busy_workers == 1)
            assert await app.cancel_task(task_id) is True
            assert await result_of(app, cpu_tasks.pid) != os.getpid()

        assert (await record_of(app, task_id)).status == "cancelled"

    @pytest.mark.slow
    async def test_one_that_is_just_finishing_is_either_or(self) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.burn)
        chance = random.Random(5)
        async with app:
            await result_of(app, cpu_tasks.burn, 0)
            cancelled = 0
            for _ in range(12):
                task_id = await app.submit(cpu_tasks.burn, 0.002)
                await asyncio.sleep(chance.uniform(0.001, 0.005))
                was_cancelled = await app.cancel_task(task_id)
                record = await final(app, task_id)
                assert record.status == ("cancelled" if was_cancelled else "success")
                cancelled += was_cancelled
            assert await result_of(app, cpu_tasks.burn, 0) != os.getpid()

        numbers = numbers_of(app, "burn")
        assert numbers["cancelled"] + numbers["cancelled_before_start"] == cancelled
        assert_counts_add_up(numbers, running=0)


class TestStop:
    async def test_it_waits_for_what_runs_and_what_waits(self, files: Files) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.hold, cpu_tasks.pid)
        async with app:
            ids = [await app.submit(cpu_tasks.hold, str(files.started), str(files.release))]
            ids.append(await app.submit(cpu_tasks.pid))
            await files.started_pids()
            asyncio.get_running_loop().call_later(0.1, files.release.touch)

        assert [(await record_of(app, task_id)).status for task_id in ids] == ["success", "success"]

    @pytest.mark.slow
    async def test_at_once_it_ends_what_runs_and_never_holds_up_the_loop(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flowrra.executors.processes.worker.TERMINATION_GRACE", 2.0)
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.hold_stubbornly, cpu_tasks.hold_and_clean_up)
        await app.start()
        ids = [
            await app.submit(cpu_tasks.hold_stubbornly, str(files.started)),
            await app.submit(cpu_tasks.hold_and_clean_up, str(files.started), str(files.cleaned)),
        ]
        pids = await files.started_pids(2)
        stopping = asyncio.create_task(app.stop(wait=False))
        longest, last = 0.0, asyncio.get_running_loop().time()
        while not stopping.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, asyncio.get_running_loop().time() - last), asyncio.get_running_loop().time()
        await stopping

        assert longest < 2.0 / 2
        assert not any(is_alive(pid) for pid in pids)
        for task_id in ids:
            record = await record_of(app, task_id)
            assert (record.status, record.error) == ("cancelled", "cancelled while running: the app stopped")
        assert files.cleaned.exists()
        for name in ("hold_stubbornly", "hold_and_clean_up"):
            assert_counts_add_up(numbers_of(app, name), running=0)

    async def test_idle_processes_end_with_it(self, files: Files) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.meet)
        folder = str(files.started.parent)
        async with app:
            ids = [await app.submit(cpu_tasks.meet, folder, *names) for names in (("a", "b"), ("b", "a"))]
            pids = [(await final(app, task_id, within=10)).result for task_id in ids]
            assert all(is_alive(pid) for pid in pids)

        assert not any(is_alive(pid) for pid in pids)

    def test_an_app_starts_again_on_another_loop(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid)

        async def one_life() -> int:
            async with app:
                pid: int = await result_of(app, cpu_tasks.pid)
                return pid

        assert in_another_loop(one_life) != in_another_loop(one_life)

    @pytest.mark.slow
    def test_a_loop_that_was_closed_without_stop_leaves_no_process_to_the_next(self, files: Files) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.hold_once, cpu_tasks.pid, max_retries=0)

        async def left() -> int:
            await app.start()
            await app.submit(cpu_tasks.hold_once, str(files.started))
            await files.started_pids()
            pid: int = await result_of(app, cpu_tasks.pid)
            return pid

        async def next_life() -> int:
            async with app:
                pid: int = await result_of(app, cpu_tasks.pid)
                return pid

        idle = in_another_loop(left)
        assert in_another_loop(next_life) != idle
        assert_counts_add_up(numbers_of(app, "hold_once"), running=0)


async def test_what_a_process_sent_before_it_ended_is_not_lost() -> None:
    """Its end may be seen before its answer."""
    gone: list[WorkerProcess] = []
    process = WorkerProcess("flowrra-worker-process-test", gone.append)
    look_away = partial(asyncio.get_running_loop().remove_reader, process._socket)
    call = messages.encode_call(cpu_tasks.burn, Task("an-id", "burn", (0.05,), {}))
    running = asyncio.create_task(process.run(call, look_away, lambda _: None))
    await until(lambda: process.has_begun, within=10)
    process.retire()
    frame = await running
    await process.gone

    assert frame is not None
    assert messages.decode_outcome(frame) == process.pid
    assert gone == [process]


async def test_a_death_is_logged_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    app = with_tasks(cpu_app(), cpu_tasks.pid)
    async with app:
        pid = await result_of(app, cpu_tasks.pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: app.executors["cpu"].worker_restarts == 1)

    assert f"pid={pid}: it was killed by SIGKILL, as when memory runs out" in caplog.text


async def test_a_stop_that_is_given_up_ends_them_too(files: Files) -> None:
    app = cpu_app()
    app.task(cpu_bound=True, max_retries=0)(cpu_tasks.hold)
    await app.start()
    await app.submit(cpu_tasks.hold, str(files.started), str(files.release))
    await files.started_pids()
    stopping = asyncio.create_task(app.executors["cpu"].stop(wait=False))
    await asyncio.sleep(0)
    stopping.cancel()
    await until(lambda: not any(map(is_alive, children())), within=20)
    await app.stop()
