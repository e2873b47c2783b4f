"""Results over partitions: a task's record is in the partition that its id says, and lists are merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.listing import Page, Place, TaskFilter
from flowrra.backends.partitioned_changes import PartitionedChanges
from flowrra.backends.partitioned_lists import ListedInCell, PartitionedLists
from flowrra.backends.redis import RedisBackend
from flowrra.backends.redis_lists import Listed, place_in_list, read_page
from flowrra.changes import Change
from flowrra.gathering import gather_all
from flowrra.partitions import MAX_PARTITIONS, partition_of
from flowrra.task import TaskResult, TaskStatus

# Records of a list that are put together at once.
PAGE = 1000


class PartitionedBackend(BaseResultBackend):
    """Records over cells, each of which is a backend of its own that knows of no other.

    What concerns one task asks its cell. What concerns all tasks asks all cells at once, and fails if one of them does:
    a part of the records doesn't pass for all of them.

    Args:
        cells: One for each partition, in their order.

    Attributes:
        cells: The same.

    Raises:
        ValueError: There is no cell, or too many.
    """

    def __init__(self, cells: Sequence[RedisBackend]) -> None:
        if not 1 <= len(cells) <= MAX_PARTITIONS:
            raise ValueError(f"cells must be 1 to {MAX_PARTITIONS} backends, not {len(cells)}")
        self.cells = tuple(cells)
        self.set_aside = tuple(kind for cell in self.cells for kind in cell.set_aside)
        self._lists = PartitionedLists([cell.lists for cell in self.cells])
        self._changes = PartitionedChanges(self.cells)

    def cell_of(self, task_id: str) -> RedisBackend:
        """The backend that has the record of a task."""
        return self.cells[partition_of(task_id, len(self.cells))]

    # ── one record ──────────────────────────────────────────────────────────────────────────────────────────

    async def store(self, task_id: str, result: TaskResult) -> None:
        await self.cell_of(task_id).store(task_id, result)

    async def store_new(self, task_id: str, result: TaskResult) -> bool:
        return await self.cell_of(task_id).store_new(task_id, result)

    async def get(self, task_id: str) -> TaskResult | None:
        return await self.cell_of(task_id).get(task_id)

    async def wait_for(self, task_id: str, timeout: float | None = 10.0) -> TaskResult:
        return await self.cell_of(task_id).wait_for(task_id, timeout)

    async def wait_for_known(self, task_id: str, timeout: float | None) -> TaskResult:
        return await self.cell_of(task_id).wait_for_known(task_id, timeout)

    async def delete(self, task_id: str) -> bool:
        return await self.cell_of(task_id).delete(task_id)

    async def claim_retry(self, task_id: str, new_id: str) -> str:
        return await self.cell_of(task_id).claim_retry(task_id, new_id)

    async def release_retry(self, task_id: str, new_id: str) -> None:
        await self.cell_of(task_id).release_retry(task_id, new_id)

    async def retried_as(self, task_id: str) -> str | None:
        return await self.cell_of(task_id).retried_as(task_id)

    # ── all records ─────────────────────────────────────────────────────────────────────────────────────────

    async def clear(self) -> int:
        return sum(await gather_all(cell.clear() for cell in self.cells))

    async def unlist_expired(self) -> None:
        await gather_all(cell.unlist_expired() for cell in self.cells)

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        """The records with that status, the latest submitted first; takes as long as ``offset + limit`` are many."""
        wanted = None if limit is None else offset + limit
        found: list[TaskResult] = []
        cursor = None
        while wanted is None or len(found) < wanted:
            size = PAGE if wanted is None else min(PAGE, wanted - len(found))
            page = await self.find(TaskFilter(TaskStatus(status)), size, cursor)
            found += page.records
            cursor = page.cursor
            if cursor is None:
                break
        return found[offset:]

    async def find(self, wanted: TaskFilter, limit: int, cursor: str | None = None) -> Page:
        async with aclosing(self._lists.behind(wanted.first(cursor), wanted, limit + 1)) as listed:
            return await read_page(listed, self._records_at, wanted, limit)

    async def _records_at(self, listed: Sequence[ListedInCell]) -> list[tuple[Place, TaskResult]]:
        by_cell: dict[int, list[Listed]] = {}
        for place, (number, task_id) in listed:
            by_cell.setdefault(number, []).append((place, task_id))
        found = await gather_all(self.cells[number].records_at(some) for number, some in by_cell.items())
        return sorted((each for some in found for each in some), key=place_in_list, reverse=True)

    async def count(self) -> Mapping[tuple[TaskStatus, str | None], int]:
        counts: Counter[tuple[TaskStatus, str | None]] = Counter()
        for each in await gather_all(cell.count() for cell in self.cells):
            counts.update(each)
        return counts

    # ── changes ─────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        return self._changes.watch(after)

    @property
    def watchers(self) -> int:
        return self._changes.watchers

    # ── the servers ─────────────────────────────────────────────────────────────────────────────────────────

    async def ping(self) -> None:
        """Return if all servers answer."""
        await gather_all(cell.ping() for cell in self.cells)

    async def close(self) -> None:
        """Close the running loop's connections, and fail whoever still waits there."""
        await gather_all(cell.close() for cell in self.cells)
