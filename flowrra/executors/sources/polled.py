"""Tasks from a broker that can be pushed to and popped from, and no more: what a user may write."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from flowrra import codec
from flowrra.backoff import Backoff
from flowrra.brokers.base import BaseBroker, QueueFigures
from flowrra.exceptions import TaskNotFoundError
from flowrra.executors import attempt_log
from flowrra.executors.job import Job
from flowrra.executors.outcomes import describe
from flowrra.executors.records import RecordStore
from flowrra.executors.sources.memory import MemorySource
from flowrra.executors.workers import Workers
from flowrra.outage import Outage
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.ranges import MAX_DELAY
from flowrra.registry import TaskDefinition, TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.supervision import Supervised, is_for_caller, see_through
from flowrra.task import CANCELLED, FAILED, PENDING, RETRYING, Task, TaskResult
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

POP_TIMEOUT = 1.0
FREE_SLOT_CHECK = 0.01
REPLACEMENT_DELAY = 0.05
# Tasks of paused names that are kept here, so that what waits behind them at the broker gets on.
MOST_ASIDE = 100


class PolledSource(MemorySource):
    """A task is taken from the broker whenever a slot is free. Delays and retries wait in this process, as long as it
    begins tasks, and go back to the broker with the time when they are due.

    The broker has one queue, which is the default one, whatever queue a task names. A pause is this process's alone.

    Survives every failure of the broker, and says so.

    Args:
        workers, records, registry, telemetry: See :class:`TaskSource`.
        broker: The broker.
        consumes: Whether tasks are taken at all.
    """

    shared = True
    broker: BaseBroker

    def __init__(
        self,
        workers: Workers,
        records: RecordStore,
        registry: TaskRegistry,
        telemetry: Telemetry,
        broker: BaseBroker,
        consumes: bool,
    ) -> None:
        super().__init__(workers, records, registry, telemetry, sys.maxsize)
        self.broker = broker
        self.name, self.server = type(broker).__name__, broker.address
        self.errors.update({"push": 0, "pop": 0})
        self.consumes = consumes
        self._error: str | None = None
        self._restarts = 0
        self._returning = Outage(logger, "tasks not given back to the broker", f"executor={workers.kind}")
        self._outage = Outage(logger, "broker not readable", f"executor={workers.kind}")
        self._polling = Supervised(self._poll, f"flowrra-{workers.kind}-poll", REPLACEMENT_DELAY, self._count_death)

    @property
    def error(self) -> str | None:
        return self._error

    @property
    def restarts(self) -> int:
        return self._restarts

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._is_fetching = self.consumes
        if self.consumes:
            self._polling.start()

    def _count_death(self, error: BaseException | None) -> None:
        self._restarts += 1
        logger.error("polling died, replaced executor=%s error=%r", self.workers.kind, error)

    async def stop_fetching(self) -> None:
        """Take no more; a task that is just being taken is still delivered, or set aside for the stop to give back."""
        self._is_fetching = False
        polling = self._polling.release()
        if polling is not None:
            await asyncio.wait({polling}, timeout=2 * POP_TIMEOUT)
            polling.cancel()
            await asyncio.wait({polling}, timeout=POP_TIMEOUT)

    async def _poll(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while self._is_fetching:
            if not self._has_room():
                await asyncio.sleep(FREE_SLOT_CHECK)
                continue
            try:
                task = await self.broker.pop(timeout=POP_TIMEOUT)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a broker may raise anything
                self.errors["pop"] += 1
                self._error = describe(error)
                self._outage.failed(self._error)
                await asyncio.sleep(backoff.next())
                continue
            self._outage.over()
            self._error = None
            backoff.reset()
            if task is not None:
                await self._deliver(task)
                await self.slots_changed()  # it may have come after the workers began to drain

    def _has_room(self) -> bool:
        workers = self.workers
        if workers.is_draining or DEFAULT_QUEUE in workers.paused_queues:
            return False
        has_free_slot = len(workers.running) + workers.queue.size < workers.slots
        return has_free_slot and len(workers.queue.aside()) < MOST_ASIDE

    async def _deliver(self, task: Task) -> None:
        """Take in a task. From here on nobody else has it: whatever cancels this, the task is not lost."""
        task.queue = DEFAULT_QUEUE
        job = self.workers.running.get(task.id)
        # One whose attempt was ended, as by a stop, may be what was just given back.
        if (job is not None and not job.settled) or task.id in self.workers.queue:
            logger.warning("task delivered once more while it is here, left out task=%s id=%s", task.name, task.id)
            return
        try:
            codec.check_task(task)
            definition = self.registry.definition(task.name)
        except TaskNotFoundError as error:
            await see_through(self._give_up(task, describe(error)))
            return
        except ValueError as error:  # of the task itself nothing can be relied on
            await see_through(self._give_up(Task(task.id, task.name, (), {}), describe(error)))
            return
        try:
            record = await self.records.of(task)
        except asyncio.CancelledError:  # the backend takes its time, and the stop can't wait
            self._keep_unread(self._job_of(task, self.records.new(task), definition))
            raise
        job = self._job_of(task, record, definition)
        if self._is_closed:  # it came too late for the stop to give it back
            await see_through(self.release(job))
        else:
            self._take_in(job)

    async def _give_up(self, task: Task, error: str) -> None:
        attempt_log.given_up(task, error, self.workers.worker_id)
        await self.records.end(await self.records.of(task), FAILED, error)

    def _job_of(self, task: Task, record: TaskResult, definition: TaskDefinition) -> Job:
        telemetry = self.telemetry.register(task.name, self.workers.kind)
        # The broker may be a user's own: whatever it makes of the due time, the task is run.
        delay = 0.0 if not isinstance(task.due_at, int | float) else min(task.due_at - time.time(), MAX_DELAY)
        job = Job(task, record, definition, telemetry, time.monotonic() + (delay if delay > 0 else 0.0))
        job.is_decoded, task.due_at = True, None
        return job

    def _take_in(self, job: Job) -> None:
        """Run a task in the next free slot, or when it is due."""
        delay = job.ready_at - time.monotonic()
        if delay > 0 and job.record.status is RETRYING:
            job.begin_wait(job.ready_at)
        self.workers.put_later(job, delay)

    def _keep_unread(self, job: Job) -> None:
        """Take in a task whose record could not be waited for. A stop gives it back, rather than have it run with
        another one."""
        if self._is_fetching:
            self._take_in(job)
        else:
            self.workers.queue.set_aside(job.task.id, job)

    async def abandon(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        self._is_fetching = False
        self._polling.release()
        await super().abandon(running, waiting)

    # ── giving back ─────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, delay: float, options: SubmitOptions) -> Coroutine[Any, Any, None] | None:
        job.task.queue = job.record.queue = DEFAULT_QUEUE
        return super().submit(job, delay, options)

    async def _queue(self, job: Job, delay: float) -> None:
        if delay and self.consumes and not self.workers.is_draining:
            self._put(job, delay)
        else:
            await self._push(job)

    async def _push(self, job: Job) -> None:
        self.records.publish(job.record)
        _tell_when_due(job)
        try:
            await self.broker.push(job.task)
        except BaseException as error:
            self.errors["push"] += 1
            await self.records.end(job.record, CANCELLED, f"not queued: {describe(error)}")
            raise
        job.telemetry.count_submitted()

    def finished(self, job: Job) -> Coroutine[Any, Any, None] | None:
        if job.record.status is PENDING:
            # Told to end again while the broker takes its time, the attempt would lose its task.
            return see_through(self._give_back(job))
        return super().finished(job)

    def _plan_next(self, job: Job, is_stored: bool) -> None:
        super()._plan_next(job, is_stored)
        if self.workers.is_draining:  # here it would fall due, and not be begun
            self.workers.spawn(self.slots_changed())

    async def _give_back(self, job: Job) -> None:
        """Return the task of an attempt that was ended for it."""
        await self.records.store(job.record)
        error = await self._push_back(job)
        if error is not None:
            job.record.status, job.record.error, job.record.finished_at = CANCELLED, error, datetime.now(UTC)
            await self.records.store(job.record)

    async def release(self, job: Job) -> None:
        job.end_wait()
        error = await self._push_back(job)
        if error is not None:
            await self.records.end(job.record, CANCELLED, error)

    async def _push_back(self, job: Job) -> str | None:
        """Return a task to the broker, for another process or a later time. Returns what it ends with if that fails."""
        _tell_when_due(job)
        try:
            await self.broker.push(job.task)
        except BaseException as error:
            if is_for_caller(error):
                raise
            self.errors["push"] += 1
            self._returning.failed(describe(error), error)
            return "cancelled: the app stopped, and the broker did not take it back"
        self._returning.over()
        return None

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    async def slots_changed(self) -> None:
        if self.workers.is_draining:
            # Cancelled while the broker takes its time, who asks for it would lose the task that is on its way.
            await see_through(self._return_all())

    async def _return_all(self) -> None:
        """Return what has not begun, be it delayed, or that its name is paused here: other processes may run it."""
        queue = self.workers.queue
        kept: list[Job] = []
        for job in (*queue.ready(), *queue.aside(), *queue.delayed_items()):
            if self.workers.withdraw(job.task.id) is None:
                continue
            if await self._push_back(job) is None:
                job.end_wait()
            else:
                kept.append(job)
        now = time.monotonic()
        self.workers.put_back([job for job in kept if job.ready_at <= now])
        for job in kept:
            if job.ready_at > now:
                self.workers.put_later(job, job.ready_at - now)

    def queues(self) -> tuple[str, ...]:
        return (DEFAULT_QUEUE,)

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        if queue != DEFAULT_QUEUE:
            raise ValueError(f"A {self.name} has one queue, {DEFAULT_QUEUE!r}; it has none that is called {queue!r}")
        return await super().pause_queue(queue, is_paused)

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def has_startable(self) -> bool:
        return DEFAULT_QUEUE not in self.workers.paused_queues and await self.broker.size() > 0

    async def size(self) -> int:
        return await super().size() + await self.broker.size()

    async def figures_by_queue(self) -> dict[str, QueueFigures]:
        # The broker knows only what is due, and this process but its own part of the rest.
        is_paused = DEFAULT_QUEUE in self.workers.paused_queues or None
        return {DEFAULT_QUEUE: QueueFigures(await self.size(), None, None, None, None, None, paused=is_paused)}


def _tell_when_due(job: Job) -> None:
    """Write on a task that goes to the broker when it is due, if that is to come."""
    delay = job.ready_at - time.monotonic()
    job.task.due_at = time.time() + delay if delay > 0 else None
