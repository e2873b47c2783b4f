"""What became of the tasks, by name: counters, gauges and histograms from ``get_task_stats``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.metrics.samples import Family, Number
from flowrra_exporter.metrics.series_budget import MAX_EXCEPTIONS, OTHER, SeriesBudget
from flowrra_exporter.metrics.task_figures import FIGURES, TaskFigures, read_stats

DEFAULT_MAX_SERIES = 20_000


class TasksCollector(ManagementCollector):
    """flowrra_tasks_*, flowrra_task_* and flowrra_tasks_registered.

    The figures are plain numbers: they are read in the server's thread, whatever the app's loop is doing.

    Args:
        management: The manager.
        max_series: The bound on the series of all task names together.

    Attributes:
        dropped: The number of series that the names without any of their own would have had, in the last collection.
    """

    name = "tasks"
    method = "get_task_stats"

    def __init__(self, management: Management, max_series: int = DEFAULT_MAX_SERIES) -> None:
        super().__init__(management)
        self.dropped = 0
        self._budget = SeriesBudget(max_series)

    async def collect(self) -> Sequence[Family]:
        batch, pacer = _Batch(self._budget), Pacer()
        for name, stats in self._management.read("get_task_stats").items():
            batch.add(str(name), read_stats(stats))
            await pacer.pause_if_due()
        families = batch.families()
        self.dropped = batch.dropped
        return families


class _Batch:
    """The families of one collection, filled task by task."""

    def __init__(self, budget: SeriesBudget) -> None:
        self._budget = budget
        self._others: TaskFigures | None = None
        self._left_out = 0
        self._registered = {"io": 0, "cpu": 0}
        self._figures = [Family(metric) for metric in FIGURES.values()]
        self._points = [family.points for family in self._figures]
        self._exceptions = Family(catalog.TASK_EXCEPTIONS)
        self._oldest_running = Family(catalog.TASK_OLDEST_RUNNING)
        self._run_duration = Family(catalog.TASK_RUN_DURATION)
        self._queue_wait = Family(catalog.TASK_QUEUE_WAIT)

    def add(self, task: str, figures: TaskFigures) -> None:
        """Adds a task name, with series of its own or among the others."""
        self._registered[figures.executor] = self._registered.get(figures.executor, 0) + 1
        labels = (task,)
        if labels in self._budget or self._budget.admits(labels, figures.series_at_most):
            self._add(task, figures)
            return
        self._left_out += figures.series + len(figures.exceptions)
        self._others = figures if self._others is None else self._others + figures

    @property
    def dropped(self) -> int:
        """The series that were left out, less those of the others together. To be read after ``families``."""
        return self._left_out

    def _add(self, task: str, figures: TaskFigures) -> None:
        labels = (task,)
        for points, value in zip(self._points, figures.numbers, strict=True):
            if value is not None:
                points.append((labels, value))
        if figures.exceptions:
            for exception, count in self._bounded(task, figures.exceptions).items():
                self._exceptions.points.append(((task, exception), count))
        if figures.oldest_running_at is not None:
            self._oldest_running.points.append((labels, figures.oldest_running_at))
        for outcome, duration in figures.run_duration.items():
            self._run_duration.points.append(((task, outcome), duration))
        if figures.queue_wait is not None:
            self._queue_wait.points.append((labels, figures.queue_wait))

    def _bounded(self, task: str, exceptions: Mapping[str, Number]) -> dict[str, Number]:
        """The counts by class, of as many classes as the budget has room for, the first ones that were seen."""
        kept: dict[str, Number] = {}
        for exception, count in exceptions.items():
            has_room = len(kept) < MAX_EXCEPTIONS and self._budget.admits((task, exception), 1)
            name = exception if has_room else OTHER
            self._left_out += not has_room and name in kept
            kept[name] = kept.get(name, 0) + count
        return kept

    def families(self) -> list[Family]:
        """All of them, the others last."""
        if self._others is not None:
            exceptions = {OTHER: sum(self._others.exceptions.values())} if self._others.exceptions else {}
            others = replace(self._others, exceptions=exceptions)
            self._add(OTHER, others)
            self._left_out -= others.series + len(exceptions)
        registered = Family(catalog.TASKS_REGISTERED, [((key,), count) for key, count in self._registered.items()])
        return [
            registered,
            *self._figures,
            self._exceptions,
            self._oldest_running,
            self._run_duration,
            self._queue_wait,
        ]
