"""When a task last failed for good: from ``list_failed_tasks``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector
from flowrra_exporter.metrics.samples import Family


class FailuresCollector(ManagementCollector):
    """flowrra_last_failure_timestamp_seconds. Absent while none has failed."""

    name = "failures"
    shared = True
    method = "list_failed_tasks"

    async def collect(self) -> Sequence[Family]:
        family = Family(catalog.LAST_FAILURE)
        for task in await self._management.ask("list_failed_tasks", limit=1):
            family.points.append(((), task["finished_at"].timestamp()))
        return [family]
