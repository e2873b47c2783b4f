"""Measures how late an event loop gets to its work, and tells what holds it up while it is held up.

A timer on the loop beats four times a second; a thread of its own watches the beat. The thread also keeps a clock of
the time in which this process really ran: a process that was stopped or throttled as a whole is late too, and that is
not the loop's doing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
import weakref
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowrra.telemetry import Histogram, check_bounds

logger = logging.getLogger(__name__)

BEAT_INTERVAL: Final = 0.25
WATCH_INTERVAL: Final = 0.25
STALL_THRESHOLD: Final = 1.0
STACK_DEPTH: Final = 12
LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

PACKAGE: Final = str(Path(__file__).parent)

TaskName = dict[str, str]


class Stall(NamedTuple):
    """What held the loop up.

    Attributes:
        at: When it was seen.
        seconds: For how long the loop had not turned by then, or in the end.
        task: The ``id`` and ``name`` of the task that ran; None if it was no task.
        stack: Where its thread was, the innermost line last.
    """

    at: datetime
    seconds: float
    task: TaskName | None
    stack: str


class LoopMonitor:
    """Watches one event loop at a time. Its numbers outlive a stop and a restart.

    Args:
        name_task: The ``id`` and ``name`` of the Flowrra task that runs in an asyncio task; None if there is none.
        on_watch: Called four times a second while a loop is watched, in the watching thread; it must not refer to
            the monitor, or to the loop.

    Attributes:
        stalls: How often the loop was late by more than a second.
        last_stall: What held it up the last time; None if nothing has.
    """

    def __init__(self, name_task: Callable[[asyncio.Task[Any]], TaskName | None], on_watch: Callable[[], None]) -> None:
        self._name_task = name_task
        self.on_watch = on_watch
        self._bounds: tuple[float, ...] = ()
        self.set_bounds(LAG_BOUNDS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread_id = 0
        self._stopped = threading.Event()
        self._due = 0.0
        self._beat_at = datetime.now(UTC)
        # Seconds in which this process ran, as the watching thread counts them, and what that was at the last beat.
        self._ran = 0.0
        self._ran_at_beat = 0.0
        self._reported_beat: datetime | None = None
        self.stalls = 0
        self.last_stall: Stall | None = None
        self._culprit = ""

    def set_bounds(self, bounds: tuple[float, ...]) -> None:
        """Use other bounds for the lag, in seconds, ascending; what was counted is forgotten."""
        self._bounds = check_bounds(bounds)
        # Observations by size, and their sum; in one list, for a reader to copy at once.
        self._counts: list[Any] = [0] * (len(self._bounds) + 1) + [0.0]

    def start(self) -> None:
        """Begin on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._stopped.set()  # that of a loop that was left without stop()
        self._stopped = threading.Event()
        self._schedule()
        watched = (weakref.ref(self), weakref.ref(self._loop), self._stopped)
        threading.Thread(target=_watch, args=watched, name="flowrra-loop-monitor", daemon=True).start()

    def stop(self) -> None:
        """End; what was counted stays."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def forked(self) -> None:
        """In a forked child: nothing is watched, and nothing was counted."""
        self._stopped = threading.Event()
        self._timer = self._loop = None
        self.set_bounds(self._bounds)
        self.stalls, self.last_stall = 0, None

    # ── on the loop ─────────────────────────────────────────────────────────────────────────────────────────

    def _schedule(self) -> None:
        assert self._loop is not None  # noqa: S101 - only called between start() and stop()
        self._beat_at = datetime.now(UTC)
        self._ran_at_beat = self._ran
        self._due = time.monotonic() + BEAT_INTERVAL
        self._timer = self._loop.call_later(BEAT_INTERVAL, self._beat)

    def _beat(self) -> None:
        # The loop's clock may run a timer slightly early.
        lag = max(0.0, time.monotonic() - self._due)
        # The watching thread's clock may be one of its intervals behind, and is asked only about what it can tell.
        lag = min(lag, self._ran - self._ran_at_beat - BEAT_INTERVAL + WATCH_INTERVAL) if lag > 1 else lag
        self._counts[bisect_left(self._bounds, lag)] += 1
        self._counts[-1] += lag
        if lag > STALL_THRESHOLD:
            self._count_stall(lag)
        self._schedule()

    def _count_stall(self, seconds: float) -> None:
        self.stalls += 1
        stall = self.last_stall
        if stall is not None and stall.at >= self._beat_at:
            self.last_stall = stall._replace(seconds=seconds)
            logger.info("event loop turns again; blocked for %.1f s: %s", seconds, self._culprit)

    # ── from the watching thread ────────────────────────────────────────────────────────────────────────────

    def count_time(self, seconds: float) -> None:
        """Tell it that this process ran for so long, and have it report a loop that is held up."""
        self._ran += min(seconds, 2 * WATCH_INTERVAL)
        if self.overdue() > STALL_THRESHOLD and self._reported_beat != self._beat_at:
            self._reported_beat = self._beat_at
            self._report()

    def _report(self) -> None:
        task, frames = self._holder(), self._frames()
        self._culprit = _describe(task, frames)
        self.last_stall = stall = Stall(datetime.now(UTC), self.overdue(), task, "".join(frames.format()))
        logger.warning("event loop blocked for %.1f s: %s\n%s", stall.seconds, self._culprit, stall.stack)

    # ── from any thread ─────────────────────────────────────────────────────────────────────────────────────

    def lag(self) -> Histogram:
        """How late the loop was, in seconds, at each beat."""
        counts = self._counts.copy()
        return {"bounds": self._bounds, "counts": tuple(counts[:-1]), "sum": counts[-1]}

    def last_beat_at(self) -> datetime:
        """When the loop was last seen to turn, in UTC."""
        return self._beat_at

    def overdue(self) -> float:
        """Seconds in which this process ran since the next beat was due; 0 if it isn't, or nothing is watched."""
        return max(0.0, self._ran - self._ran_at_beat - BEAT_INTERVAL) if self._loop is not None else 0.0

    def blocked_for(self) -> float:
        """Seconds for which the loop has not turned, if another thread asks; 0 if it turns, or asks itself."""
        overdue = self.overdue()
        if overdue <= WATCH_INTERVAL or self._thread_id == threading.get_ident():
            return 0.0
        return overdue

    def current_stall(self) -> Stall | None:
        """What holds the loop up now; None if nothing does, or the loop's own thread asks."""
        if self.blocked_for() == 0:
            return None
        return Stall(datetime.now(UTC), self.overdue(), self._holder(), "".join(self._frames().format()))

    def _holder(self) -> TaskName | None:
        holder = None if self._loop is None else asyncio.current_task(self._loop)
        return None if holder is None else self._name_task(holder)

    def _frames(self) -> traceback.StackSummary:
        """The stack of the loop's thread, innermost frame last, without what lies around the user's own code."""
        frame = sys._current_frames().get(self._thread_id)
        inner = list(islice(traceback.walk_stack(frame), STACK_DEPTH)) if frame is not None else []
        own = list(takewhile(lambda entry: not entry[0].f_code.co_filename.startswith(PACKAGE), inner))
        return traceback.StackSummary.extract(reversed(own or inner))

    def is_dead(self) -> bool:
        """Whether the loop was closed, or left, while it was watched."""
        return self._loop is not None and (self._loop.is_closed() or not self._loop.is_running())


def _watch(
    monitor: weakref.ref[LoopMonitor], loop: weakref.ref[asyncio.AbstractEventLoop], stopped: threading.Event
) -> None:
    """The watching thread. It keeps neither alive, and ends with the first of them."""
    last = time.monotonic()
    while not stopped.wait(WATCH_INTERVAL):
        own, watched, now = monitor(), loop(), time.monotonic()
        if own is None or watched is None or watched.is_closed():
            return
        own.count_time(now - last)
        own.on_watch()
        last = now
        del own, watched


def _describe(task: TaskName | None, frames: traceback.StackSummary) -> str:
    """``task NAME (ID), at FILE:LINE in FUNCTION: SOURCE``, as far as it is known."""
    named = [] if task is None else [f"task {task['name']} ({task['id']})"]
    places = [f"at {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames[-1:]]
    return ", ".join([*named, *places])
