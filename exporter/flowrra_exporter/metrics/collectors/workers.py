"""The processes that take tasks from the broker, and their slots: from ``list_workers``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector, number, section
from flowrra_exporter.metrics.samples import Family, Number


class WorkersCollector(ManagementCollector):
    """flowrra_worker_processes, flowrra_worker_slots, flowrra_worker_busy_slots."""

    name = "workers"
    shared = True
    method = "list_workers"

    async def collect(self) -> Sequence[Family]:
        workers = await self._management.ask("list_workers")
        taking = [worker for worker in workers if not worker.get("draining")]
        return [
            Family(catalog.WORKER_PROCESSES, [((), len(workers))]),
            Family(catalog.WORKER_SLOTS, [*_added_up(taking, "slots")]),
            Family(catalog.WORKER_BUSY_SLOTS, [*_added_up(taking, "busy")]),
        ]


def _added_up(workers: Iterable[Mapping[str, Any]], figure: str) -> Iterable[tuple[tuple[str, ...], Number]]:
    """A figure of the workers' executors, by executor."""
    found: dict[str, Number] = {}
    for worker in workers:
        executors = section(worker, "executors") or {}
        for executor in executors:
            value = number(section(executors, executor) or {}, figure)
            if value is not None:
                found[str(executor)] = found.get(str(executor), 0) + value
    return (((executor,), value) for executor, value in found.items())
