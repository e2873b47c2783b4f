"""Tasks from a broker that lends them: each is held while it waits and runs here, and settled when it is over."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
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
from flowrra.config import ExecutorConfig
from flowrra.exceptions import BackendError, NotReplicatedError, PartialSubmissionError, SerializationError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import cancelled_while_waiting, describe, fail_unwritable
from flowrra.executors.queue_order import QueueOrder
from flowrra.executors.records import BrokerRecords, RecordStore
from flowrra.executors.sources.base import Obey, Pauses, TaskSource, was_refused
from flowrra.executors.sources.delivery import Deliveries
from flowrra.executors.sources.fetcher import REPLACEMENT_DELAY, Fetcher
from flowrra.executors.sources.heartbeat import Heartbeat
from flowrra.executors.sources.holdings import Holdings
from flowrra.executors.sources.room import Room
from flowrra.executors.sources.settler import Settler
from flowrra.executors.workers import CANCEL_GRACE, CANCEL_REPEAT, Workers
from flowrra.outage import Outage
from flowrra.queue_names import DEFAULT_QUEUE
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
# Queues that the broker is asked about at once.
QUEUES_AT_ONCE = 10
# Tasks of a queue whose names are looked at.
MOST_LOOKED_AT = 10_000


class LeasedSource(TaskSource):
    """What an executor has from its broker.

    Args:
        workers, records, registry, telemetry: See :class:`TaskSource`.
        broker: Where tasks come from.
        config: Whether tasks are taken at all, or left to other processes, and from which queues.
        announcement: Returns what other processes are to know of this one; None announces nothing.
        obey: Called with each order that an operator has given this process alone.
        room: The room for tasks, if others bring tasks to the same workers.
        partition: The number of the partition that it is of, for the log.
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
        config: ExecutorConfig,
        announcement: Callable[[], dict[str, Any]] | None,
        obey: Obey,
        room: Room | None = None,
        partition: int | None = None,
    ) -> None:
        super().__init__(workers, records, registry, telemetry)
        self.broker = broker
        self.name, self.namespace, self.server = type(broker).__name__, broker.namespace, broker.address
        self.errors.update(dict.fromkeys(OPERATIONS, 0))
        self.consumes = config.consume
        self._queues = config.queues
        self._announcement = announcement
        self._obey = obey
        self._room = room or Room(workers)
        # Names it in the log.
        self._label = workers.kind if partition is None else f"{workers.kind} partition={partition}"
        # Whether the broker refuses an id that it knows, in the same step as it keeps the record.
        self._is_broker_keeping = isinstance(records, BrokerRecords)
        # Ids whose record lies on the backend already, while the task is queued anew.
        self._recorded: set[str] = set()
        # Each request is one step at the broker: what it refuses has had no effect.
        self._submissions = Batcher(
            self._submit_all, MAX_BATCH, QueuedTask.size, MAX_BATCH_BYTES, lambda entry: entry.queue
        )
        # What keeps it from its work now, by operation. A submission that failed isn't among them: its caller was told,
        # and whether the next one would succeed isn't known before there is one.
        self._errors: dict[str, str] = {}
        self._holdings = Holdings(self._label, workers.running)
        self._settler = Settler(
            broker,
            self._label,
            self._on_settled,
            self._queue_anew,
            self._describe_refused,
            lambda error: self._note("settle", error),
        )
        self._deliveries = Deliveries(broker, workers, records, registry, telemetry, self._holdings, self._settler)
        self._fetcher = Fetcher(
            broker,
            workers,
            self._label,
            self._room,
            self._holdings,
            self._settler,
            self._deliveries.goes_on,
            self._deliveries.look_up,
            self._deliveries.accept,
            self._release,
            lambda error: self._note("take", error),
            lambda: self._note("take", None),
            self.queues,
            QueueOrder(config.queues),
        )
        self._listener_deaths = 0
        self._is_listening = False
        self._deafness = Outage(logger, "not listening for cancellations", f"executor={self._label}")
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

    def queues(self) -> tuple[str, ...]:
        """The names of the queues that tasks are taken from; from any thread."""
        if self._queues is not None:
            return tuple(self._queues)
        named = self.registry.queues[self.workers.kind == "cpu"]
        return named if DEFAULT_QUEUE in named else (DEFAULT_QUEUE, *named)

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
        entry, record = self._entry(job, delay, options.remember), job.record
        # Told first: its worker, which may be this process, tells what comes next.
        self.records.publish(record)
        try:
            is_recorded = job.task.id not in self._recorded and await self._record(record, options)
        except BaseException as error:
            await self._refuse(record, error)
            raise
        finally:
            self._recorded.discard(job.task.id)
        try:
            # A task that was recorded before may have been queued as well.
            is_new = await self._submissions.add(entry if is_recorded else entry._replace(may_have_ended=True))
        except Exception as error:
            # What may be queued stays pending: a worker may have begun it, and may tell its outcome just now.
            if not (isinstance(error, BackendError) and error.may_be_queued):
                await self._refuse(record, error)
            raise
        # An id of our own making can be known already only by this submission, whose first answer was lost.
        if is_new or options.task_id is None:
            job.telemetry.count_submitted()
        elif options.remember:
            await self._forget_if_over(job)

    async def _record(self, record: TaskResult, options: SubmitOptions) -> bool:
        """Keep the record of a task that is to be queued; False if there is one already."""
        if options.task_id is not None:
            return await self.records.keep_submission(record)
        if (recording := self.records.accepted(record)) is not None:
            await recording
        return True

    async def _refuse(self, record: TaskResult, error: BaseException) -> None:
        """Say of a task that it was surely not queued."""
        self.records.refuse(record, error)
        await self.records.store_refusal(record)

    async def _forget_if_over(self, job: Job) -> None:
        """Keep no pending record of a task of which nothing is known but that its id was accepted before."""
        if not self.records.tells_of_others or await self.broker.has(job.task.id, job.task.queue):
            return
        known = await self.records.results.get(job.task.id)
        if known is not None and known.status is PENDING:
            with suppress(NotImplementedError):
                await self.records.results.delete(job.task.id)

    def _entry(self, job: Job, delay: float, remember: float = 0.0) -> QueuedTask:
        """A task as it is queued.

        Raises:
            SerializationError: Its arguments can't be written as JSON, or not be rebuilt from it.
        """
        task, record = job.task, job.record
        call = codec.encode_call(task.args, task.kwargs, task.name, job.definition.func)
        text, kept = (
            codec.encode_task(task, record.submitted_at, call, retry_of=record.retry_of),
            self.records.encoded(record, call),
        )
        return QueuedTask(task.id, task.priority, delay, text, kept, remember, task.queue)

    def claim_id(self, task_id: str) -> AbstractAsyncContextManager[bool]:
        if self._is_broker_keeping and not self.records.has_subscribers:
            return nullcontext(True)  # the broker looks for itself, in one step
        return super().claim_id(task_id)

    async def _is_lost(self, known: TaskResult) -> bool:
        """Whether an unfinished record is all that is left of a task, as when its submitter was killed before it was
        queued."""
        if known.is_complete or not self.records.tells_of_others or await self.broker.has(known.task_id, known.queue):
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
        return await self.submit_jobs([job async for job in jobs])

    async def submit_jobs(self, jobs: Sequence[Job]) -> list[str]:
        """:meth:`submit_many`, if the broker keeps the records: many in one request."""
        for job in jobs:
            self.records.publish(job.record)
        try:
            await self._submit_batches(jobs)
        except BackendError as error:
            queued, unsure = set[str](), set[str]()
            if isinstance(error, PartialSubmissionError):
                queued, unsure = set(error.queued), set(error.unsure)
            for job in jobs:
                if job.task.id in queued:
                    job.telemetry.count_submitted()
                elif job.task.id not in unsure:
                    self.records.refuse(job.record, error)
            raise
        for job in jobs:
            job.telemetry.count_submitted()
        return [job.task.id for job in jobs]

    async def _submit_batches(self, jobs: Sequence[Job]) -> None:
        """Queue tasks, many in one request. While the server has some of them, the next ones are encoded.

        Raises:
            SerializationError: The arguments of one of the first can't be written as JSON; nothing was queued.
            BackendError: The first could not be queued, and surely are not.
            PartialSubmissionError: Something went wrong with later ones, or what was sent may be queued.
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
                    unsure = [each.task_id for each in entries] if error.may_be_queued else []
                    if queued or unsure:
                        raise PartialSubmissionError(str(error), queued, unsure) from error
                    raise
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
        self._following = asyncio.Lock()
        self._holdings.clear()
        self._deliveries.open()
        self._errors.clear()
        self._heartbeat = Heartbeat(
            self.broker,
            self._label,
            self._renewable,
            self.queues,
            self.registry.list_tasks,
            self._announcement,
            lambda renewal, asked_at: self._from_thread(self._apply_renewal, renewal, asked_at),
            lambda error: self._from_thread(self._note, "renew", error),
            lambda queue, names: self._from_thread(self._give_up_unknown, queue, names),
        )
        self._heartbeat.start()
        self._fetcher.start()
        self._listening.start()

    def _renewable(self) -> dict[str, list[str]]:
        """What is held, by queue; nothing once the loop is closed, as it can't run here any more."""
        return {} if self._loop.is_closed() else self._holdings.ids_by_queue()

    def _from_thread(self, call: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _count_listener_death(self, error: BaseException | None) -> None:
        self._listener_deaths += 1
        logger.error("listening died, replaced executor=%s error=%r", self._label, error)

    async def stop_fetching(self) -> None:
        await self._fetcher.stop()  # what runs on can be cancelled until it has ended

    async def close(self, left: float) -> None:
        """Tell what is still to be told, and end the holds.

        Args:
            left: Seconds that the caller has left; if the server is away, hardly more are spent on it.
        """
        await self._listening.stop()
        timeout = min(FLUSH_TIMEOUT, max(MIN_FLUSH_TIMEOUT, left))
        await self._settler.flush(timeout)
        self._settler.close()
        if self._heartbeat is not None:
            await self._heartbeat.stop_from_loop(timeout)
            self._heartbeat = None
        self._holdings.clear()
        await self.broker.close()

    async def told(self) -> None:
        await self._settler.told(MIN_FLUSH_TIMEOUT)

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

    def progressed(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        if self._is_broker_keeping:
            self._settler.mark_running(job)
            return None
        return super().progressed(job)

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

    @property
    def renewed_at(self) -> float | None:
        return None if self._heartbeat is None else self._heartbeat.renewed_at

    def _is_surely_held(self, job: Job) -> bool:
        """Whether no other worker can have been given a task meanwhile."""
        is_held = job.task.id in self._holdings.held
        return is_held and time.monotonic() < max(job.taken_at, self.renewed_at or 0.0) + self.broker.lease

    async def _is_known_better(self, job: Job) -> bool:
        """Whether it has been told how the task ended: by another worker, which had been given it meanwhile, or by who
        cancelled it while it waited for one."""
        known = await self.records.known(job.task.id)
        if known is None or not known.is_complete or was_refused(known):
            return False
        return known.is_success or known.status is CANCELLED or not job.record.is_success

    def _settle(self, job: Job, is_stored: bool) -> None:
        """Say what became of an attempt, as its record states. What can't be written fails its task."""
        if not is_stored:  # another worker shall have another try
            job.record.status = PENDING
        self._holdings.leaving[job.task.id] = job
        try:
            outcome = self._outcome(job)
        except BaseException as error:  # noqa: BLE001 - what a task returns is user code
            fail_unwritable(job, error, "its result could not be stored", self.workers.worker_id)
            outcome = self._outcome(job)
        self._settler.add(outcome)

    def _outcome(self, job: Job) -> Outcome:
        record = job.record
        encoded = self.records.encoded(record, job.call)
        if record.is_complete:
            return _about(job, Verb.COMPLETE, record=encoded, status=record.status)
        if record.status is RETRYING:
            return _about(
                job,
                Verb.RETRY,
                delay=job.retry_after,
                text=_text_of(job),
                record=encoded,
                priority=job.task.priority,
            )
        return _about(job, Verb.RELEASE, text=_text_of(job), record=encoded)

    async def release(self, job: Job) -> None:
        self._release(job)

    def _release(self, job: Job) -> None:
        """Return a task unrun."""
        self._holdings.leaving[job.task.id] = job
        self._settler.add(_about(job, Verb.RELEASE))

    # ── what the settler tells ──────────────────────────────────────────────────────────────────────────────

    def _queue_anew(self, outcome: Outcome) -> None:
        """Queue a task that the broker doesn't know, and that is to run again."""
        job, again = self._holdings.leaving.get(outcome.task_id), self._holdings.refused.get(outcome.task_id)
        if job is not None:
            again = _about(job, Verb.RETRY, text=_text_of(job), priority=job.task.priority)
        if again is not None:
            self._settler.add(again)

    def _describe_refused(self, outcome: Outcome, error: Exception) -> EncodedRecord | None:
        job = self._holdings.leaving.get(outcome.task_id)
        if job is None:
            text = "outcome refused, its task is put aside executor=%s id=%s outcome=%s error=%s"
            logger.error(text, self._label, outcome.task_id, outcome.verb, describe(error))
            return None
        fail_unwritable(job, error, "its outcome could not be told", self.workers.worker_id)
        return self.records.encoded(job.record, job.call)

    def _on_settled(self, task_ids: list[str]) -> None:
        self._holdings.settled(task_ids)
        self._fetcher.notify()

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, task_id: str) -> bool:
        answer = await self._cancel_at_broker(task_id, is_only_if_waiting=False)
        if answer is not Cancellation.RUNNING:
            return answer is Cancellation.CANCELLED
        self._cancel_held(task_id)
        try:
            outcome = await self.records.results.wait_for(task_id, CANCEL_GRACE + CANCEL_REPEAT)
        except TimeoutError:
            return False
        return outcome.status is CANCELLED

    async def cancel_waiting(self, task_id: str) -> bool:
        return await self._cancel_at_broker(task_id, is_only_if_waiting=True) is Cancellation.CANCELLED

    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        return await self.broker.list_waiting(queue, name, limit)

    async def _cancel_at_broker(self, task_id: str, *, is_only_if_waiting: bool) -> Cancellation:
        """Cancel a task that waits, or have its holder asked to. One that is over is unknown."""
        known = await self.records.results.get(task_id)
        if known is not None and known.is_complete:
            return Cancellation.UNKNOWN
        record = TaskResult(task_id, PENDING) if known is None else known
        record.error = cancelled_while_waiting(record, "by request")
        record.status, record.finished_at = CANCELLED, datetime.now(UTC)
        try:
            answer = await self._cancel_in_queue(record, known, is_only_if_waiting=is_only_if_waiting)
        except NotReplicatedError:
            await self._tell_cancelled(record)  # it is in no queue any more, unless a failover brings it back
            raise
        if answer is Cancellation.CANCELLED:
            await self._tell_cancelled(record)
        return answer

    async def _tell_cancelled(self, record: TaskResult) -> None:
        await self._keep_cancelled(record)
        if record.task_name in self.registry:
            self.telemetry.register(str(record.task_name), self.workers.kind).count_cancelled_before_start()
        self.records.publish(record)

    async def _keep_cancelled(self, record: TaskResult) -> None:
        """Store the record of a task that is in no queue any more: nobody else will."""
        if await self.records.store(record):
            return
        if self.workers.is_open:
            self.workers.spawn(self.records.store_late(record))
        else:
            await self.records.store_late(record)

    async def _cancel_in_queue(
        self, record: TaskResult, known: TaskResult | None, *, is_only_if_waiting: bool
    ) -> Cancellation:
        """Cancel a task in its queue; if nothing is known of it, in the first of all queues that has it."""
        answer = await self.broker.cancel(record, is_only_if_waiting=is_only_if_waiting)
        if known is None:
            for record.queue in await self.broker.queues():
                if answer is not Cancellation.UNKNOWN:
                    break
                answer = await self.broker.cancel(record, is_only_if_waiting=is_only_if_waiting)
        return answer

    def _cancel_held(self, task_id: str) -> None:
        """Cancel a task that is held here, if it is."""
        job = self._holdings.held.get(task_id)
        if job is None or not self.workers.is_open:
            return
        if self.workers.withdraw(task_id) is not None:
            self.workers.spawn(self._deliveries.end_cancelled(job.task, job.record, job.call, job.delivery))
        else:
            self.workers.cancel_soon(job)

    async def _listen(self) -> None:
        backoff = Backoff(1.0)
        while True:
            self._is_listening = True
            try:
                await self.broker.listen(self._cancel_held, self._queue_of, self._look_at_requests)
            except BackendError as error:  # what is missed meanwhile, the next heartbeat finds out
                self._is_listening = False
                self._deafness.failed(str(error))
            await asyncio.sleep(backoff.next())

    def _queue_of(self, task_id: str) -> str | None:
        job = self._holdings.held.get(task_id)
        if job is not None:
            return job.task.queue
        # It may be on its way here, and have been asked about after it had left the server.
        self._fetcher.after_take(lambda: self._look_for_cancellation(task_id))
        return None

    def _look_for_cancellation(self, task_id: str) -> None:
        if task_id in self._holdings.held and self._heartbeat is not None:
            self._heartbeat.beat_soon()

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    def _look_at_requests(self) -> None:
        if self._fetcher.is_fetching:
            self.workers.spawn(self._follow_requests())

    async def _follow_requests(self) -> None:
        worker_id = None if self._announcement is None else self._announcement()["id"]
        async with self._following:  # what two had read, both would take off, and with it what came in between
            try:
                requests = await self.broker.requests(worker_id, self.queues())
            except BackendError as error:
                logger.warning("requests not readable executor=%s error=%s", self._label, error)
                return
            self._give_back(
                job
                for job in self._held_ready()
                if job.task.queue in requests.paused_queues or job.task.name in requests.paused_names
            )
            for order in requests.orders:
                await self._obey(order)

    def _held_ready(self) -> list[Job]:
        """What was taken ahead, and waits for a slot."""
        return [job for job in self.workers.queue.ready() if job.task.id in self._holdings.held]

    def _give_back(self, jobs: Iterable[Job]) -> None:
        """Return what was taken ahead: nothing of it is to begin here."""
        for job in list(jobs):
            if self.workers.withdraw(job.task.id) is not None:
                self._release(job)

    async def slots_changed(self) -> None:
        if self.workers.is_draining:
            self._give_back(self._held_ready())
        self._fetcher.notify()

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        return await self.broker.pause_queue(queue, is_paused)

    async def pause_name(self, name: str, is_paused: bool) -> bool:
        return await self.broker.pause_name(name, is_paused)

    async def pauses(self) -> Pauses:
        requests = await self.broker.requests(None, await self._known_queues())
        return Pauses(requests.paused_queues, requests.paused_names)

    # ── what the heartbeat tells ────────────────────────────────────────────────────────────────────────────

    def _give_up_unknown(self, queue: str, names: list[str]) -> None:
        self.workers.spawn(self._deliveries.give_up_unknown(queue, names, lambda: self._fetcher.is_fetching))

    def _apply_renewal(self, renewal: Renewal, asked_at: float) -> None:
        self._note("renew", None)
        if self._is_listening:  # nobody tells that it has begun: it has not failed, while the server answers
            self._deafness.over()
        self._look_at_requests()
        for task_id in renewal.lost:
            if self._holdings.lose(task_id, asked_at):
                logger.warning("lease lost, the task may run twice executor=%s id=%s", self._label, task_id)
                self.workers.withdraw(task_id)  # what has not begun here must not begin
        # What has been settled since the server was asked is not missed.
        missing = [task_id for task_id in renewal.missing if self._holdings.keeps(task_id, asked_at)]
        if missing:
            # The server has lost writes, as in a failover: what is here may be all that is left of them.
            logger.warning(
                "broker does not know tasks that are held here (lost writes?), they go on executor=%s count=%d id=%s",
                self._label,
                len(missing),
                missing[0],
            )
        for task_id in renewal.cancelled:
            if self._holdings.keeps(task_id, asked_at):
                self._cancel_held(task_id)

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def size(self) -> int:
        return sum(figures.pending for figures in (await self.figures_by_queue()).values())

    async def figures(self) -> QueueFigures:
        return await self.broker.figures()

    async def figures_by_queue(self) -> dict[str, QueueFigures]:
        return await self._figures_of(await self._known_queues())

    async def has_startable(self) -> bool:
        figures = await self._figures_of(self.queues())
        startable = {queue: each.wanted for queue, each in figures.items() if each.wanted > 0}
        if not startable:
            return False
        # While all slots are taken, nobody may have looked at the names of what came.
        names = (await self.broker.requests(None, list(startable))).paused_names
        return not names or any([await self._has_other_than(names, *each) for each in startable.items()])

    async def _has_other_than(self, names: Iterable[str], queue: str, startable: int) -> bool:
        """Whether so many tasks that wait at the head of a queue, as far as they are looked at, have other names."""
        waiting = set(await self.broker.list_waiting(queue, None, min(startable, MOST_LOOKED_AT)))
        for name in names:
            waiting.difference_update(await self.broker.list_waiting(queue, name, MOST_LOOKED_AT))
        return bool(waiting)

    async def _known_queues(self) -> list[str]:
        named = self.registry.queues[self.workers.kind == "cpu"]
        return list(dict.fromkeys((*await self.broker.queues(), *named)))

    async def _figures_of(self, queues: Sequence[str]) -> dict[str, QueueFigures]:
        found: dict[str, QueueFigures] = {}
        for first in range(0, len(queues), QUEUES_AT_ONCE):
            some = queues[first : first + QUEUES_AT_ONCE]
            found.update(zip(some, await asyncio.gather(*map(self.broker.figures, some)), strict=True))
        return found


def _about(job: Job, verb: Verb, **what: Any) -> Outcome:
    """An outcome of the delivery that a job is of."""
    return Outcome(verb, job.task.id, queue=job.task.queue, delivery=job.delivery, **what)


def _text_of(job: Job) -> str:
    """A task as it is queued for another attempt."""
    record = job.record
    return codec.encode_task(job.task, record.submitted_at, job.call, record.attempts, record.retry_of)
