"""The processes that take tasks from the broker: from ``list_workers``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector
from flowrra_exporter.metrics.samples import Family


class WorkersCollector(ManagementCollector):
    """flowrra_worker_processes."""

    name = "workers"
    shared = True
    method = "list_workers"

    async def collect(self) -> Sequence[Family]:
        workers = await self._management.ask("list_workers")
        return [Family(catalog.WORKER_PROCESSES, [((), len(workers))])]
