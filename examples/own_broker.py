"""A broker of one's own: waiting tasks in a SQLite file, shared by the processes of one machine.

A task is taken for good: one that runs in a process which is killed is lost. See docs/redis.md for a broker that lends
tasks instead.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import time
from pathlib import Path

from flowrra import Task
from flowrra.brokers import BaseBroker

LOOK_EVERY = 0.05  # seconds
TAKE = "DELETE FROM queue WHERE id = (SELECT id FROM queue ORDER BY priority, id LIMIT 1) RETURNING task"


class SQLiteBroker(BaseBroker):
    """A queue in a file, by priority, and in order of arrival within one.

    Args:
        path: The file; it is made if it isn't there.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._run("CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, priority REAL, task TEXT)")

    def _run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    async def push(self, task: Task) -> None:
        """Add a task."""
        text = json.dumps(dataclasses.asdict(task))
        await asyncio.to_thread(self._run, "INSERT INTO queue (priority, task) VALUES (?, ?)", task.priority, text)

    async def pop(self, timeout: float | None = None) -> Task | None:
        """Take the next task; None if there was none for ``timeout`` seconds."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            taken = await asyncio.to_thread(self._run, TAKE)
            if taken:
                fields = json.loads(str(taken[0][0]))
                return Task(**{**fields, "args": tuple(fields["args"])})
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(LOOK_EVERY)

    async def size(self) -> int:
        """How many tasks wait."""
        ((count,),) = await asyncio.to_thread(self._run, "SELECT count(*) FROM queue")
        return int(str(count))
