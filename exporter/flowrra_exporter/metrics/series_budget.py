"""The budget of time series: how many task names have series of their own.

Prometheus pays for every series for as long as it's stored, and nobody looks at thousands of names one by one. Names
are admitted in the order in which the app registered them, and what was admitted stays: a series never changes its
meaning while the process lives. The names that are left over share the label value ``OTHER``.
"""

from __future__ import annotations

OTHER = "__other__"
# How many exception classes of one task name are told apart.
MAX_EXCEPTIONS = 20


class SeriesBudget:
    """Admits names until ``limit`` series are given away."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._admitted: set[tuple[str, ...]] = set()
        self._given = 0

    def __contains__(self, labels: object) -> bool:
        """Whether these labels were admitted."""
        return labels in self._admitted

    def admits(self, labels: tuple[str, ...], series: int) -> bool:
        """Whether these labels have series of their own, of which there are ``series`` at first."""
        if labels in self._admitted:
            return True
        if OTHER in labels or self._given + series > self.limit:
            return False
        self._given += series
        self._admitted.add(labels)
        return True
