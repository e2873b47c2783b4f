"""What running tasks tell of their progress: kept on their records and published, at most twice a second for each."""

from __future__ import annotations

import asyncio
import contextvars

from flowrra.executors.job import Job
from flowrra.executors.sources.base import TaskSource
from flowrra.executors.workers import Workers
from flowrra.task import Progress, RunningTask, Task

# Seconds between two that are kept of one task.
INTERVAL = 0.5


class ProgressReports:
    """Takes reports from any thread, and hands the latest on from the loop.

    Args:
        workers: Do what takes time, beside the attempts.
        source: Keeps the records.
    """

    def __init__(self, workers: Workers, source: TaskSource) -> None:
        self._workers = workers
        self._source = source
        # Ids of tasks whose progress was told less than an interval ago, or is just being told.
        self._resting: set[str] = set()

    def open(self) -> None:
        """Begin on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._resting.clear()

    def report(self, running: Task | RunningTask, progress: Progress) -> None:
        """Take a report of a running task."""
        if not isinstance(running, Job) or running.settled:
            return
        running.record.progress = progress
        task_id = running.task.id
        if task_id not in self._resting and not self._loop.is_closed():
            self._resting.add(task_id)
            self._loop.call_soon_threadsafe(self._tell, running, context=contextvars.Context())

    def _tell(self, job: Job) -> None:
        if job.settled:
            self._resting.discard(job.task.id)
            return
        told = job.record.progress
        telling = self._source.progressed(job)
        if telling is not None:
            self._workers.spawn(telling)
        if self._source.records.bus.subscribers:
            self._source.records.publish(job.record)
        self._loop.call_later(INTERVAL, self._tell_what_is_new, job.task.id, told, context=contextvars.Context())

    def _tell_what_is_new(self, task_id: str, told: Progress | None) -> None:
        self._resting.discard(task_id)
        # By now it may be another attempt's, which was not told meanwhile.
        job = self._workers.running.get(task_id)
        if job is not None and job.record.progress not in (None, told):
            self._resting.add(task_id)
            self._tell(job)
