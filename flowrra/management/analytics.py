"""What happened within the last minutes, from what is counted now and what was counted then. Plain numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from flowrra.app import Flowrra
from flowrra.arguments import check_id
from flowrra.exceptions import TaskNotFoundError
from flowrra.management.answers import Quantiles, RankedTask, TaskWindowStats, ThroughputPoint
from flowrra.management.tasks import check_limit
from flowrra.ranges import Range
from flowrra.task_history import NAMES_IN_ONE_GO, STEP, Snapshot, TaskHistory
from flowrra.telemetry import Activity, TaskTelemetry, ended

WINDOW = Range(1, 3600, unit="seconds")
POINTS = Range(1, 360, is_whole=True)


def window_stats(app: Flowrra, window: float) -> dict[str, TaskWindowStats]:
    """What happened to the tasks of each registered name within so many seconds."""
    WINDOW.check("window", window)
    history = app.task_history
    now = history.clock()
    then = history.before(now - window) or Snapshot(now, {})
    found: dict[str, TaskWindowStats] = {}
    for name, telemetry in app.telemetry.tasks.copy().items():
        activity = telemetry.activity_since(then.tallies.get(telemetry))
        found[name] = _window_stats(telemetry, activity, now - then.at)
        if len(found) % NAMES_IN_ONE_GO == 0:
            time.sleep(0)  # releases the interpreter lock; waits for nothing
    return found


def _window_stats(telemetry: TaskTelemetry, activity: Activity, seconds: float) -> TaskWindowStats:
    ended = activity.succeeded + activity.failed
    return {
        "executor": telemetry.executor,
        "window": seconds,
        "started": activity.started,
        "finished": activity.finished,
        "succeeded": activity.succeeded,
        "failed": activity.failed,
        "retried": activity.retried,
        "cancelled": activity.cancelled,
        "rate": activity.finished / seconds if seconds else 0.0,
        "failure_ratio": activity.failed / ended if ended else None,
        "run_duration": _quantiles(telemetry.run_bounds, activity.run_counts),
        "queue_wait": _quantiles(telemetry.wait_bounds, activity.wait_counts),
    }


def _quantiles(bounds: Sequence[float], counts: Sequence[int]) -> Quantiles:
    return {
        "p50": quantile(0.50, bounds, counts),
        "p95": quantile(0.95, bounds, counts),
        "p99": quantile(0.99, bounds, counts),
    }


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value that a share of all observations doesn't exceed, interpolated within its bucket.

    As Prometheus does it: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile.

    Args:
        share: More than 0, at most 1.
        bounds: Upper bounds of the buckets, ascending.
        counts: Observations in each bucket; the last count is for those above all bounds.

    Returns:
        The value; the highest bound if it lies above that, None without observations.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0
    for (lower, upper), count in zip(pairwise((0.0, *bounds)), counts, strict=False):
        if below + count >= rank:
            return min(upper, lower + (upper - lower) * (rank - below) / count)
        below += count
    return bounds[-1]


# ── names by what hurts ─────────────────────────────────────────────────────────────────────────────────────────


def slowest_tasks(app: Flowrra, limit: int, window: float) -> list[RankedTask]:
    """The names whose attempts took the longest, by the 95th percentile."""
    check_limit(limit)
    ran = [(figures["run_duration"]["p95"], name, figures) for name, figures in window_stats(app, window).items()]
    slowest = sorted(((p95, name, figures) for p95, name, figures in ran if p95 is not None), key=lambda each: -each[0])
    return [{**figures, "task_name": name} for _, name, figures in slowest[:limit]]


def failing_tasks(app: Flowrra, limit: int, window: float) -> list[RankedTask]:
    """The names of which the most attempts failed, for good first, then with another one to follow."""
    check_limit(limit)
    ran: list[RankedTask] = [{**figures, "task_name": name} for name, figures in window_stats(app, window).items()]
    failing = [each for each in ran if each["failed"] or each["retried"]]
    return sorted(failing, key=lambda each: (each["failed"], each["retried"]), reverse=True)[:limit]


# ── over time ───────────────────────────────────────────────────────────────────────────────────────────────────


def throughput(app: Flowrra, window: float, points: int, task_name: str | None) -> list[ThroughputPoint]:
    """What happened within so many seconds, to the tasks of one name or of all, in periods."""
    WINDOW.check("window", window)
    POINTS.check("points", points)
    if task_name is not None:
        check_id("task_name", task_name)
    named = None if task_name is None else app.telemetry.tasks.get(task_name)
    if task_name is not None and named is None:
        raise TaskNotFoundError(task_name)
    history = app.task_history
    now = history.now()
    # Once for all periods: they follow each other, however long this takes.
    present = datetime.now(UTC) - timedelta(seconds=history.clock() - now.at)
    found: list[ThroughputPoint] = []
    for begin, end in pairwise([*_boundaries(history, now.at, window, points), now]):
        before, after, seconds = _ended(begin, named), _ended(end, named), end.at - begin.at
        finished, failed, retried = ((later - earlier) / seconds for earlier, later in zip(before, after, strict=True))
        at = present - timedelta(seconds=now.at - end.at)
        found.append({"at": at, "seconds": seconds, "finished": finished, "failed": failed, "retried": retried})
    return found


def _boundaries(history: TaskHistory, now: float, window: float, points: int) -> list[Snapshot]:
    """Where the periods begin: none is shorter than the time between two snapshots."""
    count = min(points, max(1, int(window // STEP)))
    found = (history.before(now - window * left / count) for left in range(count, 0, -1))
    return list({snapshot.at: snapshot for snapshot in found if snapshot is not None and snapshot.at < now}.values())


def _ended(snapshot: Snapshot, named: TaskTelemetry | None) -> tuple[int, int, int]:
    """How many attempts had finished, failed and were retried, of one name or of all."""
    tallies = snapshot.tallies
    if named is not None:
        return ended(tallies[named]) if named in tallies else (0, 0, 0)
    counted = list(map(ended, tallies.values()))
    return sum(each[0] for each in counted), sum(each[1] for each in counted), sum(each[2] for each in counted)
