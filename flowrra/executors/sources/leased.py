"""The tasks that an executor has from a leasing broker: takes them, holds them while they wait and run, says what
became of them, and has them cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowrra import codec
from flowrra import telemetry as counters
from flowrra.batcher import Batcher, in_batches
from flowrra.brokers.base import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Cancellation,
    Delivery,
    Entry,
    LeasingBroker,
    Outcome,
    Renewal,
    Verb,
)
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError, PartialSubmissionError, RequestTimeoutError, SerializationError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import fail_unwritable
from flowrra.executors.sources.heartbeat import Heartbeat
from flowrra.executors.sources.settler import Settler
from flowrra.executors.sources.throughput import ThroughputEstimate
from flowrra.task import CANCELLED, FAILED, PENDING, Task, TaskResult, TaskStatus

if TYPE_CHECKING:
    from flowrra.executors.base import BaseTaskExecutor

logger = logging.getLogger(__name__)

# What can fail with the broker, and is counted under these names.
OPERATIONS = ("submit", "take", "settle", "renew")
MIN_BACKOFF = 0.05
MAX_BACKOFF = 1.0
# Seconds after which what is to end is told so again.
CANCEL_REPEAT = 0.05
# Seconds for which an idle worker waits on the server before it looks again by itself.
IDLE_WAIT = 5.0
# Seconds that a stopping worker takes at the most for having another one woken in its place.
PASS_ON_TIMEOUT = 1.0
# Seconds after which a task that was taken ahead and is still waiting goes back, for another worker to take.
STALE_AFTER = 0.5
# Seconds that outcomes may take to be told at the end, and that they have however little time the caller left.
FLUSH_TIMEOUT = 10.0
MIN_FLUSH_TIMEOUT = 1.0
# Seconds between two log lines of tasks that this worker doesn't know.
UNKNOWN_SILENCE = 1.0
# Bytes of the tasks of one take, at least, after takes whose answer did not come in time.
MIN_TAKE_BYTES = 64 * 1024
# Seconds to wait for the answer to a take, in which then a single large task has to come through.
LONG_TAKE = 75.0
# Tasks that are given up in one go, as no worker knows them.
OVERDUE_BATCH = 100


class LeasedSource:
    """What an executor has from its broker.

    Args:
        executor: The executor; its queue holds what was taken and has not begun.
        broker: Where tasks come from.
        announcement: Returns what other processes are to know of this one; None announces nothing.

    Attributes:
        keeps_records: Whether the records are kept by the broker, in the same step as the tasks.
    """

    def __init__(
        self,
        executor: BaseTaskExecutor,
        broker: LeasingBroker,
        announcement: Callable[[], dict[str, Any]] | None,
    ) -> None:
        self._executor = executor
        self._broker = broker
        self._announcement = announcement
        self.keeps_records = broker.keeps_records_of(executor.results)
        self._submissions = Batcher(self._submit_all, MAX_BATCH)
        # Everything that was taken and not settled, by id. Read by the lease keeper's thread, in one step.
        self._held: dict[str, Job] = {}
        # Those of them whose outcome is being told.
        self._leaving: dict[str, Job] = {}
        self._pace = ThroughputEstimate()
        # What keeps it from its work now, by operation. A submission that failed isn't among them: its caller was told,
        # and whether the next one would succeed isn't known before there is one.
        self._errors: dict[str, str] = {}
        self.restarts = 0
        # Tasks of unknown names since the last log line, and until when there is no other one.
        self._unknown, self._unknown_silence = 0, 0.0
        self._settler = Settler(
            broker,
            executor.kind,
            self._told,
            self._put_back,
            self._describe_refused,
            lambda error: self._note("settle", error),
        )
        # What this worker doesn't know and is handing on, as text.
        self._refused: dict[str, Outcome] = {}
        self._take_bytes = MAX_BATCH_BYTES
        # Whether an answer to a take was lost, and tasks may be held that nobody here knows of.
        self._must_recover = False
        self._keeper: Heartbeat | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_taking = False
        # What is under way with the server: a take that is seen through, and a wait for something to take.
        self._taking: asyncio.Task[Any] | None = None
        self._waiting: asyncio.Task[None] | None = None

    @property
    def error(self) -> str | None:
        """What keeps it from its work now; None if nothing does."""
        return next(iter(self._errors.copy().values()), None)

    def _note(self, operation: str, error: BaseException | None) -> None:
        if error is None:
            self._errors.pop(operation, None)
        else:
            self._errors[operation] = str(error)
            self._executor.broker_errors[operation] += 1

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    def entry(self, task: Task, record: TaskResult, delay: float, remember: float = 0.0) -> Entry:
        """A task as it is queued.

        Raises:
            SerializationError: Its arguments can't be written as JSON, or not be rebuilt from it.
        """
        call = codec.encode_call(task.args, task.kwargs, task.name, self._executor.registry.get(task.name))
        kept = codec.encode_record(record, call) if self.keeps_records else None
        text = codec.encode_task(task, record.submitted_at, call)
        return Entry(task.id, task.priority, delay, text, kept, remember)

    async def submit(self, entry: Entry) -> bool:
        """Queue a task; False if its id is known already.

        Raises:
            BackendError: It could not be queued.
        """
        return await self._submissions.add(entry)

    async def has(self, task_id: str) -> bool:
        """Whether anything is still to come of a task.

        Raises:
            BackendError: The broker could not be asked.
        """
        return await self._broker.has(task_id)

    async def submit_many(self, tasks: Sequence[tuple[Task, TaskResult]]) -> None:
        """Queue tasks, many in one request. While the server has some of them, the next ones are encoded.

        Raises:
            SerializationError: The arguments of one of the first can't be written as JSON; nothing was queued.
            PartialSubmissionError: Those of a later one can't, or the server could not be reached.
        """
        sending: tuple[list[Entry], asyncio.Task[list[bool]]] | None = None
        queued: list[str] = []
        loop = asyncio.get_running_loop()

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
            for first in range(0, len(tasks), MAX_BATCH):
                entries = [self.entry(task, record, 0.0) for task, record in tasks[first : first + MAX_BATCH]]
                for batch in in_batches(entries, Entry.size, MAX_BATCH, MAX_BATCH_BYTES):
                    await sent()
                    sending = batch, loop.create_task(self._submit_all(batch), context=contextvars.Context())
                    await asyncio.sleep(0)
        except SerializationError as error:
            await sent()
            if queued:
                raise PartialSubmissionError(str(error), queued, []) from error
            raise
        finally:
            await sent()

    async def _submit_all(self, entries: Sequence[Entry]) -> list[bool]:
        try:
            return await self._broker.submit(entries)
        except BackendError:
            self._executor.broker_errors["submit"] += 1
            raise

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Take tasks from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._held.clear()
        self._leaving.clear()
        self._errors.clear()
        self._refused.clear()
        self._take_bytes, self._must_recover = MAX_BATCH_BYTES, False
        self._is_taking = True
        self._keeper = Heartbeat(
            self._broker,
            lambda: list(self._held.copy()),
            self._executor.registry.list_tasks,
            self._announcement,
            self._renewed,
            self._found_overdue,
        )
        self._keeper.start()
        for work in (self._take_all, self._listen, self._return_stale):
            self._spawn(work)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Keep something going until :meth:`stop_taking`, whatever befalls it."""
        task: asyncio.Task[None] = self._loop.create_task(
            work(),  # type: ignore[arg-type]
            name=f"flowrra-{self._executor.kind}{work.__name__}",
            context=contextvars.Context(),
        )
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._is_taking and not self._loop.is_closed():
                self.restarts += 1
                error = None if task.cancelled() else task.exception()
                logger.error("%s died, replaced executor=%s error=%r", work.__name__, self._executor.kind, error)
                self._loop.call_later(MIN_BACKOFF, self._revive, work)

        task.add_done_callback(ended)

    def _revive(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._is_taking:
            self._spawn(work)

    async def stop_taking(self) -> None:
        """Take nothing more."""
        self._is_taking = False
        tasks: set[asyncio.Task[Any]] = {*self._tasks}
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            tasks.add(waiting)
        while tasks:
            # Again, until it has an effect: one that comes while a connection is made may get lost in the driver.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_REPEAT)
        if self._taking is not None:
            await asyncio.wait({self._taking})
            self._log_failure(self._taking)
        if waiting is not None:
            self._log_failure(waiting)
            await self._pass_on()

    def _log_failure(self, request: asyncio.Task[Any]) -> None:
        if not request.cancelled() and (error := request.exception()) is not None:
            logger.warning("broker not readable while stopping executor=%s error=%s", self._executor.kind, error)

    async def _pass_on(self) -> None:
        """The server may just have woken this worker, and no other one: have it wake the next, if there is work."""
        try:
            async with asyncio.timeout(PASS_ON_TIMEOUT):
                await self._broker.take(0)
        except (BackendError, TimeoutError) as error:  # the others look again by themselves
            logger.warning("broker not readable while stopping executor=%s error=%r", self._executor.kind, error)

    async def close(self, left: float) -> None:
        """Tell what is still to be told, and end the holds.

        Args:
            left: Seconds that the caller has left; if the server is away, hardly more are spent on it.
        """
        timeout = min(FLUSH_TIMEOUT, max(MIN_FLUSH_TIMEOUT, left))
        await self._settler.flush(timeout)
        self._settler.close()
        if self._keeper is not None:
            await self._loop.run_in_executor(None, self._keeper.stop, timeout)
            self._keeper = None
        self._held.clear()
        self._leaving.clear()
        await self._broker.close()

    def abandon(self) -> None:
        """The event loop is gone: hold nothing any more, so that other workers get the tasks."""
        self._is_taking = False
        self._tasks.clear()
        self._taking = self._waiting = None
        self._held.clear()
        self._leaving.clear()
        self._settler.close()
        if self._keeper is not None:
            self._keeper.stop(FLUSH_TIMEOUT)
            self._keeper = None

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    def attempt_ended(self) -> None:
        """A slot has become free."""
        self._pace.count()
        self._room.set()

    async def _take_all(self) -> None:
        backoff = MIN_BACKOFF
        while True:
            room = self._room_for()
            try:
                is_woken = self._is_woken()
                if room <= 0 and not is_woken:
                    self._room.clear()
                    await self._room.wait()
                    continue
                # A take whose answer is not seen leaves its tasks to the end of their leases: see it through.
                self._taking = self._loop.create_task(self._take(max(0, room)), context=contextvars.Context())
                deliveries, due_in = await asyncio.shield(self._taking)
                self._errors.pop("take", None)  # the server is back, however long there is nothing to take
                if not deliveries and room > 0:
                    await self._wait(IDLE_WAIT if due_in is None else min(IDLE_WAIT, due_in))
            except BackendError as error:
                self._note("take", error)
                logger.warning(
                    "broker not readable, trying again executor=%s in=%.2f error=%s",
                    self._executor.kind,
                    backoff,
                    error,
                )
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
                backoff = min(2 * backoff, MAX_BACKOFF)
            else:
                backoff = MIN_BACKOFF

    async def _wait(self, seconds: float) -> None:
        """Return when there may be something to take, at the latest after that time.

        The server is asked to wait longer than that, as it is not exact, and an answer that comes while there is no
        room is passed on by taking nothing; so is one that comes when the room has just gone.
        """
        if self._waiting is None:
            self._waiting = self._loop.create_task(self._broker.wait(IDLE_WAIT), context=contextvars.Context())
            self._waiting.add_done_callback(lambda _: self._room.set())
        await asyncio.wait({self._waiting}, timeout=seconds)

    def _is_woken(self) -> bool:
        """Whether the server has answered since it was asked to wait. Raises what it answered."""
        if self._waiting is None or not self._waiting.done():
            return False
        waiting, self._waiting = self._waiting, None
        waiting.result()
        return True

    async def _take(self, room: int) -> tuple[list[Delivery], float | None]:
        if self._must_recover:
            await self._recover()
        timeout = LONG_TAKE if self._take_bytes == MIN_TAKE_BYTES else None
        try:
            deliveries, due_in = await self._broker.take(room, self._take_bytes, timeout=timeout)
        except BackendError as error:
            self._must_recover = True
            if isinstance(error, RequestTimeoutError):
                self._take_bytes = max(MIN_TAKE_BYTES, self._take_bytes // 2)
            raise
        self._take_bytes = min(MAX_BATCH_BYTES, 2 * self._take_bytes)
        if deliveries:
            self._pace.restart()
            for delivery in deliveries:
                await self._accept(delivery)
        return deliveries, due_in

    async def _recover(self) -> None:
        """Have the tasks of a lost answer back in the queue at once, and not only when their leases end."""
        count = await self._broker.recover([*self._held, *self._refused])
        self._must_recover = False
        if count:
            logger.info("tasks of a lost answer given back executor=%s count=%d", self._executor.kind, count)

    async def _accept(self, delivery: Delivery) -> None:
        """Deliver a task; whatever is wrong with it costs itself alone."""
        try:
            await self._deliver(delivery)
        except Exception as error:
            logger.exception("task not deliverable, put aside id=%s", delivery.task_id)
            reason = f"it could not be delivered: {type(error).__name__}"
            self._settler.add(Outcome(Verb.BURY, delivery.task_id, text=reason))

    def _room_for(self) -> int:
        """How many tasks to take now."""
        if self._settler.is_failing or self._settler.backlog > 2 * MAX_BATCH:
            return 0
        executor = self._executor
        ahead, waiting = self._pace.ahead(), executor.pending_count()
        room = executor.workers + ahead - executor.busy_workers - waiting
        # Many at once rather than one for each that ended, as long as there is something to do.
        return 0 if waiting and room < max(1, ahead // 2) else room

    async def _deliver(self, delivery: Delivery) -> None:
        task = delivery.task
        if self._is_still_here(delivery.task_id):
            return
        if task is None:
            self._bury_unreadable(delivery, delivery.error or "")
            return
        if task.id != delivery.task_id:
            self._bury_unreadable(delivery, f"what was queued as {delivery.task_id!r} says it is {task.id!r}")
            return
        record = await self._record_of(task, delivery.submitted_at)
        definition = self._executor.registry.by_name.get(task.name)
        if delivery.is_cancelled:
            await self._end(task, record, CANCELLED, "cancelled before it ran: by request", Verb.DONE, delivery.call)
        elif definition is None:
            self._refuse(delivery, task)
        elif delivery.deliveries >= self._broker.max_deliveries:
            reason = f"given up after {delivery.deliveries} deliveries: its workers were not heard of any more"
            await self._end(task, record, FAILED, reason, Verb.BURY, delivery.call)
        else:
            ready_at = time.monotonic() - delivery.waited
            telemetry = self._executor.telemetry_of(task.name)
            job = Job(task, record, definition, telemetry, ready_at)
            job.call = delivery.call
            if delivery.deliveries:
                job.telemetry.cells[counters.REDELIVERED] += 1
                logger.warning(
                    "task delivered again task=%s id=%s deliveries=%d", task.name, task.id, delivery.deliveries + 1
                )
            job.taken_at = time.monotonic()
            self._held[task.id] = job
            self._executor.enqueue_taken(job)

    def _bury_unreadable(self, delivery: Delivery, reason: str) -> None:
        logger.error("queued task not readable, put aside id=%r error=%s", delivery.task_id, reason)
        self._settler.add(Outcome(Verb.BURY, delivery.task_id, text=reason))

    def _is_still_here(self, task_id: str) -> bool:
        """Whether a task whose lease had lapsed came back to the worker that has it: then it goes on. What is given
        back or is to be retried comes anew, perhaps before this worker hears that the server knows."""
        held, leaving = self._held.get(task_id), self._leaving.get(task_id)
        if held is None or (leaving is held and not held.record.is_complete):
            return False
        logger.warning("lease had lapsed, and is held again executor=%s id=%s", self._executor.kind, task_id)
        return True

    async def _record_of(self, task: Task, submitted_at: datetime | None) -> TaskResult:
        if submitted_at is None:  # flowrra 0.1.8 queued it; what it kept says when
            return await self._executor.records.of(task)
        return TaskResult(
            task.id,
            PENDING,
            task.name,
            submitted_at=submitted_at,
            retries=task.current_retry,
            args=task.args,
            kwargs=task.kwargs,
        )

    def _refuse(self, delivery: Delivery, task: Task) -> None:
        """Leave a task to a worker that knows it, now or after a deploy."""
        self._log_unknown(task)
        text = codec.encode_task(task, delivery.submitted_at, delivery.call)
        self._refused[task.id] = Outcome(Verb.LATER, task.id, text=text, priority=task.priority)
        self._settler.add(Outcome(Verb.REFUSE, task.id, text=task.name))

    def _found_overdue(self, names: list[str]) -> None:
        """Called in the lease keeper's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self._executor.spawn(self._give_up_unknown(names)))

    async def _give_up_unknown(self, names: list[str]) -> None:
        try:
            for name in names:
                while self._is_taking:
                    deliveries, _ = await self._broker.take(OVERDUE_BATCH, name=name)
                    for delivery in deliveries:
                        await self._give_up(delivery)
                    if not deliveries:
                        break
        except BackendError as error:
            logger.warning("unknown tasks not given up, tried again later names=%s error=%s", names, error)

    async def _give_up(self, delivery: Delivery) -> None:
        task = delivery.task
        if task is None:
            self._bury_unreadable(delivery, delivery.error or "")
            return
        reason = f"no worker that knows it was there for {self._broker.unknown_ttl:g} s"
        record = await self._record_of(task, delivery.submitted_at)
        reason = f"Task '{task.name}' not registered: {reason}"
        await self._end(task, record, FAILED, reason, Verb.BURY, delivery.call)

    def _log_unknown(self, task: Task) -> None:
        """A queue may be full of them: one line a second says enough."""
        self._unknown += 1
        if time.monotonic() >= self._unknown_silence:
            logger.error(
                "unknown task, left to other workers task=%r id=%s count=%d", task.name, task.id, self._unknown
            )
            self._unknown, self._unknown_silence = 0, time.monotonic() + UNKNOWN_SILENCE

    async def _end(
        self, task: Task, record: TaskResult, status: TaskStatus, reason: str, verb: Verb, call: str | None
    ) -> None:
        """Settle a task that is not run."""
        record.status, record.error, record.finished_at = status, reason, datetime.now(UTC)
        if verb is Verb.BURY:
            logger.error("task put aside as dead task=%s id=%s reason=%s", task.name, task.id, reason)
        elif self._executor.registry.by_name.get(task.name) is not None:
            self._executor.telemetry_of(task.name).cells[counters.CANCELLED_BEFORE_START] += 1
        if self.keeps_records:
            encoded = codec.encode_record(record, call)
            self._settler.add(Outcome(verb, task.id, text=reason, record=encoded, status=status))
        else:
            await self._executor.records.store(record)
            self._settler.add(Outcome(verb, task.id, text=reason, status=status))
        self._executor.publish(record)

    async def _return_stale(self) -> None:
        """Give back what was taken ahead and did not begin: another worker may be idle."""
        while True:
            await asyncio.sleep(STALE_AFTER)
            horizon = time.monotonic() - STALE_AFTER
            stale = [job for job in self._executor.waiting_jobs() if job.taken_at < horizon]
            if not stale:
                continue
            self._pace.slow_down()
            for job in reversed(stale):
                if self._executor.withdraw(job.task.id) is not None:
                    self.give_back(job)

    # ── settling ────────────────────────────────────────────────────────────────────────────────────────────

    def mark_running(self, job: Job) -> None:
        """An attempt has begun."""
        if self.keeps_records:
            self._settler.mark_running(job)

    def settle(self, job: Job, retry_after: float | None) -> None:
        """Say what became of an attempt, as its record states. What can't be written fails its task."""
        self._leaving[job.task.id] = job
        try:
            outcome = self._outcome(job, retry_after)
        except BaseException as error:  # noqa: BLE001 - what a task returns is user code
            fail_unwritable(job, error, "its result could not be stored")
            outcome = self._outcome(job, None)
        self._settler.add(outcome)

    def _outcome(self, job: Job, retry_after: float | None) -> Outcome:
        record = job.record
        encoded = codec.encode_record(record, job.call) if self.keeps_records else None
        if retry_after is not None:
            text = codec.encode_task(job.task, record.submitted_at, job.call)
            return Outcome(Verb.LATER, job.task.id, retry_after, text, encoded, job.task.priority)
        verb = Verb.RELEASE if record.status is PENDING else Verb.DONE
        return Outcome(verb, job.task.id, record=encoded, status=record.status if verb is Verb.DONE else None)

    def give_back(self, job: Job) -> None:
        """Return a task unrun."""
        self._leaving[job.task.id] = job
        self._settler.add(Outcome(Verb.RELEASE, job.task.id))

    def is_surely_held(self, job: Job) -> bool:
        """Whether no other worker can have been given a task meanwhile."""
        renewed_at = 0.0 if self._keeper is None else self._keeper.renewed_at
        return time.monotonic() < max(job.taken_at, renewed_at) + self._broker.lease and job.task.id in self._held

    def _put_back(self, outcome: Outcome) -> None:
        """Queue a task anew that the broker doesn't know, and that is to run again."""
        job, again = self._leaving.get(outcome.task_id), self._refused.get(outcome.task_id)
        if job is not None:
            text = codec.encode_task(job.task, job.record.submitted_at, job.call)
            again = Outcome(Verb.LATER, job.task.id, text=text, priority=job.task.priority)
        if again is not None:
            self._settler.add(again)

    def _describe_refused(self, outcome: Outcome, error: Exception) -> EncodedRecord | None:
        job = self._leaving.get(outcome.task_id)
        if job is None:
            return None
        fail_unwritable(job, error, "its outcome could not be told")
        return codec.encode_record(job.record, job.call) if self.keeps_records else None

    def _told(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            self._refused.pop(task_id, None)
            told = self._leaving.pop(task_id, None)
            if told is None or self._held.get(task_id) is told:  # else it has come back already
                self._held.pop(task_id, None)
        self._room.set()

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, task_id: str, grace: float) -> bool:
        """Cancel a task wherever it is; one that runs is waited for, at most ``grace`` seconds.

        Returns:
            True if it ended by this call.

        Raises:
            BackendError: The server could not be reached.
        """
        executor = self._executor
        known = await executor.results.get(task_id)
        if known is not None and known.is_complete:
            return False
        record = TaskResult(task_id, PENDING) if known is None else known
        record.status, record.finished_at = CANCELLED, datetime.now(UTC)
        record.error = "cancelled before it ran: by request"
        answer = await self._broker.cancel(record)
        if answer is Cancellation.CANCELLED:
            if not self.keeps_records:
                await executor.records.store(record)
            if record.task_name in executor.registry:
                executor.telemetry_of(str(record.task_name)).cells[counters.CANCELLED_BEFORE_START] += 1
            executor.publish(record)
            return True
        if answer is not Cancellation.RUNNING:
            return False
        self._cancel_held(task_id)
        try:
            outcome = await executor.results.wait_for(task_id, grace)
        except TimeoutError:
            return False
        return outcome.status is CANCELLED

    def _cancel_held(self, task_id: str) -> None:
        """Cancel a task that is held here, if it is."""
        job = self._held.get(task_id)
        if job is None or not self._is_taking:
            return
        if self._executor.withdraw(task_id) is not None:
            reason = "cancelled before it ran: by request"
            ending = self._end(job.task, job.record, CANCELLED, reason, Verb.DONE, job.call)
            self._executor.spawn(ending)
        else:
            self._executor.cancel_running(job)

    async def _listen(self) -> None:
        while True:
            try:
                await self._broker.listen(self._cancel_held)
            except BackendError as error:  # what is missed meanwhile, the next renewal tells
                logger.warning("not listening for cancellations executor=%s error=%s", self._executor.kind, error)
            await asyncio.sleep(MAX_BACKOFF * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing

    # ── leases ──────────────────────────────────────────────────────────────────────────────────────────────

    def _renewed(self, renewal: Renewal | BackendError) -> None:
        """Called in the lease keeper's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._apply_renewal, renewal)

    def _apply_renewal(self, renewal: Renewal | BackendError) -> None:
        if isinstance(renewal, BackendError):
            self._note("renew", renewal)
            return
        self._errors.pop("renew", None)
        for task_id in renewal.lost:
            if task_id in self._held and task_id not in self._leaving:
                logger.warning("lease lost, the task may run twice executor=%s id=%s", self._executor.kind, task_id)
                del self._held[task_id]
                self._executor.withdraw(task_id)  # what has not begun here must not begin
        if renewal.missing:
            # The server has lost writes, as in a failover: what is here may be all that is left of them.
            logger.warning(
                "broker does not know tasks that are held here (lost writes?), they go on executor=%s count=%d id=%s",
                self._executor.kind,
                len(renewal.missing),
                renewal.missing[0],
            )
        for task_id in renewal.cancelled:
            self._cancel_held(task_id)
