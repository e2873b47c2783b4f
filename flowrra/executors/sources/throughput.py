"""How many tasks a worker takes ahead of its free slots: what it will have begun a moment later, and no more, so that
slow tasks never wait behind each other while another worker is idle."""

from __future__ import annotations

import time

# Seconds: what is taken ahead is expected to have begun after that.
HORIZON = 0.05
MAX_AHEAD = 500
# Seconds: what ended in less time than that counts as if it had taken that long, as a few say little about the pace.
MIN_WINDOW = 0.0005


class ThroughputEstimate:
    """Measures how many tasks end in a second."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._ended = 0
        self._since = time.monotonic()

    def count(self) -> None:
        """A task has ended."""
        self._ended += 1

    def restart(self) -> None:
        """Begin a measurement: from now on there is something to do."""
        self._ended = 0
        self._since = time.monotonic()

    def slow_down(self) -> None:
        """Take nothing ahead for now: what was taken had to wait."""
        self._rate = 0.0
        self.restart()

    def ahead(self) -> int:
        """How many tasks to take ahead now."""
        if self._ended:
            rate = self._ended / max(MIN_WINDOW, time.monotonic() - self._since)
            self._rate = (self._rate + rate) / 2 if self._rate else rate
            self.restart()
        return min(MAX_AHEAD, int(self._rate * HORIZON))
