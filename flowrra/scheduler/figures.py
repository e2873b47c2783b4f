"""What a scheduler did, in numbers."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from typing import Any, TypedDict

from flowrra.telemetry import Histogram

LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
RESULTS = ("submitted", "missed", "collapsed", "skipped", "failed")


class SchedulerStats(TypedDict):
    """Schedules of a store, which all processes that share it see alike.

    Attributes:
        running: Whether this process's scheduler runs.
        check_interval: Seconds after which it notices what other processes changed.
        total_schedules: How many schedules there are.
        enabled_schedules: Those that are submitted when they are due.
        disabled_schedules: Those that are not.
        overdue_schedules: Enabled ones that are due and that no scheduler has taken yet, of the tasks that this process
            knows; in one without tasks, of all.
        broken_schedules: Those that can't run: their rows can't be read, or this process doesn't know their tasks.
        next_run_at: When the next one of these tasks is due, aware, in the server's zone; None if none is.
        timezone: The zone that cron expressions are read in; None is the server's.
        store: Where the schedules are: host, port and database, or host and path of a file, without user and password;
            empty in memory. Of one store all processes tell the same figures, but for what depends on their tasks.
    """

    running: bool
    check_interval: float
    total_schedules: int
    enabled_schedules: int
    disabled_schedules: int
    overdue_schedules: int
    broken_schedules: int
    next_run_at: datetime | None
    timezone: str | None
    store: str


class ScheduleRunStats(TypedDict):
    """What the scheduler of this process did since it was made.

    Attributes:
        running: Whether it runs.
        runs: Due times by task name, and for each by what became of them: ``submitted``, ``missed`` (too late by the
            schedule's grace), ``collapsed`` (made up for by a later one), ``skipped`` (as many tasks as may run had not
            ended) and ``failed`` (it could not be submitted in time).
        lag: How long after their due times runs were submitted, in seconds.
        store_errors: How often the store failed, by operation: ``claim`` and ``settle``.
    """

    running: bool
    runs: dict[str, dict[str, int]]
    lag: Histogram
    store_errors: dict[str, int]


class ScheduleRun(TypedDict):
    """One due time of a schedule, or one time that it was triggered.

    Attributes:
        schedule_id: The schedule's id.
        task_id: The id of its task.
        due: When it was due, aware UTC.
        fired: When it was submitted, aware UTC; None unless it was.
        lag: Seconds from ``due`` to ``fired``, never negative; None unless it was submitted.
        result: ``claimed`` while it is being submitted, then ``submitted``, ``missed``, ``skipped`` or ``failed``.
        attempts: How often a scheduler took it up to submit it.
        error: The type and text of the latest error of its submission, or None.
    """

    schedule_id: str
    task_id: str
    due: datetime
    fired: datetime | None
    lag: float | None
    result: str
    attempts: int
    error: str | None


class RunFigures:
    """Due times by task and by what became of them, how late they were submitted, and what failed at the store.

    Attributes:
        store_errors: How many operations on the store failed, by operation.
    """

    def __init__(self) -> None:
        self.store_errors = {"claim": 0, "settle": 0}
        self._runs: dict[str, dict[str, int]] = {}
        self._lag = [0] * (len(LAG_BOUNDS) + 1)
        self._lag_sum = 0.0

    def know(self, task_name: str) -> None:
        """Count a task from 0 on."""
        self._runs.setdefault(task_name, dict.fromkeys(RESULTS, 0))

    def count(self, task_name: str, result: str, count: int = 1) -> None:
        """Count due times that were dealt with."""
        self.know(task_name)
        self._runs[task_name][result] += count

    def observe(self, task_name: str, lag: float) -> None:
        """Count a run that was submitted, so many seconds after it was due."""
        lag = max(0.0, lag)
        self._lag[bisect_left(LAG_BOUNDS, lag)] += 1
        self._lag_sum += lag
        self.count(task_name, "submitted")

    def all(self, is_running: bool) -> ScheduleRunStats:
        """The figures of ``FlowrraManager.get_schedule_run_stats``."""
        return {
            "running": is_running,
            "runs": {name: counts.copy() for name, counts in self._runs.copy().items()},
            "lag": {"bounds": LAG_BOUNDS, "counts": tuple(self._lag), "sum": self._lag_sum},
            "store_errors": self.store_errors.copy(),
        }


def listed_run(row: dict[str, Any]) -> ScheduleRun:
    """A row of ``BaseSchedulerBackend.list_runs`` as it is shown."""
    due, fired = _instant(row["due"]), None if row["fired"] is None else _instant(row["fired"])
    return {
        "schedule_id": row["schedule_id"],
        "task_id": row["id"],
        "due": due,
        "fired": fired,
        "lag": None if fired is None else max(0.0, (fired - due).total_seconds()),
        "result": row["result"],
        "attempts": row["attempts"],
        "error": row["error"],
    }


def _instant(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1_000_000, UTC)
