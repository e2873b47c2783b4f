"""Runs tasks of many names through whichever flowrra is installed, and looks at the memory of its process now and then.

    growing.py NAMES STEP TASKS

Prints the resident megabytes by the number of tasks that have run: at the start, and after every STEP tasks. Results
are waited for and not held on to.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from flowrra import Flowrra

BATCH = 500


def resident_megabytes() -> float:
    """What the process has in memory once garbage is collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def register(app: Flowrra, number: int) -> Callable[[int], Awaitable[int]]:
    """A task of its own name."""

    @app.task(name=f"shop.tasks.task_{number}")
    async def double(value: int) -> int:
        return 2 * value

    return double


async def run_batch(app: Flowrra, functions: list[Callable[[int], Awaitable[int]]], first: int) -> None:
    """Submit a batch, one name after the other, and wait for it."""
    numbers = range(first, first + BATCH)
    ids = [await app.submit(functions[number % len(functions)], number) for number in numbers]
    for task_id in ids:
        await app.wait_for_result(task_id)


async def measure(names: int, step: int, tasks: int) -> dict[int, float]:
    app = Flowrra()
    functions = [register(app, number) for number in range(names)]
    async with app:
        megabytes = {0: resident_megabytes()}
        for first in range(0, tasks, BATCH):
            await run_batch(app, functions, first)
            if (first + BATCH) % step == 0:
                megabytes[first + BATCH] = resident_megabytes()
    return megabytes


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(*map(int, sys.argv[1:])))))
