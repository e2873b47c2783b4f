"""Counts what happened to tasks, per registered name: plain numbers, written by one thread, readable from any.

All numbers of a task name lie in one flat list, its cells. The event loop's thread adds to them in place; a reader
copies the whole list in one step that the interpreter lock makes atomic, so that what it reads belongs together:
``running`` is derived from one such copy and can't be off by the attempts that went through meanwhile.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from math import isfinite
from operator import add, sub
from typing import Any, Final, NamedTuple, TypedDict

# Upper bounds, in seconds; a bucket holds what is at most its bound (Prometheus' `le`).
RUN_DURATION_BOUNDS: Final = (
    0.001,
    0.005,
    0.025,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
    600.0,
    3600.0,
)
QUEUE_WAIT_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)

# The names under which exceptions are counted come from user code and must not grow without end.
MAX_EXCEPTION_CLASSES: Final = 20
MAX_EXCEPTION_NAME_LENGTH: Final = 100
OTHER: Final = "__other__"

# Places of the counters in the cells of a task name; the histograms follow them. What was started and what succeeded
# has no counter: each started attempt is observed once in the waiting times, each success once in the run times.
SUBMITTED: Final = 0
FAILED: Final = 1
RETRIED: Final = 2
CANCELLED: Final = 3
RELEASED: Final = 4
TIMED_OUT: Final = 5
REDELIVERED: Final = 6
CANCELLED_BEFORE_START: Final = 7
RETRYING: Final = 8
_COUNTERS: Final = 9

# Places of the counters in a tally; the attempts that ended by duration follow them, then those that began by wait.
_TALLIED: Final = 4


class Histogram(TypedDict):
    """Observations by size, cumulative since the start of the process.

    Attributes:
        bounds: Upper bounds of the buckets in seconds, ascending; each belongs to its bucket, as ``le`` in Prometheus.
        counts: Observations in each bucket, not added up from bucket to bucket; the last count is for those above all
            bounds.
        sum: All observations added up, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Activity(NamedTuple):
    """What happened to the tasks of one name between two tallies.

    Attributes:
        started: Attempts that began.
        finished: Attempts that ended in any way, but for those that were given back to the queue.
        succeeded, failed, retried, cancelled: How they ended.
        run_counts: Of those that succeeded, failed or were retried, how many lie in each bucket of run times.
        wait_counts: Of those that began, how many lie in each bucket of waiting times.
    """

    started: int
    finished: int
    succeeded: int
    failed: int
    retried: int
    cancelled: int
    run_counts: tuple[int, ...]
    wait_counts: tuple[int, ...]


class TaskTelemetry:
    """The numbers of one task name in this process.

    Args:
        executor: Where its attempts run: ``io`` or ``cpu``.
        run_bounds, wait_bounds: Bucket bounds in seconds.

    Attributes:
        run_bounds, wait_bounds: The same.
        longest_run: Seconds that no attempt which has returned or failed took more of; 0 before the first.
    """

    __slots__ = (
        "_error",
        "_error_sum",
        "_success",
        "_success_sum",
        "_wait",
        "_wait_sum",
        "cells",
        "exceptions",
        "executor",
        "longest_run",
        "run_bounds",
        "wait_bounds",
    )

    def __init__(self, executor: str, run_bounds: tuple[float, ...], wait_bounds: tuple[float, ...]) -> None:
        self.executor = executor
        self.run_bounds = run_bounds
        self.wait_bounds = wait_bounds
        # Each histogram takes one cell for every bound, one for what is above, and one for the sum.
        self._success = _COUNTERS
        self._success_sum = self._success + len(run_bounds) + 1
        self._error = self._success_sum + 1
        self._error_sum = self._error + len(run_bounds) + 1
        self._wait = self._error_sum + 1
        self._wait_sum = self._wait + len(wait_bounds) + 1
        self.cells: list[Any] = [0] * (self._wait_sum + 1)
        self.exceptions: dict[str, int] = {}
        self.longest_run = 0.0

    def count_start(self, waited: float) -> None:
        """Count an attempt that starts, and the seconds for which its task, when due, waited for a free worker."""
        cells = self.cells
        cells[self._wait + bisect_left(self.wait_bounds, waited)] += 1
        cells[self._wait_sum] += waited

    def count_success(self, seconds: float) -> None:
        """Count an attempt that returned, and how long it took."""
        cells = self.cells
        cells[self._success + bisect_left(self.run_bounds, seconds)] += 1
        cells[self._success_sum] += seconds
        if seconds > self.longest_run:
            self.longest_run = seconds

    def count_failed(self, seconds: float, exception: str | None, timed_out: bool) -> None:
        """Count an attempt that failed for good: how long it took, the class of its exception, whether that was its
        time limit."""
        self._count_error(FAILED, seconds, exception, timed_out)

    def count_retried(self, seconds: float, exception: str | None, timed_out: bool) -> None:
        """Count an attempt that failed and will be followed by another; see :meth:`count_failed`."""
        self._count_error(RETRIED, seconds, exception, timed_out)

    def _count_error(self, counter: int, seconds: float, exception: str | None, timed_out: bool) -> None:
        # Found first: between the two, nothing is called by which another thread would see one of them counted alone.
        cells, bucket = self.cells, self._error + bisect_left(self.run_bounds, seconds)
        cells[counter] += 1
        cells[bucket] += 1
        cells[self._error_sum] += seconds
        if seconds > self.longest_run:
            self.longest_run = seconds
        cells[TIMED_OUT] += timed_out
        if exception is not None:
            self._count_exception(exception)

    def _count_exception(self, class_name: str) -> None:
        name = class_name[:MAX_EXCEPTION_NAME_LENGTH].encode(errors="replace").decode()
        exceptions = self.exceptions
        if name not in exceptions and len(exceptions) >= MAX_EXCEPTION_CLASSES:
            name = OTHER
        exceptions[name] = exceptions.get(name, 0) + 1

    def count_cancelled(self) -> None:
        """Count an attempt that was cancelled."""
        self.cells[CANCELLED] += 1

    def count_released(self) -> None:
        """Count an attempt that was ended for another process to run the task."""
        self.cells[RELEASED] += 1

    def count_submitted(self) -> None:
        """Count a task that was submitted here."""
        self.cells[SUBMITTED] += 1

    def count_cancelled_before_start(self) -> None:
        """Count a task that was cancelled while it waited, for its first attempt or another one."""
        self.cells[CANCELLED_BEFORE_START] += 1

    def count_redelivered(self) -> None:
        """Count a task that came again, as the worker that had it before was not heard of any more."""
        self.cells[REDELIVERED] += 1

    def count_retry_wait(self, change: int) -> None:
        """Count a task that begins (1) or ends (-1) to wait here for its next attempt."""
        self.cells[RETRYING] += change

    def snapshot(self, oldest_running_at: datetime | None = None) -> dict[str, Any]:
        """The numbers as one consistent picture.

        Returns:
            The counters by name; ``running``, derived from them; ``retrying``; ``oldest_running_at``; ``exceptions``
            by class; and the histograms ``run_duration`` (by outcome, ``success`` and ``error``) and ``queue_wait``.
        """
        cells = self.cells.copy()
        wait = _histogram(cells, self._wait, self.wait_bounds)
        success = _histogram(cells, self._success, self.run_bounds)
        started, succeeded = sum(wait["counts"]), sum(success["counts"])
        running = started - succeeded - cells[FAILED] - cells[RETRIED] - cells[CANCELLED] - cells[RELEASED]
        return {
            "executor": self.executor,
            "submitted": cells[SUBMITTED],
            "started": started,
            "succeeded": succeeded,
            "failed": cells[FAILED],
            "retried": cells[RETRIED],
            "cancelled": cells[CANCELLED],
            "released": cells[RELEASED],
            "timed_out": cells[TIMED_OUT],
            "redelivered": cells[REDELIVERED],
            "cancelled_before_start": cells[CANCELLED_BEFORE_START],
            "running": running,
            "retrying": cells[RETRYING],
            "oldest_running_at": oldest_running_at if running else None,
            "exceptions": self.exceptions.copy(),
            "run_duration": {
                "success": success,
                "error": _histogram(cells, self._error, self.run_bounds),
            },
            "queue_wait": wait,
        }

    def started(self) -> int:
        """How many attempts began."""
        return sum(self.cells[self._wait : self._wait_sum])

    def tally(self) -> array[int]:
        """What a window of time is measured by, in few bytes: finished, failed, retried and cancelled attempts, those
        that ended by duration, and those that began by wait."""
        cells = self.cells.copy()
        successes, errors = cells[self._success : self._success_sum], cells[self._error : self._error_sum]
        runs = list(map(add, successes, errors))
        finished = sum(runs) + cells[CANCELLED]
        waits = cells[self._wait : self._wait_sum]
        return array("Q", (finished, cells[FAILED], cells[RETRIED], cells[CANCELLED], *runs, *waits))

    def activity_since(self, tally: array[int] | None) -> Activity:
        """What happened since a tally was made; since the first task if None."""
        counts = self.tally() if tally is None else array("Q", map(sub, self.tally(), tally))
        finished, failed, retried, cancelled = counts[:_TALLIED]
        waits_begin = _TALLIED + len(self.run_bounds) + 1
        runs, waits = tuple(counts[_TALLIED:waits_begin]), tuple(counts[waits_begin:])
        return Activity(
            started=sum(waits),
            finished=finished,
            succeeded=finished - failed - retried - cancelled,
            failed=failed,
            retried=retried,
            cancelled=cancelled,
            run_counts=runs,
            wait_counts=waits,
        )


def ended(tally: array[int]) -> tuple[int, int, int]:
    """How many attempts finished, failed for good, and were retried, by a tally."""
    return tally[0], tally[1], tally[2]


def _histogram(cells: list[Any], start: int, bounds: tuple[float, ...]) -> Histogram:
    overflow = start + len(bounds)
    return {"bounds": bounds, "counts": tuple(cells[start : overflow + 1]), "sum": float(cells[overflow + 1])}


def check_bounds(bounds: Iterable[float]) -> tuple[float, ...]:
    """Histogram bounds as a tuple of floats.

    Raises:
        ValueError: They are not finite, positive and ascending, or there are none.
    """
    checked = tuple(float(bound) for bound in bounds)
    ascending = all(low < high for low, high in pairwise((0.0, *checked)))
    if not checked or not ascending or not isfinite(checked[-1]):
        raise ValueError(f"Histogram bounds must be finite, positive and ascending seconds, not {checked}")
    return checked


class Telemetry:
    """The numbers of all task names of one app. They last as long as the process, through stops and restarts.

    Args:
        run_bounds, wait_bounds: Bucket bounds of the histograms in seconds, ascending.
    """

    def __init__(
        self,
        run_bounds: tuple[float, ...] = RUN_DURATION_BOUNDS,
        wait_bounds: tuple[float, ...] = QUEUE_WAIT_BOUNDS,
    ) -> None:
        self._run_bounds = check_bounds(run_bounds)
        self._wait_bounds = check_bounds(wait_bounds)
        self.tasks: dict[str, TaskTelemetry] = {}
        # Attempts that began on an executor, of names that another one runs now; below 0 for that one.
        self._begun_before: Counter[str] = Counter()

    def set_bounds(
        self, run_bounds: tuple[float, ...] | None = None, wait_bounds: tuple[float, ...] | None = None
    ) -> None:
        """Use other histogram bounds, in seconds; None leaves them as they are.

        Raises:
            RuntimeError: Something was counted already: it can't be put into other buckets.
            ValueError: They are not finite, positive and ascending.
        """
        if any(any(telemetry.cells) for telemetry in self.tasks.values()):
            raise RuntimeError("Histogram bounds can't change once tasks were submitted; set them before")
        # Both are looked at before either is used.
        run_bounds = self._run_bounds if run_bounds is None else check_bounds(run_bounds)
        wait_bounds = self._wait_bounds if wait_bounds is None else check_bounds(wait_bounds)
        self._run_bounds, self._wait_bounds = run_bounds, wait_bounds
        self.reset()

    def reset(self) -> None:
        """Count from 0."""
        self._begun_before.clear()
        for name, telemetry in self.tasks.items():
            self.tasks[name] = TaskTelemetry(telemetry.executor, self._run_bounds, self._wait_bounds)

    def started_by(self, executor: str) -> int:
        """How many attempts began on an executor, ``io`` or ``cpu``; from any thread."""
        of_its_tasks = sum(each.started() for each in self.tasks.copy().values() if each.executor == executor)
        return of_its_tasks + self._begun_before[executor]

    def register(self, task_name: str, executor: str) -> TaskTelemetry:
        """The numbers of that name, at 0 if it is new."""
        telemetry = self.tasks.get(task_name)
        if telemetry is None:
            telemetry = TaskTelemetry(executor, self._run_bounds, self._wait_bounds)
            self.tasks[task_name] = telemetry
        return telemetry

    def move(self, task_name: str, executor: str) -> None:
        """Count a name for that executor from now on: it was unregistered, and is a task of the other kind now."""
        telemetry = self.register(task_name, executor)
        if telemetry.executor != executor:
            began = telemetry.started()
            self._begun_before[telemetry.executor] += began
            self._begun_before[executor] -= began
            telemetry.executor = executor
