"""CPU-bound tasks in whole programs: where their functions may be defined, what ends the processes, where logs go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.test_cpu_processes import is_alive

TIMEOUT = 30.0

APP = """
    import asyncio
    import logging
    import os
    import sys
    import threading
    import time
    from pathlib import Path

    from flowrra import Config, ExecutorConfig, Flowrra
    from flowrra.backends import InMemoryBackend

    app = Flowrra(Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=2)))


    class Point:
        def __init__(self, x):
            self.x = x


    class Odd(Exception):
        pass


    @app.task(cpu_bound=True, max_retries=0)
    def move(point):
        if point.x < 0:
            raise Odd(point.x)
        return Point(point.x + 1)


    @app.task(cpu_bound=True, max_retries=0)
    def chat():
        logging.getLogger("shop.tasks").warning("careful")
        logging.getLogger("shop.tasks").info("too much")
        print("printed")


    @app.task(cpu_bound=True, max_retries=0)
    def hold(started, seconds):
        Path(started).write_text(f"{os.getpid()}")
        try:
            time.sleep(seconds)
        finally:
            Path(started + "-ended").touch()
        return "held"


    async def run(func, *args):
        return await app.wait_for_result(await app.submit(func, *args), timeout=20)
"""


def program(folder: Path, main: str, *, guard: bool = True) -> Path:
    """A program of the app above and a main part."""
    path = folder / "program.py"
    head = "\n\nif __name__ == '__main__':\n" if guard else "\n\n"
    body = textwrap.dedent(main).strip()
    path.write_text(textwrap.dedent(APP) + head + textwrap.indent(body, "    " if guard else "") + "\n")
    return path


def run(*command: str | Path, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run it to its end. No process that it started may hold its output open any longer."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and bool(path.read_text()))
    return int(path.read_text())


MOVES = """
    async def main():
        async with app:
            print((await run(move, Point(1))).result.x)
            record = await run(move, Point(-1))
            print(record.error)
            print("in move" in record.traceback)

    asyncio.run(main())
"""


class TestWhereTasksAre:
    @pytest.mark.slow
    def test_in_the_program_itself(self, tmp_path: Path) -> None:
        done = run(program(tmp_path, MOVES), folder=tmp_path)

        assert done.stdout == "2\nOdd: -1\nTrue\n"

    @pytest.mark.slow
    def test_in_a_program_run_as_a_module(self, tmp_path: Path) -> None:
        program(tmp_path, MOVES)

        assert run("-m", "program", folder=tmp_path).stdout == "2\nOdd: -1\nTrue\n"

    @pytest.mark.slow
    def test_in_a_module_that_a_command_line_program_imports(self, tmp_path: Path) -> None:
        program(tmp_path, "pass")
        imports = "import asyncio; from program import *;"

        done = run("-c", imports + "\n" + textwrap.dedent(MOVES), folder=tmp_path)

        assert done.stdout == "2\nOdd: -1\nTrue\n"

    def test_nowhere_that_a_process_could_import(self, tmp_path: Path) -> None:
        source = program(tmp_path, MOVES.replace("Point(1))).result.x", "1)).error")).read_text()

        done = run("-c", source.replace("run(move, Point(-1))", "run(move, 1)"), folder=tmp_path)

        assert (
            "TaskImportError: Task 'move' can't be found in a worker process: it was defined as 'move'" in done.stdout
        )
        assert "in an interactive session, standard input, `python -c` or" in done.stdout
        assert "Define it with `def`" in done.stdout

    @pytest.mark.slow
    def test_also_one_that_is_read_from_standard_input(self, tmp_path: Path) -> None:
        source = program(tmp_path, MOVES.replace("Point(1))).result.x", "1)).error")).read_text()
        done = subprocess.run(
            [sys.executable],
            input=source.replace("run(move, Point(-1))", "run(move, 1)"),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )

        assert "in an interactive session, standard input, `python -c`" in done.stdout

    @pytest.mark.slow
    def test_under_the_guard_of_the_main_part(self, tmp_path: Path) -> None:
        main = """
            @app.task(cpu_bound=True)
            def late():
                pass

            async def main():
                async with app:
                    print((await run(late)).error)

            asyncio.run(main())
        """
        done = run(program(tmp_path, main), folder=tmp_path)

        assert "it was defined as 'late' in the main module, where it is not imported" in done.stdout

    @pytest.mark.slow
    def test_an_app_in_a_thread_beside_others(self, tmp_path: Path) -> None:
        main = """
            async def main():
                async with app:
                    print((await run(move, Point(1))).result.x)

            stop = threading.Event()
            for _ in range(4):
                threading.Thread(target=stop.wait).start()
            thread = threading.Thread(target=asyncio.run, args=(main(),))
            thread.start()
            thread.join()
            stop.set()
        """
        assert run(program(tmp_path, main), folder=tmp_path).stdout == "2\n"


WORK = """
    async def work():
        Path(f"began-{os.getpid()}").touch()
        async with app:
            print((await run(move, Point(1))).result.x)
"""

UNGUARDED = {
    "asyncio.run": "asyncio.run(work())",
    "a function": """
        def main():
            asyncio.run(work())

        main()
    """,
    "a loop": """
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(work())
        finally:
            loop.close()
    """,
    "a task group": """
        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(work())

        asyncio.run(main())
    """,
    "a gathering": """
        async def main():
            await asyncio.gather(work(), return_exceptions=True)

        asyncio.run(main())
    """,
    "a task nobody waits for": """
        async def main():
            task = asyncio.create_task(work())
            while not task.done():
                await asyncio.sleep(0.01)

        asyncio.run(main())
    """,
    "errors expected": """
        try:
            asyncio.run(work())
        except Exception:
            print("failed")
    """,
    "anything expected": """
        try:
            asyncio.run(work())
        except BaseException:
            pass
    """,
    "a server that reports it in its own way": """
        try:
            asyncio.run(work())
        except BaseException:
            sys.exit(3)
    """,
    "app.run": """
        @app.on_startup
        async def begin():
            async def work():
                print((await run(move, Point(1))).result.x)
                os.kill(os.getpid(), 15)

            app.working = asyncio.create_task(work())

        app.run()
    """,
    "start_sync": """
        app.start_sync()
        print(app.wait_for_result_sync(app.submit_sync(move, Point(1)), 20).result.x)
        app.stop_sync()
    """,
}


class TestWithoutAGuard:
    """A program that does not ask for `__name__ == '__main__'` is imported up to where it runs its app."""

    @pytest.mark.slow
    @pytest.mark.parametrize("how", UNGUARDED)
    def test_its_tasks_run(self, tmp_path: Path, how: str) -> None:
        main = textwrap.dedent(WORK) + textwrap.dedent(UNGUARDED[how])

        done = run(program(tmp_path, main, guard=False), folder=tmp_path)

        assert (done.stdout, done.stderr) == ("2\n", "")

    @pytest.mark.slow
    def test_also_as_a_module(self, tmp_path: Path) -> None:
        program(tmp_path, textwrap.dedent(WORK) + "asyncio.run(work())", guard=False)

        assert run("-m", "program", folder=tmp_path).stdout == "2\n"

    @pytest.mark.slow
    def test_also_as_a_module_that_another_program_imports(self, tmp_path: Path) -> None:
        program(tmp_path, textwrap.dedent(WORK) + "asyncio.run(work())", guard=False)

        assert run("-c", "import program", folder=tmp_path).stdout == "2\n"

    @pytest.mark.slow
    def test_a_web_module_that_starts_its_app_is_imported_whole(self, tmp_path: Path) -> None:
        web = """
            app.start_sync()

            @app.task(cpu_bound=True)
            def view():
                return os.getpid()
        """
        program(tmp_path, web, guard=False)
        server = tmp_path / "server.py"
        server.write_text(
            textwrap.dedent("""
                import os
                from program import app, view

                @app.task(cpu_bound=True)
                def below():
                    return "below"

                if __name__ == "__main__":
                    for task in (view, below):
                        print(app.wait_for_result_sync(app.submit_sync(task), 20).result not in (None, os.getpid()))
                    app.stop_sync()
            """)
        )
        assert run(server, folder=tmp_path).stdout == "True\nTrue\n"

    @pytest.mark.slow
    def test_a_task_below_that_line_fails_and_says_what_to_do(self, tmp_path: Path) -> None:
        main = """
            app.start_sync()

            @app.task(cpu_bound=True, max_retries=0)
            def below():
                pass

            print(app.wait_for_result_sync(app.submit_sync(below), 20).error)
            app.stop_sync()
        """
        path = program(tmp_path, main, guard=False)
        line = path.read_text().splitlines().index("app.start_sync()") + 1

        done = run(path, folder=tmp_path)

        assert done.stdout == (
            "TaskImportError: Task 'below' can't be found in a worker process: 'below' is not defined above line "
            f"{line} of program.py, where the program begins, and a worker process imports it up to there. Define it "
            "further up, or put what runs the program under `if __name__ == '__main__':`\n"
        )

    @pytest.mark.slow
    def test_what_fails_above_that_line_still_fails(self, tmp_path: Path) -> None:
        main = """
            import multiprocessing

            if multiprocessing.parent_process() is not None:
                raise LookupError("only here")
            app.start_sync()
            print(app.wait_for_result_sync(app.submit_sync(move, Point(1)), 20).error)
            app.stop_sync()
        """
        done = run(program(tmp_path, main, guard=False), folder=tmp_path)

        assert "WorkerLostError: The worker process ended with exit code 1 before it could run the task" in done.stdout
        assert "LookupError: only here" in done.stderr


class TestWithoutStandardStreams:
    @pytest.mark.slow
    @pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
    def test_what_a_task_prints_is_no_answer(self, tmp_path: Path, closed: str) -> None:
        main = """
            async def main():
                async with app:
                    await run(chat)
                    Path("answer").write_text(str((await run(move, Point(1))).result.x))

            asyncio.run(main())
        """
        path = program(tmp_path, main)
        command = ["sh", "-c", f'exec "$0" "$1" {closed}', sys.executable, path]
        subprocess.run(command, cwd=tmp_path, timeout=TIMEOUT, check=True, capture_output=True)

        assert (tmp_path / "answer").read_text() == "2"


class TestSubmittingFromATask:
    """The app does not run in a worker process."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "submit",
        [
            "app.submit_sync(move, point)",
            "asyncio.run(app.submit(move, point))",
            "asyncio.run(app.options(countdown=1).submit(move, point))",
            "asyncio.run(app.submit_many([(move, (point,), {})]))",
        ],
    )
    def test_it_is_refused_and_says_what_to_do(self, tmp_path: Path, submit: str) -> None:
        main = """
            async def main():
                async with app:
                    print((await run(more, Point(1))).error)

            asyncio.run(main())
        """
        path = program(tmp_path, main)
        task = f"@app.task(cpu_bound=True, max_retries=0)\ndef more(point):\n    return {submit}\n\n\n"
        path.write_text(path.read_text().replace("if __name__", task + "if __name__"))

        assert run(path, folder=tmp_path).stdout == (
            "SubmittedInWorkerProcessError: A CPU-bound task runs in a worker process, where its app does not run: it "
            "can't submit tasks. Return what they need, and submit them from an async task that awaits the result\n"
        )

    @pytest.mark.slow
    def test_nor_can_it_wait_for_a_result_in_the_app_s_memory(self, tmp_path: Path) -> None:
        main = """
            async def main():
                async with app:
                    task_id = await app.submit(move, Point(1))
                    print((await run(wait, task_id)).error)

            asyncio.run(main())
        """
        path = program(tmp_path, main)
        task = "@app.task(cpu_bound=True, max_retries=0)\ndef wait(id):\n    app.wait_for_result_sync(id, 5)\n\n\n"
        path.write_text(path.read_text().replace("if __name__", task + "if __name__"))

        assert run(path, folder=tmp_path).stdout == (
            "BackendError: A CPU-bound task runs in a worker process, and can't see results in its app's memory: wait "
            "for them in an async task, and submit this one with what they are\n"
        )


CHAT = """
    async def main():
        async with app:
            await run(chat)

    asyncio.run(main())
"""


class TestOutput:
    @pytest.mark.slow
    def test_logs_of_tasks_reach_standard_error_with_the_task_s_name(self, tmp_path: Path) -> None:
        done = run(program(tmp_path, CHAT), folder=tmp_path)

        assert done.stdout == "printed\n"
        [line] = done.stderr.splitlines()
        assert " WARNING shop.tasks [" in line
        assert " chat " in line
        assert line.endswith("] careful")

    @pytest.mark.slow
    def test_the_level_is_the_program_s(self, tmp_path: Path) -> None:
        main = """
            async def main():
                logging.getLogger().setLevel(logging.INFO)
                async with app:
                    await run(chat)

            asyncio.run(main())
        """
        done = run(program(tmp_path, main), folder=tmp_path)

        assert "too much" in done.stderr

    @pytest.mark.slow
    def test_a_module_s_own_logging_is_left_alone(self, tmp_path: Path) -> None:
        path = program(tmp_path, CHAT)
        path.write_text("import logging; logging.basicConfig(format='own %(message)s')\n" + path.read_text())

        assert run(path, folder=tmp_path).stderr == "own careful\n"


class TestTheEnd:
    @pytest.mark.slow
    @pytest.mark.parametrize("seconds", [20, 0], ids=["running", "idle"])
    def test_processes_end_when_their_program_is_killed(self, tmp_path: Path, seconds: int) -> None:
        main = f"""
            async def main():
                await app.start()
                await run(hold, "started", {seconds})
                await asyncio.sleep(20)

            asyncio.run(main())
        """
        started = tmp_path / "started"
        with subprocess.Popen([sys.executable, program(tmp_path, main)], cwd=tmp_path) as parent:
            pid = pid_in(started)
            parent.kill()

        wait_for(lambda: not is_alive(pid), 5)
        assert (tmp_path / "started-ended").exists()  # it has cleaned up

    @pytest.mark.slow
    def test_also_when_a_fork_of_the_program_lives_on(self, tmp_path: Path) -> None:
        main = """
            async def main():
                await app.start()
                await run(hold, "first", 0)
                asyncio.create_task(run(hold, "started", 20))
                while not os.path.exists("started"):
                    await asyncio.sleep(0.01)
                fork = os.fork()
                if fork == 0:
                    time.sleep(20)
                    os._exit(0)
                Path("fork").write_text(str(fork))
                await asyncio.sleep(20)

            asyncio.run(main())
        """
        with subprocess.Popen([sys.executable, program(tmp_path, main)], cwd=tmp_path) as parent:
            pid, fork = pid_in(tmp_path / "started"), pid_in(tmp_path / "fork")
            parent.kill()
        try:
            wait_for(lambda: not is_alive(pid), 8)
            assert (tmp_path / "started-ended").exists()
            assert is_alive(fork)
        finally:
            os.kill(fork, signal.SIGKILL)

    @pytest.mark.slow
    def test_a_program_that_does_not_stop_its_app_ends_nevertheless(self, tmp_path: Path) -> None:
        main = """
            async def main():
                await app.start()
                await run(hold, "idle", 0)
                await app.submit(hold, "started", 20)
                while not os.path.exists("started"):
                    await asyncio.sleep(0.01)

            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            sys.exit(7)
        """
        began = time.monotonic()
        command = [sys.executable, program(tmp_path, main)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=TIMEOUT, check=False)

        assert done.returncode == 7
        assert time.monotonic() - began < 10
        assert not is_alive(pid_in(tmp_path / "started"))

    @pytest.mark.slow
    def test_ctrl_c_in_a_terminal_lets_tasks_finish(self, tmp_path: Path) -> None:
        main = """
            @app.on_startup
            async def submit():
                await app.submit(hold, "started", 0.7)

            @app.on_shutdown
            async def tell():
                records = await app.results.list_by_status("success")
                print([record.result for record in records], flush=True)

            app.run()
        """
        # A process group of its own, as a shell gives a program; Ctrl-C reaches all of it.
        group = subprocess.Popen(
            [sys.executable, program(tmp_path, main)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with group:
            pid = pid_in(tmp_path / "started")
            os.killpg(group.pid, signal.SIGINT)
            output, errors = group.communicate(timeout=TIMEOUT)

        assert (group.returncode, output, errors) == (0, "['held']\n", "")
        assert not is_alive(pid)
