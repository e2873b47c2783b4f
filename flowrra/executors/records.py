"""Keeps the records of an executor's tasks: stores them, counts what can't be stored, and tells subscribers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.events import EventPublisher
from flowrra.executors.failures import describe
from flowrra.task import Task, TaskResult, TaskStatus

logger = logging.getLogger(__name__)

# What ends the program, or the waiting for an answer, is not a failure of the result backend.
PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)

# How often an outcome is stored anew because something cancels the asyncio task that stores it.
OUTCOME_ATTEMPTS = 10


class Records:
    """The records of tasks on their way through an executor.

    Args:
        results: Where they are stored.
        publisher: Tells subscribers of every change.

    Attributes:
        errors: How many operations of the result backend failed, by operation.
    """

    def __init__(self, results: BaseResultBackend, publisher: EventPublisher) -> None:
        self.results = results
        # It holds the records themselves, which change in place: their passing states need no storing. (Exactly this
        # class: one derived from it may do otherwise.)
        self.memory = results if type(results) is InMemoryBackend else None
        self.errors: Counter[str] = Counter({} if self.memory is not None else dict.fromkeys(("get", "store"), 0))
        self._publish = publisher.publish

    async def of(self, task: Task) -> TaskResult:
        """The record of a task that came from a broker; a new one if there is none, or it can't be read."""
        record = None
        try:
            record = await self.results.get(task.id)
        except Exception:
            self.errors["get"] += 1
            logger.exception("record not readable, starting a new one task=%s id=%s", task.name, task.id)
        return record or TaskResult(
            task.id, TaskStatus.PENDING, task.name, retries=task.current_retry, args=task.args, kwargs=task.kwargs
        )

    async def store(self, record: TaskResult) -> bool:
        """Store a record; a failure is logged and counted."""
        try:
            await self.results.store(record.task_id, record)
        except PASSED_ON:
            raise
        except BaseException as error:  # noqa: BLE001 - a backend is user code, and must not end a worker
            self._failed(record, error)
            return False
        return True

    async def store_again(self, record: TaskResult, failure: BaseException) -> None:
        """Store the outcome of an attempt after that has failed: the task must not run again for it.

        A result that can't be stored fails its task. A cancellation came too late: the task's own code had ended.
        """
        if not isinstance(failure, PASSED_ON):
            self._failed(record, failure)
            if record.status is TaskStatus.SUCCESS:
                record.status, record.result = TaskStatus.FAILED, None
                record.error = f"its result could not be stored: {describe(failure)}"
        for _ in range(OUTCOME_ATTEMPTS):
            try:
                await self.store(record)
            except asyncio.CancelledError:
                continue
            return

    async def end(self, record: TaskResult, status: TaskStatus, reason: str) -> None:
        """Store and publish that a task ended without an attempt's outcome."""
        record.status, record.error, record.finished_at = status, reason, datetime.now(UTC)
        await self.store(record)
        self._publish(record)

    def _failed(self, record: TaskResult, error: BaseException) -> None:
        self.errors["store"] += 1
        logger.error(
            "record not stored task=%s id=%s status=%s",
            record.task_name,
            record.task_id,
            record.status,
            exc_info=error,
        )
