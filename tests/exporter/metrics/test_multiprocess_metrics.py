"""Metrics that CPU tasks count in worker processes: served in the multi-process mode, else warned of."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exporter.conftest import FREE_PORT, Answer, Command, Run

WARNING = "changed a metric of prometheus_client in a worker process, where no scrape sees it"
FLAGS = (f"--web.listen-address={FREE_PORT}", "counting:start")


def started(run: Run, folder: Path | None) -> Command:
    command: Command = run(*FLAGS, **({} if folder is None else {"PROMETHEUS_MULTIPROC_DIR": str(folder)}))
    command.ready()
    return command


def scraped(command: Command, holds: Callable[[Answer], bool]) -> Answer:
    """A scrape in which that holds; an ended process is noticed a moment later."""
    deadline = time.monotonic() + 10
    while not holds(answer := command.get()):
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


@pytest.mark.slow
def test_what_worker_processes_count_is_served(run: Run, tmp_path: Path) -> None:
    command = started(run, tmp_path)
    for _ in range(2):
        command.tell("count")
    command.wait_for_line(r"count: \d+")
    answer = scraped(command, lambda answer: answer.value("shop_orders_total", kind="book") == 2)
    assert answer.value("shop_processes") == 1
    assert answer.value("shop_imports") == 1
    assert "process_resident_memory_bytes" in {name for name, _ in answer.samples}
    assert answer.value("flowrra_registered_collector_success", collector="MultiProcessFiles") == 1
    assert answer.value("flowrra_app_running") == 1
    assert WARNING not in command.log


@pytest.mark.slow
def test_an_ended_processs_living_gauges_end_with_it_and_its_counts_stay(run: Run, tmp_path: Path) -> None:
    command = started(run, tmp_path)
    command.tell("count")
    command.wait_for_line(r"count: \d+")
    scraped(command, lambda answer: answer.value("shop_processes") == 1)
    command.tell("die")
    command.wait_for_line("worker process died")
    answer = scraped(
        command, lambda answer: answer.value("shop_processes") is None or answer.value("shop_processes") == 0
    )
    assert answer.value("shop_orders_total", kind="book") == 1


@pytest.mark.slow
def test_a_file_that_can_not_be_read_costs_itself_alone(run: Run, tmp_path: Path) -> None:
    command = started(run, tmp_path)
    command.tell("count")
    command.wait_for_line(r"count: \d+")
    (tmp_path / "counter_999999.db").write_bytes(b"\x40\0\0\0\0\0\0\0\x10\0\0\0" + b"{" * 100)
    answer = command.get()
    assert answer.value("shop_orders_total", kind="book") == 1
    assert answer.value("flowrra_registered_collector_success", collector="MultiProcessFiles") == 0
    command.wait_for_line("counter_999999.db can't be read")


@pytest.mark.slow
def test_without_that_mode_a_change_in_a_worker_process_is_warned_of_once(run: Run) -> None:
    command = started(run, None)
    command.tell("look")  # what its module sets while it is imported is no change
    command.wait_for_line(r"look: \d+")
    assert WARNING not in command.log
    for _ in range(3):
        command.tell("count")
    command.wait_for_line(f"the task 'count' {WARNING}")
    command.tell("die")
    command.wait_for_line("worker process died")
    command.tell("count")
    command.tell("look")
    scraped(command, lambda answer: answer.value("flowrra_tasks_succeeded_total", task="look") == 2)
    assert command.log.count(WARNING) == 1
