"""Executors and their slots: from ``get_stats``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector, number, section
from flowrra_exporter.metrics.samples import Family

_FIGURES = {
    "running": catalog.EXECUTOR_RUNNING,
    "workers": catalog.EXECUTOR_WORKERS,
    "busy": catalog.EXECUTOR_BUSY_WORKERS,
    "waiting": catalog.EXECUTOR_WAITING_TASKS,
    "stuck": catalog.EXECUTOR_STUCK,
    "draining": catalog.EXECUTOR_DRAINING,
}


# As many as flowrra looks at.
MOST_QUEUES = 1000


class ExecutorsCollector(ManagementCollector):
    """flowrra_executor_running, _workers, _busy_workers, _waiting_tasks, _stuck, _draining, _queue_info.

    One that doesn't exist is absent.
    """

    name = "executors"
    method = "get_stats"

    async def collect(self) -> Sequence[Family]:
        executors = section(await self._management.ask("get_stats"), "executors") or {}
        families = {key: Family(metric) for key, metric in _FIGURES.items()}
        taken_from = Family(catalog.EXECUTOR_QUEUE_INFO)
        for executor in executors:
            figures = section(executors, executor) or {}
            for key, family in families.items():
                value = number(figures, key)
                if value is not None:
                    family.points.append(((str(executor),), value))
            queues = figures.get("queues") or ()
            taken_from.points += [((str(executor), str(queue)), 1) for queue in queues[:MOST_QUEUES]]
        return [*families.values(), taken_from]
