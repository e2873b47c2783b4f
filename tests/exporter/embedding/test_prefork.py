"""Forks: what was started before says so in the child and hangs nowhere; what is started after works.

With real servers, from docs/embedding.md as it stands but for the ports.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exporter.conftest import Answer, fetch
from tests.support.servers import free_port

ROOT = Path(__file__).parents[3]
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
WHOLE = [program for program in PROGRAMS if not program.startswith("# ")]
FILES = {program.split()[1]: program for program in PROGRAMS if program.startswith("# ")}

FORKS = """
import asyncio, logging, os, socket, sys
from flowrra import Flowrra
from flowrra_exporter import Exporter
from flowrra_exporter.prometheus_collector import FlowrraCollector
from flowrra_exporter.settings import Address, Settings
from flowrra_exporter.wsgi import Application

logging.basicConfig(stream=sys.stderr)

async def main():
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),))
    mounted, app = Application(Flowrra()), Flowrra()
    async with app, Exporter(app, settings) as exporter, FlowrraCollector(app) as collector, mounted:
        pid = os.fork()
        if pid == 0:
            try:
                collector.collect()
            except RuntimeError as error:
                print("collector:", error)
            try:
                exporter.server_loop
            except RuntimeError as error:
                print("exporter:", error)
            environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}
            body = mounted(environ, lambda status, headers: print("mounted:", status))
            print(b"".join(body).decode())
            exporter.close()
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)

asyncio.run(main())
"""


def _run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def _wait(answers: Callable[[], Answer | None], seconds: float = 20.0) -> Answer:
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = answers()
        except OSError:
            answer = None
        if answer is not None and answer.status == 200:
            return answer
        assert time.monotonic() < deadline, answer and answer.body
        time.sleep(0.05)  # nothing tells when another program's server listens


FINDS_WORKERS = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in Linux' /proc")


def _workers(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def _running(url: str, path: str = "/internal/metrics") -> Answer | None:
    """A scrape that the app's loop took part in: on a busy machine it may be late for one, and is absent then."""
    answer = fetch(url, path)
    return answer if answer.value("flowrra_app_running") == 1 else None


def _each_of_two_answers(pid: int, url: str) -> None:
    """Pauses each worker in turn, so that the other one has to answer."""
    _wait(lambda: fetch(url, "/internal/readyz"))
    deadline = time.monotonic() + 10
    while len(workers := _workers(pid)) < 2:
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)  # the first may answer before there is a second
    for paused in workers:
        os.kill(paused, signal.SIGSTOP)
        try:
            _wait(lambda: _running(url))
        finally:
            os.kill(paused, signal.SIGCONT)


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``python -m …`` in a folder with the document's files, where the given words are replaced."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **replaced: str) -> subprocess.Popen[bytes]:
        for name, text in FILES.items():
            for old, new in replaced.items():
                text = text.replace(old.removeprefix("_"), new)
            (tmp_path / name).write_text(text)
        command = [sys.executable, *arguments]
        path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "exporter")])
        environment = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path)}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment))
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("program", WHOLE, ids=range(len(WHOLE)))
def test_a_program_of_the_document_runs(program: str, tmp_path: Path) -> None:
    for port in ("9464", "9465"):
        program = program.replace(port, str(free_port()))
    run = _run(program, tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_what_was_started_before_the_fork_says_so_in_the_child(tmp_path: Path) -> None:
    run = _run(FORKS, tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.search(r"collector: FlowrraCollector was started in process \d+ .* start it after the fork", run.stdout)
    assert re.search(r"exporter: the exporter was started in process \d+ .* start it after the fork", run.stdout)
    assert "mounted: 503" in run.stdout
    assert re.search(r"503: the exporter was started in process \d+ .* start it after the fork", run.stdout)
    assert len(re.findall(r"WARNING:flowrra_exporter.fork_guard:.* start it after the fork", run.stderr)) == 3


@pytest.mark.slow
def test_the_aiohttp_example_serves(start: Start) -> None:
    port = free_port()
    start("aiohttp_server.py", _8080=str(port))
    _wait(lambda: _running(f"http://127.0.0.1:{port}"))


@pytest.mark.slow
def test_in_the_example_with_users_those_act_who_have_logged_in(start: Start) -> None:
    port = free_port()
    start("-m", "uvicorn", "fastapi_users:api", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    _wait(lambda: fetch(url, "/internal/readyz"))
    assert fetch(url, "/internal/").status == 200
    assert fetch(url, "/internal/api/token").status == 403
    cookie = fetch(url, "/login", "POST").headers["set-cookie"].partition(";")[0]
    token = json.loads(fetch(url, "/internal/api/token", Cookie=cookie).text)["token"]
    headers = {"Cookie": cookie, "X-Flowrra-Token": token, "Content-Type": "application/json"}
    paused = fetch(url, "/internal/api/actions/pause-queue", "POST", b'{"queue": "default"}', **headers)
    assert paused.status == 200, paused.text


@pytest.mark.slow
@FINDS_WORKERS
def test_each_uvicorn_worker_answers_on_the_shared_port(start: Start) -> None:
    port = free_port()
    server = start("-m", "uvicorn", "fastapi_server:api", "--workers", "2", "--port", str(port))
    _each_of_two_answers(server.pid, f"http://127.0.0.1:{port}")


@pytest.mark.slow
@FINDS_WORKERS
def test_each_gunicorn_worker_answers_on_the_shared_port(start: Start) -> None:
    port = free_port()
    server = start("-m", "gunicorn", "-c", "gunicorn.conf.py", "flask_server:api", _8000=str(port))
    _each_of_two_answers(server.pid, f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_gunicorn_workers_have_ports_of_their_own(start: Start) -> None:
    port = free_port()
    first = 20_000 + os.getpid() % 5_000 * 2
    start("-m", "gunicorn", "-c", "gunicorn_ports.conf.py", "flask_server:api", _8000=str(port), _9464=str(first))
    for own in (first, first + 1):
        _wait(lambda own=own: _running(f"http://127.0.0.1:{own}", "/metrics"))  # type: ignore[misc]
