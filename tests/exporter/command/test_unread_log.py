"""A log that nobody reads, or that can't be written, holds up nothing: probes, scrapes, tasks, signals, forks."""

from __future__ import annotations

import http.client
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest
from flowrra_exporter import log_writer, logs
from flowrra_exporter.log_writer import BackgroundHandler

from tests.exporter.conftest import START_SECONDS, TARGETS, Answer, fetch
from tests.support.forks import FORK_IS_MEANT
from tests.support.servers import free_port

DROPPED = "flowrra_exporter_log_records_dropped_total"


def until(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "didn't happen in time"
        time.sleep(0.02)


class Unread:
    """The command with one pipe for all that it prints, which nobody reads before ``read_all``."""

    def __init__(self, lines: int) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowrra_exporter", f"--web.listen-address=127.0.0.1:{port}", "chatty:make"],
            cwd=TARGETS,
            env={**os.environ, "FLOWRRA_TEST_LINES": str(lines)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def get(self, path: str) -> Answer | None:
        try:
            return fetch(self.url, path)
        except (OSError, http.client.HTTPException):
            return None

    def answers(self, path: str, status: int = 200) -> bool:
        answer = self.get(path)
        return answer is not None and answer.status == status

    def read_all(self) -> list[str]:
        """All lines until the process has ended."""
        pipe: IO[bytes] | None = self.process.stdout
        assert pipe is not None
        return pipe.read().decode().splitlines()


@pytest.fixture
def unread() -> Iterator[Callable[[int], Unread]]:
    started: list[Unread] = []

    def start(lines: int) -> Unread:
        started.append(Unread(lines))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()


@pytest.mark.slow
def test_it_starts_answers_and_ends_while_nobody_reads_its_log(unread: Callable[[int], Unread]) -> None:
    command = unread(2000)
    until(lambda: command.answers("/readyz"))
    for path in ("/livez", "/metrics", "/"):
        answer = command.get(path)
        assert answer is not None
        assert (answer.status, answer.seconds < 2) == (200, True), path
    until(lambda: ((answer := command.get("/metrics")) is not None) and (answer.value(DROPPED) or 0) > 0)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(10) == 0


@pytest.mark.slow
def test_what_was_dropped_is_said_once_it_flows_again(unread: Callable[[int], Unread]) -> None:
    command = unread(2000)
    until(lambda: ((answer := command.get("/metrics")) is not None) and (answer.value(DROPPED) or 0) > 0)
    reader: list[str] = []
    reading = threading.Thread(target=lambda: reader.extend(command.read_all()))
    reading.start()
    until(lambda: command.answers("/readyz"))
    time_to_end = time.monotonic()
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(15) == 0
    assert time.monotonic() - time_to_end < 10
    reading.join(5)
    told = [line for line in reader if "log records were dropped" in line]
    assert 1 <= len(told) < 10, told
    assert all("level=warning logger=flowrra_exporter.log_writer" in line for line in told)
    assert sum(int(line.split('msg="')[1].split()[0]) for line in told) + len(reader) > 2000


@pytest.mark.slow
def test_nothing_is_dropped_of_what_is_read(unread: Callable[[int], Unread]) -> None:
    command = unread(500)
    reader: list[str] = []
    reading = threading.Thread(target=lambda: reader.extend(command.read_all()))
    reading.start()
    until(lambda: command.answers("/readyz"))
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(15) == 0
    reading.join(5)
    numbers = [line.split('msg="loop ')[1].split()[0] for line in reader if 'msg="loop ' in line]
    assert numbers == [str(number) for number in range(500)]
    assert "the app has stopped" in reader[-1], "what is left at the end is written"


class Clogged(io.StringIO):
    """A stream without a file behind it, that takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        assert self.open.wait(START_SECONDS)
        return super().write(text)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("shop")  # noqa: LOG001 - not one that has pytest's handlers
    yield found
    for handler in found.handlers:
        handler.close()


def background(logger: logging.Logger, stream: io.StringIO) -> BackgroundHandler:
    handler = BackgroundHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger.addHandler(handler)
    return handler


def test_what_waits_is_bounded_in_bytes(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_WAITING_BYTES", 10_000)
    stream = Clogged()
    handler = background(logger, stream)
    for _ in range(1000):
        logger.warning("x" * 1000)
    assert handler.dropped > 985
    stream.open.set()
    handler.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line["msg"] for line in lines if line["logger"] == "flowrra_exporter.log_writer"]
    assert told == [f"{handler.dropped} log records were dropped: nobody had read the log for too long"]
    assert len(lines) - 1 + handler.dropped == 1000


def test_a_flush_waits_for_a_bounded_time(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 0.1)
    stream = Clogged()
    handler = background(logger, stream)
    logger.warning("never read")
    started = time.monotonic()
    handler.flush()
    assert time.monotonic() - started < 5
    stream.open.set()


class _Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_record_that_cannot_be_formatted_is_told_of_and_costs_itself_alone(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = background(logger, stream)
    logger.warning("first %s", _Unprintable())
    logger.warning("second %d", "no number")
    logger.warning("third")
    handler.flush()
    first, second, third = (json.loads(line)["msg"] for line in stream.getvalue().splitlines())
    assert first == "a record of shop could not be formatted (ValueError): 'first %s'"
    assert second == "a record of shop could not be formatted (TypeError): 'second %d'"
    assert third == "third"


def test_a_reader_that_is_gone_is_no_error(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", closefd=True) as stream:
        handler = BackgroundHandler(stream)
        logger.addHandler(handler)
        for _ in range(3):
            logger.warning("to nobody")
        handler.flush()
        assert handler.dropped == 3


@pytest.mark.filterwarnings(FORK_IS_MEANT)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class Odd(io.StringIO):
    def write(self, text: str) -> int:
        if "lost" in text:
            raise RuntimeError("no")
        return super().write(text)


def test_what_a_stream_refuses_for_whatever_reason_is_counted_and_costs_nothing_else(logger: logging.Logger) -> None:
    stream = Odd()
    handler = background(logger, stream)
    for message in ("first", "lost", "also lost", "last"):
        logger.info(message)
    handler.flush()
    assert handler.dropped == 2
    first, last, told = stream.getvalue().splitlines()
    assert ("first" in first, "last" in last, "2 log records were dropped" in told) == (True, True, True)


@pytest.mark.slow
def test_closed_streams_are_no_error() -> None:
    """As ``>&-`` closes them: the log goes nowhere, and no connection is taken for standard output."""
    port = free_port()
    command = f"exec {sys.executable} -m flowrra_exporter --web.listen-address=127.0.0.1:{port} plain:app <&- >&-"
    process = subprocess.Popen(["sh", "-c", command], cwd=TARGETS, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process, process.stderr:
        try:
            until(lambda: _is_ready(port))
            assert os.path.realpath(f"/proc/{process.pid}/fd/1") == os.devnull
            assert fetch(f"http://127.0.0.1:{port}", "/metrics").value(DROPPED) == 0
            process.send_signal(signal.SIGTERM)
            assert (process.wait(START_SECONDS), process.stderr.read()) == (0, b"")
        finally:
            process.kill()


def _is_ready(port: int) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{port}", "/readyz").status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--print-config", "--version", "check", "nonsense"])
def test_what_is_printed_where_all_streams_are_closed_goes_nowhere(arguments: str) -> None:
    command = f"exec {sys.executable} -m flowrra_exporter {arguments}"
    shown = subprocess.run(["sh", "-c", command], cwd=TARGETS, capture_output=True, check=False)
    hidden = subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=TARGETS, capture_output=True, check=False)
    assert (hidden.returncode, hidden.stdout, hidden.stderr) == (shown.returncode, b"", b"")


def test_a_forked_child_writes_by_itself(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        handler = BackgroundHandler(stream)
        logger.addHandler(handler)
        with handler._changed:  # as another thread may hold it at any time
            child = os.fork()
            if child == 0:
                logger.warning("from the child")
                os._exit(0)
        deadline = time.monotonic() + 10
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        handler.close()
    with os.fdopen(reading) as lines:
        assert lines.read() == "from the child\n"


def test_a_pipe_that_does_not_block_is_waited_for(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w") as stream:
        handler = BackgroundHandler(stream)
        logger.addHandler(handler)
        for _ in range(200):
            logger.warning("x" * 1000)
        with os.fdopen(reading) as lines:
            assert sum(1 for _ in zip(range(200), lines, strict=False)) == 200
        assert handler.dropped == 0
