"""Optional limits of the queues, past which the app isn't ready for more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowrra_exporter.metrics.collector import number, timestamp
from flowrra_exporter.metrics.queue_figures import DEFAULT, broker_time, each_queue
from flowrra_exporter.probes.check import Check

_DEPTH, _AGE = "queue_depth", "queue_age"


@dataclass(frozen=True)
class QueueLimits:
    """The most tasks that may wait in a queue, and for how many seconds the oldest may; None is no limit."""

    max_pending: int | None = None
    max_age: float | None = None

    def __bool__(self) -> bool:
        return self.max_pending is not None or self.max_age is not None

    def checks(self, queues: Any) -> list[Check]:
        """What the app says of its queues, as checks. A figure that isn't known fails none.

        Raises:
            KeyError, TypeError: A figure is no number or datetime.
        """
        figures = {
            executor if queue == DEFAULT else f"{executor}, {queue}": found
            for executor, queue, found in each_queue(queues)
        }
        return [
            Check(name, not problems, "; ".join(problems) or "within the limit")
            for name, problems in (
                (_DEPTH, list(self._too_deep(figures))),
                (_AGE, list(self._too_old(figures))),
            )
            if name in self._names
        ]

    def unknown(self, reason: str) -> list[Check]:
        """The checks where the queues can't be asked: they pass, and say why they know nothing."""
        return [Check(name, True, f"not known: {reason}") for name in self._names]

    @property
    def _names(self) -> list[str]:
        limits = {_DEPTH: self.max_pending, _AGE: self.max_age}
        return [name for name, limit in limits.items() if limit is not None]

    def _too_deep(self, figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        for queue, found in figures.items():
            pending = number(found, "pending")
            if self.max_pending is not None and pending is not None and pending > self.max_pending:
                yield f"{queue}: {pending} tasks wait, at most {self.max_pending} may"

    def _too_old(self, figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        for queue, found in figures.items():
            if found.get("paused"):  # by request, for as long as it takes
                continue
            since = timestamp(found, "oldest_pending_at")
            age = 0.0 if since is None else broker_time(time.time(), number(found, "clock_offset")) - since
            if self.max_age is not None and age > self.max_age:
                yield f"{queue}: a task waits for {age:.1f} s, at most {self.max_age:g} s are allowed"
