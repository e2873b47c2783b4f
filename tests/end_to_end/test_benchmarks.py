"""The benchmarks measure what they say: all tasks ran, a peer that can't be had is named, the calculation adds up.
Running them whole takes minutes: `make bench`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity, harness
from benchmarks.__main__ import main
from benchmarks.engines import BULLMQ, FLOWRRA, install
from benchmarks.harness import SIDES, Report, Rounds, Side, Unavailable, node_peer
from benchmarks.on_paper import Costs
from benchmarks.sides.redis_work import Work
from tests.support.servers import ValkeyServer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where peers are installed; no program is on the path."""
    monkeypatch.setattr(harness, "PEERS", tmp_path / "peers")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "peers"


def measured(program: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-P", str(SIDES / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.slow
def test_one_worker_drains_all_tasks_that_were_submitted(url: str) -> None:
    figures = measured("redis_engine.py", "redis_flowrra", url, "300", "--slots", "50", "--wait", "1", "--drain-only")
    assert 0 < figures["drain"] <= 50 / 0.001
    assert min(figures[name] for name in ("many", "cpu", "server_cpu", "many_server_cpu", "received", "sent")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("partitions", ["1", "2"])
def test_two_workers_drain_all_tasks_between_them(url: str, partitions: str) -> None:
    figures = measured("fleet.py", url, "300", "2", "--slots", "10", "--wait", "1", "--partitions", partitions)
    assert 0 < figures["drain"] <= 2 * 10 / 0.001
    assert min(figures[name] for name in ("cpu", "server_cpu", "busy", "server_busy")) > 0


async def test_a_task_that_runs_twice_is_no_measurement() -> None:
    work = Work(2)
    for number in (0, 0, 1):
        await work.run(number)
    with pytest.raises(RuntimeError, match="2 tasks ran 3 times"):
        await work.all_ran()


async def test_all_have_run_when_each_number_has_been_there() -> None:
    work = Work(2)
    await work.run(1)
    waiting = asyncio.create_task(work.all_ran())
    await asyncio.sleep(0)
    assert not waiting.done()
    await work.run(0)
    await waiting


def test_a_peer_without_its_interpreter_is_skipped_with_the_reason(
    peers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = install(Report("none", "A report", folder=tmp_path), (FLOWRRA, BULLMQ))
    assert list(installed) == [FLOWRRA]
    assert "skipped   BullMQ: node is not installed" in capsys.readouterr().out.splitlines()


def test_a_peer_that_the_registry_does_not_give_is_skipped_with_what_was_said(peers: Path, tmp_path: Path) -> None:
    for name, text in (("node", ""), ("npm", "echo npm error code ENOTFOUND >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Unavailable, match="not installed: npm error code ENOTFOUND"):
        node_peer("bullmq@5.0.0")
    assert not (peers / "bullmq-5.0.0" / "complete").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["distributed", "--only", "flowrra,celery"], "no peer is called celery"),
        (["scrape", "--only", "flowrra"], "scrape has no peers to choose from"),
    ],
)
def test_what_can_not_be_chosen_is_a_mistake(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert complaint in capsys.readouterr().err


def test_workers_add_up_until_the_busiest_server_is_full() -> None:
    rates = [capacity.rate(workers, worker_us=25, server_us=10) for workers in (1, 2, 4)]
    assert rates == [40_000, 80_000, 100_000]
    assert capacity.rate(4, worker_us=25, server_us=10, share=0.5) == 160_000
    assert capacity.rate(2, worker_us=25, server_us=10, waiting=1_000) == 2_000


def test_more_workers_than_were_measured_cost_what_most_of_them_did() -> None:
    costs = Costs(
        "empty", 1e9, worker={1: 20.0, 4: 25.0}, server={1: 8.0, 4: 10.0}, many=5, alone=9, received=1, sent=1
    )
    assert (costs.rate(1), costs.rate(2), costs.rate(16)) == (50_000, 100_000, 100_000)
    assert (costs.limit(2), costs.limit(16, share=0.5)) == (125_000, 200_000)


def test_partitions_lie_on_primaries_as_a_cluster_is_created() -> None:
    on_primaries = capacity.owners("flowrra", partitions=4, primaries=3)
    assert on_primaries == [0, 0, 1, 2]
    assert capacity.busiest_share(on_primaries) == 0.5


@pytest.mark.slow
def test_the_largest_partition_is_the_nearer_to_the_mean_the_more_tasks_there_are() -> None:
    few, many = (capacity.largest_partition(tasks, partitions=4) for tasks in (100, 5_000))
    assert 1.1 < few < 1.3
    assert 1 < many < 1.05


def test_a_peer_that_fails_is_left_out_and_ours_is_the_end(tmp_path: Path) -> None:
    (tmp_path / "works.py").write_text("print('{\"drain\": 1.0}')")
    (tmp_path / "fails.py").write_text("raise SystemExit('it hangs')")
    works, fails = (Side(name, (f"{name}.py",), folder=tmp_path) for name in ("works", "fails"))
    rounds = Rounds([fails, works], 2, may_fail=[fails])
    assert rounds.of(works, "drain") == [1.0, 1.0]
    assert rounds.failures == {fails: "it hangs"}
    with pytest.raises(RuntimeError, match="it hangs"):
        Rounds([fails, works], 2)
