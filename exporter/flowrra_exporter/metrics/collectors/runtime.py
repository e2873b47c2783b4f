"""The app's event loop, its workers' deaths, its brokers' and backends' errors: from ``get_runtime_stats``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.collector import ManagementCollector, distribution, number, section, timestamp
from flowrra_exporter.metrics.samples import Family, Number

_PLAIN = {
    "stopping": catalog.APP_STOPPING,
    "stalls": catalog.EVENT_LOOP_STALLS,
    "watchers": catalog.WATCHERS,
    "subscriber_dropped": catalog.EVENT_SUBSCRIBER_DROPPED,
    "subscriber_errors": catalog.EVENT_SUBSCRIBER_ERRORS,
}
_LABELLED = {
    "worker_restarts": catalog.EXECUTOR_WORKER_RESTARTS,
    "broker_errors": catalog.BROKER_ERRORS,
    "backend_errors": catalog.BACKEND_ERRORS,
}


class RuntimeCollector(ManagementCollector):
    """flowrra_app_stopping, flowrra_event_loop_*, flowrra_event_subscriber_*, who watches, heartbeats, worker restarts,
    abandoned tasks, and errors of broker and backend."""

    name = "runtime"
    method = "get_runtime_stats"

    async def collect(self) -> Sequence[Family]:
        stats = self._management.read("get_runtime_stats")
        lag = distribution(stats, "loop_lag")
        families = [] if lag is None else [Family(catalog.EVENT_LOOP_LAG, [((), lag)])]
        for key, metric in _PLAIN.items():
            value = number(stats, key)
            if value is not None:
                families.append(Family(metric, [((), value)]))
        families.append(_heartbeats(stats))
        families.append(Family(catalog.EXECUTOR_ABANDONED_TASKS, [*abandoned_tasks(stats).items()]))
        return [*families, *(_by_label(metric, stats, key) for key, metric in _LABELLED.items())]


def abandoned_tasks(stats: Mapping[str, Any]) -> dict[tuple[str, str], Number]:
    """How many tasks stops have cancelled, by executor and by how they were found.

    Args:
        stats: What ``get_runtime_stats`` says.

    Raises:
        TypeError: It is no such figure.
    """
    by_executor = section(stats, "abandoned_at_stop") or {}
    found: dict[tuple[str, str], Number] = {}
    for executor in by_executor:
        figures = section(by_executor, executor) or {}
        for state in figures:
            if (value := number(figures, state)) is not None:
                found[str(executor), str(state)] = value
    return found


def _heartbeats(stats: Mapping[str, Any]) -> Family:
    family = Family(catalog.EXECUTOR_HEARTBEAT)
    heartbeats = section(stats, "heartbeat_at") or {}
    for executor in heartbeats:
        renewed = timestamp(heartbeats, executor)
        if renewed is not None:
            family.points.append(((str(executor),), renewed))
    return family


def _by_label(metric: Metric, stats: Mapping[str, Any], key: str) -> Family:
    family = Family(metric)
    figures = section(stats, key) or {}
    for label in figures:
        value = number(figures, label)
        if value is not None:
            family.points.append(((str(label),), value))
    return family
