"""Notices when every slot of an executor waits for a task that needs one of them: then none of them can go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from flowrra.exceptions import BackendError
from flowrra.executors.job import Job
from flowrra.task import PENDING, RETRYING

if TYPE_CHECKING:
    from flowrra.executors.base import BaseTaskExecutor

logger = logging.getLogger(__name__)

# Seconds for which all slots have waited before that is looked into, and between two looks.
PATIENCE: Final = 1.0


class Waits:
    """Which running tasks of an executor wait for the results of others.

    Args:
        executor: Whose tasks they are.
    """

    def __init__(self, executor: BaseTaskExecutor) -> None:
        self._executor = executor

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
        if self._episode is None and len(self._awaited) >= self._executor.workers:
            self._episode = object()
            self._loop.call_soon_threadsafe(self._look_later, self._episode)
        try:
            yield
        finally:
            awaited.remove(task_id)
            if not awaited:
                self._awaited.pop(job, None)
            if len(self._awaited) < self._executor.workers:
                self._episode = None

    def _look_later(self, episode: object) -> None:
        self._loop.call_later(PATIENCE, self._begin_look, episode)

    def _begin_look(self, episode: object) -> None:
        if episode is self._episode and self._executor.is_running:
            self._executor.spawn(self._look(episode))

    async def _look(self, episode: object) -> None:
        running = self._executor.running_jobs()
        waiting = [(job, ids.copy()) for job, ids in self._awaited.items() if job in running]
        stuck = {job.task.id for job, _ in waiting}
        try:
            names = [await self._name_if_stuck(task_id, stuck) for _, awaited in waiting for task_id in awaited]
        except BackendError:  # it is logged and counted where it is awaited
            names = [None]
        if episode is not self._episode:
            return
        if len(waiting) < self._executor.workers or None in names:  # one goes on, and others may then
            self._look_later(episode)
            return
        logger.warning(
            "every slot waits for a task that needs one, none can go on executor=%s slots=%d waiting=%s for=%s: "
            "submit what comes next at the end of a task instead of waiting for it inside, or raise %s_workers",
            self._executor.kind,
            self._executor.workers,
            ",".join(sorted({job.definition.name for job, _ in waiting})),
            ",".join(sorted({str(name) for name in names})),
            self._executor.kind,
        )

    async def _name_if_stuck(self, task_id: str, stuck_ids: set[str]) -> str | None:
        """The name of a task that can't go on before one of the slots is free; None if it can."""
        record = await self._executor.results.get(task_id)
        if record is None or record.task_name is None:
            return None
        definition = self._executor.registry.by_name.get(record.task_name)
        if definition is None or definition.cpu_bound != (self._executor.kind == "cpu"):
            return None
        return record.task_name if record.status in (PENDING, RETRYING) or task_id in stuck_ids else None
