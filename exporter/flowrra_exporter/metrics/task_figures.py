"""The figures of one task name, or of several together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import distribution, number, numbers, section, timestamp
from flowrra_exporter.metrics.samples import Distribution, Number

# The plain figures of a task, by their key in ``get_task_stats``.
FIGURES = {
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
_KEYS = tuple(FIGURES)


@dataclass(slots=True)  # not frozen: that makes one much slower to build, and a scrape builds one a name
class TaskFigures:
    """What ``get_task_stats`` says of a task name; a figure that isn't known is absent. A sum is exact.

    Attributes:
        executor: The executor that runs it.
        numbers: The plain figures in the order of ``FIGURES``, None for one that is absent.
        exceptions: How often each exception class was raised.
        oldest_running_at: When the oldest attempt that runs began, as a Unix time in seconds.
        run_duration: A histogram for each outcome.
        queue_wait: A histogram.
    """

    executor: str
    numbers: tuple[Number | None, ...]
    exceptions: Mapping[str, Number]
    oldest_running_at: float | None
    run_duration: Mapping[str, Distribution]
    queue_wait: Distribution | None

    @property
    def series(self) -> int:
        """How many time series these are now; the exceptions aside."""
        histograms = [*self.run_duration.values(), *([] if self.queue_wait is None else [self.queue_wait])]
        plain = len(self.numbers) - self.numbers.count(None) + (self.oldest_running_at is not None)
        return plain + sum(len(histogram.counts) + 2 for histogram in histograms)

    @property
    def series_at_most(self) -> int:
        """How many they are while one of its tasks runs."""
        return self.series + (self.oldest_running_at is None)

    def __add__(self, other: TaskFigures) -> TaskFigures:
        moments = [at for at in (self.oldest_running_at, other.oldest_running_at) if at is not None]
        waits = [wait for wait in (self.queue_wait, other.queue_wait) if wait is not None]
        return TaskFigures(
            self.executor,
            tuple(map(_sum, self.numbers, other.numbers)),
            _add_up(self.exceptions, other.exceptions),
            min(moments, default=None),
            {
                outcome: _merge([each[outcome] for each in (self.run_duration, other.run_duration) if outcome in each])
                for outcome in {**self.run_duration, **other.run_duration}
            },
            _merge(waits) if waits else None,
        )


def read_stats(stats: Mapping[str, Any]) -> TaskFigures:
    """The figures of one task name as the Management API gives them.

    Raises:
        KeyError, TypeError, ValueError: They are nonsense.
    """
    exceptions = section(stats, "exceptions") or {}
    durations = section(stats, "run_duration") or {}
    return TaskFigures(
        str(stats["executor"]),
        numbers(stats, _KEYS),
        {str(exception): number(exceptions, exception) or 0 for exception in exceptions},
        timestamp(stats, "oldest_running_at"),
        {str(outcome): each for outcome in durations if (each := distribution(durations, outcome)) is not None},
        distribution(stats, "queue_wait"),
    )


def _sum(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _add_up(one: Mapping[str, Number], other: Mapping[str, Number]) -> dict[str, Number]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _merge(histograms: list[Distribution]) -> Distribution:
    """One histogram of all observations. ValueError if their bounds differ."""
    bounds = {histogram.bounds for histogram in histograms}
    if len(bounds) != 1:
        raise ValueError(f"histograms with different bounds can't be added up: {sorted(bounds)}")
    counts = tuple(map(sum, zip(*(histogram.counts for histogram in histograms), strict=True)))
    return Distribution(histograms[0].bounds, counts, sum(histogram.sum for histogram in histograms))
