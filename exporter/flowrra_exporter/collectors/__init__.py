"""One file a source: each turns answers of the Management API into samples."""

from __future__ import annotations

from flowrra_exporter.collectors.app import AppCollector
from flowrra_exporter.collectors.base import Collector
from flowrra_exporter.collectors.executors import ExecutorsCollector
from flowrra_exporter.collectors.health import HealthCollector
from flowrra_exporter.collectors.python import PythonCollector
from flowrra_exporter.collectors.queue import QueueCollector
from flowrra_exporter.collectors.registry import RegistryCollector
from flowrra_exporter.collectors.runtime import RuntimeCollector
from flowrra_exporter.collectors.tasks import TasksCollector
from flowrra_exporter.management import Management

__all__ = ["Collector", "PythonCollector", "collectors_for"]

_OF_THE_APP = (
    AppCollector,
    ExecutorsCollector,
    QueueCollector,
    RegistryCollector,
    TasksCollector,
    HealthCollector,
    RuntimeCollector,
)


def collectors_for(management: Management) -> list[Collector]:
    """The collectors whose methods this manager has."""
    return [collector(management) for collector in _OF_THE_APP if collector.available(management)]
