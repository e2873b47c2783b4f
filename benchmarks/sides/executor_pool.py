"""The same work through concurrent.futures.ProcessPoolExecutor, as an asyncio program would use it, with spawned
processes as well: no records, priorities, retries, time limits, cancellation or telemetry.

    executor_pool.py TASKS NO_OPS

Prints what cpu_tasks.py prints.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from processor_work import STEPS, no_op, work

WORKERS = 2


async def seconds_for(pool: ProcessPoolExecutor, count: int, function: Callable[..., Any], *args: Any) -> float:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    await asyncio.gather(*(loop.run_in_executor(pool, function, *args) for _ in range(count)))
    return time.perf_counter() - started


async def measure(tasks: int, no_ops: int) -> dict[str, float]:
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        first = await seconds_for(pool, tasks, work, STEPS)
        return {
            "first": first,
            "work": await seconds_for(pool, tasks, work, STEPS),
            "no_op": await seconds_for(pool, no_ops, no_op),
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), int(sys.argv[2])))))
