"""What a scheduler did, in numbers."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

LAG_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
RESULTS = ("submitted", "missed", "collapsed", "skipped", "failed")


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

    def all(self) -> dict[str, Any]:
        """The figures of ``FlowrraManager.get_schedule_run_stats``."""
        return {
            "runs": {name: counts.copy() for name, counts in self._runs.copy().items()},
            "lag": {"bounds": LAG_BOUNDS, "counts": tuple(self._lag), "sum": self._lag_sum},
            "store_errors": self.store_errors.copy(),
        }
