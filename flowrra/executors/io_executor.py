"""Runs async functions on the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowrra.config import Config
from flowrra.executors.base import BaseTaskExecutor
from flowrra.executors.job import Job


class IOExecutor(BaseTaskExecutor):
    """Runs ``async def`` tasks as coroutines, ``config.executor.io_workers`` at once."""

    kind = "io"

    @staticmethod
    def _slots_of(config: Config) -> int:
        return config.executor.io_workers

    def _call(self, func: Callable[..., Any], job: Job) -> Awaitable[Any]:
        task = job.shown() if job.has_changeable_arguments else job.task
        result: Awaitable[Any] = func(*task.args, **task.kwargs)
        return result
