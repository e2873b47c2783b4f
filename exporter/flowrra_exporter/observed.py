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
_SHARED = (
    *("get_queue_stats", "list_queues", "pause_queue", "resume_queue", "purge_queue", "list_workers"),
    *("pause_task", "resume_task", "cancel_task"),
    *(
        "list_dead_tasks",
        "get_dead_task",
        "requeue_dead_task",
        "requeue_dead_tasks",
        "delete_dead_task",
        "delete_dead_tasks",
    ),
    *("list_schedules", "get_schedule", "list_schedule_runs", "enable_schedule", "disable_schedule"),
)
_OF_SHARED_RESULTS = ("list_failed_tasks", "list_tasks", "count_tasks", "get_task", "watch", "cancel_tasks")
# Without a worker's id they are about this process, which is none.
_OF_A_WORKER = ("resize_workers", "drain_worker", "resume_worker")


class Observed:
    """A manager's answers, as far as all processes would give the same ones.

    Args:
        manager: The manager. Those of its methods that are about what is shared are there.
        results_shared: The results are shared, too, so that what failed can be listed.
    """

    def __init__(self, manager: Any, results_shared: bool) -> None:
        self._manager = manager
        for method in (*_SHARED, *(_OF_SHARED_RESULTS if results_shared else ())):
            if hasattr(manager, method):
                setattr(self, method, getattr(manager, method))
        for method in _OF_A_WORKER:
            if hasattr(manager, method):
                setattr(self, method, _of_named_workers(getattr(manager, method)))
        if results_shared and hasattr(manager, "retry_task") and hasattr(getattr(manager, "app", None), "producer"):
            self.retry_task = self._retry_task
        if hasattr(manager, "get_scheduler_stats"):
            self.get_scheduler_stats = self._scheduler_stats

    async def get_stats(self) -> dict[str, Any]:
        """``tasks`` with ``pending``, how many wait in the broker, or why that isn't known; and what is ``paused``.

        Raises what the manager raises.
        """
        stats = await self._manager.get_stats()
        tasks = section(stats, "tasks") or {}
        return {
            "tasks": {
                "pending": tasks.get("pending"),
                **{key: tasks[key] for key in ("pending_error",) if key in tasks},
            },
            **{key: stats[key] for key in ("paused",) if key in stats},
        }

    async def _retry_task(self, task_id: str) -> str:
        """As the manager's own, through an app that accepts tasks, which the observed one doesn't."""
        async with self._manager.app.producer() as producer:
            new_id: str = await type(self._manager)(producer).retry_task(task_id)
        return new_id

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


def _of_named_workers(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(*, worker: str | None = None, **arguments: Any) -> Any:
        if worker is None:
            raise ValueError("this process observes, and runs no tasks; expected the id of a worker")
        return await method(worker=worker, **arguments)

    return call


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
