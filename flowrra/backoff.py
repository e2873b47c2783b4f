"""Pauses between the tries of what fails."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double. Each is by chance up to half shorter, so that many who wait don't come back at once.

    Args:
        first: Seconds of the first pause at most.
        longest: Seconds of any pause at most.
    """

    def __init__(self, first: float = 0.05, longest: float = 1.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """Seconds of the next pause."""
        seconds = self._next * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
        self._next = min(2 * self._next, self._longest)
        return seconds

    def reset(self) -> None:
        """Begin anew, as it succeeded."""
        self._next = self._first
