"""The command as a process: what it takes, how it fails, how it starts, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flowrra_exporter import __version__, cli

import flowrra
from tests.exporter.conftest import FREE_PORT, TARGETS, Command, Run

LISTEN = f"--web.listen-address={FREE_PORT}"


def fails(run: Run, *arguments: str, **environment: str) -> str:
    """Runs the command to its end with status 2; returns the one line on standard error."""
    command = run(*arguments, **environment)
    assert command.wait() == 2, command.log
    assert len(command.err) == 1, command.err
    assert command.err[0].startswith("flowrra-exporter: ")
    return command.err[0]


# What can be wrong.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("plain", "'plain' names no app; expected 'module:attribute'"),
        ("nowhere:app", "there is no module 'nowhere'"),
        ("raises:app", r"importing 'raises' failed: RuntimeError: broken module \(at .*raises\.py:3\)"),
        ("plain:number", "'plain:number' is no app but 17; expected a flowrra.Flowrra"),
        (
            "plain:unstartable",
            r"starting the app failed: OSError: .* redis://\*\*\*@host \(at .*plain\.py:\d+\)",
        ),
        ("plain:leaves", "starting the app failed: SystemExit: no configuration"),
    ],
)
def test_a_bad_target_is_one_clear_line_and_status_2(run: Run, target: str, reason: str) -> None:
    assert re.search(reason, fails(run, LISTEN, target))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--shutdown.timeout=soon", "plain:app"], "--shutdown.timeout: got 'soon'; expected a number of seconds"),
        (["--web.listen-address=9464", "plain:app"], "--web.listen-address: got '9464'; expected host:port"),
        (["--no.such", "plain:app"], "No such option"),
        ([], "Missing argument 'MODULE:APP'"),
        (["plain:app", "more"], "unexpected extra argument"),
    ],
)
def test_bad_arguments_are_one_clear_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowrra-exporter: ")
    assert reason in line


def test_a_bad_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWRRA_EXPORTER_LOOP_BLOCK_THRESHOLD", "0")
    assert cli.main(["plain:app"]) == 2
    assert "FLOWRRA_EXPORTER_LOOP_BLOCK_THRESHOLD: got '0'; expected" in capsys.readouterr().err


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_a_port_in_use_is_one_clear_line_and_the_target_is_not_even_imported(run: Run, taken_port: int) -> None:
    line = fails(run, f"--web.listen-address=127.0.0.1:{taken_port}", "hangs:app")
    assert line == (
        f"flowrra-exporter: cannot listen on 127.0.0.1:{taken_port}: Address already in use: by another "
        "flowrra-exporter? Choose another port with --web.listen-address"
    )


@pytest.mark.slow
def test_the_default_port_in_use_may_be_opentelemetrys(run: Run) -> None:
    """Its exporter for Prometheus listens on the same port."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", 9464)):
        line = fails(run, "--web.listen-address=127.0.0.1:9464", "hangs:app")
        assert "127.0.0.1:9464: Address already in use: by an exporter of OpenTelemetry, which has the same" in line


@pytest.mark.slow
def test_a_port_for_probes_in_use_names_its_flag(run: Run, taken_port: int) -> None:
    line = fails(run, LISTEN, f"--probe.listen-address=127.0.0.1:{taken_port}", "hangs:app")
    assert line.endswith("Choose another port with --probe.listen-address")


@pytest.mark.slow
def test_a_host_that_is_unknown_is_one_clear_line(run: Run) -> None:
    assert "cannot listen on no-such-host.invalid:0: " in fails(
        run, "--web.listen-address=no-such-host.invalid:0", "p:a"
    )


@pytest.mark.slow
def test_debug_adds_the_traceback(run: Run) -> None:
    command = run(LISTEN, "--debug", "raises:app")
    assert command.wait() == 2
    assert "Traceback (most recent call last):" in command.err
    assert any('raise RuntimeError("broken' in line for line in command.err)
    assert command.err[-1].startswith("flowrra-exporter: importing 'raises' failed")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["aiohttp", "click", "prometheus_client"])
def test_without_the_extra_one_line_says_how_to_get_it(tmp_path: Path, package: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    ended = subprocess.run(
        [sys.executable, "-m", "flowrra_exporter", LISTEN, "plain:app"],
        cwd=TARGETS,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == f"flowrra-exporter: {package} is not installed; run: pip install 'flowrra[exporter]'\n"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    help = capsys.readouterr().out
    for flag in ("--web.listen-address", "--web.telemetry-path", "--log.level", "--log.format", "--debug"):
        assert flag in help
    assert __version__ == flowrra.__version__


# What it takes.


@pytest.mark.slow
@pytest.mark.parametrize("target", ["app", "duck", "make_later"])
def test_an_app_is_served(run: Run, target: str) -> None:
    command = run(LISTEN, f"plain:{target}")
    command.ready()
    assert command.get("/startupz").status == 200
    assert command.get().value("flowrra_collector_success", collector="app") == 1
    command.signal()
    assert command.wait() == 0
    assert command.err == []


@pytest.mark.slow
def test_several_addresses_are_all_served(run: Run) -> None:
    command = run("plain:duck", FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS=f"{FREE_PORT},{FREE_PORT}")
    command.ready()
    ports = set(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", command.log))
    assert len(ports) == 2
    for port in ports:
        with socket.create_connection(("127.0.0.1", int(port)), 5):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("address", [":0", "[::]:0", "0.0.0.0:0"])
def test_every_interface_is_ipv4_too(run: Run, address: str) -> None:
    command = run(f"--web.listen-address={address}", "plain:duck")
    command.ready()
    port = re.search(r"listening on http://\S+:(\d+)", command.log)
    assert port is not None
    socket.create_connection(("127.0.0.1", int(port[1])), 5).close()


@pytest.mark.slow
def test_the_log_can_be_json_and_its_level_be_set(run: Run) -> None:
    command = run(LISTEN, "--log.format=json", "plain:app")
    command.wait_for_line("the app has started")
    records = [json.loads(line) for line in command.out]
    assert {"time", "level", "logger", "msg"} <= set(records[0])
    quiet = run(LISTEN, "--log.level=warning", "plain:unstartable")
    assert quiet.wait() == 2
    assert quiet.out == []


# How it starts.


@pytest.mark.slow
def test_while_the_target_is_imported_it_is_alive_but_not_ready(run: Run) -> None:
    command = run(LISTEN, "hangs:app")
    command.wait_for_line("importing")
    assert command.get("/livez").status == 200
    for probe in ("/readyz", "/startupz", "/healthz", "/api/stats"):
        answer = command.get(probe)
        assert answer.status == 503
        assert "starting" in answer.text
    assert command.get().value("flowrra_collector_success", collector="python") == 1
    assert ">There is nothing to see yet: The app is starting.<" in command.get("/tasks").text
    workers = command.get("/workers").text
    assert ">There is no app to ask yet.<" in workers
    assert "This app doesn&#x27;t tell" not in workers


@pytest.mark.slow
def test_while_the_app_starts_it_is_alive_but_not_ready(run: Run) -> None:
    command = run(LISTEN, "slow_start:waits")
    command.wait_for_line("starting")
    assert [command.get(path).status for path in ("/livez", "/readyz", "/startupz")] == [200, 503, 503]


@pytest.mark.slow
def test_an_app_that_is_stopped_while_it_starts_has_not_started(run: Run) -> None:
    command = run(LISTEN, "slow_start:insists")
    command.wait_for_line("starting")
    command.signal()
    command.wait_for_line("SIGTERM: shutting down")
    startup = command.get("/startupz")
    assert (startup.status, "before the start was over" in startup.text) == (503, True)
    ready = json.loads(command.get("/readyz").text)["checks"]
    assert {name: check["status"] for name, check in ready.items()} == {"startup": "failed", "shutdown": "failed"}
    assert "has started" not in startup.text + str(ready)


# How it ends.


@pytest.mark.slow
def test_sigterm_fails_readiness_first_drains_while_metrics_answer_then_exits_0(run: Run) -> None:
    command = run(LISTEN, "told:make")
    command.ready()
    assert command.get("/readyz").status == 200
    command.tell("submit 1.5")
    wait_for_value(command, "flowrra_tasks_running", 1, task="nap")
    command.signal()
    command.wait_for_line("SIGTERM: shutting down")
    ready = command.get("/readyz")
    assert ready.status == 503
    assert json.loads(ready.text)["checks"]["shutdown"]["status"] == "failed"
    scrape = command.get()
    assert scrape.value("flowrra_tasks_running", task="nap") == 1
    assert scrape.value("flowrra_collector_success", collector="health") == 1
    assert command.get("/livez").status == 200
    wait_for_value(command, "flowrra_tasks_succeeded_total", 1, task="nap")
    assert command.wait() == 0
    assert command.err == []


def wait_for_value(command: Command, name: str, value: float, **labels: str) -> None:
    """Scrapes until a sample has this value, or until the process is gone."""
    deadline = time.monotonic() + 10
    while True:
        try:
            found = command.get().value(name, **labels)
        except ConnectionError:
            return
        if found == value:
            return
        assert time.monotonic() < deadline, f"{name} is {found}, never {value}"
        time.sleep(0.02)


@pytest.mark.slow
def test_sigint_is_the_same(run: Run) -> None:
    command = run(LISTEN, "plain:app")
    command.ready()
    command.signal(signal.SIGINT)
    assert command.wait() == 0
    assert command.err == []


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_running_tasks(run: Run) -> None:
    command = run(LISTEN, "told:make")
    command.ready()
    command.tell("submit 60")
    wait_for_value(command, "flowrra_tasks_running", 1, task="nap")
    command.signal()
    command.wait_for_line("SIGTERM: shutting down")
    assert command.process.poll() is None
    started = time.monotonic()
    command.signal()
    assert command.wait() == 1
    assert time.monotonic() - started < 3


@pytest.mark.slow
def test_a_task_that_outlasts_the_shutdown_is_cancelled_in_time(run: Run) -> None:
    command = run(LISTEN, "--shutdown.timeout=1", "told:make")
    command.ready()
    command.tell("submit 60")
    wait_for_value(command, "flowrra_tasks_running", 1, task="nap")
    started = time.monotonic()
    command.signal()
    assert command.wait() == 1
    assert 0.7 < time.monotonic() - started < 3
    command.wait_for_line("exit status 1: the stop cancelled 1 tasks that the app had accepted")


@pytest.mark.slow
def test_what_a_stop_drops_is_said_with_its_ids_and_by_the_exit_status(run: Run) -> None:
    command = run(LISTEN, "--shutdown.timeout=1", "busy:app")
    command.ready()
    wait_for_value(command, "flowrra_tasks_running", 1, task="hold")
    command.signal()
    assert command.wait() == 1
    command.wait_for_line("exit status 1: the stop cancelled 6 tasks that the app had accepted")
    [line] = [line for line in command.out if "tasks lost at the stop" in line]
    assert "level=warning" in line
    assert re.search(
        r"executor=io waiting=4 waiting_ids=[\w-]{36}(,[\w-]{36}){3} delayed=1 delayed_ids=[\w-]{36} "
        r"running=1 running_ids=[\w-]{36}",
        line,
    )


@pytest.mark.slow
def test_what_waits_behind_a_task_that_will_not_end_is_said_before_the_process_is_ended(run: Run) -> None:
    command = run(LISTEN, "--shutdown.timeout=1", "busy:app", FIRST="insist")
    command.ready()
    wait_for_value(command, "flowrra_tasks_running", 1, task="insist")
    command.signal()
    assert command.wait() == 1
    command.wait_for_line("not stopped in time, ending now; stuck: ")
    [line] = [line for line in command.out if "not stopped in time" in line]
    assert "tasks running: insist (1); tasks lost: 5" in line


@pytest.mark.slow
def test_an_app_that_did_all_it_had_accepted_ends_with_status_0(run: Run) -> None:
    command = run(LISTEN, "told:make")
    command.ready()
    command.tell("submit 0.5")
    wait_for_value(command, "flowrra_tasks_running", 1, task="nap")
    command.signal()
    assert command.wait() == 0
    assert "exit status" not in command.log


@pytest.mark.slow
def test_a_blocked_loop_is_ended_after_the_timeout_and_the_log_says_what_was_stuck(run: Run) -> None:
    command = run(LISTEN, "--shutdown.timeout=1", "told:make")
    command.ready()
    command.tell("stuck 60")
    wait_for_value(command, "flowrra_tasks_running", 1, task="stuck")
    started = time.monotonic()
    command.signal()
    command.wait_for_line("SIGTERM: shutting down", seconds=1)  # taken although the loop is blocked
    assert command.get("/readyz").status == 503
    assert command.wait() == 1
    assert 0.9 < time.monotonic() - started < 4
    last = command.out[-1]
    assert "not stopped in time" in last
    assert re.search(r"told\.py:\d+ in stuck: time\.sleep\(seconds\)", last)
    assert "tasks running: stuck (1)" in last


@pytest.mark.slow
def test_signals_are_seen_while_c_code_blocks_the_loop_and_a_second_one_hurries(run: Run) -> None:
    command = run(LISTEN, "told:make")
    command.ready()
    command.tell("crunch 60")
    wait_for_value(command, "flowrra_healthy", 0)
    started = time.monotonic()
    command.signal()
    command.wait_for_line("SIGTERM: shutting down")
    command.signal()
    assert command.wait() == 1
    assert time.monotonic() - started < 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "line", "status"),
    [
        ("hangs:app", "importing", 0),
        ("hangs_hard:app", "importing", 1),
        ("slow_start:waits", "starting", 0),
        ("slow_start:blocks", "starting", 1),
    ],
)
def test_a_start_that_hangs_can_be_ended(run: Run, target: str, line: str, status: int) -> None:
    # What can be ended is ended at once; what can't, after the time that it has.
    has = 1 if status else 4
    command = run(LISTEN, f"--shutdown.timeout={has}", target)
    command.wait_for_line(line)
    started = time.monotonic()
    command.signal()
    assert command.wait() == status
    assert time.monotonic() - started < (4 * has if status else has / 2)
    if target == "slow_start:waits":
        assert "stopped" in command.out


@pytest.mark.slow
def test_a_thread_that_lingers_does_not_keep_the_process(run: Run) -> None:
    command = run(LISTEN, "--shutdown.timeout=1", "lingers:duck")
    command.ready()
    command.signal()
    command.wait_for_line("the app has stopped")
    assert command.wait() == 1
    assert "not stopped in time" in command.log


@pytest.mark.slow
@pytest.mark.parametrize(("task", "seconds", "status"), [("submit 1.5", 30, 0), ("submit 60", 0, 1)])
def test_an_app_that_is_stopped_from_within_ends_the_process_once_its_tasks_have_had_their_time(
    run: Run, task: str, seconds: int, status: int
) -> None:
    """As `flowrra worker` ends: with status 0, unless tasks were lost."""
    command = run(LISTEN, "told:make")
    command.ready()
    command.tell(task)
    wait_for_value(command, "flowrra_tasks_running", 1, task="nap")
    command.tell(f"stop {seconds}")
    assert command.wait() == status
    assert "the app was stopped from within: shutting down" in command.log
    assert ("the stop cancelled 1 tasks that the app had accepted" in command.log) is (status == 1)
    assert command.err == []


@pytest.mark.slow
def test_an_app_that_is_stopped_from_within_while_it_starts_is_no_error(run: Run) -> None:
    command = run(LISTEN, "stops:app")
    assert command.wait() == 0
    assert "the app was stopped from within: shutting down" in command.log
    assert "has started" not in command.log
    assert command.err == []


@pytest.mark.slow
def test_an_app_that_ends_its_loop_ends_the_process_with_an_error(run: Run) -> None:
    command = run(LISTEN, "told:make")
    command.ready()
    command.tell("exit")
    assert command.wait() == 1
    assert "the app's event loop ended: SystemExit: 3" in command.log
