"""Forks of a process whose app is connected to a server: each process has its connections and leases to itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.forks import FORK_IS_MEANT

TIMEOUT = 40.0

PROGRAM = """
    import asyncio
    import logging
    import os
    import sys
    import time
    from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
    from flowrra.management import FlowrraManager

    logging.basicConfig(format="LOG %(message)s", level=logging.ERROR)
    URL = {url!r}
    app = Flowrra(Config(broker=BrokerConfig(url=URL), backend=BackendConfig(url=URL)))


    @app.task()
    async def pid(seconds=0):
        await asyncio.sleep(seconds)
        return os.getpid()


    def result(task, *args):
        return app.wait_for_result_sync(app.submit_sync(task, *args), 20).result


    def fork(work):
        child = os.fork()
        if child == 0:
            work()
            sys.exit(0)
        return child


    def code_of(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


"""


def run(folder: Path, url: str, main: str) -> str:
    """What a program prints; to standard error it prints nothing."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM.format(url=url)) + textwrap.dedent(main))
    done = subprocess.run(
        [sys.executable, "-W", FORK_IS_MEANT, path],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_parent_and_children_go_on_side_by_side(tmp_path: Path, url: str) -> None:
    main = """
        app.start_sync()
        assert result(pid) == os.getpid()

        def child():
            assert all(result(pid) is not None for _ in range(50))
            app.stop_sync()

        children = [fork(child), fork(child), fork(lambda: None)]
        assert all(result(pid) is not None for _ in range(50))
        print([code_of(each) for each in children])
        assert result(pid) == os.getpid()
        app.stop_sync()
    """
    assert run(tmp_path, url, main) == "[0, 0, 0]\n"


@pytest.mark.slow
def test_processes_forked_before_the_start_are_two_workers(tmp_path: Path, url: str) -> None:
    main = """
        seen, go = os.pipe(), os.pipe()

        def ids():
            return {worker["id"] for worker in asyncio.run(FlowrraManager(app).list_workers())}

        def child():
            app.start_sync()
            while len(ids()) < 2:
                time.sleep(0.05)
            os.write(seen[1], b"x")
            os.read(go[0], 1)
            app.stop_sync()

        children = [fork(child), fork(child)]
        for _ in children:
            os.read(seen[0], 1)
        os.write(go[1], b"xx")
        print([code_of(each) for each in children])
    """
    assert run(tmp_path, url, main) == "[0, 0]\n"


@pytest.mark.slow
def test_each_holds_its_leases_by_a_name_of_its_own(tmp_path: Path, url: str) -> None:
    main = """
        names = os.pipe()

        def child():
            os.write(names[1], app.executors["io"].broker._token.encode() + b" ")

        children = [fork(child), fork(child)]
        assert [code_of(each) for each in children] == [0, 0]
        child()
        print(len(set(os.read(names[0], 1000).split())))
    """
    assert run(tmp_path, url, main) == "3\n"
