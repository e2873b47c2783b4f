"""An app in a folder, whose tasks wait on a server; the command, in this process or in one of its own; a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flowrra.command.main import main
from tests.redis.conftest import look, url, valkey

__all__ = ["look", "url", "valkey"]

COMMAND = Path(sys.executable).with_name("flowrra")
APP = "tests.command.shop:app"


class Ran(NamedTuple):
    """What came of a run of the command."""

    status: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """What it printed as JSON."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """What it printed as a table, without the head; cells are two spaces apart."""
        assert self.status == 0, self.err
        return [[cell.strip() for cell in line.split("  ") if cell] for line in self.out.splitlines()[1:]]

    @property
    def reason(self) -> str:
        """The one line on standard error."""
        (line,) = self.err.splitlines()
        assert line.startswith("flowrra: ")
        return line.removeprefix("flowrra: ")


Flowrra = Callable[..., Ran]


@pytest.fixture
def flowrra(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flowrra:
    """Run the command on the shop, in this process."""
    from tests.command import shop

    shop.use(url)
    monkeypatch.setenv("FLOWRRA_APP", APP)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        status = main(arguments)
        return Ran(status, *capsys.readouterr())

    return run


class Process:
    """The command as a process; it is killed at the end, if it still runs."""

    def __init__(
        self,
        url: str,
        *arguments: str,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        **streams: Any,
    ) -> None:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        environment = {key: value for key, value in os.environ.items() if key != "FLOWRRA_APP"}
        self.popen = subprocess.Popen(
            [COMMAND, *arguments],
            env={**environment, "SHOP_URL": url, **(variables or {})},
            cwd=folder,
            text=True,
            **streams,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate()

    def end(self, number: signal.Signals | None = None) -> Ran:
        """Wait for its end, after a signal if one is given."""
        if number is not None:
            self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=30)
        return Ran(self.popen.returncode, out or "", err or "")


@pytest.fixture
def worker(url: str, flowrra: Flowrra) -> Iterator[Process]:
    """A worker of the shop that others know."""
    with Process(url, "worker", APP) as process:
        until(lambda: flowrra("workers", "--json").answer)
        yield process


def until(look: Callable[[], Any], seconds: float = 40) -> Any:
    """What is found at last; for what no event tells of."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def finished(flowrra: Flowrra, task_id: str) -> Any:
    """A task, once it has come to its end."""
    return until(lambda: (task := flowrra("task", task_id, "--json").answer)["finished_at"] and task)
