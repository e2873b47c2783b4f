"""100,000 enabled schedules in SQLite, in the present and in the published version: what they cost while nothing is
due, and how late tasks are submitted while 100 are due a second. And the next run of rare cron expressions.

    python schedules.py next_run | idle COUNT SECONDS | due COUNT SECONDS

The database is as 0.1.8 writes it; the present version upgrades it in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from flowrra import Flowrra
from flowrra.scheduler import CronExpression

DUE_A_SECOND = 100
TABLE = """
CREATE TABLE scheduled_tasks (
    id TEXT PRIMARY KEY, task_name TEXT NOT NULL, schedule_type TEXT NOT NULL, schedule TEXT NOT NULL,
    args TEXT NOT NULL, kwargs TEXT NOT NULL, enabled INTEGER NOT NULL DEFAULT 1, last_run_at TEXT, next_run_at TEXT,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, description TEXT, max_retries INTEGER NOT NULL DEFAULT 3,
    retry_delay REAL NOT NULL DEFAULT 1.0, priority INTEGER NOT NULL DEFAULT 0
)
"""
INSERT = "INSERT INTO scheduled_tasks VALUES (?, 'note', 'interval', ?, ?, '{}', 1, NULL, ?, ?, ?, NULL, 3, 1.0, 0)"


def rows(count: int, first: float, apart: float) -> Iterator[tuple[str, ...]]:
    """Interval schedules, due one after the other; each tells its task when it was due."""
    now = datetime.now().isoformat()
    for number in range(count):
        due = first + number * apart
        local = datetime.fromtimestamp(due).isoformat()
        yield f"schedule-{number}", str(count / DUE_A_SECOND), json.dumps([due]), local, now, now


def write(path: Path, count: int, first: float, apart: float) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(TABLE)
        connection.execute("CREATE INDEX idx_enabled_next_run ON scheduled_tasks(enabled, next_run_at)")
        connection.executemany(INSERT, rows(count, first, apart))
    connection.close()


async def measure(path: Path, seconds: float, settled_at: float) -> dict[str, float]:
    """Processor time and memory from `settled_at` on, and the lags in that time."""
    app, lags = Flowrra(), []

    @app.task()
    async def note(due: float) -> None:
        lags.append(time.time() - due)

    app.create_scheduler(str(path))
    async with app:
        await asyncio.sleep(max(0.0, settled_at - time.time()))
        lags.clear()
        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        used, passed = time.process_time() - cpu, time.perf_counter() - started
    figures = {
        "cpu": 100 * used / passed,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "runs": len(lags),
    }
    if lags:
        lags.sort()
        figures["p50"], figures["p99"] = (1000 * lags[int(len(lags) * part)] for part in (0.5, 0.99))
    return figures


def scheduled(case: str, count: int, seconds: float) -> dict[str, float]:
    settled_at = time.time() + 20
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        path = Path("schedules.db")  # 0.1.8 makes a relative path of any
        # Idle, the first is due in an hour. Otherwise the first is due when the program has had time to start.
        first, apart = (time.time() + 3600, 0.01) if case == "idle" else (settled_at - 1, 1 / DUE_A_SECOND)
        write(path, count, first, apart)
        return asyncio.run(measure(path, seconds, settled_at))


def next_run() -> dict[str, float]:
    return {
        "yearly": timed("0 0 1 1 *", datetime(2024, 1, 1, 0, 1)),
        "leap_day": timed("0 0 29 2 *", datetime(2024, 2, 29, 0, 1)),
    }


def timed(text: str, after: datetime) -> float:
    """Microseconds of one answer, the best of three, or the time it takes to give up."""
    cron, best = CronExpression(text), float("inf")
    for _ in range(3):
        started = time.perf_counter()
        with contextlib.suppress(ValueError):  # 0.1.8 looks no further than three years
            assert cron.next_run(after) > after + timedelta(days=300)
        best = min(best, time.perf_counter() - started)
    return best * 1e6


if __name__ == "__main__":
    case, *numbers = sys.argv[1:]
    found = next_run() if case == "next_run" else scheduled(case, int(numbers[0]), float(numbers[1]))
    print(json.dumps(found))
