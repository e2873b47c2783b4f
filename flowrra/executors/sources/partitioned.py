"""Tasks from a broker of several cells: each cell is a source by itself, so that one whose server is away, or slow,
costs its own tasks and no others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from flowrra.backoff import Backoff
from flowrra.brokers.base import LeasingBroker, QueueFigures, sum_of
from flowrra.config import ExecutorConfig
from flowrra.exceptions import BackendError, PartialSubmissionError
from flowrra.executors.job import Job
from flowrra.executors.records import BrokerRecords, RecordStore
from flowrra.executors.sources.base import Obey, Pauses, TaskSource
from flowrra.executors.sources.fetcher import REPLACEMENT_DELAY
from flowrra.executors.sources.leased import LeasedSource
from flowrra.executors.sources.room import Room
from flowrra.executors.workers import Workers
from flowrra.gathering import gather_all
from flowrra.outage import Outage
from flowrra.partitions import partition_of
from flowrra.registry import TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.supervision import Supervised
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class PartitionedSource(TaskSource):
    """What an executor has from a broker of several cells.

    Args:
        workers, records, registry, telemetry, broker, config, announcement, obey: See :class:`LeasedSource`.
    """

    shared = True
    max_waiting = LeasedSource.max_waiting
    broker: LeasingBroker

    def __init__(
        self,
        workers: Workers,
        records: RecordStore,
        registry: TaskRegistry,
        telemetry: Telemetry,
        broker: LeasingBroker,
        config: ExecutorConfig,
        announcement: Callable[[], dict[str, Any]] | None,
        obey: Obey,
    ) -> None:
        super().__init__(workers, records, registry, telemetry)
        self.broker = broker
        self.name, self.namespace, self.server = type(broker.cells[0]).__name__, broker.namespace, broker.address
        self.consumes = config.consume
        self._room = Room(workers)
        # A process is known to the first cell alone.
        self._cells = [
            LeasedSource(
                workers,
                records,
                registry,
                telemetry,
                cell,
                config,
                None if number else announcement,
                obey,
                self._room,
                number,
            )
            for number, cell in enumerate(broker.cells)
        ]
        self._by_broker = {cell.broker: cell for cell in self._cells}
        for cell in self._cells:
            self.errors.update(cell.errors)
            cell.errors = self.errors
        self._is_broker_keeping = isinstance(records, BrokerRecords)
        self._starting = Supervised(
            self._start, f"flowrra-{workers.kind}-partitions", REPLACEMENT_DELAY, self._count_death
        )
        self._deaths = 0
        self._is_started = False
        self._disagreement: str | None = None
        self._half_paused = Outage(
            logger, "paused in some partitions only, pause or resume it again", f"executor={workers.kind}"
        )

    def _of(self, task_id: str) -> LeasedSource:
        """The source of a task."""
        return self._cells[partition_of(task_id, len(self._cells))]

    def _origin(self, job: Job) -> LeasedSource:
        """The source that brought a task, in whatever partition it should have been."""
        return self._by_broker[job.origin]

    @property
    def error(self) -> str | None:
        errors = (f"partition {number}: {cell.error}" for number, cell in enumerate(self._cells) if cell.error)
        return self._disagreement or next(errors, None)

    @property
    def renewed_at(self) -> float | None:
        return min((cell.renewed_at for cell in self._cells if cell.renewed_at is not None), default=None)

    @property
    def restarts(self) -> int:
        return self._deaths + sum(cell.restarts for cell in self._cells)

    def queues(self) -> tuple[str, ...]:
        return self._cells[0].queues()  # all cells take from the same

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        for cell in self._cells:
            cell.open()

    def start(self) -> None:
        if self.consumes:
            self._is_started, self._disagreement = False, None
            self._starting.start()

    def _count_death(self, error: BaseException | None) -> None:
        self._deaths += 1
        logger.error("starting to take tasks died, replaced executor=%s error=%r", self.workers.kind, error)

    async def _start(self) -> None:
        """Bring tasks as soon as it is known that all processes have the same partitions."""
        if not self._is_started:
            await self._agree()
            self._is_started = True
            for cell in self._cells:
                cell.start()
        await asyncio.Event().wait()  # whoever ends is replaced

    async def _agree(self) -> None:
        """Return when the number of partitions is known to be everybody's."""
        backoff = Backoff()
        outage = Outage(logger, "no tasks taken", f"executor={self.workers.kind}", level=logging.ERROR)
        while True:
            try:
                await self.broker.agree()
                break
            except BackendError as error:
                self._disagreement = str(error)
                self.errors["take"] += 1
                outage.failed(str(error))
                await asyncio.sleep(backoff.next())
        self._disagreement = None
        outage.over()

    async def stop_fetching(self) -> None:
        await self._starting.stop()
        await gather_all(cell.stop_fetching() for cell in self._cells)

    async def close(self, left: float) -> None:
        try:
            await gather_all(cell.close(left) for cell in self._cells)
        finally:
            await self.broker.close()

    async def told(self) -> None:
        await gather_all(cell.told() for cell in self._cells)

    async def abandon(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        self._starting.release()
        for cell in self._cells:
            own = [[job for job in jobs if self._origin(job) is cell] for jobs in (running, waiting)]
            await cell.abandon(*own)

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, delay: float, options: SubmitOptions) -> Coroutine[Any, Any, None]:
        return self._submit(job, delay, options)

    async def _submit(self, job: Job, delay: float, options: SubmitOptions) -> None:
        await self.broker.agree()
        await self._of(job.task.id).submit(job, delay, options)

    def claim_id(self, task_id: str) -> AbstractAsyncContextManager[bool]:
        return self._of(task_id).claim_id(task_id)

    async def submit_many(self, jobs: AsyncIterator[Job]) -> list[str]:
        if not self._is_broker_keeping:
            return await super().submit_many(jobs)
        await self.broker.agree()
        ids: list[str] = []
        parts: dict[LeasedSource, list[Job]] = {}
        async for job in jobs:
            ids.append(job.task.id)
            parts.setdefault(self._of(job.task.id), []).append(job)
        submitting = (cell.submit_jobs(own) for cell, own in parts.items())
        answers = await asyncio.gather(*submitting, return_exceptions=True)
        _check_submissions(ids, answers)
        return ids

    # ── attempts ────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        return self._origin(job).started(job)

    def progressed(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        return self._origin(job).progressed(job)

    def finished(self, job: Job) -> Coroutine[Any, Any, None] | None:
        return self._origin(job).finished(job)

    async def release(self, job: Job) -> None:
        await self._origin(job).release(job)

    async def cancel(self, task_id: str) -> bool:
        await self.broker.agree()
        return await self._of(task_id).cancel(task_id)

    async def cancel_waiting(self, task_id: str) -> bool:
        await self.broker.agree()
        return await self._of(task_id).cancel_waiting(task_id)

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    async def slots_changed(self) -> None:
        for cell in self._cells:
            await cell.slots_changed()

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        return await self.broker.pause_queue(queue, is_paused)

    async def pause_name(self, name: str, is_paused: bool) -> bool:
        return await self.broker.pause_name(name, is_paused)

    async def pauses(self) -> Pauses:
        """What is paused in all partitions. Of what is so in some, as a request failed for others, the log tells."""
        found = await self._ask(lambda cell: cell.pauses())
        paused = Pauses(
            found[0].queues.intersection(*(each.queues for each in found)),
            found[0].names.intersection(*(each.names for each in found)),
        )
        somewhere = {*(queue for each in found for queue in each.queues - paused.queues)}
        somewhere.update(name for each in found for name in each.names - paused.names)
        if somewhere:
            self._half_paused.failed(f"{', '.join(sorted(somewhere)):.1000}")
        else:
            self._half_paused.over()
        return paused

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        return await self.broker.list_waiting(queue, name, limit)

    async def size(self) -> int:
        return sum(await self._ask(lambda cell: cell.size()))

    async def figures(self) -> QueueFigures:
        return await self.broker.figures()

    async def figures_by_queue(self) -> dict[str, QueueFigures]:
        return _merged(await self._ask(lambda cell: cell.figures_by_queue()))

    async def has_startable(self) -> bool:
        return any(await self._ask(lambda cell: cell.has_startable()))

    async def _ask(self, ask: Callable[[LeasedSource], Awaitable[Answer]]) -> list[Answer]:
        """What all cells answer, asked at once: without one of them, a sum would be wrong.

        Raises:
            BackendError: One could not be asked.
        """
        await self.broker.agree()
        return await gather_all(map(ask, self._cells))


def _merged(found: Sequence[dict[str, QueueFigures]]) -> dict[str, QueueFigures]:
    """The figures of all cells, by queue."""
    by_queue: dict[str, list[QueueFigures]] = {}
    for figures in found:
        for queue, own in figures.items():
            by_queue.setdefault(queue, []).append(own)
    return {queue: sum_of(own) for queue, own in by_queue.items()}


def _check_submissions(ids: Sequence[str], answers: Sequence[list[str] | BaseException]) -> None:
    """Raise what went wrong in a cell, and say what became of the tasks of all of them.

    Args:
        ids: Of the tasks, in the order of the calls.
        answers: For each cell, the ids of those that were queued, or its error.
    """
    error = next((answer for answer in answers if isinstance(answer, BaseException)), None)
    if error is None:
        return
    queued: set[str] = set()
    unsure: set[str] = set()
    for answer in answers:
        if isinstance(answer, PartialSubmissionError):
            queued.update(answer.queued)
            unsure.update(answer.unsure)
        elif isinstance(answer, list):
            queued.update(answer)
        elif not isinstance(answer, BackendError):
            raise answer
    if not queued and not unsure:
        raise error
    reason = error.reason if isinstance(error, PartialSubmissionError) else str(error)
    raise PartialSubmissionError(
        reason, [each for each in ids if each in queued], [each for each in ids if each in unsure]
    ) from error
