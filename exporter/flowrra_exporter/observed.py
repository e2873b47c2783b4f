"""Observer mode: what the Management API says of an app that other processes run, and nothing of this process.

The app isn't started, so it takes no task; its broker and its result backend are asked, and that is all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flowrra_exporter.app.target import describe
from flowrra_exporter.errors import UsageError
from flowrra_exporter.metrics.collector import section

logger = logging.getLogger(__name__)

# How long the first questions may take; then the exporter goes on without the answers.
_FIRST_SECONDS = 3.0
_COMPONENTS = ("broker", "backend")
_SHARED = ("get_queue_stats", "list_workers", "list_schedules")


class Observed:
    """A manager's answers, as far as all processes would give the same ones.

    Args:
        manager: The manager. Those of its methods that are about what is shared are there.
        results_shared: The results are shared, too, so that what failed can be listed.
    """

    def __init__(self, manager: Any, results_shared: bool) -> None:
        self._manager = manager
        for method in (*_SHARED, *(("list_failed_tasks",) if results_shared else ())):
            if hasattr(manager, method):
                setattr(self, method, getattr(manager, method))
        if hasattr(manager, "get_scheduler_stats"):
            self.get_scheduler_stats = self._scheduler_stats

    async def get_stats(self) -> dict[str, Any]:
        """``tasks`` with ``pending``, how many wait in the broker, or why that isn't known.

        Raises what the manager raises.
        """
        tasks = section(await self._manager.get_stats(), "tasks") or {}
        return {
            "tasks": {
                "pending": tasks.get("pending"),
                **{key: tasks[key] for key in ("pending_error",) if key in tasks},
            }
        }

    async def _scheduler_stats(self) -> dict[str, Any] | None:
        """What is in the schedules' store. Whether a scheduler runs is another process's own."""
        stats = await self._manager.get_scheduler_stats()
        return None if stats is None else {key: value for key, value in stats.items() if key != "running"}

    async def health_check(self) -> dict[str, Any]:
        """``healthy``, ``timestamp``, and of the ``components`` broker and backend; raises what the manager raises."""
        health = await self._manager.health_check()
        found = section(health, "components") or {}
        components = {name: section(found, name) for name in _COMPONENTS if name in found}
        healthy = all(component["healthy"] for component in components.values() if component is not None)
        return {"healthy": healthy, "timestamp": health.get("timestamp"), "components": components}


async def observe(manager: Any, app: str) -> Observed:
    """What can be observed of an app. A broker that is away may come later.

    Args:
        manager: The app's manager.
        app: What the app is called in messages.

    Raises:
        UsageError: No other process sees the app's queue.
    """
    if not callable(getattr(manager, "get_queue_stats", None)):
        raise UsageError(f"{app} can't be observed: its Management API has no get_queue_stats()")
    queues, health = await asyncio.gather(_answer(manager.get_queue_stats), _answer(manager.health_check))
    if queues is not None:  # a queue in memory always answers
        _check_shared(queues, app)
    components = section(health or {}, "components") or {}
    return Observed(manager, results_shared=components.get("backend") is not None)


async def _answer(method: Callable[[], Awaitable[Any]]) -> Any:
    """What the method answers; None if that's nothing within a few seconds."""
    try:
        async with asyncio.timeout(_FIRST_SECONDS):
            return await method()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the broker, it may come later
        logger.warning("no answer yet: %s", describe(error))
        return None


def _check_shared(queues: Mapping[str, Any], app: str) -> None:
    found = [figures for kind in queues if (figures := section(queues, kind)) is not None]
    if not found:
        raise UsageError(f"{app} can't be observed: it has no task, and so no queue; import the modules with its tasks")
    if not any(figures.get("shared") for figures in found):
        raise UsageError(
            f"{app} can't be observed: its queue is in its own memory, which no other process sees; "
            "expected a broker, as in Config(broker=BrokerConfig(url='redis://localhost:6379/0'))"
        )
