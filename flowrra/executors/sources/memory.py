"""Tasks that never leave this process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from flowrra.brokers.base import QueueFigures
from flowrra.exceptions import ExecutorNotRunningError, SerializationError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import cancelled_while_waiting
from flowrra.executors.records import RecordStore, mark_refused
from flowrra.executors.sources.base import Pauses, TaskSource
from flowrra.executors.workers import Workers, wall_clock
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.registry import TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.supervision import spawn
from flowrra.task import CANCELLED, RETRYING, TaskResult
from flowrra.telemetry import SUBMITTED, Telemetry

# By so much two readings of both clocks differ only if one was put.
_CLOCK_WAS_PUT: Final = timedelta(seconds=0.1)


class MemorySource(TaskSource):
    """The workers' own queue is all there is.

    Args:
        workers, records, registry, telemetry: See :class:`TaskSource`.
        max_waiting: Tasks that may wait before a submission waits for room.
    """

    shared = False
    consumes = True
    name = "memory"

    def __init__(
        self,
        workers: Workers,
        records: RecordStore,
        registry: TaskRegistry,
        telemetry: Telemetry,
        max_waiting: int,
    ) -> None:
        super().__init__(workers, records, registry, telemetry)
        self.max_waiting = max_waiting
        self.hears_of_starts = records.hears_of_starts
        self._hold, self._keep = records.hold, records.keep
        self._is_closed = True
        self._told_since: dict[float, datetime] = {}

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        super().open()
        self._is_closed = False

    async def close(self, left: float) -> None:
        self._is_closed = True

    async def abandon(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        self._is_closed = True
        reason = "the event loop was closed without stopping the app"
        for job in running:
            job.telemetry.count_cancelled()
            await self.records.end(job.record, CANCELLED, f"cancelled while running: {reason}")
        for job in waiting:
            await self._end_waiting(job, reason)

    # ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, delay: float, options: SubmitOptions) -> Coroutine[Any, Any, None] | None:
        if job.has_changeable_arguments:
            job.keep_arguments()
        if self._hold is None or self.shared:
            return self._submit_slowly(job, delay)
        self._hold(job.task.id, job.record)
        self._put(job, delay)
        return None

    async def _submit_slowly(self, job: Job, delay: float) -> None:
        """Record and queue a task where either takes its time. Its place in the queue is kept meanwhile."""
        recording = self.records.accepted(job.record)
        if recording is not None:
            await self._wait_for(recording, job)
        await self._queue(job, delay)

    async def _wait_for(self, recording: Awaitable[None], job: Job) -> None:
        queue = self.workers.queue
        queue.reserved += 1
        try:
            await recording
        except BaseException as error:
            queue.reserved -= 1  # before it is offered: until then there is no room
            queue.offer_room()
            if not isinstance(error, GeneratorExit | SerializationError):
                refusal = self._refuse(job.record, error)
                if isinstance(error, Exception):  # who is cancelled waits for nothing more
                    await asyncio.wait({refusal})
            raise
        queue.reserved -= 1
        if self._is_closed:
            await self.records.end(job.record, CANCELLED, "cancelled before it ran: the app stopped")
            raise ExecutorNotRunningError

    def _refuse(self, record: TaskResult, error: BaseException) -> asyncio.Task[None]:
        """Record of a task that it was not queued. The result backend may have its record although that failed, or was
        given up: it would look as if it waited, also to whoever submits its id again."""
        mark_refused(record, error)
        task_id = record.task_id
        refusal = self._refusals[task_id] = spawn(self._store_refusal(record))
        refusal.add_done_callback(lambda _: self._refusals.pop(task_id, None))
        return refusal

    async def _store_refusal(self, record: TaskResult) -> None:
        await self.records.store(record)

    async def _queue(self, job: Job, delay: float) -> None:
        self._put(job, delay)

    def _put(self, job: Job, delay: float) -> None:
        if self.records.bus.subscribers:
            self.records.publish(job.record)
        if delay:
            self.workers.put_later(job, delay)
        else:
            self.workers.put(job)
        # As count_submitted() does, without a call: every task in memory comes here.
        job.telemetry.cells[SUBMITTED] += 1

    def started(self, job: Job) -> Coroutine[Any, Any, Any] | None:
        return self.records.started(job.record)

    def finished(self, job: Job) -> Coroutine[Any, Any, None] | None:
        if self._keep is None:
            return self.records.finished(job, self._plan_next)
        self._keep(job.task.id, job.record)
        if job.record.status is RETRYING:
            self._plan_next(job, True)
        return None

    def _plan_next(self, job: Job, is_stored: bool) -> None:
        if job.record.status is RETRYING:
            job.begin_wait(time.monotonic() + job.retry_after)
            self.workers.put_later(job, job.retry_after)

    async def release(self, job: Job) -> None:
        await self._end_waiting(job, "the app stopped")

    async def cancel(self, task_id: str) -> bool:
        return await self.cancel_waiting(task_id) or await self.workers.cancel(task_id)

    async def cancel_waiting(self, task_id: str) -> bool:
        waiting = self.workers.withdraw(task_id)
        if waiting is None:
            return False
        await self._end_waiting(waiting, "by request")
        return True

    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        tasks = (job.task for job in self.workers.queue.waiting())
        meant = (task.id for task in tasks if task.queue == queue and name in (None, task.name))
        return list(islice(meant, limit))

    async def _end_waiting(self, job: Job, reason: str) -> None:
        job.end_wait()
        job.telemetry.count_cancelled_before_start()
        await self.records.end(job.record, CANCELLED, cancelled_while_waiting(job.record, reason))

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        return self._pause(self.workers.paused_queues, queue, is_paused)

    async def pause_name(self, name: str, is_paused: bool) -> bool:
        return self._pause(self.workers.paused_names, name, is_paused)

    async def pauses(self) -> Pauses:
        return Pauses(frozenset(self.workers.paused_queues), frozenset(self.workers.paused_names))

    def _pause(self, paused: set[str], name: str, is_paused: bool) -> bool:
        if (name in paused) is is_paused:
            return False
        if is_paused:
            paused.add(name)
        else:
            paused.discard(name)
        self.workers.sort_anew()
        return True

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def size(self) -> int:
        return self.workers.queue.size + len(self.workers.queue.aside())

    async def figures(self) -> QueueFigures:
        return (await self.figures_by_queue())[DEFAULT_QUEUE]

    async def figures_by_queue(self) -> dict[str, QueueFigures]:
        workers, queue = self.workers, self.workers.queue
        pending: Counter[str] = Counter()
        paused: Counter[str] = Counter()
        delayed, running = Counter({DEFAULT_QUEUE: queue.delayed}), Counter({DEFAULT_QUEUE: len(workers.running)})
        since: dict[str, float] = {}
        for count, job in [*queue.lanes(), *((1, job) for job in queue.aside())]:
            name = job.task.queue
            pending[name] += count
            if job.task.name in workers.paused_names:  # those wait by request, however long
                paused[name] += count
            else:
                since[name] = min(job.ready_at, since.get(name, job.ready_at))
        if workers.has_queues:
            delayed = Counter(job.task.queue for job in queue.delayed_items())
            running = Counter(job.task.queue for job in workers.running_jobs())
        oldest = self._tell_since(since)
        known = (*self.registry.queues[workers.kind == "cpu"], *workers.queues(), *workers.paused_queues)
        named = (*known, *pending, *delayed, *running)
        return {
            name: QueueFigures(
                pending=pending[name],
                delayed=delayed[name],
                in_flight=running[name],
                dead=0,
                oldest_pending_at=oldest.get(name),
                unknown=0,
                taken=workers.taken_from(name),
                paused=name in workers.paused_queues,
                paused_tasks=paused[name],
            )
            for name in dict.fromkeys((DEFAULT_QUEUE, *sorted(named)))
        }

    def _tell_since(self, since: Mapping[str, float]) -> dict[str, datetime]:
        """The moments at which the first task of each queue became due, as they were told before, unless a clock was
        put since: two clocks are never read at one moment, and a figure that moves looks like another task."""
        told: dict[float, datetime] = {}
        for moment in since.values():
            found = wall_clock(moment)
            before = self._told_since.get(moment, found)
            told[moment] = before if abs(found - before) < _CLOCK_WAS_PUT else found
        self._told_since = told
        return {name: told[moment] for name, moment in since.items()}
