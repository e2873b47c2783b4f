"""The figures of an app's queues, one by one, from whichever method its Management API has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics.collector import section
from flowrra_exporter.metrics.samples import Number

# All queues; an app that doesn't know them by name has only those of the other method.
_ALL, _DEFAULT_ONES = "list_queues", "get_queue_stats"
DEFAULT = "default"


def method_of(management: Management | None) -> str:
    """The method to ask."""
    return _ALL if management is not None and management.has(_ALL) else _DEFAULT_ONES


def broker_time(now: float, clock_offset: Number | None) -> float:
    """A time of this host by the clock of the broker's server, by which queues tell since when a task waits.

    Args:
        now: The time of this host.
        clock_offset: By how many seconds the server's clock is ahead; None if that isn't known, or there is no server.
    """
    return now + (clock_offset or 0.0)


def each_queue(answer: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The executor, the name and the figures of each queue that the method answered.

    Raises:
        KeyError, TypeError: It answered something else.
    """
    if isinstance(answer, Mapping):
        found = ((kind, DEFAULT, section(answer, kind)) for kind in answer)
        yield from ((str(kind), queue, figures) for kind, queue, figures in found if figures is not None)
        return
    for figures in answer:
        if not isinstance(figures, Mapping):
            raise TypeError(f"a queue is {figures!r:.100}; expected a mapping")
        yield str(figures["executor"]), str(figures["queue"]), figures
