"""Runs functions in worker processes, so that they neither hold up the event loop nor each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flowrra.config import Config
from flowrra.executors.base import BaseTaskExecutor
from flowrra.executors.job import Job
from flowrra.executors.processes import messages
from flowrra.executors.processes.pool import ProcessPool
from flowrra.executors.processes.program_import import end_import
from flowrra.registry import TaskRegistry


class CPUExecutor(BaseTaskExecutor):
    """Runs ``def`` tasks in processes, ``config.executor.cpu_workers`` at once.

    A process is started when it is first needed, and kept. It finds a task's function by importing its module;
    arguments and results travel as pickles.

    Args:
        config: As in :class:`BaseTaskExecutor`; it must name a result backend, be it ``InMemoryBackend()``.
        registry, **shared: As there.

    Raises:
        ValueError: There is no result backend.
    """

    kind = "cpu"

    def __init__(self, config: Config, registry: TaskRegistry | None = None, **shared: Any) -> None:
        if config.backend is None:
            raise ValueError("CPUExecutor requires backend configuration: give Config(backend=...)")
        super().__init__(config, registry, **shared)
        self._pool = ProcessPool(config.executor.max_tasks_per_child)

    @staticmethod
    def _slots_of(config: Config) -> int:
        return config.executor.cpu_workers

    @property
    def worker_restarts(self) -> int:
        """How many workers died and were replaced, their processes among them."""
        return super().worker_restarts + self._pool.deaths

    async def _call(self, func: Callable[..., Any], job: Job) -> Any:
        begin, progress = partial(self._begin_function, job), partial(self._progress.report, job)
        frame = await self._pool.run(messages.encode_call(func, job.task), begin, progress)
        return messages.decode_outcome(frame)

    def _limit(self, job: Job) -> None:
        """Nothing yet: the limit begins with the function."""

    def _begin_function(self, job: Job) -> None:
        # Starting a process and importing the task's module are not the task's doing.
        job.started_at = time.monotonic()
        if job.interrupt is None:
            super()._limit(job)

    async def resize(self, slots: int) -> None:
        """Run so many tasks at once from now on; see :meth:`BaseTaskExecutor.resize`."""
        await super().resize(slots)
        self._pool.trim(slots)

    def open(self) -> None:
        """Accept tasks from now on, on the running event loop; none of them runs before :meth:`begin`."""
        end_import()
        super().open()

    def begin(self) -> None:
        """Run tasks from now on."""
        self._pool.open()
        super().begin()

    async def _stop(self, wait: bool, timeout: float | None) -> None:
        await super()._stop(wait, timeout)
        await self._pool.close()

    async def _abandon_closed_loop(self) -> None:
        await super()._abandon_closed_loop()
        await self._pool.close()
