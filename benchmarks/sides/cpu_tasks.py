"""Runs CPU-bound tasks through flowrra: seconds from the first submission to the last result.

    cpu_tasks.py TASKS NO_OPS

Prints the seconds of the first batch, the processes' start included, of a second one, and of the no-ops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend

sys.path.insert(0, str(Path(__file__).parent))

from processor_work import STEPS, no_op, work

WORKERS = 2

app = Flowrra(Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=WORKERS, max_queue_size=10_000)))
app.task(cpu_bound=True)(work)
app.task(cpu_bound=True)(no_op)


async def seconds_for(count: int, function: Callable[..., Any], *args: Any) -> float:
    started = time.perf_counter()
    ids = [await app.submit(function, *args) for _ in range(count)]
    for task_id in ids:
        assert (await app.wait_for_result(task_id)).is_success
    return time.perf_counter() - started


async def measure(tasks: int, no_ops: int) -> dict[str, float]:
    async with app:
        first = await seconds_for(tasks, work, STEPS)
        return {
            "first": first,
            "work": await seconds_for(tasks, work, STEPS),
            "no_op": await seconds_for(no_ops, no_op),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))))
