"""Runs no-op tasks through an asyncio.Queue, and keeps the records that a task queue keeps: an upper limit for one.

    bare_queue.py TASKS

Every task gets a random id, a record with its state, arguments, times and result, kept in a dict by id, and a future to
wait on. There is nothing else: no priorities, time limits, retries, cancellation, telemetry or events.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

WORKERS = 4


@dataclass(slots=True)
class Record:
    """A task and what became of it."""

    id: str
    status: str
    name: str
    func: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: Any = None


class BareQueue:
    """Runs submitted functions in order of submission."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Record] = asyncio.Queue()
        self._records: dict[str, Record] = {}
        self._waiters: dict[str, asyncio.Future[Record]] = {}

    async def submit(self, func: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> str:
        """Have a function called; returns the id."""
        task_id = str(uuid.uuid4())
        record = Record(task_id, "pending", func.__name__, func, args, kwargs, datetime.now(UTC))
        self._records[task_id] = record
        self._waiters[task_id] = asyncio.get_running_loop().create_future()
        await self._queue.put(record)
        return task_id

    async def work(self) -> None:
        """One worker."""
        while True:
            record = await self._queue.get()
            record.status, record.started_at = "running", datetime.now(UTC)
            record.result = await record.func(*record.args, **record.kwargs)
            record.status, record.finished_at = "success", datetime.now(UTC)
            self._waiters.pop(record.id).set_result(record)

    async def wait_for_result(self, task_id: str) -> Record:
        """The record once it is complete."""
        waiter = self._waiters.get(task_id)
        return self._records[task_id] if waiter is None else await waiter


async def no_op() -> None:
    """Nothing."""


async def measure(tasks: int) -> dict[str, float]:
    queue = BareQueue()
    workers = [asyncio.create_task(queue.work()) for _ in range(WORKERS)]
    succeeded = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    ids = [await queue.submit(no_op) for _ in range(tasks)]
    submitted = time.perf_counter()
    for task_id in ids:
        succeeded += (await queue.wait_for_result(task_id)).status == "success"
    ended, cpu = time.perf_counter(), time.process_time() - cpu_started
    for worker in workers:
        worker.cancel()
    assert succeeded == tasks, f"{succeeded} of {tasks} tasks succeeded"
    return {
        "rate": tasks / (ended - started),
        "cpu": cpu,
        "submit": submitted - started,
        "drain": ended - submitted,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1])))))
