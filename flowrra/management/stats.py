"""The app at a glance, and how it fares in this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast

from flowrra import loop_monitor
from flowrra.app import Flowrra
from flowrra.backends.base import BaseResultBackend
from flowrra.brokers.base import LeasingBroker
from flowrra.executors.base import BaseTaskExecutor
from flowrra.executors.sources.base import Pauses
from flowrra.executors.workers import wall_clock
from flowrra.management.answers import (
    AbandonedTasks,
    ExecutorStats,
    PausedWork,
    RuntimeStats,
    Stall,
    Stats,
    TaskCounts,
    TaskStats,
)
from flowrra.management.health import in_time
from flowrra.management.queues import leasing_brokers
from flowrra.management.schedules import scheduler_summary
from flowrra.task_history import NAMES_IN_ONE_GO


async def stats(app: Flowrra) -> Stats:
    """The app at a glance; what a server doesn't tell in time is None."""
    executors = app.executors
    # Before anything is waited for, so that what is counted here is of one moment.
    io, cpu = _executor_stats(executors.get("io")), _executor_stats(executors.get("cpu"))
    counts, pauses, scheduler = await asyncio.gather(
        asyncio.gather(*(in_time(executor.source.size()) for executor in executors.values())),
        asyncio.gather(*(in_time(executor.source.pauses()) for executor in executors.values())),
        scheduler_summary(app),
    )
    return {
        "app": {"running": app.is_running},
        "executors": {"io": io, "cpu": cpu},
        "tasks": _task_counts(len(app.registry), counts),
        "paused": _paused([found for found, _ in pauses]),
        "scheduler": scheduler,
    }


def _executor_stats(executor: BaseTaskExecutor | None) -> ExecutorStats | None:
    if executor is None:
        return None
    return {
        "running": executor.is_running,
        "workers": executor.workers,
        "busy": executor.busy_workers,
        "waiting": executor.pending_count(),
        "stuck": bool(executor.hanging()),
        "draining": executor.is_draining,
        "queues": _queues_of(executor),
    }


def _queues_of(executor: BaseTaskExecutor) -> list[str] | None:
    if not executor.takes_tasks:
        return []
    queues = executor.source.queues()
    return None if queues is None else list(queues)


def _task_counts(registered: int, counts: Sequence[tuple[int | None, str]]) -> TaskCounts:
    known = [count for count, _ in counts if count is not None]
    if len(known) == len(counts):
        return {"registered": registered, "pending": sum(known)}
    errors = "; ".join(dict.fromkeys(error for _, error in counts if error))
    return {"registered": registered, "pending": None, "pending_error": errors}


def _paused(found: Sequence[Pauses | None]) -> PausedWork | None:
    known = [pauses for pauses in found if pauses is not None]
    if len(known) < len(found):
        return None
    return {
        "queues": sorted({queue for each in known for queue in each.queues}),
        "tasks": sorted({name for each in known for name in each.names}),
    }


def task_stats(app: Flowrra) -> dict[str, TaskStats]:
    """What happened to the tasks of each registered name."""
    oldest: dict[str, datetime] = {}
    for executor in app.executors.values():
        oldest.update(executor.oldest_running_at())
    found: dict[str, TaskStats] = {}
    for name, telemetry in app.telemetry.tasks.copy().items():
        found[name] = cast(TaskStats, telemetry.snapshot(oldest.get(name)))
        if len(found) % NAMES_IN_ONE_GO == 0:
            time.sleep(0)  # releases the interpreter lock; waits for nothing
    return found


def runtime_stats(app: Flowrra) -> RuntimeStats:
    """How the app fares in this process."""
    executors = app.executors
    return {
        "stopping": app.state == "stopping",
        "loop_lag": app.loop_monitor.lag(),
        "stalls": app.loop_monitor.stalls,
        "blocking": _stall(app.loop_monitor.current_stall()),
        "last_stall": _stall(app.loop_monitor.last_stall),
        "stuck": {kind: bool(executor.hanging()) for kind, executor in executors.items()},
        "abandoned_at_stop": {
            kind: cast(AbandonedTasks, executor.lost_at_stop) for kind, executor in executors.items()
        },
        "heartbeat_at": {
            kind: wall_clock(renewed_at)
            for kind, executor in executors.items()
            if (renewed_at := executor.source.renewed_at) is not None
        },
        "worker_restarts": {kind: executor.worker_restarts for kind, executor in executors.items()},
        "broker_errors": {
            **_add_up(executor.broker_errors for executor in executors.values()),
            **_left_out(list(leasing_brokers(app).values())),
        },
        "backend_errors": {
            **_add_up(executor.backend_errors for executor in executors.values()),
            **_left_out([app.results]),
        },
        "watchers": app.events.watchers.watchers + app.results.watchers,
        "subscriber_dropped": app.events.dropped,
        "subscriber_errors": app.events.errors,
    }


def _stall(stall: loop_monitor.Stall | None) -> Stall | None:
    return None if stall is None else cast(Stall, stall._asdict())


def _add_up(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for operation, count in counter.copy().items():
            total[operation] = total.get(operation, 0) + count
    return total


def _left_out(sources: Sequence[BaseResultBackend | LeasingBroker]) -> dict[str, int]:
    """What lists left out, as it could not be read; nothing for what is read from no server."""
    kinds = [kind for source in sources for kind in source.set_aside]
    return {"list": sum(kind.count for kind in kinds)} if kinds else {}
