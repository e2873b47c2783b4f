"""Keeps the records of an executor's tasks: stores them, counts what can't be stored, and tells subscribers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.events import EventPublisher
from flowrra.exceptions import ServerUnavailableError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import describe, fail_unwritable
from flowrra.task import SUCCESS, Task, TaskResult, TaskStatus

logger = logging.getLogger(__name__)

# What ends the program, or the waiting for an answer, is not a failure of the result backend.
PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
# What passes: the same record can be stored later.
PASSING = (ServerUnavailableError, OSError)

# How often an outcome is stored anew because something cancels the asyncio task that stores it.
OUTCOME_ATTEMPTS = 10
# Seconds between two tries to store an outcome while the backend is away.
MIN_BACKOFF = 0.05
MAX_BACKOFF = 1.0


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

    async def known(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if there is none, or it can't be read, which is counted."""
        try:
            return await self.results.get(task_id)
        except Exception as error:  # noqa: BLE001 - counted, and the next request tells why
            self.errors["get"] += 1
            logger.warning("record not readable id=%s error=%s", task_id, describe(error))
            return None

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

    async def store_outcome(self, job: Job) -> bool:
        """Store what became of an attempt: its task must not run again because that fails.

        What the backend refuses becomes a failure that says so. A cancellation came too late: the task's own code had
        ended.

        Returns:
            Whether it was stored, or is given up; if not, the backend is away, and it can be stored later.
        """
        record = job.record
        for attempt in range(OUTCOME_ATTEMPTS):
            try:
                await self.results.store(job.task.id, record)
                return True
            except asyncio.CancelledError:
                continue
            except PASSED_ON:
                raise
            except PASSING as error:
                self._failed(record, error)
                return False
            except BaseException as error:  # noqa: BLE001 - a backend is user code, and must not end a worker
                self._failed(record, error)
                if attempt > 0:
                    break
                kept = "result" if record.status is SUCCESS else "record"
                fail_unwritable(job, error, f"its {kept} could not be stored")
        logger.error(
            "outcome not stored, given up task=%s id=%s status=%s", record.task_name, job.task.id, record.status
        )
        return True

    async def store_late(self, job: Job, is_waiting: Callable[[], bool]) -> bool:
        """Store an outcome as soon as the backend is back.

        Args:
            job: Whose outcome it is.
            is_waiting: Whether that is still waited for.

        Returns:
            Whether it was stored.
        """
        backoff = MIN_BACKOFF
        while is_waiting():
            await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
            backoff = min(2 * backoff, MAX_BACKOFF)
            try:
                await self.results.store(job.task.id, job.record)
                return True
            except PASSING:  # the first failure was logged, and the end of it will be
                self.errors["store"] += 1
            except Exception as error:  # noqa: BLE001 - logged, and what says so is stored instead
                self._failed(job.record, error)
                fail_unwritable(job, error, "its record could not be stored")
        logger.error(
            "outcome not stored, given up task=%s id=%s status=%s", job.definition.name, job.task.id, job.record.status
        )
        return False

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
