"""Tasks that never leave this process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from flowrra.brokers.base import QueueFigures
from flowrra.exceptions import ExecutorNotRunningError
from flowrra.executors.job import Job
from flowrra.executors.records import RecordStore
from flowrra.executors.sources.base import TaskSource
from flowrra.executors.workers import Workers
from flowrra.registry import TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.task import CANCELLED, RETRYING
from flowrra.telemetry import Telemetry


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
        except BaseException:
            queue.offer_room()
            raise
        finally:
            queue.reserved -= 1
        if self._is_closed:
            await self.records.end(job.record, CANCELLED, "cancelled before it ran: the app stopped")
            raise ExecutorNotRunningError

    async def _queue(self, job: Job, delay: float) -> None:
        self._put(job, delay)

    def _put(self, job: Job, delay: float) -> None:
        if self.records.bus.subscribers:
            self.records.publish(job.record)
        if delay:
            self.workers.put_later(job, delay)
        else:
            self.workers.put(job)
        job.telemetry.count_submitted()

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
        waiting = self.workers.withdraw(task_id)
        if waiting is not None:
            await self._end_waiting(waiting, "by request")
            return True
        return await self.workers.cancel(task_id)

    async def _end_waiting(self, job: Job, reason: str) -> None:
        job.end_wait()
        job.telemetry.count_cancelled_before_start()
        await self.records.end(job.record, CANCELLED, f"cancelled before it ran: {reason}")

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def size(self) -> int:
        return self.workers.queue.size

    async def figures(self) -> QueueFigures:
        workers = self.workers
        return QueueFigures(
            pending=workers.queue.size,
            delayed=workers.queue.delayed,
            in_flight=len(workers.running),
            dead=0,
            oldest_pending_at=workers.oldest_waiting_at(),
            unknown=0,
        )
