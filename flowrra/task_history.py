"""What was counted of each task name up to an hour ago: tallies from time to time, for figures of the last minutes.

They are taken by a thread that is there anyway, which reads what the event loop's thread counts: a task pays nothing
for them, and they are taken while the loop is blocked, too. Their number is bounded: one for each 10 s of the last five
minutes, and before that one for each minute. A name whose tasks did nothing in between has the same tally in both.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Final, NamedTuple

from flowrra.telemetry import TaskTelemetry, Telemetry

STEP: Final = 10.0
LONG_STEP: Final = 60.0
# Those from which any time of the last five minutes, and of the last hour, is at most one step away.
SHORT: Final = 32
LONG: Final = 62

# How many names are read before other threads, such as the app's, get the interpreter lock: about half a millisecond.
NAMES_IN_ONE_GO: Final = 128


class Snapshot(NamedTuple):
    """What had been counted at one moment.

    Attributes:
        at: The moment, on the monotonic clock.
        tallies: Of each name that had counted anything; see :meth:`TaskTelemetry.tally`. By its telemetry, and not by
            the name: a name that counts from 0 again, as in a forked child, has another one.
    """

    at: float
    tallies: dict[TaskTelemetry, array[int]]


class TaskHistory:
    """Snapshots of what an app has counted. One thread at a time takes them, and any thread reads them.

    Args:
        telemetry: What is counted.
        clock: Tells the time in seconds; it never goes back.
    """

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self._telemetry = telemetry
        self.clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew with the next snapshot, as in a forked child."""
        # In one attribute, for a reader to see both as of one moment.
        self._kept: tuple[tuple[Snapshot, ...], tuple[Snapshot, ...]] = ((), ())

    def take_if_due(self) -> None:
        """Take a snapshot if the last one is older than 10 s. To be called several times a second."""
        _, short = self._kept
        if not short or self.clock() - short[-1].at >= STEP:
            self.take()

    def take(self) -> None:
        """Take a snapshot now."""
        long, short = self._kept
        at = self.clock()
        snapshot = Snapshot(at, self._tallies(short[-1].tallies if short else {}))
        if not long or at - long[-1].at >= LONG_STEP:
            long = (*long, snapshot)[-LONG:]
        self._kept = long, (*short, snapshot)[-SHORT:]

    def _tallies(self, last: dict[TaskTelemetry, array[int]]) -> dict[TaskTelemetry, array[int]]:
        """The tallies as they are now: the very same ones where nothing has changed."""
        tallies, is_changed = {}, False
        for number, telemetry in enumerate(self._telemetry.tasks.copy().values(), 1):
            tally, known = telemetry.tally(), last.get(telemetry)
            if known == tally:
                tallies[telemetry] = known
            elif any(tally):
                tallies[telemetry], is_changed = tally, True
            if number % NAMES_IN_ONE_GO == 0:
                time.sleep(0)  # releases the interpreter lock; waits for nothing
        return tallies if is_changed or len(tallies) < len(last) else last

    # ── from any thread ─────────────────────────────────────────────────────────────────────────────────────

    def now(self) -> Snapshot:
        """What has been counted until now; it is not kept."""
        return Snapshot(self.clock(), self._tallies({}))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Those that are kept, the oldest first; none before the app's first start."""
        long, short = self._kept
        return (*(each for each in long if each.at < short[0].at), *short)

    def before(self, moment: float) -> Snapshot | None:
        """What had been counted at a moment on the monotonic clock, as far as it is known.

        Returns:
            The latest snapshot until then, or the first one, if that is younger; None if there is none. If nothing was
            counted from there to the next one, it says so: then it is of that very moment.
        """
        found: Snapshot | None = None
        for snapshot in self.snapshots():
            if found is not None and snapshot.at > moment:
                is_idle = snapshot.tallies is found.tallies and found.at < moment
                return Snapshot(moment, found.tallies) if is_idle else found
            found = snapshot
        return found
