"""The lists of records of several cells, merged into one."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Sequence
from math import isqrt

from flowrra.backends.listing import Place, TaskFilter
from flowrra.backends.redis_lists import Listed, RecordLists, place_in_list
from flowrra.gathering import gather_all

# The number of a cell, and an id as it is on its server.
IdInCell = tuple[int, bytes]
ListedInCell = tuple[Place, IdInCell]


class PartitionedLists:
    """Reads the lists of all cells.

    Args:
        cells: The lists of each.
    """

    def __init__(self, cells: Sequence[RecordLists]) -> None:
        self._cells = cells

    async def behind(
        self, first: Place | None, wanted: TaskFilter, count: int
    ) -> AsyncGenerator[list[ListedInCell], None]:
        """What all cells have behind a place, as :meth:`~flowrra.backends.redis_lists.RecordLists.behind`.

        Raises:
            BackendError: One of them could not be read.
        """
        # A cell's share of them, as ids are spread by chance, with what is seldom exceeded: then more is read.
        share = -(-count // len(self._cells))
        sources = [cell.behind(first, wanted, share + 3 * isqrt(share) + 3) for cell in self._cells]
        going = set(range(len(sources)))
        # What was read of each cell, and comes later.
        read: list[list[ListedInCell]] = [[] for _ in sources]
        try:
            while going:
                await _read_more(sources, going, read)
                # Behind that, there may be others in a cell of which no more was read.
                horizon = max((read[number][-1][0] for number in going), default=None)
                merged = list(heapq.merge(*read, key=place_in_list, reverse=True))
                listed = [each for each in merged if horizon is None or each[0] >= horizon]
                read = [[each for each in some if horizon is not None and each[0] < horizon] for some in read]
                if listed:
                    yield listed
        finally:
            for source in sources:
                await source.aclose()


async def _read_more(
    sources: Sequence[AsyncGenerator[list[Listed], None]], going: set[int], read: list[list[ListedInCell]]
) -> None:
    """Read the next part of each cell that goes on, and of which nothing is left."""
    empty = [number for number in going if not read[number]]
    parts = await gather_all(anext(sources[number], None) for number in empty)
    for number, part in zip(empty, parts, strict=True):
        if part is None:
            going.discard(number)
        else:
            read[number] = [(place, (number, task_id)) for place, task_id in part]
