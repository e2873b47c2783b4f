"""A worker of the command runs CPU-bound tasks, whose processes import the app's module from the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command.conftest import Flowrra, Process, until

SQUARES = """
from flowrra import Flowrra

app = Flowrra.from_urls({url!r}, {url!r})


@app.task(cpu_bound=True)
def square(number):
    return number * number
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--processes", "1"]])
def test_cpu_bound_tasks(url: str, flowrra: Flowrra, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "squares.py").write_text(SQUARES.format(url=url))
    with Process(
        url, "submit", "square", "7", "--task-id", "seven", "-A", "squares:app", folder=tmp_path
    ) as submitting:
        assert submitting.end().out == "seven\n"
    with Process(url, "worker", "squares:app", "--cpu-workers", "1", *flags, folder=tmp_path):
        task = until(lambda: (task := flowrra("task", "seven", "--json").answer)["finished_at"] and task)
        assert task["result"] == 49
        (worker,) = flowrra("workers", "--json").answer
        assert worker["executors"]["cpu"]["slots"] == 1
