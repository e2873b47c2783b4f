"""What the command writes where nobody reads it, or nothing can be written; and numbers as they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.command.conftest import APP, COMMAND, Flowrra, Process, finished


@pytest.fixture
def in_a_shell(url: str) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a line in which the command is $FLOWRRA, as a shell does."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "FLOWRRA": str(COMMAND), "FLOWRRA_APP": APP, "SHOP_URL": url}
        return subprocess.run(["sh", "-c", line], env=variables, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("line", ["$FLOWRRA queues >&-", "$FLOWRRA queues 2>&-", "$FLOWRRA queues <&-"])
def test_closed_streams(in_a_shell: Callable[[str], subprocess.CompletedProcess[str]], line: str) -> None:
    ran = in_a_shell(line)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_a_question_that_nobody_can_answer(in_a_shell: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    ran = in_a_shell("$FLOWRRA purge mail <&-")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "Nobody can be asked here: give --yes" in ran.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_an_answer_that_can_not_be_written(in_a_shell: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    ran = in_a_shell("$FLOWRRA queues >/dev/full")
    assert (ran.returncode, ran.stderr) == (1, "flowrra: [Errno 28] No space left on device\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [1234567.891, 12345679.5, 0.1 + 0.2, 1e300, float("nan")])
def test_a_result_is_shown_as_it_is(flowrra: Flowrra, worker: Process, number: float) -> None:
    task_id = flowrra("submit", "give_back", repr(number)).out.strip()
    finished(flowrra, task_id)
    assert f"Result     {number!r}" in flowrra("task", task_id).out
