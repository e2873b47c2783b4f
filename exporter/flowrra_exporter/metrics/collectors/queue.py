"""Queues: depth, age and kind: from ``get_queue_stats``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector, number, section, timestamp
from flowrra_exporter.metrics.samples import Family

_FIGURES = {
    "pending": catalog.QUEUE_PENDING,
    "delayed": catalog.QUEUE_DELAYED,
    "in_flight": catalog.QUEUE_IN_FLIGHT,
    "dead": catalog.QUEUE_DEAD,
    "unknown": catalog.QUEUE_UNKNOWN,
    "paused": catalog.QUEUE_PAUSED,
}


class QueueCollector(ManagementCollector):
    """flowrra_queue_*, flowrra_broker_unfit.

    A figure that the broker doesn't have is absent, and so is the age of an empty queue.
    """

    name = "queue"
    shared = True
    method = "get_queue_stats"

    async def collect(self) -> Sequence[Family]:
        queues = await self._management.ask("get_queue_stats")
        info, oldest = Family(catalog.QUEUE_INFO), Family(catalog.QUEUE_OLDEST_PENDING)
        families = {key: Family(metric) for key, metric in _FIGURES.items()}
        unfit: dict[str, int] = {}
        for executor in queues:
            figures = section(queues, executor)
            if figures is None:
                continue
            labels = (str(executor),)
            info.points.append(((*labels, str(figures["broker"]), str(figures["namespace"])), 1))
            for key, family in families.items():
                value = number(figures, key)
                if value is not None:
                    family.points.append((labels, value))
            due = timestamp(figures, "oldest_pending_at")
            if due is not None:
                oldest.points.append((labels, due))
            # Both queues lie on the same server.
            reasons = section(figures, "unfit") or {}
            for reason in reasons:
                is_unfit = number(reasons, reason)
                if is_unfit is not None:
                    unfit[str(reason)] = max(unfit.get(str(reason), 0), int(bool(is_unfit)))
        fitness = Family(catalog.BROKER_UNFIT, [((reason,), value) for reason, value in unfit.items()])
        return [info, *families.values(), oldest, fitness]
