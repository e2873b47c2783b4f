"""Notices that everything on an event loop is cancelled, as ``asyncio.run`` does before it closes the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from flowrra.executors.job import Interrupt, Job
from flowrra.supervision import Supervised


class TeardownWatch:
    """Tells attempts that were cancelled with everything else from those that cancelled themselves. Nobody else knows
    of an asyncio task that only waits here: if that one is cancelled, all of them are.

    Args:
        kind: Names the executor.
        running_jobs: Returns what runs now.
    """

    # Seconds after which the next one is waited for, in a loop that goes on. One that is about to close is closed by
    # then, and what would wait there would never end.
    DELAY = 5.0

    def __init__(self, kind: str, running_jobs: Callable[[], list[Job]]) -> None:
        self._running_jobs = running_jobs
        self._waiting = Supervised(self._wait, f"flowrra-{kind}-teardown", self.DELAY, self._mark_all)

    def start(self) -> None:
        """Begin on the running event loop."""
        self._waiting.start()

    def end(self) -> None:
        """End, be the loop closed or not."""
        task = self._waiting.release()
        if task is not None and not task.get_loop().is_closed():
            task.cancel()

    def mark(self, job: Job) -> None:
        """Note on a job whose attempt has ended with an error now if a teardown was what ended it."""
        if self._waiting.is_cancelled and _was_cancelled(job):
            job.interrupt = Interrupt.TEARDOWN

    async def _wait(self) -> None:
        await asyncio.Event().wait()

    def _mark_all(self, _: Any) -> None:
        # Those that are still cleaning up.
        for job in self._running_jobs():
            if _was_cancelled(job):
                job.interrupt = Interrupt.TEARDOWN


def _was_cancelled(job: Job) -> bool:
    """Whether an attempt was cancelled, and not by its executor."""
    return job.interrupt is None and job.worker is not None and job.worker.cancelling() > 0
