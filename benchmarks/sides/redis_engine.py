"""Measures a task queue on Redis: submitting, draining, and one task at a time on an idle system.

    redis_engine.py ENGINE URL TASKS [--slots N] [--wait MS] [--drain-only] [--modules FOLDER]

ENGINE is a module beside this file with these coroutines: ``submit(url, count)`` and, if it can,
``submit_many(url, count)`` submit tasks; ``drain(url, count, slots, seconds)`` runs that many, which wait already, in
one worker with so many slots, until all are acknowledged; each task waits so many seconds. These return what
``stopwatch()`` of redis_work.py tells. ``serve(url)`` is a worker with ten slots until it is killed.
``latency(url, count)`` submits one task after the other, waits for each result, and returns the seconds of each.

Or it is a program for Node, ``*.cjs``, which takes the same as arguments and finds its packages in FOLDER.

Each step is a process of its own. Prints the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import redis

HERE = Path(__file__).parent

STEP_TIMEOUT = 120.0
# Round trips one after the other are slow: fewer of them say as much.
SUBMITS = 2_000
ROUND_TRIPS = 500

Counts = dict[str, float]


class Engine:
    """A task queue, each of whose steps is a process.

    Args:
        name: The module or program beside this file.
        url: The server.
        slots: Of the worker that drains.
        wait: Milliseconds that each task waits there.
        modules: Where Node finds packages.
    """

    def __init__(self, name: str, url: str, slots: int, wait: float, modules: str) -> None:
        self.name = name
        self._is_node = name.endswith(".cjs")
        program = ["node", str(HERE / name)] if self._is_node else [sys.executable, __file__, name]
        self._program = [*program, url]
        self._options = ["--slots", str(slots), "--wait", str(wait)]
        self._environment = {**os.environ, "NODE_PATH": modules}

    def can(self, step: str) -> bool:
        """Whether it has such a step."""
        return self._is_node or hasattr(import_module(self.name), step)

    def start(self, step: str, count: int, output: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a step for so many tasks."""
        command = [*self._program, str(count), *self._options, "--step", step]
        return subprocess.Popen(command, env=self._environment, stdout=output, stderr=output, text=True)

    def run(self, step: str, count: int) -> dict[str, Any]:
        """What a step prints."""
        process = self.start(step, count)
        try:
            output, errors = process.communicate(timeout=STEP_TIMEOUT)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"{self.name} {step} ended with {process.returncode}: {errors[-2000:]}")
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer


class Server:
    """The server that the engines use."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def clear(self) -> None:
        """Forget everything."""
        self._client.flushall()

    def counts(self) -> Counts:
        """What it has done so far: commands, those of scripts included; reads from clients; microseconds of processor
        time; bytes that came and went."""
        info = self._client.info()
        return {
            "commands": info["total_commands_processed"],
            "reads": info["total_reads_processed"],
            "server_cpu": 1e6 * (info["used_cpu_user"] + info["used_cpu_sys"]),
            "received": info["total_net_input_bytes"],
            "sent": info["total_net_output_bytes"],
        }

    def each(self, before: Counts, tasks: int) -> Counts:
        """What it has done since, for each of so many tasks."""
        return {name: (after - before[name]) / tasks for name, after in self.counts().items()}


def measure(engine: Engine, server: Server, tasks: int) -> dict[str, float]:
    """The figures of all steps."""
    server.clear()
    before = server.counts()
    figures = {"submit": SUBMITS / engine.run("submit", SUBMITS)["seconds"]}
    figures["submit_server_cpu"] = server.each(before, SUBMITS)["server_cpu"]
    figures |= measure_drain(engine, server, tasks)
    server.clear()
    return figures | (measure_latency(engine) if engine.can("latency") else {})


def measure_drain(engine: Engine, server: Server, tasks: int) -> dict[str, float]:
    """The figures of submitting many and draining them."""
    server.clear()
    figures = {}
    before = server.counts()
    if engine.can("submit_many"):
        figures["many"] = tasks / engine.run("submit_many", tasks)["seconds"]
        submitted = server.each(before, tasks)
        figures |= {f"many_{name}": submitted[name] for name in ("server_cpu", "received", "sent")}
    else:
        engine.run("submit", tasks)
    before = server.counts()
    drained = engine.run("drain", tasks)
    figures |= server.each(before, tasks)
    figures |= {"drain": tasks / drained["seconds"], "cpu": 1e6 * drained["cpu"] / tasks}
    figures["busy"] = drained["cpu"] / drained["seconds"]
    figures["server_busy"] = figures["server_cpu"] * tasks / 1e6 / drained["seconds"]
    return figures


def measure_latency(engine: Engine) -> dict[str, float]:
    """Quantiles of the round trips, in milliseconds."""
    worker = engine.start("serve", 0, output=subprocess.DEVNULL)  # nobody reads what it prints
    try:
        seconds = sorted(engine.run("latency", ROUND_TRIPS)["each"])
    finally:
        worker.kill()
        worker.wait()
    return {"p50": 1e3 * seconds[len(seconds) // 2], "p99": 1e3 * seconds[len(seconds) * 99 // 100]}


async def take_step(module: Any, url: str, count: int, step: str, slots: int, seconds: float) -> dict[str, Any]:
    """One step of a module, in this process."""
    if step == "serve":
        await module.serve(url)
    if step == "latency":
        return {"each": await module.latency(url, count)}
    if step == "drain":
        return dict(await module.drain(url, count, slots, seconds))
    return dict(await getattr(module, step)(url, count))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("url")
    parser.add_argument("tasks", type=int)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--drain-only", action="store_true")
    parser.add_argument("--modules", default="")
    parser.add_argument("--step")
    given = parser.parse_args()
    if given.step is not None:
        module = import_module(given.engine)
        step = take_step(module, given.url, given.tasks, given.step, given.slots, given.wait / 1000)
        print(json.dumps(asyncio.run(step)), flush=True)
        os._exit(0)  # what an engine leaves behind is not to be measured
    engine = Engine(given.engine, given.url, given.slots, given.wait, given.modules)
    kind = measure_drain if given.drain_only else measure
    print(json.dumps(kind(engine, Server(given.url), given.tasks)))


if __name__ == "__main__":
    main()
