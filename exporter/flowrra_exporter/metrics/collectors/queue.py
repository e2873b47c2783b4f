"""Queues: depth, age and kind: from ``list_queues``, or ``get_queue_stats`` of an app without it."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import ManagementCollector, number, section, timestamp
from flowrra_exporter.metrics.queue_figures import each_queue, method_of
from flowrra_exporter.metrics.samples import Family

_FIGURES = {
    "pending": catalog.QUEUE_PENDING,
    "delayed": catalog.QUEUE_DELAYED,
    "in_flight": catalog.QUEUE_IN_FLIGHT,
    "dead": catalog.QUEUE_DEAD,
    "unknown": catalog.QUEUE_UNKNOWN,
    "taken": catalog.QUEUE_TAKEN,
    "paused": catalog.QUEUE_PAUSED,
    "paused_tasks": catalog.QUEUE_PAUSED_TASKS,
    "drain_seconds": catalog.QUEUE_DRAIN,
}
# Told with each queue, as all queues lie on the same server.
_SERVER_FIGURES = {
    "clock_offset": catalog.BROKER_CLOCK_OFFSET,
    "lease": catalog.BROKER_LEASE,
    "memory_used": catalog.BROKER_MEMORY_USED,
    "memory_limit": catalog.BROKER_MEMORY_LIMIT,
}


class QueueCollector(ManagementCollector):
    """flowrra_queue_*, flowrra_broker_*.

    A figure that the broker doesn't have is absent, and so is the age of an empty queue.
    """

    name = "queue"
    shared = True
    method = "get_queue_stats"

    async def collect(self) -> Sequence[Family]:
        queues = await self._management.ask(method_of(self._management))
        info, oldest = Family(catalog.QUEUE_INFO), Family(catalog.QUEUE_OLDEST_PENDING)
        families = {key: Family(metric) for key, metric in _FIGURES.items()}
        server = {key: Family(metric) for key, metric in _SERVER_FIGURES.items()}
        unfit: dict[str, int] = {}
        for executor, queue, figures in each_queue(queues):
            labels = (executor, queue)
            server_name = mask_secrets(str(figures.get("server", "")))  # an app of another kind may give a whole URL
            place = (str(figures["broker"]), str(figures["namespace"]), server_name)
            info.points.append(((*labels, *place), 1))
            for key, family in families.items():
                value = number(figures, key)
                if value is not None:
                    family.points.append((labels, value))
            due = timestamp(figures, "oldest_pending_at")
            if due is not None:
                oldest.points.append((labels, due))
            for key, family in server.items():
                value = number(figures, key)
                if value is not None:
                    family.points = [((), value)]
            reasons = section(figures, "unfit") or {}
            for reason in reasons:
                is_unfit = number(reasons, reason)
                if is_unfit is not None:
                    unfit[str(reason)] = max(unfit.get(str(reason), 0), int(bool(is_unfit)))
        fitness = Family(catalog.BROKER_UNFIT, [((reason,), value) for reason, value in unfit.items()])
        return [info, *families.values(), oldest, fitness, *server.values()]
