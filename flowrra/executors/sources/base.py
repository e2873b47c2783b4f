"""What an executor asks of the place where its tasks come from."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from flowrra.brokers.base import BaseBroker, QueueFigures
from flowrra.exceptions import BackendError, PartialSubmissionError
from flowrra.executors.job import Job
from flowrra.executors.records import RecordStore
from flowrra.executors.workers import Workers
from flowrra.registry import TaskRegistry
from flowrra.submission import NO_OPTIONS, SubmitOptions
from flowrra.task import CANCELLED, TaskResult
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

# What is to be done with an order of an operator's.
Obey = Callable[[dict[str, Any]], Awaitable[None]]


class Pauses(NamedTuple):
    """The names of the queues, and of the tasks, of which nothing is begun by request."""

    queues: frozenset[str]
    names: frozenset[str]


class TaskSource(ABC):
    """Where tasks come from and go back to. It fills the workers' queue, and is told what becomes of attempts.

    Args:
        workers: Whose queue it fills.
        records: Where the records of its tasks are kept.
        registry: The tasks that are known here.
        telemetry: Counts what happens to them.

    Attributes:
        shared: Whether other processes can run what is given back.
        consumes: Whether it brings tasks at all, or leaves them to other processes.
        max_waiting: Tasks that may wait in this process before a submission waits for room.
        hears_of_starts: Whether it has anything to do when an attempt begins.
        broker: The broker that it stands for; None if tasks stay in this process.
        name, namespace, server: Of the broker: its class, the beginning of its names, and its address.
        errors: How many operations of the broker failed, by operation.
    """

    shared: bool
    consumes: bool
    max_waiting: int
    hears_of_starts = True
    broker: BaseBroker | None = None
    name: str
    namespace = "flowrra"
    server = ""

    def __init__(self, workers: Workers, records: RecordStore, registry: TaskRegistry, telemetry: Telemetry) -> None:
        self.workers = workers
        self.records = records
        self.registry = registry
        self.telemetry = telemetry
        self.errors: Counter[str] = Counter()
        # Held while a task is submitted under an id of the caller's.
        self._claimed: dict[str, asyncio.Future[None]] = {}
        # What still records of a task that it could not be queued, by its id.
        self._refusals: dict[str, asyncio.Future[None]] = {}

    @property
    def error(self) -> str | None:
        """What keeps it from bringing tasks now; None if nothing does."""
        return None

    @property
    def renewed_at(self) -> float | None:
        """When its leases were last renewed at the broker, on the monotonic clock; None if it has none to renew."""
        return None

    @property
    def restarts(self) -> int:
        """How often something of it died and was replaced."""
        return 0

    def queues(self) -> Sequence[str] | None:
        """The names of the queues at the broker that tasks are taken from, from any thread; None without a broker."""
        return None

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Accept tasks from now on, on the running event loop."""
        self._claimed.clear()
        self._refusals.clear()

    def start(self) -> None:
        """Bring tasks to the workers from now on."""

    async def stop_fetching(self) -> None:
        """Bring no more tasks."""

    async def close(self, left: float) -> None:
        """Say what is still to be said, and end.

        Args:
            left: Seconds that the caller has left.
        """

    async def told(self) -> None:
        """Return when whoever is told of outcomes knows of those there are, or would not be told soon."""

    @abstractmethod
    async def abandon(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        """Its event loop was closed without a stop: these jobs can't run here any more."""

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def submit(self, job: Job, delay: float, options: SubmitOptions) -> Coroutine[Any, Any, None] | None:
        """Record and queue a task.

        Args:
            job: The task.
            delay: Seconds until it is due.
            options: What else was said at its submission.

        Returns:
            What is to be awaited for that; None if it is done.

        Raises:
            BackendError: It could not be recorded or queued.
            SerializationError: It can't be written down.
            ExecutorNotRunningError: It was stopped meanwhile.
        """

    async def submit_many(self, jobs: AsyncIterator[Job]) -> list[str]:
        """:meth:`submit` for many.

        Returns:
            Their ids.

        Raises:
            PartialSubmissionError: That failed after some of them, or one may be queued although it failed.
        """
        ids: list[str] = []
        try:
            async for job in jobs:
                submitting = self.submit(job, 0.0, NO_OPTIONS)
                if submitting is not None:
                    await submitting
                ids.append(job.task.id)
        except Exception as error:  # also of a broker that is the user's, or because of a stop
            unsure = [job.task.id] if isinstance(error, BackendError) and error.may_be_queued else []
            if ids or unsure:
                raise PartialSubmissionError(str(error), ids, unsure) from error
            raise
        return ids

    def claim_id(self, task_id: str) -> AbstractAsyncContextManager[bool]:
        """To be entered around the submission of a task under an id of the caller's; whether it is to be submitted."""
        return self._claim(task_id)

    @asynccontextmanager
    async def _claim(self, task_id: str) -> AsyncIterator[bool]:
        # Another call may still fail, and is waited for.
        while (busy := self._claimed.get(task_id) or self._refusals.get(task_id)) is not None:
            await asyncio.wait({busy})
        claim = self._claimed[task_id] = asyncio.get_running_loop().create_future()
        try:
            known = await self.records.results.get(task_id)
            yield known is None or was_refused(known) or await self._is_lost(known)
        finally:
            del self._claimed[task_id]
            claim.set_result(None)

    async def _is_lost(self, known: TaskResult) -> bool:
        """Whether a record is all that is left of a task."""
        return False

    @abstractmethod
    def started(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        """An attempt begins; called if ``hears_of_starts``. Returns what is to be awaited before it runs."""

    def progressed(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        """A running attempt has told of its progress, which its record has. Returns what is to be awaited for that."""
        return self.records.progressed(job.record)

    @abstractmethod
    def finished(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """An attempt has ended, as its record says: keep that, and plan the next one if there is to be one.

        Returns:
            What is to be awaited before the attempt is over.
        """

    @abstractmethod
    async def release(self, job: Job) -> None:
        """Take back a task that waited here, as the executor stops."""

    @abstractmethod
    async def cancel(self, task_id: str) -> bool:
        """Cancel a task, be it waiting or running; a running one is waited for, some seconds.

        Returns:
            True if it ended by this call; False if it is unknown, was over already, or would not end.
        """

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    async def slots_changed(self) -> None:
        """There are more or fewer slots, or the workers drain: give back what is not to begin here, bring what is."""

    @abstractmethod
    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        """Begin no task of a queue any more, or do so again. Returns whether that changed anything.

        Raises:
            ValueError: It has no such queue.
            BackendError: The broker could not be reached.
        """

    @abstractmethod
    async def pause_name(self, name: str, is_paused: bool) -> bool:
        """Begin no task of a name any more, or do so again. Returns whether that changed anything.

        Raises:
            BackendError: The broker could not be reached.
        """

    @abstractmethod
    async def pauses(self) -> Pauses:
        """What is paused.

        Raises:
            BackendError: The broker could not be asked.
        """

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def cancel_waiting(self, task_id: str) -> bool:
        """Cancel a task if it waits, and nobody has taken it; whether it was cancelled."""

    @abstractmethod
    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        """The ids of tasks of that name, or of any, that wait in a queue, due or delayed.

        Raises:
            BackendError: The broker could not be asked.
        """

    @abstractmethod
    async def size(self) -> int:
        """How many tasks of all queues are due and wait for a worker, wherever that is.

        Raises:
            BackendError: The broker could not be asked.
        """

    @abstractmethod
    async def figures(self) -> QueueFigures:
        """What waits and is under way in the default queue, wherever that is.

        Raises:
            BackendError: The broker could not be asked.
        """

    @abstractmethod
    async def figures_by_queue(self) -> dict[str, QueueFigures]:
        """The same for each queue that is known, by name, the default one first.

        Raises:
            BackendError: The broker could not be asked.
        """

    async def has_startable(self) -> bool:
        """Whether a task waits outside of this process that could begin here, as far as that is known.

        Raises:
            BackendError: The broker could not be asked.
        """
        return False


def was_refused(known: TaskResult) -> bool:
    """Whether a task could not be queued: it was never one, and this is the next try."""
    return known.status is CANCELLED and (known.error or "").startswith("not queued: ")
