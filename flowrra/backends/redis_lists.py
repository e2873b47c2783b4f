"""The lists of records on Redis, by status, and by status and name, as ``flowrra/lua/records.lua`` keeps them."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from flowrra.backends.listing import MAX_LOOKED_AT, Page, Place, TaskFilter, page_of
from flowrra.redis_client import Client, RedisServer, read_at_once
from flowrra.task import TaskResult, TaskStatus

Id = TypeVar("Id")

# A place, with the id there as it is on the server.
Listed = tuple[Place, bytes]

# Records that are read, or stored, at once.
MAX_BATCH = 250
# Ids that are read of each list at once.
MAX_IDS = 1000
# Scores beyond that are no times.
MAX_SCORE = 2**53


class RecordLists:
    """Reads the lists of one namespace. It only reads, so that one who may do no more can ask.

    Args:
        server: Where they are.
        namespace: The beginning of their names.
    """

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace

    async def counts(self) -> dict[tuple[TaskStatus, str | None], int]:
        """How many records there are of each status and name, without those that are 0. Those that were recorded before
        there were lists by name have None."""
        kinds = _kinds(await self._server.call("list task names", self._ask_listed))
        while True:
            listed, *sizes = await self._server.call("count tasks", partial(self._ask_sizes, kinds))
            # One may be new since the last look: what is in it would be counted as of no name.
            asked = set(kinds)
            new = [kind for kind in _kinds(listed) if kind not in asked]
            if not new:
                break
            kinds += new
        unnamed = dict(zip(TaskStatus, sizes, strict=False))
        counts: dict[tuple[TaskStatus, str | None], int] = {}
        for (status, name), size in zip(kinds, sizes[len(unnamed) :], strict=True):
            unnamed[status] -= size
            if size:
                counts[status, name.decode(errors="surrogateescape")] = size
        return counts | {(status, None): size for status, size in unnamed.items() if size > 0}

    async def _ask_listed(self, client: Client) -> Any:
        return await client.smembers(f"{self._namespace}:listed")

    async def _ask_sizes(self, kinds: Sequence[tuple[TaskStatus, bytes]], client: Client) -> list[Any]:
        """Which lists by name there are; then the sizes of those by status, and of these by status and name. All in one
        step."""

        def fill(pipeline: Client) -> None:
            pipeline.smembers(f"{self._namespace}:listed")
            for status in TaskStatus:
                pipeline.zcard(self._key(status))
            for status, name in kinds:
                pipeline.zcard(self._key(status) + b":" + name)

        listed, *sizes = await read_at_once(client, fill)
        if isinstance(listed, Exception):
            raise listed
        return [listed, *(0 if isinstance(size, Exception) else size for size in sizes)]

    def _key(self, status: TaskStatus) -> bytes:
        return f"{self._namespace}:status:{status.value}".encode()

    async def behind(self, first: Place | None, wanted: TaskFilter, count: int) -> AsyncGenerator[list[Listed], None]:
        """The places behind one, with the ids as they are on the server, the latest first, many at a time.

        Args:
            first: The place; None begins with the latest.
            wanted: Its status, name and times are looked at.
            count: How many are likely to be enough.
        """
        keys = [self._key(status) for status in wanted.statuses]
        if wanted.name is not None:
            keys = [key + b":" + wanted.name.encode(errors="surrogateescape") for key in keys]
        lowest = "-inf" if wanted.since is None else round(wanted.last * 1e6)
        size = min(count, MAX_IDS)
        while True:
            highest = "+inf" if first is None else round(first[0] * 1e6)
            ask = partial(_ask_pages, keys, highest, lowest, size)
            answers = await self._server.call("list tasks", ask)
            full = [len(answer) == size for answer in answers]
            pages = [_places(answer, first) for answer in answers]
            if any(is_full and not page for is_full, page in zip(full, pages, strict=True)):
                size *= 2  # more than that were submitted in the same moment
                continue
            # What stands behind the end of a list that goes on comes with its next part.
            horizon = max((page[-1][0] for is_full, page in zip(full, pages, strict=True) if is_full), default=None)
            merged = list(heapq.merge(*pages, key=place_in_list, reverse=True))
            places = [each for each in merged if horizon is None or each[0] >= horizon]
            if places:
                yield places
            if horizon is None:
                return
            first = places[-1][0]


async def read_page(
    listed: AsyncGenerator[list[tuple[Place, Id]], None],
    read: Callable[[Sequence[tuple[Place, Id]]], Awaitable[list[tuple[Place, TaskResult]]]],
    wanted: TaskFilter,
    limit: int,
) -> Page:
    """A page of the records that are meant, as many of which are read as it needs.

    Args:
        listed: What stands behind the cursor, many at a time.
        read: Reads the records of some of them, without those that have gone.
        wanted: Which are meant.
        limit: Most records.
    """
    found: list[tuple[Place, TaskResult]] = []
    matching, seen = 0, 0
    # One more than fit tells that there is a next page.
    size = min(limit + 1, MAX_BATCH)
    async for some in listed:
        first = 0
        while first < len(some):
            part = some[first : first + size]
            records = await read(part)
            found += records
            first, seen, size = first + size, seen + len(part), MAX_BATCH
            matching += sum(wanted.matches(record) for _, record in records)
            if matching > limit or seen >= max(MAX_LOOKED_AT, limit):
                return page_of(iter(found), wanted, limit, rest=part[-1][0])
    return page_of(iter(found), wanted, limit)


def place_in_list(each: tuple[Place, Any]) -> Place:
    """The place of what stands in a list."""
    return each[0]


def _places(answer: Sequence[tuple[bytes, float]], first: Place | None) -> list[Listed]:
    # A score may be anything that another client wrote.
    places = [
        ((score / 1e6, member.decode(errors="surrogateescape")), member)
        for member, score in answer
        if abs(score) <= MAX_SCORE
    ]
    return [each for each in places if first is None or each[0] < first]


def _kinds(listed: Iterable[bytes]) -> list[tuple[TaskStatus, bytes]]:
    """The statuses and names that there are lists of, by the set of them; what another program wrote there is none."""
    known = {status.value.encode(): status for status in TaskStatus}
    found = ((known.get(status), name) for text in listed for status, _, name in [text.partition(b" ")])
    return [(status, name) for status, name in found if status is not None]


async def _ask_pages(
    keys: Sequence[bytes], highest: int | str, lowest: int | str, size: int, client: Client
) -> list[Sequence[tuple[bytes, float]]]:
    def fill(pipeline: Client) -> None:
        for key in keys:
            pipeline.zrevrangebyscore(key, highest, lowest, start=0, num=size, withscores=True)

    return [() if isinstance(page, Exception) else page for page in await read_at_once(client, fill)]
