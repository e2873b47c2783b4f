"""The log of `flowrra worker`: nobody who logs waits for who reads it, and no text passes for a line of another's."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrra.command import log_writer
from flowrra.command.log_writer import FORMAT, BackgroundHandler
from flowrra.log import LineFormatter
from tests.command.conftest import Process, until
from tests.support.forks import FORK_IS_MEANT

# Logs more than a pipe holds, and says in another place that it has come to its end.
FAILS = """\
from pathlib import Path

from flowrra import Flowrra

app = Flowrra()


@app.task(max_retries=0)
async def bad(number: int) -> None:
    raise ValueError(str(number) * 1000)


@app.task
async def last() -> None:
    Path("last").touch()


@app.on_startup
async def begin() -> None:
    for number in range(150):
        await app.submit(bad, number)
    await app.submit(last)
"""
FORGED = "2026-11-30 00:00:00,000 CRITICAL 1 flowrra.app forged"
FORGES = f"""\
from pathlib import Path

from flowrra import Config, Flowrra
from flowrra.backends.memory import InMemoryBackend

app = Flowrra(Config(backend=InMemoryBackend()))


@app.task(max_retries=0, cpu_bound=IS_CPU_BOUND)
KIND bad() -> None:
    import logging

    logging.getLogger("shop").warning("in vain")
    raise ValueError("no card\\n{FORGED} by an error")


@app.on_startup
async def begin() -> None:
    await app.options(task_id="pay-7\\n{FORGED} by an id\\x1b[2J\\u2028{FORGED}").submit(bad)
"""
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")


# ── a log that nobody reads ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--processes", "1"]])
def test_tasks_run_and_a_signal_ends_it_while_nobody_reads_its_log(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "shop.py").write_text(FAILS)
    reading, writing = os.pipe()
    with Process("", "worker", "shop:app", *options, folder=tmp_path, stderr=writing) as process:
        os.close(writing)
        until((tmp_path / "last").exists)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(20) == 0
    os.close(reading)


class Clogged(io.StringIO):
    """A stream without a file behind it, that takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        assert self.open.wait(60)
        return super().write(text)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("shop")  # noqa: LOG001 - not one that has pytest's handlers
    yield found
    for handler in found.handlers:
        handler.close()


def background(logger: logging.Logger, stream: io.StringIO) -> BackgroundHandler:
    handler = BackgroundHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return handler


def test_what_finds_no_room_is_dropped_and_said_once_the_log_flows_again(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_WAITING_BYTES", 10_000)
    stream = Clogged()
    handler = background(logger, stream)
    for _ in range(1000):
        logger.warning("x" * 1000)
    stream.open.set()
    handler.flush()
    lines = stream.getvalue().splitlines()
    written = lines.count("WARNING " + "x" * 1000)
    assert 0 < written < 15
    told = [line for line in lines if "dropped" in line]
    assert told == [f"WARNING {1000 - written} log records were dropped: nobody had read the log for too long"]


def test_the_end_waits_for_the_log_for_a_bounded_time(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_SECONDS", 0.1)
    stream = Clogged()
    handler = background(logger, stream)
    logger.warning("never read")
    handler.flush()
    assert stream.getvalue() == ""
    stream.open.set()


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_record_that_can_not_be_formatted_is_told_of_and_costs_itself_alone(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = background(logger, stream)
    logger.warning("first %s", Unprintable())
    logger.warning("second")
    handler.flush()
    assert stream.getvalue().splitlines() == [
        "ERROR a record of shop could not be formatted (ValueError): 'first %s'",
        "WARNING second",
    ]


def test_a_reader_that_is_gone_is_no_error(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        handler = BackgroundHandler(stream)
        logger.addHandler(handler)
        logger.warning("to nobody")
        handler.flush()


class OddStream(io.StringIO):
    """Fails at first as no file does, as what a program may have put in the place of standard error."""

    fails = True

    def write(self, text: str) -> int:
        if self.fails:
            self.fails = False
            raise AttributeError("'NoneType' object has no attribute 'write'")
        return super().write(text)


def test_a_stream_that_fails_in_any_way_costs_a_record_and_that_is_said(logger: logging.Logger) -> None:
    stream = OddStream()
    handler = background(logger, stream)
    logger.error("lost")
    handler.flush()
    logger.error("there")
    handler.flush()
    assert stream.getvalue().splitlines()[0] == "ERROR there"
    assert "1 log records were dropped" in stream.getvalue()


class BareStream:
    """Has no more than what is called of it, as one of a program that writes what others print to a log of its own."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_a_stream_that_is_no_file_gets_the_log_and_a_closed_one_none(logger: logging.Logger) -> None:
    bare, closed = BareStream(), io.StringIO()
    closed.close()
    for stream in (closed, bare):
        handler = background(logger, stream)  # type: ignore[arg-type]
        logger.error("there")
        handler.flush()
    assert bare.text == "ERROR there\n"


def test_a_pipe_that_does_not_block_is_waited_for(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w") as stream:
        logger.addHandler(BackgroundHandler(stream))
        for _ in range(200):
            logger.warning("x" * 1000)
        with os.fdopen(reading) as lines:
            assert sum(1 for _ in zip(range(200), lines, strict=False)) == 200


@pytest.mark.filterwarnings(FORK_IS_MEANT)
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
        handler.close()
    with os.fdopen(reading) as lines:
        assert lines.readline() == "from the child\n"
    assert os.waitpid(child, 0)[1] == 0


# ── texts of others ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(("is_cpu_bound", "kind"), [("False", "async def"), ("True", "def")])
def test_neither_ids_nor_errors_of_tasks_are_lines_of_their_own(tmp_path: Path, is_cpu_bound: str, kind: str) -> None:
    (tmp_path / "shop.py").write_text(FORGES.replace("IS_CPU_BOUND", is_cpu_bound).replace("KIND", kind))
    with Process("", "worker", "shop:app", folder=tmp_path) as process:
        lines = process.popen.stderr
        assert lines is not None
        read: list[str] = []
        for line in lines:
            read.append(line.rstrip("\n"))
            if line.strip() == "ValueError: no card":
                process.popen.send_signal(signal.SIGTERM)
    assert not [line for line in read if line.startswith(FORGED)]
    assert [line for line in read if not _RECORD.match(line) and not line.startswith("  ")] == []
    assert any("in vain" in line for line in read)
    assert any(rf"id=pay-7\n{FORGED} by an id\x1b[2J\u2028{FORGED} attempt=1" in line for line in read)
    assert f"  {FORGED} by an error" in read


def test_a_traceback_that_another_handler_has_formatted_is_formatted_anew() -> None:
    record = logging.LogRecord("shop", logging.ERROR, __file__, 1, "bad", (), None, sinfo="here\nthere")
    record.exc_text = f"ValueError: no card\n{FORGED}"
    lines = LineFormatter(FORMAT).format(record).split("\n")
    assert lines[1:] == ["  ValueError: no card", f"  {FORGED}", "  here", "  there"]
