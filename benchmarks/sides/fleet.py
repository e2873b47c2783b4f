"""Measures several worker processes of flowrra on one server: tasks that wait already are drained by all of them.

    fleet.py URL TASKS WORKERS [--slots N] [--wait MS] [--partitions N]

The queue is paused, the tasks are submitted, the workers are started; then the queue is resumed, and all begin at once.
Each task waits MS milliseconds. The rate is taken from the first task's run to the last one's, and the processor time
of the workers since they are up. Prints the figures; it fails if not each task ran once and has succeeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from redis_engine import Server
from redis_flowrra import build, have_succeeded
from redis_work import Work, until

from flowrra.management import FlowrraManager

DRAINED_WITHIN = 120.0
LOOKS = 0.05
STAT = Path("/proc/stat")


class TimedWork(Work):
    """The task, which notes when it ran first and last.

    Args:
        seconds: What each waits.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(0, seconds)
        self.ran = 0
        self.first = 0.0
        self.last = 0.0

    async def run(self, number: int) -> int:
        self.first = self.first or time.monotonic()
        await super().run(number)
        self.ran += 1
        self.last = time.monotonic()
        return number


class Worker:
    """A worker process, as its parent has it."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ready(self) -> None:
        """Wait until it is up."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"a worker ended with {self._process.wait()} before it was up")

    def stop(self) -> dict[str, Any]:
        """What it tells of itself, once all has been done."""
        figures: dict[str, Any] = json.loads(self._process.communicate("stop\n", timeout=60)[0])
        return figures

    def kill(self) -> None:
        """End it if it runs."""
        self._process.kill()
        self._process.communicate()


async def work(given: argparse.Namespace) -> None:
    """A worker process."""
    timed = TimedWork(given.wait / 1000)
    async with build(given.url, slots=given.slots, work=timed, partitions=given.partitions):
        before = time.process_time()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cpu = time.process_time() - before
        print(json.dumps({"cpu": cpu, "ran": timed.ran, "first": timed.first, "last": timed.last}), flush=True)


def processor_ticks() -> tuple[int, int] | None:
    """Of this machine since its start, and those of them in which a core had nothing to do; None where nobody tells."""
    if not STAT.exists():
        return None
    ticks = [int(each) for each in STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


async def measure(given: argparse.Namespace, arguments: list[str]) -> dict[str, float]:
    """The figures of one run."""
    server = Server(given.url)
    server.clear()
    app = build(given.url, consume=False, partitions=given.partitions)
    workers: list[Worker] = []
    async with app:
        manager = FlowrraManager(app)
        await manager.pause_queue()
        await app.submit_many((app.no_op, (number,), {}) for number in range(given.tasks))
        try:
            workers += [Worker(arguments) for _ in range(given.workers)]
            for worker in workers:
                await asyncio.to_thread(worker.ready)
            counts, ticks = server.counts(), processor_ticks()
            await manager.resume_queue()
            async with asyncio.timeout(DRAINED_WITHIN):
                await until(lambda: have_succeeded(app, given.tasks), every=LOOKS)
            after = processor_ticks()
            figures = server.each(counts, given.tasks)
            told = [await asyncio.to_thread(worker.stop) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    server.clear()
    if ticks and after:
        figures["cores"] = 1 - (after[1] - ticks[1]) / (after[0] - ticks[0])
    return figures | summary(told, given.tasks, figures["server_cpu"])


def summary(told: list[dict[str, Any]], tasks: int, server_cpu: float) -> dict[str, float]:
    """The figures of the workers together."""
    runs = [each["ran"] for each in told]
    if sum(runs) != tasks:
        raise RuntimeError(f"{tasks} tasks ran {sum(runs)} times: {runs}")
    seconds = max(each["last"] for each in told) - min(each["first"] for each in told if each["ran"])
    return {
        "drain": tasks / seconds,
        "cpu": 1e6 * sum(each["cpu"] for each in told) / tasks,
        "busy": max(each["cpu"] for each in told) / seconds,
        "server_busy": server_cpu * tasks / 1e6 / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("tasks", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--worker", action="store_true")
    given = parser.parse_args()
    if given.worker:
        asyncio.run(work(given))
        return
    print(json.dumps(asyncio.run(measure(given, sys.argv[1:]))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
