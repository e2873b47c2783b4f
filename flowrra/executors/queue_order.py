"""Whose turn it is when several queues have work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from flowrra.queue_names import MAX_QUEUES


class QueueOrder:
    """Takes the preferred queues first, and gives each of those that are equally preferred its share.

    What is taken moves a queue on by the number of tasks divided by its share; the one that is furthest behind is next.
    A queue that had nothing to do starts where the others are, and makes up for nothing.

    Args:
        queues: Names in order of preference, or shares by name; those that are not named come after these, in equal
            shares. None gives all queues equal shares.

    Attributes:
        taken: How many tasks were taken from each queue, of the first ``MAX_QUEUES``: a count never falls.
    """

    def __init__(self, queues: Sequence[str] | Mapping[str, int] | None) -> None:
        self._shares = dict(queues) if isinstance(queues, Mapping) else {}
        if queues is None or isinstance(queues, Mapping):
            self._ranks = dict.fromkeys(queues or (), 0)
        else:
            self._ranks = {name: rank for rank, name in enumerate(queues)}
        self._last_rank = 1 + max(self._ranks.values()) if self._ranks else 0
        self.taken: dict[str, int] = {}
        self._positions: dict[str, float] = {}
        # The position from which the latest of each rank was taken: nobody is behind it.
        self._reached: dict[int, float] = {}

    def rank(self, queue: str) -> int:
        """0 is the most preferred."""
        return self._ranks.get(queue, self._last_rank)

    def next_first(self, queues: Iterable[str]) -> list[str]:
        """The queues in the order in which they are to be asked."""
        return sorted(queues, key=lambda queue: (self.rank(queue), self._position(queue)))

    def part(self, queue: str, count: int, busy: Iterable[str]) -> int:
        """How many of ``count`` tasks are to be taken from a queue, while ``busy`` ones have work as well."""
        rank = self.rank(queue)
        shares = [self._share(other) for other in {queue, *busy} if self.rank(other) == rank]
        return ceil(count * self._share(queue) / sum(shares))

    def took(self, queue: str, count: int = 1) -> None:
        """So many tasks were taken from a queue."""
        rank, position = self.rank(queue), self._position(queue)
        self._reached[rank] = position
        self._positions[queue] = position + count / self._share(queue)
        self.count(queue, count)
        if len(self._positions) > MAX_QUEUES:
            self._positions.clear()

    def count(self, queue: str, taken: int) -> None:
        """So many more were taken from a queue, be it none; nothing is counted of those beyond ``MAX_QUEUES``."""
        if queue in self.taken or len(self.taken) < MAX_QUEUES:
            self.taken[queue] = self.taken.get(queue, 0) + taken

    def taken_from(self, queue: str) -> int | None:
        """How many tasks were taken from a queue so far; None if it is one too many to be counted."""
        return self.taken.get(queue, 0 if len(self.taken) < MAX_QUEUES else None)

    def _share(self, queue: str) -> int:
        return self._shares.get(queue, 1)

    def _position(self, queue: str) -> float:
        return max(self._positions.get(queue, 0.0), self._reached.get(self.rank(queue), 0.0))
