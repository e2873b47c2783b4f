"""Queues over partitions: each is a broker of its own, a cell, with the tasks whose ids belong to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.partitioned import PartitionedBackend
from flowrra.backends.redis_partitions import agree, cells_ever, is_agreed
from flowrra.brokers.base import (
    MAX_BATCH_BYTES,
    MAX_WAIT,
    Announcement,
    Cancellation,
    Delivery,
    LeasingBroker,
    Outcome,
    QueuedTask,
    QueueFigures,
    Renewal,
    Requests,
    ServerFigures,
    Verdict,
    sum_of,
)
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import BackendError
from flowrra.gathering import gather_all
from flowrra.partitions import partition_of
from flowrra.per_loop import PerLoop
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.setting_aside import SetAside
from flowrra.supervision import cancel_until_ended, spawn
from flowrra.task import TaskResult

# What the queues of the kinds of tasks have behind their key.
_KINDS = (":io", ":cpu")
Answer = TypeVar("Answer")
Entry = TypeVar("Entry", QueuedTask, Outcome)


class PartitionedBroker(LeasingBroker):
    """One broker of several cells. What is about a task goes to the cell of its id; what is about a queue, to all, and
    is added up. Order and priorities hold within a cell. The processes of workers, and the orders for them, are kept in
    the first cell alone.

    An executor runs each cell by itself, so that one whose server is away costs its own tasks alone; see
    :class:`flowrra.executors.sources.partitioned.PartitionedSource`. Here an error of one cell is that of the whole.

    Args:
        cells: The brokers of the partitions, in their order.
        namespace: The app's.
        undivided: Key of the queue that the app has without partitions, whose tasks would be forgotten; None if none
            can be there.
    """

    def __init__(self, cells: Sequence[RedisBroker], namespace: str, undivided: str | None = None) -> None:
        first = cells[0]
        self._cells = tuple(cells)
        self._undivided = undivided
        self.namespace, self.address, self.lease = namespace, first.address, first.lease
        self.max_deliveries, self.unknown_ttl = first.max_deliveries, first.unknown_ttl
        self._has_agreed = False
        # Where to begin the next take, so that all have their turn.
        self._next = 0
        # A connection of each cell's waits for tasks: one command can't wait in several slots of a cluster.
        self._waits: PerLoop[dict[tuple[int, tuple[str, ...]], asyncio.Task[str | None]]] = PerLoop(dict, _cancel)
        # Cells that have told of tasks since they were last asked for some.
        self._woken: set[int] = set()

    @property
    def cells(self) -> Sequence[LeasingBroker]:
        return self._cells

    @property
    def set_aside(self) -> Sequence[SetAside]:  # type: ignore[override]  # it is only read
        return [each for cell in self._cells for each in cell.set_aside]

    def with_suffix(self, suffix: str) -> PartitionedBroker:
        undivided = None if self._undivided is None else self._undivided + suffix
        return PartitionedBroker([cell.with_suffix(suffix) for cell in self._cells], self.namespace, undivided)

    async def agree(self) -> None:
        if self._has_agreed:
            return
        first, own = self._cells[0], [cell.namespace for cell in self._cells]
        is_new = not await is_agreed(first.server, first.namespace)
        if self._undivided is not None:
            await self._check_empty(first, self._undivided, or_dead=is_new)
        if is_new:
            # For how many partitions its tasks were queued, nobody knows.
            await self._check_empty(first, first.queue_key, or_dead=True)
            for namespace in await cells_ever(first.server, first.namespace):
                if namespace not in own:
                    await self._check_former(namespace, namespace + first.queue_key.removeprefix(first.namespace))
        await agree(first.server, own)
        self._has_agreed = True

    async def _check_former(self, namespace: str, key: str) -> None:
        """Return if there are no tasks in a cell of another number of partitions, which may be on another node."""
        former = self._cells[0].with_keys(key, namespace)
        try:
            await self._check_empty(former, key, or_dead=True)
        finally:
            await former.close()

    async def _check_empty(self, broker: RedisBroker, key: str, *, or_dead: bool) -> None:
        """Return if there are no tasks in the queue with that key, nor in that of the other kind: the number of
        partitions is that of both. Dead ones are looked for before there is a number: later nobody could go back."""
        bare = next((key.removesuffix(kind) for kind in _KINDS if key.endswith(kind)), key)
        for queue_key in dict.fromkeys((key, *(bare + kind for kind in _KINDS))):
            if await broker.has_tasks_at(queue_key, or_dead=or_dead):
                raise BackendError(
                    f"Redis {self.address}: there are tasks in {queue_key}, which were not queued for "
                    f"{len(self._cells)} partitions: let workers that have as many as those that queued them run them, "
                    f"and requeue or delete those that are dead"
                )

    def keeps_records_of(self, results: BaseResultBackend) -> bool:
        parts = results.cells if isinstance(results, PartitionedBackend) else (results,)
        return len(parts) == len(self._cells) and all(
            cell.keeps_records_of(part) for cell, part in zip(self._cells, parts, strict=True)
        )

    # ── cells ───────────────────────────────────────────────────────────────────────────────────────────────

    def _partition(self, task_id: str) -> int:
        return partition_of(task_id, len(self._cells))

    async def _of(self, task_id: str) -> RedisBroker:
        """The cell of a task."""
        await self.agree()
        return self._cells[self._partition(task_id)]

    async def _all(self, ask: Callable[[RedisBroker], Awaitable[Answer]]) -> list[Answer]:
        """What all cells answer, asked at once.

        Raises:
            BackendError: One could not be asked; all others have been.
        """
        await self.agree()
        return await gather_all(map(ask, self._cells))

    async def _by_cell(
        self, entries: Sequence[Entry], tell: Callable[[RedisBroker, list[Entry]], Awaitable[list[Answer]]]
    ) -> list[Answer]:
        """What is answered for each entry, in their order, where each cell is told of its own."""
        await self.agree()
        places: dict[int, list[int]] = {}
        for place, entry in enumerate(entries):
            places.setdefault(self._partition(entry.task_id), []).append(place)
        told = (tell(self._cells[cell], [entries[place] for place in own]) for cell, own in places.items())
        found: dict[int, Answer] = {}
        for own, answers in zip(places.values(), await gather_all(told), strict=True):
            found.update(zip(own, answers, strict=True))
        return [found[place] for place in range(len(entries))]

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, entries: Sequence[QueuedTask]) -> list[bool]:
        return await self._by_cell(entries, lambda cell, own: cell.submit(own))

    async def take(
        self,
        limit: int,
        max_bytes: int = MAX_BATCH_BYTES,
        *,
        queue: str = DEFAULT_QUEUE,
        name: str = "",
        timeout: float | None = None,
    ) -> tuple[list[Delivery], float | None]:
        """See :meth:`LeasingBroker.take`; the limit of bytes, and that of time, are each cell's."""
        await self.agree()
        found: list[Delivery] = []
        moments: list[float] = []
        woken, self._woken = self._woken, set()
        turns = [(self._next + step) % len(self._cells) for step in range(len(self._cells))]
        self._next = (self._next + 1) % len(self._cells)
        for cell in sorted(turns, key=lambda each: each not in woken):
            if found and len(found) >= limit and cell not in woken:
                break
            # Of a cell that told this worker alone, taking nothing has another one told.
            broker, left = self._cells[cell], max(0, limit - len(found))
            deliveries, due_in = await broker.take(left, max_bytes, queue=queue, name=name, timeout=timeout)
            found += deliveries
            moments += [] if due_in is None else [due_in]
        return found, min(moments, default=None)

    async def recover(self, held: Sequence[str], queue: str = DEFAULT_QUEUE) -> int:
        return sum(await self._all(lambda cell: cell.recover(held, queue)))

    async def wait(self, seconds: float, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> str | None:
        await self.agree()
        waits, names = self._waits.get(), tuple(queues)
        for number, cell in enumerate(self._cells):
            if (number, names) not in waits:
                waits[number, names] = spawn(cell.wait(MAX_WAIT, names))
        own = {(number, names): waits[number, names] for number in range(len(self._cells))}
        # They go on afterwards: what is cancelled could have been told of a task just then.
        await asyncio.wait(own.values(), timeout=max(0.01, min(seconds, MAX_WAIT)), return_when=asyncio.FIRST_COMPLETED)
        for place, waiting in own.items():
            if waiting.done():
                del waits[place]
                if (found := waiting.result()) is not None:
                    self._woken.add(place[0])
                    return found
        return None

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        return await self._by_cell(outcomes, lambda cell, own: cell.settle(own))

    async def cancel(self, record: TaskResult, *, is_only_if_waiting: bool = False) -> Cancellation:
        cell = await self._of(record.task_id)
        return await cell.cancel(record, is_only_if_waiting=is_only_if_waiting)

    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        found = await self._all(lambda cell: cell.list_waiting(queue, name, limit))
        return [task_id for ids in found for task_id in ids][:limit]

    async def listen(
        self,
        on_cancel: Callable[[str], None],
        queue_of: Callable[[str], str | None] = lambda _: DEFAULT_QUEUE,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        listening = [spawn(cell.listen(on_cancel, queue_of, on_request)) for cell in self._cells]
        try:
            await asyncio.gather(*listening)
        finally:
            await cancel_until_ended(*listening)

    async def has(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
        return await (await self._of(task_id)).has(task_id, queue)

    async def clock(self) -> float:
        return await self._cells[0].clock()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def figures(self, queue: str = DEFAULT_QUEUE) -> QueueFigures:
        return sum_of(await self._all(lambda cell: cell.figures(queue)))

    async def queues(self) -> list[str]:
        found = {name for names in await self._all(lambda cell: cell.queues()) for name in names}
        return [DEFAULT_QUEUE, *sorted(found - {DEFAULT_QUEUE})]

    async def list_dead(self, limit: int | None = None, queue: str = DEFAULT_QUEUE) -> list[dict[str, Any]]:
        found = await self._all(lambda cell: cell.list_dead(limit, queue))
        dead = sorted((task for tasks in found for task in tasks), key=_dead_since, reverse=True)
        return dead if limit is None else dead[: max(0, limit)]

    async def get_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> dict[str, Any] | None:
        return await (await self._of(task_id)).get_dead(task_id, queue)

    async def requeue_dead(self, task_id: str, record: TaskResult | None, queue: str = DEFAULT_QUEUE) -> bool:
        return await (await self._of(task_id)).requeue_dead(task_id, record, queue)

    async def claim_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> str | None:
        return await (await self._of(task_id)).claim_dead(task_id, new_id, queue)

    async def release_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> None:
        await (await self._of(task_id)).release_dead(task_id, new_id, queue)

    async def delete_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
        return await (await self._of(task_id)).delete_dead(task_id, queue)

    async def list_workers(self) -> list[dict[str, Any]]:
        await self.agree()
        return await self._cells[0].list_workers()

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        return any(await self._all(lambda cell: cell.pause_queue(queue, is_paused)))

    async def pause_name(self, name: str, is_paused: bool) -> bool:
        return any(await self._all(lambda cell: cell.pause_name(name, is_paused)))

    async def order(self, worker_id: str, order: dict[str, Any]) -> None:
        await self.agree()
        await self._cells[0].order(worker_id, order)

    async def requests(self, worker_id: str | None, queues: Sequence[str]) -> Requests:
        # Orders are for processes, and those are known to the first cell alone.
        found = await self._all(lambda cell: cell.requests(worker_id if cell is self._cells[0] else None, queues))
        return Requests(
            frozenset[str]().union(*(each.paused_queues for each in found)),
            frozenset[str]().union(*(each.paused_names for each in found)),
            found[0].orders,
        )

    # ── blocking, for a thread ──────────────────────────────────────────────────────────────────────────────

    def renew(self, task_ids: Sequence[str], queue: str = DEFAULT_QUEUE) -> Renewal:
        ids: dict[int, list[str]] = {}
        for task_id in task_ids:
            ids.setdefault(self._partition(task_id), []).append(task_id)
        renewal = Renewal([], [], [])
        for number, cell in enumerate(self._cells):
            for found, told in zip(renewal, cell.renew(ids.get(number, ()), queue), strict=True):
                found += told
        return renewal

    def announce(
        self, worker: dict[str, Any] | None, names: Sequence[str] | None, seconds: float, queue: str = DEFAULT_QUEUE
    ) -> Announcement:
        first, *others = self._cells
        answers = [first.announce(worker, names, seconds, queue)]
        answers += [cell.announce(None, names, seconds, queue) for cell in others]
        overdue = dict.fromkeys(name for answer in answers for name in answer.overdue)
        return Announcement(all(answer.are_names_known for answer in answers), list(overdue))

    def look_for_gone(self) -> float | None:
        pauses = [pause for cell in self._cells if (pause := cell.look_for_gone()) is not None]
        return min(pauses, default=None)

    def withdraw(self, worker_id: str | None, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> None:
        first, *others = self._cells
        first.withdraw(worker_id, queues)
        for cell in others:
            cell.withdraw(None, queues)

    # ── servers ─────────────────────────────────────────────────────────────────────────────────────────────

    async def ping(self) -> None:
        await gather_all(cell.ping() for cell in self._cells)

    @property
    def server_figures(self) -> ServerFigures:
        """The clock that is farthest off, and the memory of the fullest server."""
        figures = [cell.server_figures for cell in self._cells]
        offsets = [each.clock_offset for each in figures if each.clock_offset is not None]
        fullest = max(figures, key=_fullness)
        return ServerFigures(max(offsets, key=abs, default=None), fullest.memory_used, fullest.memory_limit)

    async def unfitness(self) -> dict[str, str | None]:
        """What makes one of the servers unfit; nothing if all are fit."""
        found: dict[str, str | None] = {}
        for reasons in await gather_all(cell.unfitness() for cell in self._cells):
            for reason, text in reasons.items():
                known = found.get(reason, "")
                found[reason] = known or (None if known is None and not text else text)
        return found

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._waits.close()
        await gather_all(cell.close() for cell in self._cells)


async def _cancel(waits: dict[Any, asyncio.Task[str | None]]) -> None:
    await cancel_until_ended(*waits.values())


def _dead_since(task: dict[str, Any]) -> datetime:
    return task["dead_since"]  # type: ignore[no-any-return]


def _fullness(figures: ServerFigures) -> tuple[float, int]:
    used = figures.memory_used or 0
    return used / figures.memory_limit if figures.memory_limit else 0.0, used
