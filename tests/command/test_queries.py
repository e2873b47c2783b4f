"""What is shown: tables for people, and with --json what the Management API answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from flowrra.command.output import writable
from flowrra.management import FlowrraManager
from tests.command import shop
from tests.command.conftest import APP, COMMAND, Flowrra, Process, finished, until


class Shop:
    """A shop with a worker, and a task in each state.

    Attributes:
        sent, failed, running, delayed: The ids of its tasks.
    """

    def __init__(self, flowrra: Flowrra) -> None:
        self.flowrra = flowrra
        self.sent = self._submit("send", "me", "-k", "copies=2")
        self.failed = self._submit("fail", "\x1b[31mred\x07\u202e\nsecond line")
        self.delayed = self._submit("send", "later", "--countdown", "3600")
        self.running = self._submit("hold")
        finished(flowrra, self.sent)
        finished(flowrra, self.failed)
        until(lambda: flowrra("task", self.running, "--json").answer["status"] == "running")

    def _submit(self, *arguments: str) -> str:
        return self.flowrra("submit", *arguments).out.strip()

    def ids(self, *flags: str) -> list[str]:
        """The tasks that are listed."""
        return [task["task_id"] for task in self.flowrra("tasks", *flags, "--json").answer["tasks"]]


@pytest.fixture
def filled(flowrra: Flowrra, worker: Process) -> Iterator[Shop]:
    return Shop(flowrra)


def answered(flowrra: Flowrra, *arguments: str) -> Any:
    return flowrra(*arguments, "--json").answer


async def asked(method: str, *args: Any, **kwargs: Any) -> Any:
    """What the Management API answers another process."""
    async with shop.app.producer() as producer:
        return json.loads(json.dumps(writable(await getattr(FlowrraManager(producer), method)(*args, **kwargs))))


@pytest.mark.slow
async def test_the_answers_are_those_of_the_management_api(filled: Shop) -> None:
    run = filled.flowrra

    async def same(command: tuple[str, ...], method: str, *args: Any, **kwargs: Any) -> None:
        process = subprocess.run(
            [COMMAND, *command, "-A", APP, "--json"],
            env={**os.environ, "SHOP_URL": shop.app.config.broker.url},  # type: ignore[union-attr]
            capture_output=True,
            check=True,
        )
        told, expected = json.loads(process.stdout), await asked(method, *args, **kwargs)
        for queue in (*told, *expected) if method == "list_queues" else ():
            del queue["clock_offset"], queue["memory_used"]  # which are measured anew
        assert told == expected

    assert run is not None
    await same(("tasks",), "list_tasks")
    await same(("tasks", "--failed"), "list_tasks", status="failed")
    await same(("task", filled.failed), "get_task", filled.failed)
    await same(("queues",), "list_queues")
    await same(("dead",), "list_dead_tasks")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["stats", "tasks", "queues", "workers", "health", "dead"])
def test_times_have_an_offset(filled: Shop, command: str) -> None:
    def times(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, each in value.items():
                yield from [each] if key.endswith("_at") and each else times(each)
        elif isinstance(value, list):
            for each in value:
                yield from times(each)

    for text in times(answered(filled.flowrra, command)):
        assert datetime.fromisoformat(text).tzinfo is not None


@pytest.mark.slow
def test_stats(filled: Shop) -> None:
    # A worker tells every 5 s how busy it is.
    found = until(lambda: (each := answered(filled.flowrra, "stats"))["workers"]["slots"]["io"]["busy"] and each)
    assert found["workers"] == {"count": 1, "draining": 0, "slots": {"io": {"slots": 4, "busy": 1}}}
    assert found["queues"] == {"pending": 0, "delayed": 1, "in_flight": 1, "dead": 0, "unknown": 0}
    assert {status: count for status, count in found["tasks"].items() if count} == {
        "pending": 1,
        "running": 1,
        "success": 1,
        "failed": 1,
    }
    text = filled.flowrra("stats").out
    assert "Workers    1; io: 1 of 4 slots busy\n" in text
    assert "Delayed    1\n" in text


def test_tasks_by_filters(filled: Shop) -> None:
    everything = [filled.running, filled.delayed, filled.failed, filled.sent]
    assert filled.ids() == everything
    assert filled.ids("--status", "running") == [filled.running]
    assert filled.ids("--failed") == filled.ids("--error", "ValueError") == [filled.failed]
    assert filled.ids("--name", "send") == [filled.delayed, filled.sent]
    assert filled.ids("--queue", "mail") == [filled.delayed, filled.sent]
    assert filled.ids("--since", "1h") == everything
    assert filled.ids("--since", "2100-01-01") == []
    (worker,) = answered(filled.flowrra, "workers")
    assert filled.ids("--worker", worker["id"]) == [filled.running, filled.failed, filled.sent]


def test_pages_of_tasks(filled: Shop) -> None:
    page = filled.flowrra("tasks", "--limit", "3")
    *_, last = page.out.splitlines()
    assert last.startswith("More: --cursor ")
    assert filled.ids("--cursor", last.removeprefix("More: --cursor ")) == [filled.sent]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--status", "lost"], "'lost' is not one of 'pending'"),
        (["--failed", "--status", "running"], "Give either --failed or --status running"),
        (["--since", "soon"], "'soon' is no time, such as 2026-11-29T12:00, or 30s, 15m, 2h or 7d for so long ago"),
        (["--cursor", "x"], "cursor must be the 'next' of the page before, not 'x'"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_filters_that_mean_nothing(flowrra: Flowrra, arguments: list[str], reason: str) -> None:
    ran = flowrra("tasks", *arguments)
    assert ran.status == 2
    assert reason in ran.reason


def test_a_task(filled: Shop) -> None:
    text = filled.flowrra("task", filled.failed).out
    for expected in (
        "Name       fail\n",
        "Status     failed\n",
        "ATTEMPT  OUTCOME",
        "Traceback (most recent call last):",
    ):
        assert expected in text
    assert sum("failed" in line for line in text.splitlines()) == 3  # the task, and two attempts
    assert (
        'Arguments  ["me"]\nBy name    {"copies": 2}\nResult     2 sent to me\n'
        in filled.flowrra("task", filled.sent).out
    )


def test_a_task_that_is_unknown(flowrra: Flowrra) -> None:
    ran = flowrra("task", "nobody\x1b")
    assert (ran.status, ran.reason) == (1, "no task is known by the id nobody\\x1b")


@pytest.mark.parametrize("command", [["tasks"], ["task"]])
def test_text_of_tasks_cannot_move_the_cursor(filled: Shop, command: list[str]) -> None:
    shown = filled.flowrra(*command, *([filled.failed] if command == ["task"] else [])).out
    assert "\\x1b[31mred\\x07\\u202e" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_json_is_no_more_dangerous(filled: Shop) -> None:
    shown = filled.flowrra("task", filled.failed, "--json").out
    assert all(line.isprintable() for line in shown.splitlines())
    assert json.loads(shown)["args"] == ["\x1b[31mred\x07\u202e\nsecond line"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_json_is_json_in_every_encoding(filled: Shop, url: str, encoding: str) -> None:
    text = "\N{LATIN SMALL LETTER E WITH ACUTE} \N{CJK UNIFIED IDEOGRAPH-65E5} \N{GRINNING FACE}"
    task_id = filled.flowrra("submit", "send", json.dumps(text), "--countdown", "60").out.strip()
    process = subprocess.run(
        [COMMAND, "task", task_id, "-A", APP, "--json"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "SHOP_URL": url},
        capture_output=True,
    )
    assert json.loads(process.stdout.decode(encoding))["args"][0] == text


def test_queues_and_workers(filled: Shop, worker: Process) -> None:
    assert filled.flowrra("queues").rows == [
        ["default", "io", "0", "0", "1", "0", "0", "-", "no"],
        ["mail", "io", "0", "1", "0", "0", "0", "-", "no"],
    ]
    ((worker_id, _, pid, *_, io, cpu, draining),) = filled.flowrra("workers").rows
    assert worker_id == answered(filled.flowrra, "workers")[0]["id"]
    assert (int(pid), io[1:], cpu, draining) == (worker.popen.pid, "/4", "-", "no")


def test_health(filled: Shop) -> None:
    ran = filled.flowrra("health")
    broker, *others = ran.out.splitlines()
    assert ran.status == 0
    # Whether its server is fit for tasks is known a moment after the command has begun.
    assert broker.startswith("ok    broker: answering")
    assert others == ["ok    backend: answering", "ok    workers: 1 alive"]


def test_health_without_a_worker(flowrra: Flowrra) -> None:
    assert flowrra("health").status == 1
    found = json.loads(flowrra("health", "--json").out)
    assert found["healthy"] is False
    assert found["components"]["workers"] == {"healthy": False, "message": "0 alive"}


@pytest.mark.slow
def test_health_without_a_server(flowrra: Flowrra) -> None:
    ran = flowrra("health", "--broker", "redis://me:secret@127.0.0.1:1/0")
    assert ran.status == 1
    assert [line[:13] for line in ran.out.splitlines()] == ["FAIL  broker:", "FAIL  backend", "FAIL  workers"]
    assert "secret" not in ran.out


def test_a_reader_that_goes(filled: Shop, url: str) -> None:
    with Process(url, "tasks", "-A", APP) as process:
        assert process.popen.stdout is not None
        process.popen.stdout.close()
        process.popen.stdout = None
        ran = process.end()
    assert (ran.status, ran.err) == (1, "")


def test_values_that_json_does_not_have() -> None:
    assert writable({"bytes": b"ab", "nan": float("nan"), 1: {"set"}, "tuple": (1,), "odd": type}) == {
        "bytes": "YWI=",
        "nan": "nan",
        "1": ["set"],
        "tuple": [1],
        "odd": str(type),
    }
    assert writable("\ud800") == "\\ud800"


def test_wide_text_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    from flowrra.command.output import print_table

    print_table(("NAME", "N"), [("日本", 1), ("ab", 10)])
    assert capsys.readouterr().out == "NAME   N\n日本   1\nab    10\n"


@pytest.mark.slow
def test_health_says_that_all_slots_are_busy(url: str, flowrra: Flowrra) -> None:
    with Process(url, "worker", APP, "--io-workers", "1"):
        until(lambda: flowrra("workers", "--json").answer)
        flowrra("submit", "hold")
        until(lambda: "workers: 1 alive, all io slots busy\n" in (ran := flowrra("health")).out and ran.status == 0)
