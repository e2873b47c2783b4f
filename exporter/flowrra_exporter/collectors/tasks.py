"""What became of the tasks, by name: counters, gauges and histograms from `get_task_stats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowrra_exporter import catalog
from flowrra_exporter.collectors.base import ManagementCollector, distribution, number, section, timestamp
from flowrra_exporter.pacing import Pacer
from flowrra_exporter.samples import Family, Labels

_FIGURES = {
    "submitted": catalog.TASKS_SUBMITTED,
    "started": catalog.TASKS_STARTED,
    "succeeded": catalog.TASKS_SUCCEEDED,
    "failed": catalog.TASKS_FAILED,
    "retried": catalog.TASKS_RETRIED,
    "cancelled": catalog.TASKS_CANCELLED,
    "released": catalog.TASKS_RELEASED,
    "timed_out": catalog.TASKS_TIMED_OUT,
    "redelivered": catalog.TASKS_REDELIVERED,
    "cancelled_before_start": catalog.TASKS_CANCELLED_BEFORE_START,
    "running": catalog.TASKS_RUNNING,
    "retrying": catalog.TASKS_RETRYING,
}


class TasksCollector(ManagementCollector):
    """flowrra_tasks_*, flowrra_task_* and flowrra_tasks_registered.

    The figures are plain numbers: they are read in the server's thread, whatever the app's loop is doing.
    """

    name = "tasks"
    method = "get_task_stats"

    async def collect(self) -> Sequence[Family]:
        batch, pacer = _Batch(), Pacer()
        for name, stats in self._management.read("get_task_stats").items():
            batch.add((str(name),), stats)
            await pacer.pause_if_due()
        return batch.families()


class _Batch:
    """The families of one collection, filled task by task."""

    def __init__(self) -> None:
        self.registered = {"io": 0, "cpu": 0}
        self.figures = [(key, Family(metric)) for key, metric in _FIGURES.items()]
        self.exceptions = Family(catalog.TASK_EXCEPTIONS)
        self.oldest_running = Family(catalog.TASK_OLDEST_RUNNING)
        self.run_duration = Family(catalog.TASK_RUN_DURATION)
        self.queue_wait = Family(catalog.TASK_QUEUE_WAIT)

    def add(self, task: Labels, stats: Mapping[str, Any]) -> None:
        executor = str(stats["executor"])
        self.registered[executor] = self.registered.get(executor, 0) + 1
        for key, family in self.figures:
            value = number(stats, key)
            if value is not None:
                family.points.append((task, value))
        exceptions = section(stats, "exceptions") or {}
        for exception in exceptions:
            self.exceptions.points.append(((*task, str(exception)), number(exceptions, exception) or 0))
        started = timestamp(stats, "oldest_running_at")
        if started is not None:
            self.oldest_running.points.append((task, started))
        self._add_histograms(task, stats)

    def _add_histograms(self, task: Labels, stats: Mapping[str, Any]) -> None:
        durations = section(stats, "run_duration") or {}
        for outcome in durations:
            duration = distribution(durations, outcome)
            if duration is not None:
                self.run_duration.points.append(((*task, str(outcome)), duration))
        wait = distribution(stats, "queue_wait")
        if wait is not None:
            self.queue_wait.points.append((task, wait))

    def families(self) -> list[Family]:
        registered = Family(catalog.TASKS_REGISTERED, [((key,), count) for key, count in self.registered.items()])
        figures = [family for _, family in self.figures]
        return [
            registered,
            *figures,
            self.exceptions,
            self.oldest_running,
            self.run_duration,
            self.queue_wait,
        ]
