"""Sends what several callers ask for at about the same time in one request: a round trip costs Python more than the
server needs for a hundred of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from flowrra.exceptions import RequestRefusedError
from flowrra.per_loop import PerLoop
from flowrra.supervision import spawn

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Waiting = tuple[Item, "asyncio.Future[Answer]"]


def in_batches(
    items: Sequence[Item], size_of: Callable[[Item], int], most: int, most_bytes: int
) -> Iterator[list[Item]]:
    """The items in their order, in batches that are neither too many nor too large; one item may be larger.

    Args:
        items: What is to be sent.
        size_of: The bytes of an item.
        most, most_bytes: Of one batch.
    """
    batch: list[Item] = []
    size = 0
    for item in items:
        own_size = size_of(item)
        if batch and (len(batch) == most or size + own_size > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += own_size
    if batch:
        yield batch


class _Line(Generic[Item, Answer]):
    """What waits to be sent on one event loop, by what goes together."""

    def __init__(self) -> None:
        self.waiting: dict[Hashable, deque[_Waiting[Item, Answer]]] = {}
        self.is_sending = False
        self.sender: asyncio.Task[None] | None = None


class Batcher(Generic[Item, Answer]):
    """Collects items while a request is under way, and sends them together in the next one.

    Args:
        send: Sends items in one step, and returns an answer for each. What it refuses must have had no effect: then
            some of the items are sent again without the others.
        max_batch: Most items of one request.
        size_of: The bytes of an item.
        max_bytes: Most bytes of one request; one item may be larger.
        together: Tells which items can be sent in one step: those for which it is the same.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        max_batch: int,
        size_of: Callable[[Item], int] = lambda _: 0,
        max_bytes: int = 0,
        together: Callable[[Item], Hashable] = lambda _: None,
    ) -> None:
        self._send = send
        self._max_batch = max_batch
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._together = together
        self._lines: PerLoop[_Line[Item, Answer]] = PerLoop(_Line)

    async def add(self, item: Item) -> Answer:
        """The answer for one item. Others' items don't depend on this caller: it may be cancelled.

        Raises:
            What ``send`` raises.
        """
        line = self._lines.get()
        if line.is_sending:
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            line.waiting.setdefault(self._together(item), deque()).append((item, answer))
            return await answer
        # A caller that is alone sends for itself: a task for it would cost as much again.
        line.is_sending = True
        try:
            return (await self._send([item]))[0]
        finally:
            if line.waiting:
                line.sender = spawn(self._send_all(line))
            else:
                line.is_sending = False

    async def _send_all(self, line: _Line[Item, Answer]) -> None:
        try:
            while line.waiting:
                await self._send_batch(self._next_batch(line))
        finally:
            line.is_sending = False

    def _next_batch(self, line: _Line[Item, Answer]) -> list[_Waiting[Item, Answer]]:
        """The first of what waits, and what can be sent with it. What is left goes behind all the rest."""
        group, waiting = next(iter(line.waiting.items()))
        del line.waiting[group]
        batch = [waiting.popleft()]
        size = self._size_of(batch[0][0])
        while waiting and len(batch) < self._max_batch:
            size += self._size_of(waiting[0][0])
            if size > self._max_bytes:
                break
            batch.append(waiting.popleft())
        if waiting:
            line.waiting[group] = waiting
        return batch

    async def _send_batch(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
        except RequestRefusedError as error:
            if len(batch) > 1:  # one of them is refused: it is found by halving, and the others get through
                middle = len(batch) // 2
                await self._send_batch(batch[:middle])
                await self._send_batch(batch[middle:])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
        except Exception as error:  # noqa: BLE001 - it is whose items these are that have to know
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        else:
            for (_, answer), value in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(value)
