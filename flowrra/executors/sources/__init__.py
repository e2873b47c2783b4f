"""Where an executor's tasks come from and go back to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowrra.backends.base import BaseResultBackend
from flowrra.brokers.base import BaseBroker, LeasingBroker
from flowrra.config import ExecutorConfig
from flowrra.events import EventPublisher
from flowrra.executors.records import records_for
from flowrra.executors.sources.base import Obey, TaskSource
from flowrra.executors.sources.leased import LeasedSource
from flowrra.executors.sources.memory import MemorySource
from flowrra.executors.sources.partitioned import PartitionedSource
from flowrra.executors.sources.polled import PolledSource
from flowrra.executors.workers import Workers
from flowrra.registry import TaskRegistry
from flowrra.telemetry import Telemetry

__all__ = ["TaskSource", "source_for"]


def source_for(
    broker: BaseBroker | None,
    results: BaseResultBackend,
    workers: Workers,
    *,
    registry: TaskRegistry,
    telemetry: Telemetry,
    publisher: EventPublisher,
    config: ExecutorConfig,
    announcement: Callable[[], dict[str, Any]] | None,
    obey: Obey,
) -> TaskSource:
    """The source of an executor's tasks.

    Args:
        broker: Where tasks wait; None is this process.
        results: Where their records lie.
        workers: What runs them.
        registry, telemetry, publisher: The app's.
        config: How many may wait in this process, and which tasks are taken from the broker.
        announcement: Returns what other processes are to know of this one; None announces nothing.
        obey: Called with each order that an operator has given this process alone.
    """
    is_kept_by_broker = isinstance(broker, LeasingBroker) and broker.keeps_records_of(results)
    records = records_for(results, publisher, workers, is_kept_by_broker)
    if broker is None:
        return MemorySource(workers, records, registry, telemetry, config.max_queue_size)
    if isinstance(broker, LeasingBroker):
        source = LeasedSource if broker.cells == (broker,) else PartitionedSource
        return source(workers, records, registry, telemetry, broker, config, announcement, obey)
    return PolledSource(workers, records, registry, telemetry, broker, config.consume)
