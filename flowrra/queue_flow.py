"""How fast a queue is emptied: from what was seen of it in the last minutes, whoever empties it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

# Seconds for which an observation counts, and that lie between two that are kept.
WINDOW: Final = 300.0
STEP: Final = 10.0
# Seconds in which a queue must not have grown.
GROWTH_WINDOW: Final = 60.0


class Observation(NamedTuple):
    """What was seen of a queue.

    Attributes:
        at: When, on the monotonic clock.
        pending: Tasks that were due and waited for a worker.
        taken: Tasks that workers had taken from it by then, in all.
    """

    at: float
    pending: int
    taken: int


class QueueFlow:
    """What was seen of one queue in the last five minutes. Any thread may ask.

    Args:
        clock: Tells the time in seconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[Observation, ...] = ()

    def drain_seconds(self, pending: int, taken: int | None, *, is_paused: bool = False) -> float | None:
        """Seconds until workers have taken all that is pending, at the rate at which they took tasks lately.

        That is the rate of the last five minutes, or since the queue was last seen empty: a worker that has nothing to
        do says nothing of how fast it could be.

        Args:
            pending: Tasks that are due and wait for a worker.
            taken: Tasks that workers have taken so far, in all; None if that isn't known.
            is_paused: Whether none is to be taken.

        Returns:
            The estimate; 0.0 if nothing is pending. None if the queue is paused, if nothing was taken, if more is
            pending than a minute ago, or if the queue was not seen at least 10 s ago.
        """
        if is_paused:
            self._seen = ()  # the time of a pause says nothing of how fast workers are
            return 0.0 if pending == 0 else None
        if taken is None:
            return 0.0 if pending == 0 else None
        now = Observation(self._clock(), pending, taken)
        # What was counted before it began anew, as after the server lost its data, is no part of what is counted since.
        seen = tuple(each for each in self._seen if now.at - each.at <= WINDOW and each.taken <= now.taken)
        if not seen or now.at - seen[-1].at >= STEP:
            self._seen = (*seen, now)
        return 0.0 if pending == 0 else _drain_seconds(seen, now)


def _drain_seconds(seen: tuple[Observation, ...], now: Observation) -> float | None:
    seen = tuple(each for each in seen if now.at - each.at >= STEP)
    if not seen:
        return None
    begin = next((each for each in reversed(seen) if each.pending == 0), seen[0])
    lately = next((each for each in seen if now.at - each.at <= GROWTH_WINDOW), seen[-1])
    taken = now.taken - begin.taken
    if taken <= 0:
        return None
    seconds = now.pending * (now.at - begin.at) / taken
    # What is taken before anybody looks again is no backlog that grows.
    return None if now.pending > lately.pending and seconds > STEP else seconds
