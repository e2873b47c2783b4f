"""`flowrra worker` runs an app's tasks until a signal."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.command.conftest import APP, Flowrra, Process, finished, until

CLOSES_BADLY = """\
from flowrra import Flowrra

app = Flowrra()


@app.on_shutdown
def stopped() -> None:
    raise RuntimeError("the pool is closed")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(worker: Process, number: signal.Signals) -> None:
    ran = worker.end(number)
    assert (ran.status, ran.out) == (0, "the shop opens\n")
    assert "app stopped" in ran.err


@pytest.mark.slow
def test_running_tasks_go_back_to_the_broker(url: str, flowrra: Flowrra) -> None:
    task_id = flowrra("submit", "hold").out.strip()
    with Process(url, "worker", APP, "--shutdown-timeout", "0.1") as process:
        until(lambda: flowrra("task", task_id, "--json").answer["status"] == "running")
        assert process.end(signal.SIGTERM).status == 0
    assert flowrra("task", task_id, "--json").answer["status"] == "pending"


@pytest.mark.slow
def test_tasks_that_were_lost_are_status_1(url: str) -> None:
    with Process(url, "worker", "tests.command.shop:impatient", "--shutdown-timeout", "0.1") as process:
        assert process.popen.stdout is not None
        assert process.popen.stdout.readline() == "begun\n"
        ran = process.end(signal.SIGTERM)
    assert ran.status == 1
    assert "exit status 1: the stop cancelled 1 tasks that the app had accepted" in ran.err


@pytest.mark.slow
def test_a_shutdown_hook_that_raises_is_no_failed_start(url: str, tmp_path: Path) -> None:
    (tmp_path / "badly.py").write_text(CLOSES_BADLY)
    with Process(url, "worker", "badly:app", folder=tmp_path) as process:
        assert process.popen.stderr is not None
        assert any("app started" in line for line in process.popen.stderr)
        ran = process.end(signal.SIGTERM)
    assert ran.status == 1
    assert "exit status 1: stopping the app failed" in ran.err
    assert "RuntimeError: the pool is closed" in ran.err
    assert "Starting the app failed" not in ran.err


@pytest.mark.slow
def test_slots_and_queues(url: str, flowrra: Flowrra) -> None:
    other, mail = flowrra("submit", "fail").out.strip(), flowrra("submit", "send", "me").out.strip()
    with Process(url, "worker", APP, "--queues", "mail", "--io-workers", "7"):
        finished(flowrra, mail)
        assert flowrra("workers", "--json").answer[0]["executors"]["io"]["slots"] == 7
        assert flowrra("task", other, "--json").answer["status"] == "pending"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument 'MODULE:APP'"),
        (["tests.command.shop:number"], "'tests.command.shop:number' is no app but a int"),
        (["tests.command.shop:unstartable"], "Starting the app failed: OSError: no redis://***@host/0"),
        ([APP, "--io-workers", "0"], "0 is not in the range"),
        ([APP, "--queues", "no queue"], "--queues must be names of queues"),
        ([APP, "--queues", "mail=many"], "--queues must be names of queues, such as 'mail,default', or their shares"),
    ],
)
def test_what_can_t_be_run(url: str, arguments: list[str], reason: str) -> None:
    with Process(url, "worker", *arguments) as process:
        ran = process.end()
    assert ran.status == 2
    assert reason in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err
