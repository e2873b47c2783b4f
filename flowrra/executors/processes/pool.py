"""A pool of worker processes: one is started when a call finds none that is idle."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

from flowrra.exceptions import WorkerLostError
from flowrra.executors.processes.child import PROCESS_NAME, TERMINATION_GRACE
from flowrra.executors.processes.worker import Progressed, Started, WorkerProcess

logger = logging.getLogger(__name__)


class ProcessPool:
    """Worker processes, as many as there are calls at once.

    Args:
        max_calls: After how many calls a process is replaced; None is never.

    Attributes:
        deaths: How many processes ended without being told to.
    """

    def __init__(self, max_calls: int | None) -> None:
        self._max_calls = max_calls
        self._processes: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._numbers = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False
        self._most: int | None = None
        self.deaths = 0

    def open(self) -> None:
        """Run calls from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._is_open = True

    async def run(self, call: bytes, started: Started, progressed: Progressed) -> bytes:
        """Run a call in an idle process, or a new one. If this is cancelled, its process is ended, and waited for.

        Args:
            call: What :func:`messages.encode_call` made.
            started: Called when the function begins.
            progressed: Called with what it tells of its progress.

        Returns:
            The frame that came back, for :func:`messages.decode_outcome`.

        Raises:
            WorkerLostError: The process could not be started, or ended without an outcome.
        """
        process = self._take()
        was_idle = process.calls > 0
        frame = await process.run(call, started, progressed)
        if frame is None and was_idle and not process.has_begun:
            # It had ended while it was idle, and nobody knew: that is not this task's doing.
            process = self._take()
            frame = await process.run(call, started, progressed)
        if frame is None:
            raise WorkerLostError(process.exit_reason())
        self._release(process)
        return frame

    def _take(self) -> WorkerProcess:
        while self._idle:
            process = self._idle.pop()  # the one whose caches are warm
            if process.is_usable:
                return process
        try:
            process = WorkerProcess(f"{PROCESS_NAME}-{next(self._numbers)}", self._on_exit)
        except Exception as error:
            raise WorkerLostError(f"A worker process can't be started: {error}") from error
        self._processes.add(process)
        logger.debug("worker process started pid=%d", process.pid)
        return process

    def _release(self, process: WorkerProcess) -> None:
        if not process.is_usable:
            return
        if not self._is_open or process.calls == self._max_calls or self._has_too_many():
            process.retire()
        else:
            self._idle.append(process)

    def trim(self, most: int) -> None:
        """Keep at most so many processes; those that are busy end after their call."""
        self._most = most
        while self._idle and self._has_too_many():
            self._idle.pop(0).retire()

    def _has_too_many(self) -> bool:
        return self._most is not None and sum(process.is_usable for process in self._processes) > self._most

    def _on_exit(self, process: WorkerProcess) -> None:
        self._processes.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        if not process.is_ending:
            self.deaths += 1
            logger.error(
                "worker process died, replaced when needed pid=%d: it %s", process.pid, process.exit.rstrip(",")
            )

    async def close(self) -> None:
        """End all processes, and wait until they have ended. Those of a loop that was closed are killed at once."""
        self._is_open = False
        self._idle.clear()
        if self._loop is None or self._loop.is_closed():
            self._abandon()
            return
        for process in self._processes:
            process.retire()
        gone = [process.gone for process in self._processes]
        if gone:
            _, left = await asyncio.wait(gone, timeout=3 * TERMINATION_GRACE)
            if left:
                logger.error("worker processes won't end, left to themselves count=%d", len(left))

    def _abandon(self) -> None:
        for process in self._processes:
            process.kill()
            process.release()
        self._processes.clear()
