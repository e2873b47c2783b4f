"""Measures how late an event loop gets to its work, and, from any other thread, what holds it up right now."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from bisect import bisect_left
from datetime import UTC, datetime
from typing import Any, Final

from flowrra.telemetry import Histogram

BEAT_INTERVAL: Final = 0.25
STALL_THRESHOLD: Final = 1.0
LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopMonitor:
    """A timer that notes how much later than asked the loop calls it. Numbers outlive a stop and a restart.

    Attributes:
        stalls: How often the loop was late by more than a second.
    """

    def __init__(self) -> None:
        self._counts: list[Any] = [0] * (len(LAG_BOUNDS) + 1) + [0.0]
        self.stalls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._beat_at = datetime.now(UTC)

    def start(self) -> None:
        """Begin on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._schedule()

    def stop(self) -> None:
        """End; what was counted stays."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = self._thread_id = None

    def _schedule(self) -> None:
        assert self._loop is not None  # noqa: S101 - only called between start() and stop()
        self._beat_at = datetime.now(UTC)
        self._due = time.monotonic() + BEAT_INTERVAL
        self._timer = self._loop.call_later(BEAT_INTERVAL, self._beat)

    def _beat(self) -> None:
        # The loop's clock may run a timer slightly early.
        lag = max(0.0, time.monotonic() - self._due)
        self._counts[bisect_left(LAG_BOUNDS, lag)] += 1
        self._counts[-1] += lag
        if lag > STALL_THRESHOLD:
            self.stalls += 1
        self._schedule()

    def lag(self) -> Histogram:
        """How late the loop was, in seconds, at each beat."""
        counts = self._counts.copy()
        return {"bounds": LAG_BOUNDS, "counts": tuple(counts[:-1]), "sum": counts[-1]}

    def last_beat_at(self) -> datetime:
        """When the loop was last seen to turn, in UTC."""
        return self._beat_at

    def overdue(self) -> float:
        """Seconds by which the next beat is late now; 0 if it isn't, or if nothing is monitored."""
        return max(0.0, time.monotonic() - self._due) if self._loop is not None else 0.0

    def blocked_for(self) -> float:
        """Seconds for which the loop has not turned, if another thread asks; 0 if it turns, or asks itself."""
        if self._thread_id == threading.get_ident():
            return 0.0
        overdue = self.overdue()
        return overdue if overdue > BEAT_INTERVAL else 0.0

    def is_dead(self) -> bool:
        """Whether the loop was closed, or left, while it was monitored."""
        return self._loop is not None and (self._loop.is_closed() or not self._loop.is_running())

    def blocking_stack(self) -> str | None:
        """Where the loop's thread is now, innermost line last; None if it can't be told."""
        frame = sys._current_frames().get(self._thread_id or -1)
        return None if frame is None else "".join(traceback.format_stack(frame, limit=12))

    def blocking_task(self) -> asyncio.Task[Any] | None:
        """The asyncio task that the loop is in now."""
        return None if self._loop is None else asyncio.current_task(self._loop)
