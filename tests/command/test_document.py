"""What docs/cli.md shows is what the command prints at a terminal, apart from times, ids and what a worker is called.

`make sessions` writes anew what the commands there print.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from flowrra.command.group import flowrra as commands
from tests.command.conftest import Process, until
from tests.command.terminal import CTRL_C, Terminal
from tests.redis.apps import QUEUE

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
TEXT = PAGE.read_text(encoding="utf-8")
DOCUMENTED_URL = "redis://localhost:6379/0"
PROMPT = "[y/N]: "
# A block of sessions; those at a terminal that can more than text are marked.
_BLOCK = re.compile(r"^(```console( in-colour)?\n)(.*?)^```", re.MULTILINE | re.DOTALL)
_SESSION = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
# These change nothing, and are asked again until what they show has come.
QUERIES = {"stats", "tasks", "task", "queues", "workers", "health", "dead", "schedules", "runs"}
WRITES = "WRITE_SESSIONS" in os.environ
_WORKER = r"[\w.-]+-\d+-[0-9a-f]{8}"
_VOLATILE = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?(Z|\+00:00)?": "TIME",
    r"TIME (INFO|WARNING) \d+": r"TIME \1 PID",
    _WORKER: "WORKER",
    r"WORKER +[\w.-]+ +\d+": "WORKER HOST PID",
    r'File ".*/': 'File "',
    r"line \d+": "line N",
    r"\n +\^+": "",
    r"\[[#-]+\] +\d+%": "[BAR]",
    r"─+": "─",
    r"\d\.\d+ s\b|=\d+\.\d+": "SECONDS",
    r" {2,}": "  ",
    r" +\n": "\n",
    r"@\d+": "@TIME",
    r"cursor [\d.]+:": "cursor TIME:",
}

pytestmark = pytest.mark.slow


def masked(shown: str) -> str:
    """What doesn't depend on when and where it was printed."""
    for pattern, name in _VOLATILE.items():
        shown = re.sub(pattern, name, shown)
    return shown


def worker_ids(shown: str) -> list[str]:
    return re.findall(_WORKER, shown)


class Session(NamedTuple):
    """A command of the page, what it shows that the command prints, where that stands, and at which terminal."""

    command: str
    shown: str
    span: tuple[int, int]
    terminal: str


def sessions() -> Iterator[Session]:
    for block in _BLOCK.finditer(TEXT):
        for found in _SESSION.finditer(TEXT, block.start(3), block.end(3)):
            yield Session(found[1], found[2], found.span(2), "xterm" if block[2] else "dumb")


class Shell:
    """Runs the commands of the page, and types what is typed there."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    def check(self, session: Session) -> str:
        """Run it, and compare what it prints with the page, or have it written there; returns what it prints."""
        is_query = session.command.split()[1] in QUERIES
        if WRITES:
            time.sleep(2 * is_query)
            return self.run(session)
        deadline = time.monotonic() + 10 * is_query
        while (compared(session, printed := self.run(session))) != compared(session, session.shown):
            if time.monotonic() > deadline:
                assert compared(session, printed) == compared(session, session.shown), session.command
            time.sleep(0.2)
        return printed

    def run(self, session: Session) -> str:
        """What it prints, as if it were on the machine of the page."""
        line = session.command.replace(DOCUMENTED_URL, self._url)
        if found := re.search(_WORKER, line):
            line = line.replace(found[0], self._worker())
        with Terminal(line, variables={"TERM": session.terminal}, folder=self._folder) as at:
            if PROMPT in session.shown:
                at.wait_for(PROMPT)
                at.type(session.shown.partition(PROMPT)[2].partition("\n")[0] + "\n")
            if "^C" in session.shown:
                until(lambda: at.read().count("\n") >= session.shown.partition("^C")[0].count("\n"), 30)
                at.type(CTRL_C)
            at.end()
        return self._as_documented(at.shown)

    def _worker(self) -> str:
        with Terminal("flowrra workers -A shop:app", variables={"TERM": "dumb"}, folder=self._folder) as at:
            at.end()
        return worker_ids(at.shown)[0]

    def _as_documented(self, shown: str) -> str:
        for here, there in (
            (self._url, DOCUMENTED_URL),
            (str(self._folder), "/app"),
            (str(PAGE.parents[1]), "/app"),
            (socket.gethostname(), "w1"),
        ):
            shown = shown.replace(here, there)
        return "".join(f"{line.rstrip()}\n" for line in shown.splitlines())


def compared(session: Session, printed: str) -> str:
    """What must be the same each time. The lines of several processes come in any order."""
    lines = masked(printed).splitlines()
    return "\n".join(sorted(lines) if "--processes" in session.command else lines)


def test_the_sessions(url: str, look: redis.Redis, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.py").write_text(program.replace(DOCUMENTED_URL, url))
    look.config_set("appendonly", "yes")  # or a worker warns that tasks would be lost
    request.addfinalizer(lambda: look.config_set("appendonly", "no"))
    for number in (b"first", b"second"):  # what no task is, and is given up
        look.rpush(QUEUE, number)
    shell, printed = Shell(url, tmp_path), dict[Session, str]()
    with Process(url, "worker", "shop:app", "--io-workers", "8", folder=tmp_path) as worker:
        workers = next(each for each in sessions() if each.command.startswith("flowrra workers"))
        until(lambda: "0/8" in shell.run(workers))
        for session in sessions():
            if not session.command.startswith("flowrra worker "):
                printed[session] = shell.check(session)
        assert worker.end(signal.SIGTERM).status == 0
    for session in sessions():
        if session not in printed:
            printed[session] = shell.check(session)
    if WRITES:
        write(printed)


def write(printed: dict[Session, str]) -> None:
    text = TEXT
    for session in sorted(printed, key=lambda session: session.span, reverse=True):
        text = text[: session.span[0]] + printed[session] + text[session.span[1] :]
    (worker,) = {found for session in printed if "workers" in session.command for found in worker_ids(printed[session])}
    text = re.sub(rf"^(\$ .*?){_WORKER}", rf"\1{worker}", text, flags=re.MULTILINE)
    PAGE.write_text(text, encoding="utf-8")


def test_each_command_is_shown() -> None:
    assert set(commands.commands) <= {session.command.split()[1] for session in sessions()}
