"""A circuit breaker: leaves a source alone for a moment that keeps failing, then has it tried without waiting long.

So a source that is away costs the scrapes next to nothing, and one that is well again is seen by the next scrape,
however long it was away.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# After how many failures in a row a source is left alone.
FAILURES = 3
# For how long after each failure.
PAUSE = 5.0


class Breaker:
    """Decides whether a source is asked, and whether that is a trial. ``clock`` is the monotonic clock, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._asked_again_at = 0.0

    @property
    def is_well(self) -> bool:
        """Whether the source has not failed since it last answered."""
        return self._failures == 0

    @property
    def is_open(self) -> bool:
        """Whether the source keeps failing: it's to be tried, not relied on."""
        return self._failures >= FAILURES

    @property
    def refusal(self) -> str | None:
        """Why the source isn't asked now; None if it is to be asked."""
        left = self._asked_again_at - self._clock()
        if not self.is_open or left <= 0:
            return None
        return f"left alone after {self._failures} failures in a row, to be asked again in {left:.0f} s"

    def succeeded(self) -> None:
        """The source has answered."""
        self._failures = 0

    def failed(self) -> None:
        """The source has failed, or didn't answer in time."""
        self._failures += 1
        self._asked_again_at = self._clock() + PAUSE
