"""What a worker does with a task that it was given: run it, hand it on, or end it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from flowrra import codec
from flowrra.brokers.base import Delivery, LeasingBroker, Outcome, Verb
from flowrra.exceptions import BackendError, SerializationError
from flowrra.executors import attempt_log
from flowrra.executors.job import Job
from flowrra.executors.outcomes import cancelled_while_waiting
from flowrra.executors.records import PASSING, Known, RecordStore
from flowrra.executors.sources.holdings import Holdings
from flowrra.executors.sources.settler import Settler
from flowrra.executors.workers import Workers
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.registry import TaskRegistry
from flowrra.supervision import spawn
from flowrra.task import CANCELLED, FAILED, PENDING, RUNNING, AttemptEnd, Task, TaskResult, TaskStatus
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

# Seconds between two log lines of tasks that this worker doesn't know.
UNKNOWN_SILENCE = 1.0
# Tasks that are given up in one go, as no worker knows them.
OVERDUE_BATCH = 100
# Of a lease, what may pass while records of tasks that came are read: no lease of theirs is renewed until then.
LOOK_UP_PART = 1 / 4
# Seconds for which none is read after the result backend was away.
BLIND_FOR = 10.0
# Tasks that are ended at once, without a run.
MAX_ENDING = 1000


class Deliveries:
    """Takes in what a broker delivers. Whatever is wrong with a delivery costs itself alone.

    Args:
        broker: The broker.
        workers: What runs the tasks.
        records: Where their records are kept.
        registry: The tasks that are known here.
        telemetry: Counts what happens to them.
        holdings: What is held.
        settler: Is told of what is not run.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        workers: Workers,
        records: RecordStore,
        registry: TaskRegistry,
        telemetry: Telemetry,
        holdings: Holdings,
        settler: Settler,
    ) -> None:
        self._broker = broker
        self._workers = workers
        self._records = records
        self._registry = registry
        self._telemetry = telemetry
        self._holdings = holdings
        self._settler = settler
        # What is being ended, without a run, by id.
        self._ending: set[str] = set()
        self._blind_until = 0.0
        # Tasks of unknown names since the last log line, and until when there is no other one.
        self._unknown, self._unknown_silence = 0, 0.0

    def open(self) -> None:
        """Take in what comes from now on, on the running event loop, with nothing under way."""
        self._ending.clear()

    def goes_on(self, delivery: Delivery) -> bool:
        """Whether a task that has come again is held here still: then it goes on, as of this delivery."""
        if not self._holdings.has_still(delivery.task_id):
            return False
        self._holdings.held[delivery.task_id].delivery = delivery.number
        return True

    async def look_up(self, deliveries: Sequence[Delivery]) -> Known:
        """The records of those tasks of which nothing else tells what was before. They are read at once, and what the
        result backend doesn't tell in time is done without: if it is away, that would be so for each in turn."""
        ids = [each.task_id for each in deliveries if each.task and (each.deliveries or each.submitted_at is None)]
        if not ids or time.monotonic() < self._blind_until:
            return {}
        reading = {task_id: spawn(self._records.find(task_id)) for task_id in ids}
        known: dict[str, TaskResult | None] = {}
        try:
            await asyncio.wait(reading.values(), timeout=LOOK_UP_PART * self._broker.lease)
            for task_id, read in reading.items():
                if not read.done() or isinstance(read.exception(), PASSING):
                    self._blind_until = time.monotonic() + BLIND_FOR
                else:
                    known[task_id] = read.result()
        finally:
            for read in reading.values():
                read.cancel()
        return known

    def accept(self, delivery: Delivery, known: Known) -> None:
        """Run a task in the next free slot, unless there is a reason not to.

        Args:
            delivery: The task.
            known: What :meth:`look_up` has found.
        """
        try:
            self._deliver(delivery, known)
        except Exception as error:
            logger.exception("task not deliverable, put aside id=%s", delivery.task_id)
            self._end_beside(delivery, self._put_aside(delivery, f"it could not be delivered: {type(error).__name__}"))

    def _end_beside(self, delivery: Delivery, ending: Coroutine[Any, Any, object]) -> None:
        """End a task while others are taken in: its record may take its time. What is one too many, or is being ended
        already as it comes again, is let go: it comes again when its lease ends."""
        if delivery.task_id in self._ending or len(self._ending) >= MAX_ENDING:
            ending.close()
        else:
            self._ending.add(delivery.task_id)
            self._workers.spawn(self._see_to_end(delivery, ending))

    async def _see_to_end(self, delivery: Delivery, ending: Coroutine[Any, Any, object]) -> None:
        try:
            await ending
        except Exception as error:
            logger.exception("task not deliverable, put aside id=%s", delivery.task_id)
            await self._put_aside(delivery, f"it could not be delivered: {type(error).__name__}")
        finally:
            self._ending.discard(delivery.task_id)

    def _deliver(self, delivery: Delivery, known: Known) -> None:
        task = delivery.task
        if self._holdings.is_leaving(delivery.task_id):
            self._settler.forget(delivery.task_id)
        if task is None:
            self._end_beside(delivery, self._put_aside_unread(delivery, delivery.error or ""))
            return
        if task.id != delivery.task_id:
            reason = f"what was queued as {delivery.task_id!r} says it is {task.id!r}"
            self._end_beside(delivery, self._put_aside_unread(delivery, reason))
            return
        record = self._record_of(task, delivery, known)
        if delivery.is_cancelled:
            self._end_beside(delivery, self.end_cancelled(task, record, delivery.call, delivery.number))
        elif delivery.is_paused:
            self._leave(delivery, task)
        elif task.name not in self._registry.by_name:
            self._log_unknown(task)
            self._leave(delivery, task)
        elif delivery.deliveries >= self._broker.max_deliveries:
            reason = f"given up after {delivery.deliveries} deliveries: its workers were not heard of any more"
            ending = self._end(task, record, FAILED, reason, Verb.DEAD_LETTER, delivery.call, delivery.number)
            self._end_beside(delivery, ending)
        else:
            self._run(delivery, task, record)

    def _run(self, delivery: Delivery, task: Task, record: TaskResult) -> None:
        telemetry = self._telemetry.register(task.name, self._workers.kind)
        job = Job(task, record, self._registry.by_name[task.name], telemetry, time.monotonic() - delivery.waited)
        job.call, job.delivery, job.is_decoded = delivery.call, delivery.number, True
        if delivery.deliveries:
            telemetry.count_redelivered()
            logger.warning(
                "task delivered again task=%s id=%s deliveries=%d", task.name, task.id, delivery.deliveries + 1
            )
        job.origin, job.taken_at = self._broker, time.monotonic()
        self._holdings.held[task.id] = job
        self._records.taken(record)
        if task.queue != DEFAULT_QUEUE:
            self._workers.tell_apart(task.queue)
        self._workers.put(job)

    def _record_of(self, task: Task, delivery: Delivery, known: Known) -> TaskResult:
        before = known.get(task.id)
        if delivery.submitted_at is None:  # flowrra 0.1.8 queued it; what it kept says when
            return before or self._records.new(task)
        record = TaskResult(
            task.id,
            PENDING,
            task.name,
            submitted_at=delivery.submitted_at,
            retries=task.current_retry,
            args=task.args,
            kwargs=task.kwargs,
            attempts=delivery.attempts,
            retry_of=delivery.retry_of,
            queue=task.queue,
        )
        # Of the attempt of a worker that was not heard of any more, its record is all that tells.
        if before is not None and before.status is RUNNING:
            _end_lost_attempt(before)
            record.attempts = before.attempts
        return record

    # ── what is not run ─────────────────────────────────────────────────────────────────────────────────────

    def _leave(self, delivery: Delivery, task: Task) -> None:
        """Leave a task to a worker that knows its name, now or after a deploy, and once that isn't paused."""
        text = codec.encode_task(task, delivery.submitted_at, delivery.call, delivery.attempts, delivery.retry_of)
        self._holdings.refused[task.id] = Outcome(
            Verb.RETRY, task.id, text=text, priority=task.priority, queue=task.queue, delivery=delivery.number
        )
        self._settler.add(Outcome(Verb.NACK, task.id, text=task.name, queue=task.queue, delivery=delivery.number))

    def _log_unknown(self, task: Task) -> None:
        """A queue may be full of them: one line a second says enough."""
        self._unknown += 1
        if time.monotonic() >= self._unknown_silence:
            logger.error(
                "unknown task, left to other workers task=%r id=%s count=%d", task.name, task.id, self._unknown
            )
            self._unknown, self._unknown_silence = 0, time.monotonic() + UNKNOWN_SILENCE

    async def give_up_unknown(self, queue: str, names: Sequence[str], is_wanted: Callable[[], bool]) -> None:
        """End the tasks of these names in a queue, for which no worker has come in time, while that is wanted: there
        may be many, and a worker that stops holds none of them."""
        try:
            for name in names:
                while is_wanted():
                    deliveries, _ = await self._broker.take(OVERDUE_BATCH, queue=queue, name=name)
                    known = await self.look_up(deliveries)
                    ended = [await self._give_up(delivery, known) for delivery in deliveries]
                    if not any(ended):
                        break
        except BackendError as error:
            logger.warning("unknown tasks not given up, tried again later names=%s error=%s", names, error)

    async def _give_up(self, delivery: Delivery, known: Known) -> bool:
        """End a task of an unknown name, and return whether it was: one that is let go waits once more for as long."""
        task = delivery.task
        if task is None:
            return await self._put_aside_unread(delivery, delivery.error or "")
        reason = f"no worker that knows it was there for {self._broker.unknown_ttl:g} s"
        record = self._record_of(task, delivery, known)
        reason = f"Task '{task.name}' not registered: {reason}"
        return await self._end(task, record, FAILED, reason, Verb.DEAD_LETTER, delivery.call, delivery.number)

    async def end_cancelled(self, task: Task, record: TaskResult, call: str | None, number: int) -> None:
        """Settle a task that was cancelled while it waited, of the delivery with that number."""
        reason = cancelled_while_waiting(record, "by request")
        await self._end(task, record, CANCELLED, reason, Verb.COMPLETE, call, number)

    async def _end(
        self,
        task: Task,
        record: TaskResult,
        status: TaskStatus,
        reason: str,
        verb: Verb,
        call: str | None,
        number: int,
    ) -> bool:
        outcome = Outcome(verb, task.id, text=reason, status=status, queue=task.queue, delivery=number)
        if not await self._settle(record, outcome, call):
            return False
        if verb is Verb.DEAD_LETTER:
            attempt_log.given_up(task, reason, self._workers.worker_id)
        elif task.name in self._registry.by_name:
            self._telemetry.register(task.name, self._workers.kind).count_cancelled_before_start()
        return True

    async def _settle(self, record: TaskResult, outcome: Outcome, call: str | None) -> bool:
        """Store how a task ended, and tell the broker then: once that has forgotten the task, nobody would come back to
        its record. While the backend is away, the task is let go: whoever is given it when its lease ends, ends it.

        Returns:
            Whether it was ended.

        Raises:
            SerializationError: The record can't be written.
        """
        assert outcome.status is not None  # noqa: S101 - it has ended
        record.status, record.error, record.finished_at = outcome.status, outcome.text, datetime.now(UTC)
        if not await self._records.store(record):
            self._holdings.let_go(outcome.task_id)
            return False
        self._settler.add(outcome._replace(record=self._records.encoded(record, call)))
        self._records.publish(record)
        return True

    async def _put_aside_unread(self, delivery: Delivery, reason: str) -> bool:
        logger.error("queued task not readable, put aside id=%r error=%s", delivery.task_id, reason)
        return await self._put_aside(delivery, reason)

    async def _put_aside(self, delivery: Delivery, reason: str) -> bool:
        """Give up a task of which there may be nothing but its record; see :meth:`_settle`."""
        burial = Outcome(
            Verb.DEAD_LETTER, delivery.task_id, text=reason, queue=delivery.queue, delivery=delivery.number
        )
        try:
            record = await self._records.find(delivery.task_id)
            # Of what another program queued under the id of a task in another queue, it is not the record.
            if record is not None and not record.is_complete and record.queue == delivery.queue:
                _end_lost_attempt(record)
                return await self._settle(record, burial._replace(status=FAILED), None)
        except PASSING:
            return False
        except SerializationError as error:
            logger.warning("record of a task that is put aside not writable id=%s error=%s", delivery.task_id, error)
        self._settler.add(burial)
        return True


def _end_lost_attempt(record: TaskResult) -> None:
    """Remember the attempt that is under way, by its record, as that of a worker that was not heard of any more."""
    if record.status is RUNNING:
        record.end_attempt(AttemptEnd.LOST, None)
