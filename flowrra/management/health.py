"""Judges whether an app can make progress. The app and its executors are judged by plain numbers, readable from any
thread; the servers that it needs are asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from flowrra.app import Flowrra
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.brokers.base import BaseBroker
from flowrra.executors.base import BaseTaskExecutor
from flowrra.management.answers import Component, Health
from flowrra.scheduler.scheduler import Scheduler

# Seconds: a loop that has not turned for so long is no longer merely busy.
BLOCKED_AFTER = 5.0
# Seconds: a task that has waited for so long while a worker was free is not being taken.
STUCK_AFTER = 5.0
# Seconds that a server may take to answer; less than whoever asks for the health is likely to wait.
PING_TIMEOUT = 0.5

Figure = TypeVar("Figure")


async def in_time(asking: Coroutine[Any, Any, Figure]) -> tuple[Figure | None, str]:
    """The figure that a server tells; or None, and why it doesn't."""
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            return await asking, ""
    except TimeoutError:
        return None, f"no answer within {PING_TIMEOUT} s"
    except Exception as error:  # noqa: BLE001 - a broker may be a user's own; whatever it raises is the answer
        return None, str(error) or type(error).__name__


async def health(app: Flowrra) -> Health:
    """Whether the app can make progress."""
    components = await _check_components(app)
    return {
        "healthy": all(component["healthy"] for component in components.values() if component is not None),
        "degraded": any("degraded" in component for component in components.values() if component is not None),
        "timestamp": datetime.now(UTC),
        "components": components,
    }


async def _check_components(app: Flowrra) -> dict[str, Component | None]:
    """The state of each part of an app; None for a part that it doesn't have.

    ``broker`` and ``backend`` are there if they are configured and not in memory.
    """
    executors = app.executors
    components: dict[str, Component | None] = {
        "app": _check_app(app),
        "io_executor": _check_executor(executors.get("io")),
        "cpu_executor": _check_executor(executors.get("cpu")),
        "scheduler": _check_scheduler(app.scheduler),
    }
    brokers = [executor.broker for executor in executors.values() if executor.broker is not None]
    servers: dict[str, BaseBroker | BaseResultBackend] = {}
    if brokers:
        components["broker"] = _check_feeding(list(executors.values()))
        if components["broker"] is None:
            servers["broker"] = brokers[0]
    if app.config.backend is not None and type(app.results) is not InMemoryBackend:
        servers["backend"] = app.results
    # At once: whoever asks waits for one of them that hangs, not for both.
    answers = await asyncio.gather(*map(_check_server, servers.values()))
    answered = dict(zip(servers, answers, strict=True))
    if "broker" in answered:
        answered["broker"] = await _judge_fitness(app, answered["broker"])
    return components | answered


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
    if not executor.has_begun:
        return {"healthy": False, "message": "starting: tasks are accepted, and none runs before the app has started"}
    if not executor.takes_tasks:
        return {"healthy": True, "message": "running, leaves its tasks to other processes"}
    if executor.is_draining:
        return {"healthy": True, "message": f"draining by request, {executor.busy_workers} attempts still run"}
    free = executor.workers - executor.busy_workers
    oldest = executor.oldest_pending_at()
    waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
    if free > 0 and waited > STUCK_AFTER:
        message = f"a task has waited for {waited:.1f} s although {free} of {executor.workers} workers are free"
        return {"healthy": False, "message": message}
    if hanging := executor.hanging():
        message = f"degraded: tasks wait, and all {executor.workers} workers are in tasks that hang: "
        return {"healthy": True, "message": message + ", ".join(map(str, hanging)), "degraded": True}
    return {"healthy": True, "message": f"running, {executor.busy_workers} of {executor.workers} workers busy"}


def _check_scheduler(scheduler: Scheduler | None) -> Component | None:
    if scheduler is None:
        return None
    if not scheduler.is_running:
        return {"healthy": False, "message": "not running"}
    late = 0.0 if scheduler.expected_at is None else time.monotonic() - scheduler.expected_at
    if late > 0:
        return {"healthy": False, "message": f"its loop hangs: it should have turned {late:.0f} s ago"}
    if scheduler.store_error is not None:
        return {"healthy": False, "message": f"its store is not usable: {scheduler.store_error}"}
    return {"healthy": True, "message": "running"}


def _check_feeding(executors: list[BaseTaskExecutor]) -> Component | None:
    """What keeps executors from their broker; None if nothing does."""
    error = next((error for executor in executors if (error := executor.source.error) is not None), None)
    return None if error is None else {"healthy": False, "message": f"not usable: {error}"}


async def _judge_fitness(app: Flowrra, broker: Component) -> Component:
    """The broker's state, with what makes its server unfit: that is a warning, as tasks run all the same."""
    if not broker["healthy"]:
        return broker
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            reasons = await app.broker_fitness.reasons()
    except TimeoutError:  # it looks again by itself, and says so
        return broker
    unfit = [text for text in reasons.values() if text]
    return {**broker, "message": f"{broker['message']}, but unfit for tasks: {'; '.join(unfit)}"} if unfit else broker


async def _check_server(server: BaseBroker | BaseResultBackend) -> Component:
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await server.ping()
    except TimeoutError:
        return {"healthy": False, "message": f"no answer within {PING_TIMEOUT} s"}
    except Exception as error:  # noqa: BLE001 - a broker may be a user's own; whatever it raises is the answer
        return {"healthy": False, "message": f"not reachable: {error}"}
    return {"healthy": True, "message": "answering"}
