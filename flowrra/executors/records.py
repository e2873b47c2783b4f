"""Where the records of an executor's tasks are kept on their way: in this process, on a backend that takes its time, or
by the broker together with the tasks."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.backoff import Backoff
from flowrra.codec import EncodedRecord
from flowrra.events import EventPublisher
from flowrra.exceptions import ServerUnavailableError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import describe, fail_unwritable
from flowrra.executors.workers import Workers
from flowrra.outage import Outage
from flowrra.rebuilding import rebuild_result
from flowrra.registry import TaskRegistry
from flowrra.supervision import is_for_caller
from flowrra.task import CANCELLED, RUNNING, SUCCESS, Task, TaskResult, TaskStatus

logger = logging.getLogger(__name__)

# What ends the program, or the waiting for an answer, is not a failure of the result backend.
PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
# What passes: the same record can be stored later.
PASSING = (ServerUnavailableError, OSError)

# How often an outcome is stored anew because something cancels the asyncio task that stores it.
OUTCOME_ATTEMPTS = 10
# Outcomes that wait for a result backend that is away; those beyond keep their slots.
MAX_LATE = 1000

# Called once an attempt's outcome is stored, or (False) can't be.
OnStored = Callable[[Job, bool], None]
# Records that were read, by the ids of their tasks.
Known = Mapping[str, TaskResult | None]


def mark_refused(record: TaskResult, error: BaseException) -> None:
    """Write on a record that its task was never queued, and why."""
    record.status, record.finished_at = CANCELLED, datetime.now(UTC)
    record.error = f"not queued: {describe(error)}"


class RecordStore(ABC):
    """The records of tasks on their way through an executor.

    Args:
        results: Where users read them.
        publisher: Tells subscribers of every change.

    Attributes:
        errors: How many operations of the result backend failed, by operation.
        tells_of_others: Whether a record there says what other processes did to the task.
        hears_of_starts: Whether :meth:`started` does anything.
        bus: Who is told of changes.
        hold, keep: What :meth:`accepted` and :meth:`finished` do, by a task's id and record, without a call more for
            every task in memory. None where that takes its time.
    """

    tells_of_others = False
    hears_of_starts = False
    hold: Callable[[str, TaskResult], None] | None = None
    keep: Callable[[str, TaskResult], None] | None = None

    def __init__(self, results: BaseResultBackend, publisher: EventPublisher) -> None:
        self.results = results
        self.errors: Counter[str] = Counter(dict.fromkeys(("get", "store"), 0))
        self._publisher = publisher
        self.bus = publisher.bus
        self._reading = Outage(logger, "records not readable")

    def open(self) -> None:
        """Begin on the running event loop."""

    def give_up(self) -> None:
        """Wait no longer for a backend that is away."""

    @abstractmethod
    def accepted(self, record: TaskResult) -> Awaitable[None] | None:
        """Keep the record of a new task. None if that is done; else awaiting it raises what the backend does."""

    async def keep_submission(self, record: TaskResult) -> bool:
        """Keep the record of a task that is submitted under an id of the caller's; False if there is one already.

        Raises:
            BackendError: It could not be kept.
        """
        if (keeping := self.accepted(record)) is not None:
            await keeping
        return True

    async def store_refusal(self, record: TaskResult) -> None:
        """Keep the record of a task that could not be queued, unless another submission of its id was."""
        await self.store(record)

    def taken(self, record: TaskResult) -> None:
        """Keep the new record of a task that came from a broker."""

    async def unlist_expired(self) -> None:
        """Have records counted no more that have expired, unless the broker sees to that."""

    @abstractmethod
    def started(self, record: TaskResult) -> Coroutine[Any, Any, Any] | None:
        """Keep the record of an attempt that begins. None if there is nothing to wait for."""

    def progressed(self, record: TaskResult) -> Coroutine[Any, Any, Any] | None:
        """Keep the record of a running attempt that has told of its progress. None if there is nothing to wait for."""
        return None

    @abstractmethod
    def finished(self, job: Job, on_stored: OnStored) -> Coroutine[Any, Any, None] | None:
        """Keep the record of an attempt that has ended.

        Args:
            job: Whose attempt it was.
            on_stored: Called when that is done, if it isn't at once: also after what is returned is through, while the
                backend is away.

        Returns:
            None if it is done; else what is to be awaited before the attempt is over.
        """

    @abstractmethod
    async def store(self, record: TaskResult) -> bool:
        """Keep a record as it is now; a failure is logged and counted.

        Returns:
            Whether that is over, be it that the backend refuses the record; False if it is away, and the same record
            can be stored later.
        """

    async def store_late(self, record: TaskResult) -> None:
        """Keep a record as soon as the backend is back, unless :meth:`give_up` is called before."""
        await self.store(record)

    def encoded(self, record: TaskResult, call: str | None) -> EncodedRecord | None:
        """The record as the broker keeps it; None if it doesn't."""
        return None

    async def end(self, record: TaskResult, status: TaskStatus, reason: str) -> None:
        """Keep and publish that a task ended without an attempt's outcome."""
        record.status, record.error, record.finished_at = status, reason, datetime.now(UTC)
        await self.store(record)
        self.publish(record)

    def refuse(self, record: TaskResult, error: BaseException) -> None:
        """Publish of a task whose submission was published that it was never queued."""
        mark_refused(record, error)
        self.publish(record)

    def publish(self, record: TaskResult) -> None:
        """Tell subscribers of a change."""
        if self.bus.subscribers:
            self._publisher.publish(record)

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody is told of changes."""
        return bool(self.bus.subscribers)

    async def of(self, task: Task) -> TaskResult:
        """The record of a task that came from a broker; a new one if there is none, or it can't be read."""
        return await self.known(task.id) or self.new(task)

    def new(self, task: Task) -> TaskResult:
        """A record of a task that came from a broker, if there is none that can be read."""
        return TaskResult(
            task.id, TaskStatus.PENDING, task.name, retries=task.current_retry, args=task.args, kwargs=task.kwargs
        )

    async def known(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if there is none, or it can't be read, which is counted."""
        try:
            return await self.find(task_id)
        except PASSING:
            return None

    async def find(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if there is none, or what is there can't be read, which is counted.

        Raises:
            ServerUnavailableError, OSError: The backend is away: what it has can be read later.
        """
        try:
            record = await self.results.get(task_id)
        except BaseException as error:
            if is_for_caller(error):
                raise
            self.errors["get"] += 1
            self._reading.failed(f"{describe(error)} id={task_id}", error)
            if isinstance(error, PASSING):
                raise
            return None
        self._reading.over()
        return record

    def rebuild(self, record: TaskResult, registry: TaskRegistry) -> None:
        """Make of a result that was read as text what its task's annotations say."""
        rebuild_result(record, registry)


class InPlaceRecords(RecordStore):
    """The records themselves lie in the results, and change in place: their passing states need no storing."""

    def __init__(self, results: InMemoryBackend, publisher: EventPublisher) -> None:
        super().__init__(results, publisher)
        self.errors.clear()
        self._memory = results
        self.hold, self.keep = results.hold, results.keep

    def accepted(self, record: TaskResult) -> None:
        # Not held: there may be the record of a try before, under the same id, that was never queued.
        self._memory.keep(record.task_id, record)

    def taken(self, record: TaskResult) -> None:
        self._memory.keep(record.task_id, record)

    def started(self, record: TaskResult) -> None:
        pass

    def finished(self, job: Job, on_stored: OnStored) -> None:
        self._memory.keep(job.task.id, job.record)

    async def store(self, record: TaskResult) -> bool:
        self._memory.keep(record.task_id, record)
        return True

    def rebuild(self, record: TaskResult, registry: TaskRegistry) -> None:
        pass  # it was never text


class BrokerRecords(RecordStore):
    """The broker keeps the records, in the same step as the tasks: it is given them with what it is told."""

    def accepted(self, record: TaskResult) -> None:
        pass

    def started(self, record: TaskResult) -> None:
        pass

    def finished(self, job: Job, on_stored: OnStored) -> None:
        pass

    async def store(self, record: TaskResult) -> bool:
        return True

    def encoded(self, record: TaskResult, call: str | None) -> EncodedRecord | None:
        return codec.encode_record(record, call)


class StoredRecords(RecordStore):
    """The records are stored on a backend that takes its time, and may be away.

    Args:
        workers: What waits for the backend is done beside them.
    """

    tells_of_others = True
    hears_of_starts = True

    def __init__(self, results: BaseResultBackend, publisher: EventPublisher, workers: Workers) -> None:
        super().__init__(results, publisher)
        self._workers = workers
        self._storing = Outage(logger, "records not stored", f"executor={workers.kind}", level=logging.ERROR)
        # What stores the progress of a running attempt, by the task's id: its outcome is stored after that.
        self._progressing: dict[str, asyncio.Task[None]] = {}
        self._is_giving_up = False
        self._is_unlisting = False

    def open(self) -> None:
        # How many attempts have ended whose outcome waits for the backend.
        self._late = 0
        self._is_giving_up = self._is_unlisting = False

    def give_up(self) -> None:
        self._is_giving_up = True

    def accepted(self, record: TaskResult) -> Awaitable[None]:
        return self.results.store(record.task_id, record)

    def started(self, record: TaskResult) -> Coroutine[Any, Any, bool]:
        return self.store(record)

    def progressed(self, record: TaskResult) -> Coroutine[Any, Any, None] | None:
        return self._store_progress(record) if record.task_id not in self._progressing else None

    async def _store_progress(self, record: TaskResult) -> None:
        self._progressing[record.task_id] = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            if record.status is RUNNING:
                await self.store(record)
        finally:
            del self._progressing[record.task_id]

    def finished(self, job: Job, on_stored: OnStored) -> Coroutine[Any, Any, None]:
        return self._finish(job, on_stored)

    async def keep_submission(self, record: TaskResult) -> bool:
        return await self.results.store_new(record.task_id, record)

    async def store_refusal(self, record: TaskResult) -> None:
        await self._store(record, self.results.store_new)

    async def store(self, record: TaskResult) -> bool:
        return await self._store(record, self.results.store)

    async def _store(self, record: TaskResult, store: Callable[[str, TaskResult], Awaitable[object]]) -> bool:
        try:
            await store(record.task_id, record)
        except PASSED_ON:
            raise
        except BaseException as error:  # noqa: BLE001 - a backend is user code, and must not end a worker
            self._failed(record, error)
            return not isinstance(error, PASSING)
        self._storing.over()
        return True

    async def unlist_expired(self) -> None:
        if self._is_unlisting:  # a backend may take longer than it is until it is asked again
            return
        self._is_unlisting = True
        try:
            await self.results.unlist_expired()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a backend is user code; the next call sees to it
            logger.debug("expired records not unlisted error=%s", describe(error))
        finally:
            self._is_unlisting = False

    async def store_late(self, record: TaskResult) -> None:
        backoff = Backoff()
        while not self._is_giving_up:
            await asyncio.sleep(backoff.next())
            if await self.store(record):
                return
        _log_given_up(record)

    # ── outcomes ────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, job: Job, on_stored: OnStored) -> None:
        is_stored = await self._store_outcome(job) or not job.record.is_complete
        if not is_stored and self._late >= MAX_LATE:  # it keeps its slot, so that there are not ever more
            is_stored = await self._store_late(job)
        if is_stored:
            on_stored(job, True)
        else:
            self._late += 1
            self._workers.spawn(self._finish_late(job, on_stored))

    async def _finish_late(self, job: Job, on_stored: OnStored) -> None:
        try:
            on_stored(job, await self._store_late(job))
        finally:
            self._late -= 1

    async def _store_outcome(self, job: Job) -> bool:
        """Store what became of an attempt: its task must not run again because that fails.

        What the backend refuses becomes a failure that says so. A cancellation came too late: the task's own code had
        ended.

        Returns:
            Whether it was stored, or is given up; if not, the backend is away, and it can be stored later.
        """
        record = job.record
        for attempt in range(OUTCOME_ATTEMPTS):
            try:
                if (progressing := self._progressing.get(job.task.id)) is not None:
                    await asyncio.wait({progressing})
                await self.results.store(job.task.id, record)
                self._storing.over()
                return True
            except asyncio.CancelledError:
                continue
            except PASSED_ON:
                raise
            except PASSING as error:
                self._failed(record, error)
                return False
            except BaseException as error:  # noqa: BLE001 - a backend is user code, and must not end a worker
                self.errors["store"] += 1
                if attempt > 0:
                    break
                kept = "result" if record.status is SUCCESS else "record"
                fail_unwritable(job, error, f"its {kept} could not be stored", self._workers.worker_id)
        _log_given_up(record)
        return True

    async def _store_late(self, job: Job) -> bool:
        """Store an outcome as soon as the backend is back; False if it was not in time."""
        backoff = Backoff()
        while not self._is_giving_up:
            await asyncio.sleep(backoff.next())
            try:
                await self.results.store(job.task.id, job.record)
                self._storing.over()
                return True
            except PASSING as error:
                self._failed(job.record, error)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - logged, and what says so is stored instead
                self.errors["store"] += 1
                fail_unwritable(job, error, "its record could not be stored", self._workers.worker_id)
        _log_given_up(job.record)
        return False

    def _failed(self, record: TaskResult, error: BaseException) -> None:
        self.errors["store"] += 1
        last = f"task={record.task_name} id={record.task_id} status={record.status}"
        self._storing.failed(f"{describe(error)} {last}", error)


def _log_given_up(record: TaskResult) -> None:
    text = "outcome not stored, given up task=%s id=%s status=%s"
    logger.error(text, record.task_name, record.task_id, record.status)


def records_for(
    results: BaseResultBackend, publisher: EventPublisher, workers: Workers, is_kept_by_broker: bool
) -> RecordStore:
    """The way to keep records that fits where they are to lie."""
    if is_kept_by_broker:
        return BrokerRecords(results, publisher)
    if type(results) is InMemoryBackend:  # exactly: a class derived from it may do otherwise
        return InPlaceRecords(results, publisher)
    return StoredRecords(results, publisher, workers)
