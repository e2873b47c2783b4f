"""What a terminal gets beyond plain text: tables and colours by rich, where it is installed, and bars."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import shop
from tests.command.conftest import APP, Flowrra, Process, finished, until
from tests.command.terminal import CTRL_C, Terminal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GREEN, RED = "\x1b[32m", "\x1b[1;31m"

Run = Callable[..., Terminal]


@pytest.fixture
def at_terminal(url: str, flowrra: Flowrra) -> Run:
    """Run the command on the shop at a terminal."""

    def run(*arguments: str, columns: int = 120, **variables: str) -> Terminal:
        return Terminal(
            ["flowrra", *arguments],
            columns=columns,
            variables={"SHOP_URL": url, "FLOWRRA_APP": APP, **variables},
            folder=ROOT,
        )

    return run


@pytest.fixture
def filled(flowrra: Flowrra, worker: Process) -> str:
    """Two tasks that have finished; the id of the failed one."""
    finished(flowrra, flowrra("submit", "send", "me", "--task-id", "sent").out.strip())
    return str(finished(flowrra, flowrra("submit", "fail", "--task-id", "failed").out.strip())["task_id"])


def test_a_table_has_rules_and_coloured_words(at_terminal: Run, filled: str) -> None:
    with at_terminal("tasks") as terminal:
        assert terminal.end() == 0
    assert "────" in terminal.shown
    assert f"{GREEN}success" in terminal.coloured
    assert f"{RED}failed" in terminal.coloured


def test_fields_and_verdicts_are_coloured(at_terminal: Run, filled: str) -> None:
    with at_terminal("task", filled) as terminal:
        assert terminal.end() == 0
    assert f"{RED}failed" in terminal.coloured
    with at_terminal("health") as terminal:
        assert terminal.end() == 0
    assert f"{GREEN}ok" in terminal.coloured


@pytest.mark.parametrize("command", ["tasks", "task failed", "stats", "health", "queues", "workers"])
def test_the_words_are_those_of_plain_text(at_terminal: Run, flowrra: Flowrra, filled: str, command: str) -> None:
    with at_terminal(*command.split(), columns=200) as terminal:
        assert terminal.end() == 0
    words = [word for word in terminal.shown.split() if set(word) != {"─"}]
    if command != "workers":  # whose heartbeat moves
        assert words == flowrra(*command.split()).out.split()


def test_a_narrow_terminal_breaks_cells_and_no_ids(at_terminal: Run, flowrra: Flowrra, worker: Process) -> None:
    task_id = flowrra("submit", "fail", "word " * 40).out.strip()
    finished(flowrra, task_id)
    with at_terminal("tasks", columns=80) as terminal:
        assert terminal.end() == 0
    assert task_id in terminal.shown
    assert all(len(line) <= 80 for line in terminal.shown.splitlines())


def test_a_terminal_too_narrow_for_a_table_gets_plain_lines_with_whole_ids(
    at_terminal: Run, flowrra: Flowrra, worker: Process
) -> None:
    task_id = flowrra("submit", "send", "me").out.strip()
    finished(flowrra, task_id)
    with at_terminal("tasks", columns=40) as terminal:
        assert terminal.end() == 0
    assert task_id in terminal.shown
    assert "success" in terminal.shown
    assert "────" not in terminal.shown


def test_text_of_tasks_has_no_markup_and_moves_no_cursor(at_terminal: Run, flowrra: Flowrra, worker: Process) -> None:
    finished(flowrra, flowrra("submit", "fail", "[red]\x1b[2J:smile:").out.strip())
    with at_terminal("tasks", columns=200) as terminal:
        assert terminal.end() == 0
    assert "[red]\\x1b[2J:smile:" in terminal.shown


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"PYTHONPATH": "no_rich"}])
def test_plain_where_it_can_t_be_otherwise(
    at_terminal: Run, flowrra: Flowrra, filled: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    if "PYTHONPATH" in variables:
        (tmp_path / "rich").mkdir()
        (tmp_path / "rich" / "__init__.py").write_text("raise ModuleNotFoundError('No module named rich')")
        variables = {"PYTHONPATH": str(tmp_path)}
    with at_terminal("tasks", **variables) as terminal:
        assert terminal.end() == 0
    assert terminal.coloured.replace("\r\n", "\n") == flowrra("tasks").out


def test_no_color(at_terminal: Run, filled: str) -> None:
    with at_terminal("tasks", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "────" in terminal.shown
    assert "\x1b[3" not in terminal.coloured


def test_json_is_json(at_terminal: Run, filled: str) -> None:
    with at_terminal("tasks", "--json") as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.coloured
    assert len(json.loads(terminal.coloured)["tasks"]) == 2


# Bars.


async def submit_many(count: int) -> None:
    async with shop.app.producer() as producer:
        await producer.submit_many([("hold", (), {})] * count)


@pytest.mark.parametrize("command", [("cancel", "--name", "hold", "--yes"), ("purge", "default", "--yes")])
async def test_what_is_done_to_many_has_a_bar(at_terminal: Run, command: tuple[str, ...]) -> None:
    await submit_many(500)
    with at_terminal(*command) as terminal:
        assert await asyncio.to_thread(terminal.end) == 0
    assert "20%" in terminal.coloured
    assert "100%" in terminal.shown
    assert "500 cancelled, 0 left" in terminal.shown


async def test_few_have_none(at_terminal: Run) -> None:
    await submit_many(5)
    with at_terminal("purge", "default", "--yes") as terminal:
        assert await asyncio.to_thread(terminal.end) == 0
    assert terminal.shown == "5 cancelled, 0 left\n"


async def test_a_bar_is_for_terminals(flowrra: Flowrra) -> None:
    await submit_many(500)
    ran = await asyncio.to_thread(flowrra, "cancel", "--name", "hold", "--yes")
    assert (ran.out, ran.err) == ("500 cancelled, 0 left\n", "")


def test_a_watched_task_has_a_bar_until_it_has_finished(at_terminal: Run, flowrra: Flowrra, worker: Process) -> None:
    task_id = flowrra("submit", "copy", "9").out.strip()
    until(lambda: flowrra("task", task_id, "--json").answer["progress"])
    with at_terminal("watch", "--task", task_id) as terminal:
        assert terminal.end() == 0
    assert f"{task_id}  copy  [####" in terminal.shown
    assert re.search("(33|44|56|67|78)%", terminal.coloured)
    assert terminal.shown.splitlines()[-1].endswith(f"{task_id}  copy  success  9 of 9 file 9")


def test_ctrl_c_ends_a_bar(at_terminal: Run, flowrra: Flowrra, worker: Process) -> None:
    task_id = flowrra("submit", "copy", "300").out.strip()
    until(lambda: flowrra("task", task_id, "--json").answer["progress"])
    with at_terminal("watch", "--task", task_id) as terminal:
        terminal.wait_for("%")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
