"""Measures a task queue on Redis: submitting, draining, and one task at a time on an idle system.

    redis_engine.py ENGINE URL TASKS

ENGINE is a module beside this file with these coroutines: ``submit(url, count)`` and, if it can,
``submit_many(url, count)`` submit no-op tasks; ``drain(url, count)`` runs that many, which wait already, in one worker
with ten slots, until all are acknowledged; these return the seconds. ``serve(url)`` is a worker until it is killed.
``latency(url, count)`` submits one task after the other, waits for each result, and returns the seconds of each.

Each step is a process of its own. Prints the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import redis

STEP_TIMEOUT = 120.0
# Round trips one after the other are slow: fewer of them say as much.
SUBMITS = 2_000
ROUND_TRIPS = 500


def run_step(engine: str, url: str, step: str, count: int) -> dict[str, Any]:
    """What a step prints, run in a process of its own."""
    command = [sys.executable, __file__, engine, url, str(count), step]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{engine} {step} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def server_counts(client: redis.Redis) -> tuple[int, int, float]:
    """Commands (those of scripts included), reads from clients, and processor seconds of the server so far."""
    info = client.info()
    return (
        info["total_commands_processed"],
        info["total_reads_processed"],
        info["used_cpu_user"] + info["used_cpu_sys"],
    )


def measure(engine: str, url: str, tasks: int) -> dict[str, float]:
    client = redis.Redis.from_url(url)
    client.flushall()
    figures = {"submit": SUBMITS / run_step(engine, url, "submit", SUBMITS)["seconds"]}
    client.flushall()
    if hasattr(import_module(engine), "submit_many"):
        figures["many"] = tasks / run_step(engine, url, "submit_many", tasks)["seconds"]
    else:
        run_step(engine, url, "submit", tasks)
    before = server_counts(client)
    drained = run_step(engine, url, "drain", tasks)
    counts = [(after - earlier) / tasks for after, earlier in zip(server_counts(client), before, strict=True)]
    figures |= {"drain": tasks / drained["seconds"], "cpu": 1e6 * drained["cpu"] / tasks}
    figures |= {"commands": counts[0], "reads": counts[1], "server_cpu": 1e6 * counts[2]}
    client.flushall()
    if hasattr(import_module(engine), "latency"):
        figures |= measure_latency(engine, url)
    client.close()
    return figures


def measure_latency(engine: str, url: str) -> dict[str, float]:
    worker = subprocess.Popen([sys.executable, __file__, engine, url, "0", "serve"], stderr=subprocess.DEVNULL)
    try:
        seconds = sorted(run_step(engine, url, "latency", ROUND_TRIPS)["each"])
    finally:
        worker.kill()
        worker.wait()
    return {"p50": 1e3 * seconds[len(seconds) // 2], "p99": 1e3 * seconds[len(seconds) * 99 // 100]}


async def take_step(engine: str, url: str, count: int, step: str) -> dict[str, Any]:
    module = import_module(engine)
    if step == "serve":
        await module.serve(url)
    if step == "latency":
        return {"each": await module.latency(url, count)}
    before, started = time.process_time(), time.perf_counter()
    seconds = await getattr(module, step)(url, count)
    return {"seconds": seconds or time.perf_counter() - started, "cpu": time.process_time() - before}


if __name__ == "__main__":
    engine, url, count = sys.argv[1:4]
    if len(sys.argv) > 4:
        print(json.dumps(asyncio.run(take_step(engine, url, int(count), sys.argv[4]))), flush=True)
        os._exit(0)  # what an engine leaves behind is not to be measured
    print(json.dumps(measure(engine, url, int(count))))
