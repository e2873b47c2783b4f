"""`flowrra worker --exporter ADDRESS` serves the worker, too: its metrics, its probes and its page."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flowrra.command.main import main
from tests.command.conftest import APP, Flowrra, Process, until

pytestmark = pytest.mark.slow


def get(port: int, path: str) -> httpx.Response | None:
    """The answer; None while nobody listens."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}")
    except httpx.TransportError:
        return None


def status(port: int, path: str) -> int:
    return answer.status_code if (answer := get(port, path)) is not None else 0


def text(port: int, path: str = "/metrics") -> str:
    return answer.text if (answer := get(port, path)) is not None else ""


@pytest.fixture
def port() -> int:
    """The first of three that are free, at a place that other tests don't look at at the same time."""
    while True:
        first = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for each in range(first, first + 3):
                stack.enter_context(socket.create_server(("127.0.0.1", each)))
            return first


@pytest.fixture
def served(url: str, port: int, flowrra: Flowrra) -> Iterator[Process]:
    with Process(url, "worker", APP, "--exporter", f"127.0.0.1:{port}", "--io-workers", "7") as process:
        until(lambda: status(port, "/readyz") == 200)
        yield process


def test_it_runs_the_tasks_and_serves_what_became_of_them(served: Process, port: int, flowrra: Flowrra) -> None:
    flowrra("submit", "send", "me")
    until(lambda: 'flowrra_tasks_succeeded_total{task="send"} 1\n' in text(port))
    assert 'flowrra_executor_workers{executor="io"} 7\n' in text(port)
    assert status(port, "/livez") == status(port, "/startupz") == status(port, "/") == 200
    assert json.loads(text(port, "/api/stats"))["app"]["running"]
    assert served.end(signal.SIGTERM).status == 0


def test_sigterm_drains_and_readiness_says_so(served: Process, port: int, flowrra: Flowrra) -> None:
    task_id = flowrra("submit", "hold", "2").out.strip()
    until(lambda: flowrra("task", task_id, "--json").answer["status"] == "running")
    served.popen.send_signal(signal.SIGTERM)
    until(lambda: status(port, "/readyz") == 503)
    assert "shutting down: running tasks are being finished" in text(port, "/readyz?verbose")
    assert status(port, "/livez") == 200
    assert served.end().status == 0
    assert flowrra("task", task_id, "--json").answer["status"] == "success"


def test_each_of_several_processes_has_a_port(url: str, port: int, flowrra: Flowrra) -> None:
    ports = range(port, port + 3)
    with Process(url, "worker", APP, "--exporter", f"127.0.0.1:{port}", "--processes", "3") as process:
        until(lambda: all(status(each, "/readyz") == 200 for each in ports), seconds=60)
        for _ in range(30):
            flowrra("submit", "send", "me")
        name = 'flowrra_tasks_succeeded_total{task="send"} '

        def succeeded() -> list[float]:
            texts = map(text, ports)
            return [float(each.partition(name)[2].partition("\n")[0] or 0) for each in texts]

        until(lambda: sum(succeeded()) == 30)
        assert process.end(signal.SIGTERM).status == 0


def test_each_of_several_processes_has_a_port_for_probes(url: str, port: int) -> None:
    variables = {"FLOWRRA_EXPORTER_PROBE_LISTEN_ADDRESS": f"127.0.0.1:{port}"}
    options = ("--exporter", "127.0.0.1:0", "--processes", "3")
    with Process(url, "worker", APP, *options, variables=variables) as process:
        until(lambda: all(status(each, "/readyz") == 200 for each in range(port, port + 3)), seconds=60)
        assert process.end(signal.SIGTERM).status == 0


@pytest.mark.parametrize("more", [[], ["--exporter", "127.0.0.1:0"], ["--processes", "2"]])
@pytest.mark.parametrize("seconds", ["0", "2e9", "nan"])
def test_a_time_to_stop_is_the_same_with_and_without_it(url: str, seconds: str, more: list[str]) -> None:
    with Process(url, "worker", APP, "--shutdown-timeout", seconds, *more) as process:
        ran = process.end()
    assert ran.status == 2
    assert "--shutdown-timeout must be positive and finite, at most 1e+09 seconds" in ran.err


def test_other_settings_are_the_exporter_s_variables(url: str, port: int) -> None:
    variables = {"FLOWRRA_EXPORTER_WEB_TELEMETRY_PATH": "/numbers", "FLOWRRA_EXPORTER_OBSERVE": "true"}
    with Process(url, "worker", APP, "--exporter", f"127.0.0.1:{port}", variables=variables):
        until(lambda: "flowrra_app_running 1\n" in text(port, "/numbers"))


def test_with_reload(port: int, tmp_path: Path) -> None:
    program = "from flowrra import Flowrra\napp = Flowrra()\n@app.task\nasync def {0}(): ...\n"
    (tmp_path / "shop.py").write_text(program.format("first"))
    with Process("", "worker", "shop:app", "--reload", "--exporter", f"127.0.0.1:{port}", folder=tmp_path) as process:
        until(lambda: '{task="first"}' in text(port))
        (tmp_path / "shop.py").write_text(program.format("second") + "(")
        until(lambda: get(port, "/metrics") is None)
        (tmp_path / "shop.py").write_text(program.format("second"))
        until(lambda: '{task="second"}' in text(port))
        assert process.end(signal.SIGTERM).status == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([APP, "--exporter", "nowhere"], "--web.listen-address: got 'nowhere'; expected host:port"),
        ([APP, "--exporter", "nowhere", "--processes", "2"], "--exporter: got 'nowhere'; expected host:port"),
        ([APP, "--exporter", ":65534", "--processes", "3"], "expected host:port, such as ':9464', with 3 ports"),
        (["tests.command.shop:app2", "--exporter", "127.0.0.1:0"], "has no 'app2'; did you mean 'app'?"),
        (["tests.command.shop:unstartable", "--exporter", "127.0.0.1:0"], "OSError: no redis://***@host/0"),
    ],
)
def test_what_can_t_be_served(url: str, arguments: list[str], reason: str) -> None:
    with Process(url, "worker", *arguments) as process:
        ran = process.end()
    assert ran.status == 2
    assert reason in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_the_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "flowrra_exporter.worker", raising=False)
    monkeypatch.setitem(sys.modules, "flowrra_exporter.command", None)
    assert main(["worker", APP, "--exporter", ":9464"]) == 2
    assert "pip install 'flowrra[exporter]'" in capsys.readouterr().err
