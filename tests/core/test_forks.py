"""An app in a process that was forked from the one that started it: it begins anew, and leaves its parent alone."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.forks import FORK_IS_MEANT

TIMEOUT = 40.0

PROGRAM = """
    import asyncio
    import logging
    import os
    import sys
    import threading
    import time
    from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, ExecutorNotRunningError
    from flowrra.backends import InMemoryBackend
    from flowrra.management import FlowrraManager

    logging.basicConfig(format="LOG %(message)s", level=logging.WARNING)
    app = Flowrra(Config(backend=InMemoryBackend(), executor=ExecutorConfig(io_workers=2, cpu_workers=1)))
    gate = threading.Event()


    @app.task()
    async def pid(path=None):
        return os.getpid()


    @app.task()
    async def wait_at_the_gate():
        try:
            await asyncio.to_thread(gate.wait)
        finally:
            print("left the gate", flush=True)
        return os.getpid()


    @app.task(cpu_bound=True)
    def worker_pid():
        return os.getpid()


    class Service:
        async def serve(self):
            return os.getpid()


    app.task(name="bound")(Service().serve)  # which can't be marked as the app's


    def result(task, *args):
        return app.wait_for_result_sync(app.submit_sync(task, *args), 10).result


    def in_a_fork(work):
        '''Its exit code, after the usual end of a program.'''
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        work()
        sys.exit(0)


    def until(holds):
        deadline = time.monotonic() + 10
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert holds()


    def stats():
        return asyncio.run(FlowrraManager(app).get_task_stats())


    if __name__ == "__main__":
"""


def run(folder: Path, main: str) -> str:
    """What a program prints; to standard error it prints nothing."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM) + textwrap.indent(textwrap.dedent(main), "    "))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORK_IS_MEANT, path],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("again", ["pass", "app.start_sync()"], ids=["by its first use", "told to"])
def test_it_starts_anew_in_the_child(tmp_path: Path, again: str) -> None:
    main = f"""
        app.start_sync()
        assert result(pid) == os.getpid()

        def child():
            assert not app.is_running
            {again}
            assert result(pid) == result("bound") == os.getpid()
            assert app.is_running
            app.stop_sync()

        print(in_a_fork(child), in_a_fork(child))
        assert result(pid) == os.getpid()
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0 0\n"


@pytest.mark.slow
def test_many_threads_of_the_child_may_use_it_first(tmp_path: Path) -> None:
    main = """
        from contextlib import contextmanager

        @app.lifespan
        @contextmanager
        def pool():
            time.sleep(0.1)
            yield

        app.start_sync()

        def child():
            gate, done = threading.Barrier(8), []

            def use():
                gate.wait()
                done.append(result(pid))

            threads = [threading.Thread(target=use) for _ in range(8)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            assert done == [os.getpid()] * 8, done
            app.stop_sync()

        print(in_a_fork(child))
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0\n"


@pytest.mark.slow
def test_a_start_in_the_child_that_fails_is_tried_again_by_the_next_use(tmp_path: Path) -> None:
    main = """
        parent, failures = os.getpid(), []

        @app.on_startup
        def look_for_the_database():
            if os.getpid() != parent and not failures:
                failures.append(1)
                raise OSError("not there yet")

        app.start_sync()

        def child():
            try:
                result(pid)
            except OSError as error:
                print(error, flush=True)
            assert result(pid) == os.getpid()
            app.stop_sync()

        print(in_a_fork(child))
        app.stop_sync()
    """
    assert run(tmp_path, main) == "not there yet\n0\n"


@pytest.mark.slow
def test_a_startup_hook_in_the_child_may_submit_from_a_thread(tmp_path: Path) -> None:
    main = """
        @app.on_startup
        async def warm_up():
            await asyncio.to_thread(app.submit_sync, pid)

        app.start_sync()

        def child():
            assert result(pid) == os.getpid()
            app.stop_sync()

        print(in_a_fork(child))
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0\n"


@pytest.mark.slow
def test_the_parent_goes_on_when_a_child_that_used_it_not_at_all_ends(tmp_path: Path) -> None:
    main = """
        app.start_sync()
        print(in_a_fork(lambda: None))
        assert result(pid) == os.getpid()
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0\n"


def test_what_waits_and_runs_stays_the_parent_s(tmp_path: Path) -> None:
    main = """
        app.start_sync()
        running = [app.submit_sync(wait_at_the_gate) for _ in range(2)]
        waiting = app.submit_sync(pid)

        def child():
            assert result(pid) == os.getpid()
            try:
                app.wait_for_result_sync(waiting, 5)
            except ValueError:
                print("unknown here", flush=True)
            app.stop_sync()

        print(in_a_fork(child), flush=True)
        gate.set()
        assert [app.wait_for_result_sync(each, 5).result for each in (*running, waiting)] == [os.getpid()] * 3
        app.stop_sync()
    """
    assert run(tmp_path, main) == "unknown here\n0\nleft the gate\nleft the gate\n"


def test_the_child_counts_from_nothing_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    main = """
        app.start_sync()
        result(pid)
        names = app.id

        def child():
            assert app.id != names
            assert str(os.getpid()) in app.id
            assert stats()["pid"]["submitted"] == 0
            result(pid)
            until(lambda: stats()["pid"]["succeeded"] == 1)
            assert "flowrra-loop-monitor" in {each.name for each in threading.enumerate()}
            app.stop_sync()

        print(in_a_fork(child))
        until(lambda: stats()["pid"]["succeeded"] == 1)
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["pass", "app.start_sync()"], ids=["before its start", "after its start"])
def test_the_events_of_the_child_say_that_they_are_its_own(tmp_path: Path, begun: str) -> None:
    main = f"""
        from flowrra.events import event_bus
        told, parent = [], app.id
        event_bus.subscribe(told.append)
        {begun}

        def child():
            assert app.id != parent
            app.start_sync()
            result(pid)
            app.stop_sync()
            assert {{event["app"] for event in told}} == {{app.id}}

        print(in_a_fork(child))
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0\n"


@pytest.mark.slow
def test_worker_processes_are_each_its_own(tmp_path: Path) -> None:
    main = """
        app.start_sync()
        mine = result(worker_pid)

        def child():
            assert result(worker_pid) != mine
            app.stop_sync()

        print(in_a_fork(child), in_a_fork(lambda: None))
        assert result(worker_pid) == mine
        app.stop_sync()
    """
    assert run(tmp_path, main) == "0 0\n"


def test_a_child_may_be_forked_by_multiprocessing(tmp_path: Path) -> None:
    main = """
        import multiprocessing

        app.start_sync()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pids = pool.map(result, ["pid"] * 4)
            pool.close()
            pool.join()
        assert os.getpid() not in pids
        app.stop_sync()
    """
    assert run(tmp_path, main) == ""


def test_a_child_of_a_program_with_an_event_loop_says_that_the_app_does_not_run(tmp_path: Path) -> None:
    main = """
        def child():
            for use in (lambda: app.submit_sync(pid), lambda: asyncio.run(app.submit(pid))):
                try:
                    use()
                except ExecutorNotRunningError:
                    print("not running", flush=True)

            async def own():
                async with app:
                    assert (await app.wait_for_result(await app.submit(pid), 5)).result == os.getpid()

            asyncio.run(own())

        async def main():
            async with app:
                await app.wait_for_result(await app.submit(pid), 5)
                child_pid = os.fork()
                if child_pid == 0:
                    try:
                        threading.Thread(target=child).start()
                    finally:
                        for each in threading.enumerate():
                            if each is not threading.current_thread():
                                each.join()
                        os._exit(0)
                print(await asyncio.to_thread(os.waitpid, child_pid, 0) == (child_pid, 0), flush=True)
                assert (await app.wait_for_result(await app.submit(pid), 5)).result == os.getpid()

        asyncio.run(main())
    """
    assert run(tmp_path, main) == "not running\nnot running\nTrue\n"


WEB = """
    import json
    import os
    from flowrra import Config, ExecutorConfig, Flowrra
    from flowrra.backends import InMemoryBackend

    app = Flowrra(Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=1)))
    master = os.getpid()


    @app.task()
    async def pid():
        return os.getpid()


    @app.task(cpu_bound=True)
    def parent_pid():
        return os.getppid()


    app.start_sync()
    app.wait_for_result_sync(app.submit_sync(pid), 10)


    def web(environ, start_response):
        ran = [app.wait_for_result_sync(app.submit_sync(task), 15).result for task in (pid, parent_pid)]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([master, os.getpid(), *ran]).encode()]
"""


def ask(path: Path) -> list[int]:
    """What the server at that socket answers, once there is one."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(path))
        except OSError:
            connection.close()
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)
            continue
        connection.request("GET", "/")
        answer: list[int] = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@pytest.mark.slow
def test_a_server_that_loads_the_app_before_it_forks(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(textwrap.dedent(WEB))
    address = tmp_path / "socket"
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "1", "-b", f"unix:{address}", "web:web"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            master, worker, ran_in, ran_below = ask(address)
        finally:
            server.terminate()
            _, errors = server.communicate(timeout=TIMEOUT)

    assert master != worker
    assert ran_in == ran_below == worker
    assert "Traceback" not in errors
