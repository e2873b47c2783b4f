"""The changes of tasks of several cells, merged into one stream.

It is in order for each task, as a task is always in the same cell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from flowrra.backends.change_ids import MergedPosition, parse_merged_id
from flowrra.backends.redis import RedisBackend
from flowrra.backoff import Backoff
from flowrra.changes import Change
from flowrra.exceptions import BackendError
from flowrra.outage import Outage
from flowrra.supervision import cancel_until_ended, spawn

logger = logging.getLogger(__name__)

# Changes that wait for who watches. The others wait on the servers, which keep a bounded number of them.
MOST_WAITING = 200


class _News(NamedTuple):
    """What came of one cell: a change, or why there is nothing more."""

    cell: int
    change: Change | Exception


class PartitionedChanges:
    """Reads the changes of all cells. Each is read by itself: one whose server is away holds up none of the others.

    Args:
        cells: The cells, in their order.

    Attributes:
        watchers: How many watch from this process.
    """

    def __init__(self, cells: Sequence[RedisBackend]) -> None:
        self._cells = cells
        self.watchers = 0

    async def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        """The changes from now on, or after one.

        Of a cell whose server is away at first, so that nobody knows from where on it is to be read, it is said once it
        is back that changes may have been missed.

        Raises:
            BackendError: No server could be reached at first; later they are tried again and again.
            ValueError: ``after`` is no id of a change, or one of another number of cells.
        """
        known = None if after is None else parse_merged_id(after, len(self._cells))
        latest = await self._latest()
        ids = latest if known is None else known
        position, news = MergedPosition(ids), asyncio.Queue[_News](MOST_WAITING)
        readers = [
            spawn(self._read(number, read, newest is None, news), "flowrra-watch-cell")
            for number, (read, newest) in enumerate(zip(ids, latest, strict=True))
        ]
        self.watchers += 1
        try:
            while True:
                for change in _told(await _next(news), position):
                    yield change
        finally:
            self.watchers -= 1
            await cancel_until_ended(*readers)

    async def _latest(self) -> list[str | None]:
        """The id of the latest change of each cell, which tells of all after it; None of one whose server is away."""
        answers = await asyncio.gather(*(cell.latest_change() for cell in self._cells), return_exceptions=True)
        failures = [each for each in answers if isinstance(each, BaseException)]
        for failure in failures:
            if not isinstance(failure, BackendError) or len(failures) == len(answers):
                raise failure
        return [each if isinstance(each, str) else None for each in answers]

    async def _read(self, number: int, after: str | None, is_away: bool, news: asyncio.Queue[_News]) -> None:
        """Hand on the changes of one cell: those after one; None if nobody knows after which."""
        cell, backoff = self._cells[number], Backoff(0.1, 5.0)
        outage = Outage(logger, "changes of tasks not readable", f"partition={number} server={cell.server.name}")
        while True:
            try:
                if is_away or after is None:
                    latest = await cell.latest_change()
                    outage.over()
                    backoff.reset()
                    is_away = False
                    if after is None:
                        after = latest
                        await news.put(_News(number, Change(after, None, None)))
                async with aclosing(cell.watch(after)) as changes:
                    async for change in changes:
                        await news.put(_News(number, change))
            except BackendError as error:  # of a watch that has not begun: one that has goes on by itself
                is_away = True
                outage.failed(str(error))
                await asyncio.sleep(backoff.next())
            except Exception as error:  # noqa: BLE001 - it is who watches that has to know
                await news.put(_News(number, error))
                return


async def _next(news: asyncio.Queue[_News]) -> list[_News]:
    """What has come since; waits for the first."""
    came = [await news.get()]
    while not news.empty():
        came.append(news.get_nowait())
    return came


def _told(came: Sequence[_News], position: MergedPosition) -> Iterator[Change]:
    """The changes as who watches is told them. First, in one, what was missed of cells before all else of them.

    Raises:
        What there is to say of a cell of which nothing more comes.
    """
    gaps, others = _first_gaps(came)
    if gaps:
        ids = [position.move(cell, gap.id) for cell, gap in gaps]
        missed = [gap.missed for _, gap in gaps if gap.missed is not None]
        yield Change(ids[-1], None, sum(missed) if len(missed) == len(gaps) else None)
    for cell, change in others:
        if isinstance(change, Exception):
            raise change
        yield change._replace(id=position.move(cell, change.id))


def _first_gaps(came: Sequence[_News]) -> tuple[list[tuple[int, Change]], list[_News]]:
    """The gaps that come first of their cells, with their numbers; and all else."""
    gaps: list[tuple[int, Change]] = []
    others: list[_News] = []
    begun: set[int] = set()
    for each in came:
        cell, change = each
        if isinstance(change, Change) and change.record is None and cell not in begun:
            gaps.append((cell, change))
        else:
            others.append(each)
        begun.add(cell)
    return gaps, others
