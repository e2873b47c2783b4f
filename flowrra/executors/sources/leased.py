"""Tasks from a broker that lends them: each is held while it waits and runs here, and settled when it is over."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from flowrra import codec
from flowrra.backoff import Backoff
from flowrra.batcher import Batcher, in_batches
from flowrra.brokers.base import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Cancellation,
    LeasingBroker,
    Outcome,
    QueuedTask,
    QueueFigures,
    Renewal,
    Verb,
)
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError, PartialSubmissionError, SerializationError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import fail_unwritable
from flowrra.executors.records import BrokerRecords, RecordStore
from flowrra.executors.sources.base import TaskSource
from flowrra.executors.sources.delivery import Deliveries
from flowrra.executors.sources.fetcher import REPLACEMENT_DELAY, Fetcher
from flowrra.executors.sources.heartbeat import Heartbeat
from flowrra.executors.sources.holdings import Holdings
from flowrra.executors.sources.settler import Settler
from flowrra.executors.workers import CANCEL_GRACE, CANCEL_REPEAT, Workers
from flowrra.registry import TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.supervision import Supervised, spawn
from flowrra.task import CANCELLED, PENDING, RETRYING, TaskResult
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

# What can fail with the broker, and is counted under these names.
OPERATIONS = ("submit", "take", "settle", "renew")
# Seconds that outcomes may take to be told at the end, and that they have however little time the caller left.
FLUSH_TIMEOUT = 10.0
MIN_FLUSH_TIMEOUT = 1.0


class LeasedSource(TaskSource):
    """What an executor has from its broker.

    Args:
        workers, records, registry, telemetry: See :class:`TaskSource`.
        broker: Where tasks come from.
        consumes: Whether tasks are taken at all, or left to other processes.
        announcement: Returns what other processes are to know of this one; None announces nothing.
    """

    shared = True
    max_waiting = sys.maxsize
    broker: LeasingBroker

    def __init__(
        self,
        workers: Workers,
        records: RecordStore,
        registry: TaskRegistry,
        telemetry: Telemetry,
        broker: LeasingBroker,
        consumes: bool,
        announcement: Callable[[], dict[str, Any]] | None,
    ) -> None:
        super().__init__(workers, records, registry, telemetry)
        self.broker = broker
        self.name, self.namespace = type(broker).__name__, broker.namespace
        self.errors.update(dict.fromkeys(OPERATIONS, 0))
        self.consumes = consumes
        self._announcement = announcement
        # Whether the broker refuses an id that it knows, in the same step as it keeps the record.
        self._is_broker_keeping = isinstance(records, BrokerRecords)
        # Ids whose record lies on the backend already, while the task is queued anew.
        self._recorded: set[str] = set()
        self._submissions = Batcher(self._submit_all, MAX_BATCH)
        # What keeps it from its work now, by operation. A submission that failed isn't among them: its caller was told,
        # and whether the next one would succeed isn't known before there is one.
        self._errors: dict[str, str] = {}
        self._holdings = Holdings(workers.kind)
        self._settler = Settler(
            broker,
            workers.kind,
            self._on_settled,
            self._queue_anew,
            self._describe_refused,
            lambda error: self._note("settle", error),
        )
        self._deliveries = Deliveries(broker, workers, records, registry, telemetry, self._holdings, self._settler)
        self._fetcher = Fetcher(
            broker,
            workers,
            self._holdings,
            self._settler,
            self._deliveries.accept,
            self._release,
            lambda error: self._note("take", error),
            lambda: self._note("take", None),
        )
        self._listener_deaths = 0
        self._listening = Supervised(
            self._listen, f"flowrra-{workers.kind}-listen", REPLACEMENT_DELAY, self._count_listener_death
        )
        self._heartbeat: Heartbeat | None = None

    @property
    def error(self) -> str | None:
        return next(iter(self._errors.copy().values()), None)

    @property
    def restarts(self) -> int:
        return self._fetcher.restarts + self._listener_deaths

    def held_ids(self) -> list[str]:
        """The ids of the tasks that are held by leases here, from any thread."""
        return self._holdings.ids()

    def _note(self, operation: str, error: BaseException | None) -> None:
        if error is None:
            self._errors.pop(operation, None)
        else:
            self._errors[operation] = str(error)
            self.errors[operation] += 1

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, delay: float, options: SubmitOptions) -> Coroutine[Any, Any, None]:
        return self._submit(job, delay, options)

    async def _submit(self, job: Job, delay: float, options: SubmitOptions) -> None:
        entry = self._entry(job, delay, options.remember)
        # Told first: its worker, which may be this process, tells what comes next.
        self.records.publish(job.record)
        try:
            if job.task.id not in self._recorded and (recording := self.records.accepted(job.record)) is not None:
                await recording
            is_new = await self._submissions.add(entry)
        except BaseException as error:
            self.records.refuse(job.record, error)
            await self.records.store(job.record)
            raise
        finally:
            self._recorded.discard(job.task.id)
        # An id of our own making can be known already only by this submission, whose first answer was lost.
        if is_new or options.task_id is None:
            job.telemetry.count_submitted()

    def _entry(self, job: Job, delay: float, remember: float = 0.0) -> QueuedTask:
        """A task as it is queued.

        Raises:
            SerializationError: Its arguments can't be written as JSON, or not be rebuilt from it.
        """
        task, record = job.task, job.record
        call = codec.encode_call(task.args, task.kwargs, task.name, job.definition.func)
        text = codec.encode_task(task, record.submitted_at, call)
        return QueuedTask(task.id, task.priority, delay, text, self.records.encoded(record, call), remember)

    def claim_id(self, task_id: str) -> AbstractAsyncContextManager[bool]:
        if self._is_broker_keeping and not self.records.has_subscribers:
            return nullcontext(True)  # the broker looks for itself, in one step
        return super().claim_id(task_id)

    async def _is_lost(self, known: TaskResult) -> bool:
        """Whether an unfinished record is all that is left of a task, as when its submitter was killed before it was
        queued."""
        if known.is_complete or not self.records.tells_of_others or await self.broker.has(known.task_id):
            return False
        # It may have ended just now: an outcome is recorded before the broker forgets the task.
        latest = await self.records.results.get(known.task_id)
        if latest is not None and latest.is_complete:
            return False
        logger.warning("task is recorded, and in no queue: queued again task=%s id=%s", known.task_name, known.task_id)
        self._recorded.add(known.task_id)
        return True

    async def submit_many(self, jobs: AsyncIterator[Job]) -> list[str]:
        if not self._is_broker_keeping:
            return await super().submit_many(jobs)
        created = [job async for job in jobs]
        for job in created:
            self.records.publish(job.record)
        try:
            await self._submit_batches(created)
        except PartialSubmissionError as error:
            queued, known = set(error.queued), {*error.queued, *error.unsure}
            for job in created:
                if job.task.id in queued:
                    job.telemetry.count_submitted()
                elif job.task.id not in known:
                    self.records.refuse(job.record, error)
            raise
        for job in created:
            job.telemetry.count_submitted()
        return [job.task.id for job in created]

    async def _submit_batches(self, jobs: Sequence[Job]) -> None:
        """Queue tasks, many in one request. While the server has some of them, the next ones are encoded.

        Raises:
            SerializationError: The arguments of one of the first can't be written as JSON; nothing was queued.
            PartialSubmissionError: Those of a later one can't, or the server could not be reached.
        """
        sending: tuple[list[QueuedTask], asyncio.Task[list[bool]]] | None = None
        queued: list[str] = []

        async def sent() -> None:
            nonlocal sending
            if sending is not None:
                (entries, answer), sending = sending, None
                try:
                    await answer
                except BackendError as error:
                    raise PartialSubmissionError(str(error), queued, [each.task_id for each in entries]) from error
                queued.extend(each.task_id for each in entries)

        try:
            for first in range(0, len(jobs), MAX_BATCH):
                entries = [self._entry(job, 0.0) for job in jobs[first : first + MAX_BATCH]]
                for batch in in_batches(entries, QueuedTask.size, MAX_BATCH, MAX_BATCH_BYTES):
                    await sent()
                    sending = batch, spawn(self._submit_all(batch))
                    await asyncio.sleep(0)
        except SerializationError as error:
            await sent()
            if queued:
                raise PartialSubmissionError(str(error), queued, []) from error
            raise
        finally:
            await sent()

    async def _submit_all(self, entries: Sequence[QueuedTask]) -> list[bool]:
        try:
            return await self.broker.submit(entries)
        except BackendError:
            self.errors["submit"] += 1
            raise

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        if not self.consumes:
            return
        self._loop = asyncio.get_running_loop()
        self._holdings.clear()
        self._errors.clear()
        self._heartbeat = Heartbeat(
            self.broker,
            self.held_ids,
            self.registry.list_tasks,
            self._announcement,
            lambda renewal: self._from_thread(self._apply_renewal, renewal),
            lambda names: self._from_thread(self._give_up_unknown, names),
        )
        self._heartbeat.start()
        self._fetcher.start()
        self._listening.start()

    def _from_thread(self, call: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _count_listener_death(self, error: BaseException | None) -> None:
        self._listener_deaths += 1
        logger.error("listening died, replaced executor=%s error=%r", self.workers.kind, error)

    async def stop_fetching(self) -> None:
        await asyncio.gather(self._fetcher.stop(), self._listening.stop())

    async def close(self, left: float) -> None:
        """Tell what is still to be told, and end the holds.

        Args:
            left: Seconds that the caller has left; if the server is away, hardly more are spent on it.
        """
        timeout = min(FLUSH_TIMEOUT, max(MIN_FLUSH_TIMEOUT, left))
        await self._settler.flush(timeout)
        self._settler.close()
        if self._heartbeat is not None:
            await self._loop.run_in_executor(None, self._heartbeat.stop, timeout)
            self._heartbeat = None
        self._holdings.clear()
        await self.broker.close()

    async def abandon(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        for job in running:
            job.telemetry.count_released()
        self._fetcher.abandon()
        self._listening.release()
        self._holdings.clear()
        self._settler.close()
        if self._heartbeat is not None:
            self._heartbeat.stop(FLUSH_TIMEOUT)
            self._heartbeat = None

    # ── attempts ────────────────────────────────────────────────────────────────────────────────────────────

    def started(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        if self._is_broker_keeping:
            self._settler.mark_running(job)
            return None
        return self.records.started(job.record)

    def finished(self, job: Job) -> Coroutine[Any, Any, None] | None:
        keeping = self.records.finished(job, self._settle)
        if keeping is not None:
            return self._finish_elsewhere(job, keeping)
        self._settle(job, True)
        self._fetcher.attempt_ended()
        return None

    async def _finish_elsewhere(self, job: Job, keeping: Coroutine[Any, Any, None]) -> None:
        try:
            if not self._is_surely_held(job) and await self._is_known_better(job):
                keeping.close()
                self._settle(job, True)
            else:
                await keeping
        finally:
            self._fetcher.attempt_ended()

    def _is_surely_held(self, job: Job) -> bool:
        """Whether no other worker can have been given a task meanwhile."""
        renewed_at = 0.0 if self._heartbeat is None else self._heartbeat.renewed_at
        is_held = job.task.id in self._holdings.held
        return is_held and time.monotonic() < max(job.taken_at, renewed_at) + self.broker.lease

    async def _is_known_better(self, job: Job) -> bool:
        """Whether another worker, which had been given the task meanwhile, has told how it ended."""
        known = await self.records.known(job.task.id)
        return known is not None and known.is_complete and (known.is_success or not job.record.is_success)

    def _settle(self, job: Job, is_stored: bool) -> None:
        """Say what became of an attempt, as its record states. What can't be written fails its task."""
        if not is_stored:  # another worker shall have another try
            job.record.status = PENDING
        self._holdings.leaving[job.task.id] = job
        try:
            outcome = self._outcome(job)
        except BaseException as error:  # noqa: BLE001 - what a task returns is user code
            fail_unwritable(job, error, "its result could not be stored")
            outcome = self._outcome(job)
        self._settler.add(outcome)

    def _outcome(self, job: Job) -> Outcome:
        record = job.record
        encoded = self.records.encoded(record, job.call)
        if record.status is RETRYING:
            text = codec.encode_task(job.task, record.submitted_at, job.call)
            return Outcome(Verb.RETRY, job.task.id, job.retry_after, text, encoded, job.task.priority)
        verb = Verb.RELEASE if record.status is PENDING else Verb.COMPLETE
        return Outcome(verb, job.task.id, record=encoded, status=record.status if verb is Verb.COMPLETE else None)

    async def release(self, job: Job) -> None:
        self._release(job)

    def _release(self, job: Job) -> None:
        """Return a task unrun."""
        self._holdings.leaving[job.task.id] = job
        self._settler.add(Outcome(Verb.RELEASE, job.task.id))

    # ── what the settler tells ──────────────────────────────────────────────────────────────────────────────

    def _queue_anew(self, outcome: Outcome) -> None:
        """Queue a task that the broker doesn't know, and that is to run again."""
        job, again = self._holdings.leaving.get(outcome.task_id), self._holdings.refused.get(outcome.task_id)
        if job is not None:
            text = codec.encode_task(job.task, job.record.submitted_at, job.call)
            again = Outcome(Verb.RETRY, job.task.id, text=text, priority=job.task.priority)
        if again is not None:
            self._settler.add(again)

    def _describe_refused(self, outcome: Outcome, error: Exception) -> EncodedRecord | None:
        job = self._holdings.leaving.get(outcome.task_id)
        if job is None:
            return None
        fail_unwritable(job, error, "its outcome could not be told")
        return self.records.encoded(job.record, job.call)

    def _on_settled(self, task_ids: list[str]) -> None:
        self._holdings.settled(task_ids)
        self._fetcher.notify()

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, task_id: str) -> bool:
        known = await self.records.results.get(task_id)
        if known is not None and known.is_complete:
            return False
        record = TaskResult(task_id, PENDING) if known is None else known
        record.status, record.finished_at = CANCELLED, datetime.now(UTC)
        record.error = "cancelled before it ran: by request"
        answer = await self.broker.cancel(record)
        if answer is Cancellation.CANCELLED:
            await self.records.store(record)
            if record.task_name in self.registry:
                self.telemetry.register(str(record.task_name), self.workers.kind).count_cancelled_before_start()
            self.records.publish(record)
            return True
        if answer is not Cancellation.RUNNING:
            return False
        self._cancel_held(task_id)
        try:
            outcome = await self.records.results.wait_for(task_id, CANCEL_GRACE + CANCEL_REPEAT)
        except TimeoutError:
            return False
        return outcome.status is CANCELLED

    def _cancel_held(self, task_id: str) -> None:
        """Cancel a task that is held here, if it is."""
        job = self._holdings.held.get(task_id)
        if job is None or not self._fetcher.is_fetching:
            return
        if self.workers.withdraw(task_id) is not None:
            self.workers.spawn(self._deliveries.end_cancelled(job.task, job.record, job.call))
        else:
            self.workers.cancel_soon(job)

    async def _listen(self) -> None:
        backoff = Backoff(1.0)
        while True:
            try:
                await self.broker.listen(self._cancel_held)
            except BackendError as error:  # what is missed meanwhile, the next renewal tells
                logger.warning("not listening for cancellations executor=%s error=%s", self.workers.kind, error)
            await asyncio.sleep(backoff.next())

    # ── what the heartbeat tells ────────────────────────────────────────────────────────────────────────────

    def _give_up_unknown(self, names: list[str]) -> None:
        self.workers.spawn(self._deliveries.give_up_unknown(names, lambda: self._fetcher.is_fetching))

    def _apply_renewal(self, renewal: Renewal | BackendError) -> None:
        if isinstance(renewal, BackendError):
            self._note("renew", renewal)
            return
        self._note("renew", None)
        for task_id in renewal.lost:
            if self._holdings.lose(task_id):
                logger.warning("lease lost, the task may run twice executor=%s id=%s", self.workers.kind, task_id)
                self.workers.withdraw(task_id)  # what has not begun here must not begin
        if renewal.missing:
            # The server has lost writes, as in a failover: what is here may be all that is left of them.
            logger.warning(
                "broker does not know tasks that are held here (lost writes?), they go on executor=%s count=%d id=%s",
                self.workers.kind,
                len(renewal.missing),
                renewal.missing[0],
            )
        for task_id in renewal.cancelled:
            self._cancel_held(task_id)

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def size(self) -> int:
        return await self.broker.size()

    async def figures(self) -> QueueFigures:
        return await self.broker.figures()
