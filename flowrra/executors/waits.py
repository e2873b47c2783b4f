"""Notices when every slot of an executor waits for a task that needs one of them: then none of them can go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flowrra.executors.job import Job
from flowrra.executors.records import RecordStore
from flowrra.executors.workers import Workers
from flowrra.registry import TaskRegistry
from flowrra.task import PENDING, RETRYING

logger = logging.getLogger(__name__)

# Seconds for which all slots have waited before that is looked into, and between two looks.
PATIENCE: Final = 1.0


class Waits:
    """Which running tasks of an executor wait for the results of others.

    Args:
        workers: What runs the tasks.
        records: Where their records are.
        registry: The tasks that are known here.
    """

    def __init__(self, workers: Workers, records: RecordStore, registry: TaskRegistry) -> None:
        self._workers = workers
        self._records = records
        self._registry = registry

    def open(self) -> None:
        """Begin on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._awaited: dict[Job, list[str]] = {}
        # Made anew each time that all slots have come to wait; None while they don't.
        self._episode: object | None = None

    @contextmanager
    def of(self, job: Job, task_id: str) -> Iterator[None]:
        """While in here, that job waits for that task; on any thread.

        Args:
            job: In whose attempt somebody waits.
            task_id: Whose result is waited for.
        """
        awaited = self._awaited.setdefault(job, [])
        awaited.append(task_id)
        if self._episode is None and len(self._awaited) >= self._workers.slots:
            self._episode = object()
            self._loop.call_soon_threadsafe(self._look_later, self._episode)
        try:
            yield
        finally:
            awaited.remove(task_id)
            if not awaited:
                self._awaited.pop(job, None)
            if len(self._awaited) < self._workers.slots:
                self._episode = None

    def _look_later(self, episode: object) -> None:
        self._loop.call_later(PATIENCE, self._begin_look, episode)

    def _begin_look(self, episode: object) -> None:
        if episode is self._episode and self._workers.is_open:
            self._workers.spawn(self._look(episode))

    async def _look(self, episode: object) -> None:
        running = self._workers.running_jobs()
        waiting = [(job, ids.copy()) for job, ids in self._awaited.items() if job in running]
        stuck = {job.task.id for job, _ in waiting}
        try:
            names = [await self._name_if_stuck(task_id, stuck) for _, awaited in waiting for task_id in awaited]
        except (Exception, SystemExit):  # noqa: BLE001 - it is logged and counted where it is awaited
            names = [None]
        if episode is not self._episode:
            return
        if len(waiting) < self._workers.slots or None in names:  # one goes on, and others may then
            self._look_later(episode)
            return
        logger.warning(
            "every slot waits for a task that needs one, none can go on executor=%s slots=%d waiting=%s for=%s: "
            "submit what comes next at the end of a task instead of waiting for it inside, or raise %s_workers",
            self._workers.kind,
            self._workers.slots,
            ",".join(sorted({job.definition.name for job, _ in waiting})),
            ",".join(sorted({str(name) for name in names})),
            self._workers.kind,
        )

    async def _name_if_stuck(self, task_id: str, stuck_ids: set[str]) -> str | None:
        """The name of a task that can't go on before one of the slots is free; None if it can."""
        record = await self._records.results.get(task_id)
        if record is None or record.task_name is None:
            return None
        definition = self._registry.by_name.get(record.task_name)
        if definition is None or definition.cpu_bound != (self._workers.kind == "cpu"):
            return None
        return record.task_name if record.status in (PENDING, RETRYING) or task_id in stuck_ids else None
