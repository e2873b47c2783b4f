"""A circuit breaker: leaves a source alone for a while that keeps failing, so that not every scrape waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3
"""After how many failures in a row a source is left alone."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


class Breaker:
    """Decides whether a source is asked. Each failure of a trial doubles the pause, up to a minute.

    `clock` is the monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._asked_again_at = 0.0

    @property
    def refusal(self) -> str | None:
        """Why the source isn't asked now; None if it is to be asked."""
        left = self._asked_again_at - self._clock()
        if self._failures < FAILURES or left <= 0:
            return None
        return f"left alone after {self._failures} failures in a row, to be asked again in {left:.0f} s"

    def succeeded(self) -> None:
        """The source has answered."""
        self._failures, self._pause = 0, FIRST_PAUSE

    def failed(self) -> None:
        """The source has failed, or didn't answer in time."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._asked_again_at = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
