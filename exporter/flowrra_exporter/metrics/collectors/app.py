"""Whether the app runs, how much waits, and which versions run: from ``get_stats``."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import Incomplete, ManagementCollector, number, section
from flowrra_exporter.metrics.samples import Family


class AppCollector(ManagementCollector):
    """flowrra_build_info, flowrra_app_running, flowrra_tasks_pending."""

    name = "app"
    shared = True
    method = "get_stats"

    async def collect(self) -> Sequence[Family]:
        stats = await self._management.ask("get_stats")
        families = [self._build_info()]
        running = number(section(stats, "app") or {}, "running")
        if running is not None:
            families.append(Family(catalog.APP_RUNNING, [((), running)]))
        tasks = section(stats, "tasks") or {}
        pending = number(tasks, "pending")
        if pending or (pending is not None and self._counts_pending_in_memory()):
            families.append(Family(catalog.TASKS_PENDING, [((), pending)]))
        if tasks.get("pending_error"):
            raise Incomplete(f"pending tasks: {tasks['pending_error']}", [*families])
        return families

    def _counts_pending_in_memory(self) -> bool:
        """Whether a 0 says anything: flowrra 0.1.8, without ``get_queue_stats``, says it whatever waits in memory."""
        return self._management.has("get_queue_stats")

    def _build_info(self) -> Family:
        version = self._management.flowrra_version
        points = [] if version is None else [((version, platform.python_version()), 1)]
        return Family(catalog.BUILD_INFO, list(points))
