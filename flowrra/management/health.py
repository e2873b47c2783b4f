"""Judges whether an app can make progress. Plain numbers: works from any thread, also while the app's loop is
blocked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypedDict

from flowrra.app import Flowrra
from flowrra.executors.base import BaseTaskExecutor

# Seconds: a loop that has not turned for so long is no longer merely busy.
BLOCKED_AFTER = 5.0
# Seconds: a task that has waited for so long while a worker was free is not being taken.
STUCK_AFTER = 5.0


class Component(TypedDict):
    """The state of one part of an app."""

    healthy: bool
    message: str


def check_health(app: Flowrra) -> dict[str, Component | None]:
    """The state of each part of an app; None for a part that it doesn't have."""
    executors = app.executors
    components: dict[str, Component | None] = {
        "app": _check_app(app),
        "io_executor": _check_executor(executors.get("io")),
        "cpu_executor": _check_executor(executors.get("cpu")),
        "scheduler": None,
    }
    brokers = [executor for executor in executors.values() if executor.broker is not None]
    if brokers:
        components["broker"] = _check_brokers(brokers)
    return components


def _check_app(app: Flowrra) -> Component:
    if app.state == "stopped":
        return {"healthy": False, "message": "not running"}
    if app.loop_monitor.is_dead():
        return {"healthy": False, "message": "its event loop ended without stopping the app"}
    blocked = app.loop_monitor.blocked_for()
    if blocked >= BLOCKED_AFTER:
        return {"healthy": False, "message": f"event loop blocked for {blocked:.1f} s"}
    if app.state == "stopping":
        return {"healthy": False, "message": "stopping: running tasks may finish, new ones are refused"}
    return {"healthy": True, "message": "running"}


def _check_executor(executor: BaseTaskExecutor | None) -> Component | None:
    if executor is None:
        return None
    if not executor.is_running:
        return {"healthy": False, "message": executor.state if executor.state == "stopping" else "not running"}
    free = executor.workers - executor.busy_workers
    oldest = executor.oldest_pending_at()
    waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
    if free > 0 and waited > STUCK_AFTER:
        message = f"a task has waited for {waited:.1f} s although {free} of {executor.workers} workers are free"
        return {"healthy": False, "message": message}
    return {"healthy": True, "message": f"running, {executor.busy_workers} of {executor.workers} workers busy"}


def _check_brokers(executors: list[BaseTaskExecutor]) -> Component:
    error = next((error for executor in executors if (error := executor.feed_error()) is not None), None)
    if error is not None:
        return {"healthy": False, "message": f"not readable: {error}"}
    return {"healthy": True, "message": "answering"}
