"""The workers of an executor: the asyncio tasks that attempts run in, a bounded number at once.

A worker exists only while there is work. It runs waiting tasks one after the other, each attempt in a context of its
own, for as long as they finish without ever being suspended, which makes short tasks cheap. An attempt that is
suspended keeps the worker to itself, and the worker ends with it: whatever user code does to the asyncio task that it
was suspended in (cancel it later, from elsewhere) can't reach another attempt.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from flowrra.executors.job import Job
from flowrra.executors.job_queue import JobQueue

logger = logging.getLogger(__name__)

# How long all workers of an executor together hold the event loop in one turn, in seconds.
TURN = 0.002
# Before a worker that was cancelled from outside is replaced, in seconds. A loop that cancels everything because it is
# about
# to close is closed by then.
REPLACEMENT_DELAY = 0.05


class Workers:
    """Runs the jobs of a queue, ``slots`` at once.

    Args:
        kind: Names them in the log: ``io`` or ``cpu``.
        slots: How many there may be.
        queue: Where jobs wait.
        attempt: Makes the coroutine that runs one attempt of a job and settles it.
        bury: Called with a job that a worker died over without settling it, and the error it died of.

    Attributes:
        restarts: How many workers died and were replaced.
        is_waking: Whether :meth:`wake` was called, and has no effect until the loop's next turn.
    """

    def __init__(
        self,
        kind: str,
        slots: int,
        queue: JobQueue[Job],
        attempt: Callable[[Job], Coroutine[Any, Any, None]],
        bury: Callable[[Job, BaseException], None],
    ) -> None:
        self._kind = kind
        self._slots = slots
        self._queue = queue
        self._attempt = attempt
        self._bury = bury
        self._jobs: dict[asyncio.Task[None], Job | None] = {}
        self.is_waking = False
        self._is_turn_over = False
        self._turn_ends = 0.0
        self.restarts = 0
        # None may start before open(), nor after close().
        self._open_slots = 0

    def open(self, context: contextvars.Context) -> None:
        """Run jobs from now on, on the running event loop, each attempt in a copy of ``context``."""
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._changed = asyncio.Event()
        self._jobs.clear()
        self.is_waking = self._is_turn_over = False
        self._open_slots = self._slots

    def close(self) -> None:
        """Start nothing more; what runs goes on."""
        self._open_slots = 0

    async def until_changed(self) -> None:
        """Return when a worker has ended, or :meth:`notify` was called."""
        self._changed.clear()
        await self._changed.wait()

    def notify(self) -> None:
        """Wake :meth:`until_changed`."""
        self._changed.set()

    def wake(self) -> None:
        """Start workers in the loop's next turn: whoever submits several tasks has them all in the queue by then."""
        if not self.is_waking and self._open_slots:
            self.is_waking = True
            self._loop.call_soon(self.start, context=self._context)

    def start(self) -> None:
        """Start as many workers as there are jobs waiting and slots free."""
        self.is_waking = False
        for _ in range(min(self._open_slots - len(self._jobs), self._queue.size)):
            worker = self._loop.create_task(self._work(), name=f"flowrra-{self._kind}-worker", context=self._context)
            self._jobs.setdefault(worker, None)  # an eager task factory has run it already
            worker.add_done_callback(self._ended, context=self._context)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - this is one
        while len(self._jobs) <= self._open_slots and (job := self._queue.take()) is not None:
            self._jobs[worker] = job
            job.worker = worker
            attempt = self._attempt(job)
            context = self._context.copy()
            try:
                awaited = context.run(attempt.send, None)
            except StopIteration:
                if worker.cancelling():  # by the task's own code; the cancellation is not for the next one
                    return
                self._jobs[worker] = None
                if time.monotonic() > self._turn_ends:
                    await self._yield_turn()
            else:
                await _resume(attempt, context, awaited)
                return

    async def _yield_turn(self) -> None:
        if not self._is_turn_over:
            self._is_turn_over = True
            self._loop.call_soon(self._begin_turn, context=self._context)
        await asyncio.sleep(0)

    def _begin_turn(self) -> None:
        self._is_turn_over = False
        self._turn_ends = time.monotonic() + TURN

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Free a worker's slot, hand over what it died over, if it died, and go on with what waits."""
        job = self._jobs.pop(worker)
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        was_told = job is not None and job.interrupt is not None
        if error is not None and not was_told:
            self._count_death(job, error)
        if job is not None and not job.settled:
            self._bury(job, error or RuntimeError("the worker ended without an outcome"))
        if worker.cancelling() and not was_told:
            self._loop.call_later(REPLACEMENT_DELAY, self.start, context=self._context)
        else:
            self.start()
        self._changed.set()

    def _count_death(self, job: Job | None, error: BaseException) -> None:
        self.restarts += 1
        logger.error(
            "worker died, replaced executor=%s task=%s id=%s error=%r",
            self._kind,
            job and job.definition.name,
            job and job.task.id,
            error,
        )


@types.coroutine
def _resume(
    coroutine: Coroutine[Any, Any, None], context: contextvars.Context, awaited: Any
) -> Generator[Any, Any, None]:
    """Go on with a coroutine that awaits something, each of its steps inside its own context."""
    while True:
        step: Callable[[], Any]
        try:
            sent = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the loop throws in is for the coroutine
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, sent)
        try:
            awaited = context.run(step)
        except StopIteration:
            return
