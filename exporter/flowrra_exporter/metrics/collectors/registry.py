"""How many task functions are registered, from ``list_registered_tasks``, for managers without ``get_task_stats``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector
from flowrra_exporter.metrics.samples import Family


class RegistryCollector(ManagementCollector):
    """flowrra_tasks_registered."""

    name = "registry"
    method = "list_registered_tasks"

    @classmethod
    def available(cls, management: Management) -> bool:
        return super().available(management) and not management.has("get_task_stats")

    async def collect(self) -> Sequence[Family]:
        counts = {"io": 0, "cpu": 0}
        for task in await self._management.ask("list_registered_tasks"):
            counts["cpu" if task["cpu_bound"] else "io"] += 1
        return [Family(catalog.TASKS_REGISTERED, [((executor,), count) for executor, count in counts.items()])]
