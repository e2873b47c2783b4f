"""The workers of an executor, and the jobs that wait and run in this process.

The workers are the asyncio tasks that attempts run in, a bounded number at once. A worker exists only while there is
work. It runs waiting jobs one after the other, each attempt in a context of its own, for as long as they finish without
ever being suspended, which makes short tasks cheap. An attempt that is suspended keeps the worker to itself, and the
worker ends with it: whatever user code does to the asyncio task that it was suspended in (cancel it later, from
elsewhere) can't reach another attempt.

So how many workers a number of waiting jobs needs is seen only when they run. The first one is started alone; each one
that is suspended lets twice as many be started at once, and each attempt that wasn't, half as many.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
import types
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Generator, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any

from flowrra.executors.job import Interrupt, Job
from flowrra.executors.job_queue import JobQueue
from flowrra.executors.queue_order import QueueOrder
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.task import CANCELLED

logger = logging.getLogger(__name__)

# Where a job waits once queues are told apart: the rank of its queue, the queue's name, and its priority there.
Lane = tuple[int, str, float]

# How long all workers of an executor together hold the event loop in one turn, in seconds.
TURN = 0.002
# Seconds before a worker that was cancelled from outside is replaced. A loop that cancels everything because it is
# about to close is closed by then.
REPLACEMENT_DELAY = 0.05
# Seconds that an attempt which was told to end may take for it, before it is left to itself.
CANCEL_GRACE = 5.0
# Seconds after which it is told again.
CANCEL_REPEAT = 1.0


class Workers:
    """Runs jobs, ``slots`` at once.

    Args:
        kind: Names them in the log: ``io`` or ``cpu``.
        slots: How many there may be.
        attempt: Makes the coroutine that runs one attempt of a job and settles it.
        on_death: Called with a job that a worker died over without settling it, and the error it died of.
        worker_id: Names the process in the log.
        order: Whose turn it is when jobs of several queues wait.
        count_begun: Tells how many attempts have begun here so far; to be called from any thread.

    Attributes:
        queue: The jobs that wait, for a free slot or for their time.
        slots: How many attempts may run at once.
        running: The jobs in an attempt, by id, the longest running first.
        has_queues: Whether there were jobs of another queue than the default one.
        is_draining: Whether nothing more is begun by request.
        paused_queues, paused_names: Of which queues, and of which tasks, nothing is begun by request.
        restarts: How many workers died and were replaced.
        is_waking: Whether :meth:`wake` was called, and has no effect until the loop's next turn.
    """

    def __init__(
        self,
        kind: str,
        slots: int,
        attempt: Callable[[Job], Coroutine[Any, Any, None]],
        on_death: Callable[[Job, BaseException], None],
        worker_id: str | None,
        order: QueueOrder,
        count_begun: Callable[[], int],
    ) -> None:
        self.kind = kind
        self.worker_id = worker_id
        self._worker_name = f"flowrra-{kind}-worker"
        self.slots = slots
        self.queue: JobQueue[Job] = JobQueue(sys.maxsize, self._start_due)
        self._take: Callable[[], Job | None] = self.queue.take
        self.running: dict[str, Job] = {}
        self._attempt = attempt
        self._on_death = on_death
        self._order = order
        self._count_begun = count_begun
        self.has_queues = False
        self.is_draining = False
        self.paused_queues: set[str] = set()
        self.paused_names: set[str] = set()
        # Whether a job's lane is its priority, and nothing is paused: nearly always.
        self._is_plain = True
        self._jobs: dict[asyncio.Task[None], Job | None] = {}
        # Those of them that were not suspended yet, and how many there may be.
        self._unsuspended: set[asyncio.Task[None]] = set()
        self._at_once = 1
        # What is done beside the attempts, and the job that it settles, if it does.
        self._background: dict[asyncio.Task[None], Job | None] = {}
        self.is_waking = False
        self._is_turn_over = False
        self._turn_ends = 0.0
        self.restarts = 0
        # None may start before open(), nor after close().
        self._is_open = False
        self._open_slots = 0

    def prepare(self, max_waiting: int) -> None:
        """Queue jobs from now on, on the running event loop; nothing runs before :meth:`open`.

        Args:
            max_waiting: Jobs that may wait before a submission waits for room.
        """
        self._loop = asyncio.get_running_loop()
        self.queue.max_size = max_waiting
        self.is_draining = False
        self._background.clear()

    def open(self, context: contextvars.Context) -> None:
        """Run jobs from now on, each attempt in a copy of ``context``."""
        self._context = context
        self._changed = asyncio.Event()
        self._jobs.clear()
        self._unsuspended.clear()
        self.is_waking = self._is_turn_over = False
        self._is_open = True
        self._open_slots = 0 if self.is_draining else self.slots
        self.start()

    def close(self) -> None:
        """Start nothing more; what runs goes on."""
        self._is_open = False
        self._open_slots = 0

    @property
    def is_open(self) -> bool:
        """Whether it starts what waits, unless it drains."""
        return self._is_open

    def spawn(self, coroutine: Coroutine[Any, Any, None], settles: Job | None = None) -> None:
        """Do something beside the attempts; :meth:`drain` waits for it.

        Args:
            coroutine: What is to be done.
            settles: The job whose attempt it settles, if that is what it does.
        """
        task = self._loop.create_task(coroutine, context=self._context.copy())
        self._background[task] = settles
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._background.pop(task, None)
        self._changed.set()

    # ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, job: Job) -> None:
        """Run a job in the next free slot."""
        if self._is_plain:
            self.queue.put(job.task.id, job.task.priority, job)
        else:
            self._sort_in(job)
        if not self.is_waking:
            self.wake()

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Run jobs that have waited here before, in the order in which they became due."""
        entries = []
        for job in jobs:
            if self._is_paused(job):
                self.queue.set_aside(job.task.id, job)
            else:
                entries.append((job.task.id, self._lane_of(job), job))
        self.queue.put_back(entries, attrgetter("ready_at"))
        if entries and not self.is_waking:
            self.wake()

    def put_later(self, job: Job, delay: float) -> None:
        """Run a job in so many seconds."""
        if delay > 0:
            self.queue.put_later(job.task.id, delay, job)
        else:
            self.put(job)

    def withdraw(self, task_id: str) -> Job | None:
        """Take back a job that waits; None if it has begun, or isn't here."""
        return self.queue.remove(task_id)

    def running_jobs(self) -> list[Job]:
        """What runs now, the longest running first; from any thread."""
        return list(self.running.copy().values())

    def taken_from(self, queue: str) -> int | None:
        """How many jobs of a queue workers have taken so far; None if there are too many queues to count those of each.
        From any thread.

        While there is one queue, these are the attempts that began: to count them would be one more step for each.
        """
        if self.has_queues:
            return self._order.taken_from(queue)
        return self._count_begun() if queue == DEFAULT_QUEUE else 0

    def queues(self) -> Iterable[str]:
        """The queues that jobs have come from or were submitted to, up to ``MAX_QUEUES``; from any thread."""
        return self._order.taken.copy()

    def oldest_waiting_at(self) -> datetime | None:
        """Since when the longest waiting job has been due; None if none waits. From any thread."""
        oldest = min((job.ready_at for job in self.queue.oldest()), default=None)
        return None if oldest is None else wall_clock(oldest)

    def _start_due(self) -> None:
        for job in self.queue.take_due():
            self._sort_in(job)
        self.start()

    # ── queues and pauses ───────────────────────────────────────────────────────────────────────────────────

    def tell_apart(self, queue: str) -> None:
        """There are jobs of that queue, which isn't the default one: from the first such call on, there are several."""
        if not self.has_queues:
            # First, as what another thread sees of it must not fall meanwhile.
            self._order.count(DEFAULT_QUEUE, self._count_begun())
            self.has_queues, self._is_plain = True, False
            self.queue.use_lanes(self._lane_of)
            self._take = partial(self.queue.take_first_of, self._next_lane)
        self._order.count(queue, 0)

    def _lane_of(self, job: Job) -> Lane | float:
        task = job.task
        return (self._order.rank(task.queue), task.queue, task.priority) if self.has_queues else task.priority

    def _next_lane(self, lanes: list[Lane]) -> Lane:
        """The first lane of the queue whose turn it is; the lanes of a queue are neighbours."""
        rank, at, first_of = lanes[0][0], 0, {}
        while at < len(lanes) and lanes[at][0] == rank:
            queue = lanes[at][1]
            first_of[queue] = lanes[at]
            at = bisect_right(lanes, (rank, queue, float("inf")), at)
        queue = self._order.next_first(first_of)[0]
        self._order.took(queue)
        return first_of[queue]

    def _sort_in(self, job: Job) -> None:
        if self._is_paused(job):
            self.queue.set_aside(job.task.id, job)
        else:
            self.queue.put(job.task.id, self._lane_of(job), job)

    def _is_paused(self, job: Job) -> bool:
        return job.task.queue in self.paused_queues or job.task.name in self.paused_names

    def sort_anew(self) -> None:
        """``paused_queues`` or ``paused_names`` were changed: set aside what is paused now, and take up what isn't."""
        self._is_plain = not (self.has_queues or self.paused_queues or self.paused_names)
        for job in self.queue.ready():
            if self._is_paused(job):
                self.queue.remove(job.task.id)
                self.queue.set_aside(job.task.id, job)
        resumed = [job for job in self.queue.aside() if not self._is_paused(job)]
        for job in resumed:
            self.queue.remove(job.task.id)
        self.put_back(resumed)

    # ── slots ───────────────────────────────────────────────────────────────────────────────────────────────

    def resize(self, slots: int) -> None:
        """Run so many attempts at once from now on. What runs goes on, and what waits begins if there is room."""
        self.slots = slots
        self._reopen()

    def set_draining(self, is_draining: bool) -> None:
        """Begin nothing more, or go on with what waits."""
        self.is_draining = is_draining
        self._reopen()

    def _reopen(self) -> None:
        if self._is_open:
            self._open_slots = 0 if self.is_draining else self.slots
            self.start()

    # ── the end of jobs ─────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, task_id: str) -> bool:
        """Tell a running attempt to end, and wait until it has, at most 5 s.

        Returns:
            Whether it ended by this call.
        """
        job = self.running.get(task_id)
        if job is None or not _is_cancellable(job):
            return False
        job.interrupt = Interrupt.CANCEL  # also where its time is over: there is to be no other attempt
        await self.interrupt([job], Interrupt.CANCEL)
        return job.record.status is CANCELLED

    def cancel_soon(self, job: Job) -> None:
        """Tell an attempt to end, without waiting for it."""
        if _is_cancellable(job):
            job.interrupt = Interrupt.CANCEL
            self.spawn(self._cancel_repeatedly([job], self._loop.time() + CANCEL_GRACE))

    async def interrupt(self, jobs: list[Job], reason: Interrupt) -> None:
        """Tell running attempts to end, repeatedly, and wait until they have, at most 5 s. What one of them is ending
        for already, or has ended with, stays what became of it."""
        for job in jobs:
            if job.interrupt is None and not job.settled:
                job.interrupt = reason
        deadline = self._loop.time() + CANCEL_GRACE
        await self._cancel_repeatedly(jobs, deadline)
        # Where a worker died over one, its attempt is settled beside it.
        settling = {task for task, job in self._background.items() if job in jobs}
        if settling and (left := deadline - self._loop.time()) > 0:
            await asyncio.wait(settling, timeout=left)

    async def end_background(self) -> None:
        """Wait until what is done beside the attempts has ended, at most 5 s."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=CANCEL_GRACE)

    async def _cancel_repeatedly(self, jobs: list[Job], deadline: float) -> None:
        workers = {job.worker for job in jobs if job.worker is not None}
        while workers and (left := deadline - self._loop.time()) > 0:
            for worker in workers:
                worker.cancel()
            _, workers = await asyncio.wait(workers, timeout=min(CANCEL_REPEAT, left))

    async def drain(self, deadline: float) -> None:
        """Return once nothing runs, waits, or falls due before ``deadline`` (the loop's time), or that has come."""
        while (left := deadline - self._loop.time()) > 0 and self._has_work_within(left):
            # Delayed jobs fall due without anything being told of it: look again from time to time.
            with_limit = asyncio.timeout(min(left, CANCEL_REPEAT))
            try:
                async with with_limit:
                    self._changed.clear()
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _has_work_within(self, seconds: float) -> bool:
        if not self._open_slots:  # it begins nothing
            return bool(self.running or self._background)
        due_in = self.queue.next_due_in()
        is_busy = bool(self.running or self._background) or self.queue.size > 0
        return is_busy or (due_in is not None and due_in < seconds)

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Start workers in the loop's next turn: whoever submits several tasks has them all in the queue by then."""
        if not self.is_waking and self._open_slots:
            self.is_waking = True
            self._loop.call_soon(self.start, context=self._context)

    def start(self) -> None:
        """Start workers for the jobs that wait, where slots are free, in addition to those that were not suspended yet:
        one of them may do for all of the jobs."""
        self.is_waking = False
        self._start_workers()

    def _start_workers(self) -> None:
        wanted = min(self.queue.size, self._at_once) - len(self._unsuspended)
        for _ in range(min(self._open_slots - len(self._jobs), wanted)):
            # In a copy, as a task that begins at once can't enter the context that this runs in.
            worker = self._loop.create_task(self._work(), name=self._worker_name, context=self._context.copy())
            if worker.done() or worker in self._jobs:  # an eager task factory has run it already
                continue
            self._jobs[worker] = None
            self._unsuspended.add(worker)
            worker.add_done_callback(self._ended, context=self._context)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - this is one
        # From here on it sees to its end by itself, which is cheaper, unless something goes wrong.
        worker.remove_done_callback(self._ended)
        is_well = False
        try:
            while len(self._jobs) <= self._open_slots and (job := self._take()) is not None:
                self._jobs[worker] = job
                job.worker = worker
                attempt = self._attempt(job)
                context = self._context.copy()
                try:
                    awaited = context.run(attempt.send, None)
                except StopIteration:
                    if worker.cancelling():  # by the task's own code; the cancellation is not for the next one
                        break
                    self._jobs[worker] = None
                    if self._at_once > 1:
                        self._at_once //= 2
                    if time.monotonic() > self._turn_ends:
                        await self._yield_turn()
                else:
                    self._hand_on(worker)
                    await _resume(attempt, context, awaited)
                    break
            is_well = not worker.cancelling()
        finally:
            if is_well:
                self._free_slot(worker)
            else:
                worker.add_done_callback(self._ended, context=self._context)

    def _hand_on(self, worker: asyncio.Task[None]) -> None:
        """A worker's attempt is suspended: what waits is for others."""
        self._unsuspended.discard(worker)
        self._at_once = min(2 * self._at_once, self.slots)
        if self.queue.size and not self.is_waking:
            self.wake()

    def _free_slot(self, worker: asyncio.Task[None]) -> None:
        self._jobs.pop(worker, None)
        self._unsuspended.discard(worker)
        if self.queue.size:  # at once: a turn of the loop, in which others run, would be lost for the next attempt
            self._start_workers()
        self._changed.set()

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
        self._unsuspended.discard(worker)
        job = self._jobs.pop(worker, None)
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        was_told = job is not None and job.interrupt not in (None, Interrupt.TEARDOWN)
        if error is not None and not was_told:
            self._count_death(job, error)
        if job is not None and not job.settled:
            self._on_death(job, error or RuntimeError("the worker ended without an outcome"))
        if worker.cancelling() and not was_told:
            self._loop.call_later(REPLACEMENT_DELAY, self.start, context=self._context)
        else:
            self.start()
        self._changed.set()

    def _count_death(self, job: Job | None, error: BaseException) -> None:
        self.restarts += 1
        logger.error(
            "worker died, replaced executor=%s task=%s id=%s error=%s",
            self.kind,
            job and job.definition.name,
            job and job.task.id,
            type(error).__name__,
        )


def wall_clock(monotonic: float) -> datetime:
    """The time that a moment on the monotonic clock was at, as the clocks are now; aware, in UTC."""
    return datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic)


def _is_cancellable(job: Job) -> bool:
    return not job.settled and job.interrupt not in (Interrupt.CANCEL, Interrupt.STOP)


@types.coroutine
def _resume(
    coroutine: Coroutine[Any, Any, None], context: contextvars.Context, awaited: Any
) -> Generator[Any, Any, None]:
    """Go on with a coroutine that awaits something, each of its steps inside its own context."""
    step: Callable[[Any], Any]
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the loop throws in is for the coroutine
            step, sent = coroutine.throw, error
        else:
            step = coroutine.send
        try:
            awaited = context.run(step, sent)
        except StopIteration:
            return
