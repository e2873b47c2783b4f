"""One file a source: each turns answers of the Management API into samples."""

from __future__ import annotations

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics.collector import Collector
from flowrra_exporter.metrics.collectors.app import AppCollector
from flowrra_exporter.metrics.collectors.executors import ExecutorsCollector
from flowrra_exporter.metrics.collectors.health import HealthCollector
from flowrra_exporter.metrics.collectors.python import PythonCollector
from flowrra_exporter.metrics.collectors.queue import QueueCollector
from flowrra_exporter.metrics.collectors.registry import RegistryCollector
from flowrra_exporter.metrics.collectors.runtime import RuntimeCollector
from flowrra_exporter.metrics.collectors.scheduler import SchedulerCollector
from flowrra_exporter.metrics.collectors.tasks import DEFAULT_MAX_SERIES, TasksCollector
from flowrra_exporter.metrics.collectors.workers import WorkersCollector

__all__ = ["NAMES", "Collector", "PythonCollector", "TasksCollector", "collectors_for"]

_OF_THE_APP = (
    AppCollector,
    ExecutorsCollector,
    QueueCollector,
    WorkersCollector,
    RegistryCollector,
    TasksCollector,
    SchedulerCollector,
    HealthCollector,
    RuntimeCollector,
)


# The names of all collectors, as in ``--no-collector.NAME``.
NAMES = (*(collector.name for collector in _OF_THE_APP), PythonCollector.name)


def collectors_for(
    management: Management, max_series: int = DEFAULT_MAX_SERIES, shared_only: bool = False
) -> list[Collector]:
    """The collectors whose methods this manager has.

    Args:
        management: The manager.
        max_series: The bound on the series of the task names.
        shared_only: Only those whose figures all processes share.
    """
    found: list[Collector] = []
    for collector in _OF_THE_APP:
        if shared_only and not collector.shared:
            continue
        if collector is TasksCollector and collector.available(management):
            found.append(TasksCollector(management, max_series))
        elif collector.available(management):
            found.append(collector(management))
    return found
