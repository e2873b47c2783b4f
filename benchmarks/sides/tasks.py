"""Runs no-op tasks through whichever flowrra is installed: submits a batch, waits for every result, then the next.

    tasks.py TASKS BATCH [--subscriber]

Prints tasks a second, processor seconds for all of them, seconds spent on submitting and on the rest, and the events
that a subscriber got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.events import event_bus

WORKERS = 4
# Of every task: pending, running, success.
EVENTS_PER_TASK = 3
EVENTS_DEADLINE = 10.0

received = 0


async def count(_event: dict[str, Any]) -> None:
    """The subscriber."""
    global received
    received += 1


async def all_events(expected: int) -> None:
    """Wait until the subscriber has had its events, or has had the time for it."""
    deadline = time.perf_counter() + EVENTS_DEADLINE
    while received < expected and time.perf_counter() < deadline:
        await asyncio.sleep(0)


async def measure(tasks: int, batch: int, with_subscriber: bool) -> dict[str, float]:
    app = Flowrra(Config(executor=ExecutorConfig(io_workers=WORKERS, max_queue_size=batch)))

    @app.task()
    async def no_op() -> None:
        """Nothing."""

    if with_subscriber:
        event_bus.subscribe(count)
    async with app:
        succeeded, submitting = 0, 0.0
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(tasks // batch):
            batch_started = time.perf_counter()
            ids = [await app.submit(no_op) for _ in range(batch)]
            submitting += time.perf_counter() - batch_started
            for task_id in ids:
                result = await app.wait_for_result(task_id)
                succeeded += result.is_success
        if with_subscriber:
            await all_events(EVENTS_PER_TASK * tasks)
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    assert succeeded == tasks, f"{succeeded} of {tasks} tasks succeeded"
    return {
        "rate": tasks / elapsed,
        "cpu": cpu,
        "submit": submitting,
        "drain": elapsed - submitting,
        "events": received,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("--subscriber", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.tasks, arguments.batch, arguments.subscriber))))
