"""What all executors share: they accept tasks, run attempts in their workers' slots, and settle what becomes of them.

The parts: ``workers.py`` runs attempts, ``settlement.py`` decides and counts their outcomes, ``records.py`` stores and
publishes them, ``feeder.py`` fetches tasks from a broker.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, Self

from flowrra import telemetry as counters
from flowrra.backends.base import BaseResultBackend
from flowrra.brokers.base import BaseBroker, LeasingBroker
from flowrra.config import Config
from flowrra.events import EventPublisher
from flowrra.exceptions import (
    BackendError,
    ExecutorNotRunningError,
    PartialSubmissionError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from flowrra.executors import outcomes
from flowrra.executors.job import Interrupt, Job
from flowrra.executors.job_queue import JobQueue
from flowrra.executors.outcomes import describe
from flowrra.executors.records import Records
from flowrra.executors.sources.leased import OPERATIONS, LeasedSource
from flowrra.executors.sources.polled import PolledSource
from flowrra.executors.waits import Waits
from flowrra.executors.workers import Workers
from flowrra.middleware import IsolatedMiddleware, Middleware, tell_of_submission
from flowrra.ranges import PRIORITY
from flowrra.rebuilding import rebuild_result
from flowrra.registry import DEFAULT_MAX_RETRIES, DEFAULT_RETRY_DELAY, TaskDefinition, TaskFunction, TaskRegistry, mark
from flowrra.submission import NO_OPTIONS, SubmitOptions
from flowrra.task import (
    CANCELLED,
    FAILED,
    PENDING,
    RETRYING,
    RUNNING,
    SUCCESS,
    Task,
    TaskResult,
    new_task_id,
    running_task,
)
from flowrra.telemetry import TaskTelemetry, Telemetry

logger = logging.getLogger(__name__)

# How long an attempt that was told to end may take for it, before it is left to itself.
CANCEL_GRACE = 5.0
CANCEL_REPEAT = 1.0
# Outcomes that wait for a result backend that is away; those beyond keep their slots.
MAX_LATE = 1000

State = Literal["stopped", "running", "stopping"]


class BaseTaskExecutor(ABC):
    """Runs the tasks of one kind.

    Args:
        config: Slots, queue size, broker and result backend; the defaults if None.
        registry: Where its tasks are registered; one of its own if None.
        results, telemetry, publisher, middlewares: Shared with the other parts of an app; its own if None.
        announcement: Returns what other processes are to know of this one; None announces nothing.

    Attributes:
        registry: The task registry.
        results: The result backend.
        broker: The broker; None if waiting tasks are in memory.
        broker_errors: How many operations of the broker failed, by operation.
    """

    kind: ClassVar[Literal["io", "cpu"]]

    def __init__(
        self,
        config: Config | None = None,
        registry: TaskRegistry | None = None,
        *,
        results: BaseResultBackend | None = None,
        telemetry: Telemetry | None = None,
        publisher: EventPublisher | None = None,
        middlewares: Sequence[Middleware] = (),
        announcement: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        config = Config() if config is None else config
        self.registry = TaskRegistry() if registry is None else registry
        self.broker: BaseBroker | None = config.create_broker(f":{self.kind}")
        self.results = config.create_backend() if results is None else results
        self.broker_errors: Counter[str] = Counter()
        self._max_queue_size = config.executor.max_queue_size
        self._consumes = config.executor.consume
        self._slots = self._slots_of(config)
        self._telemetry = Telemetry() if telemetry is None else telemetry
        self._publisher = EventPublisher() if publisher is None else publisher
        self.records = Records(self.results, self._publisher)
        # Both are looked at for every task, to spare it calls that would do nothing.
        self._memory = self.records.memory
        self._bus = self._publisher.bus
        self._middlewares = middlewares
        self._state: State = "stopped"
        # What this process has, by where it is: waiting, or in an attempt.
        self._queue: JobQueue[Job] = JobQueue(self._max_queue_size, self._start_due)
        self._running: dict[str, Job] = {}
        self._workers = Workers(self.kind, self._slots, self._queue, self._attempt, self._bury)
        self._accepting: dict[str, asyncio.Future[None]] = {}
        # What brings tasks from a broker: one of these, by what the broker can do.
        self._leased = LeasedSource(self, self.broker, announcement) if isinstance(self.broker, LeasingBroker) else None
        self._feeder: PolledSource | None = None
        if self.broker is not None:
            self.broker_errors.update(dict.fromkeys(OPERATIONS if self._leased else ("push", "pop"), 0))
        self._waits = Waits(self)
        self._background: set[asyncio.Task[None]] = set()
        # Attempts that have ended, and whose outcome waits for the result backend.
        self._late: dict[str, Job] = {}
        # Whether it stops, and waits no longer for what its tasks and servers take.
        self._is_giving_up = False

    @staticmethod
    @abstractmethod
    def _slots_of(config: Config) -> int:
        """How many attempts may run at once."""

    @abstractmethod
    def _call(self, func: Callable[..., Any], job: Job) -> Awaitable[Any]:
        """Call a task's function; what is returned gives its result."""

    # ── what can be asked of it, from any thread ────────────────────────────────────────────────────────────

    @property
    def is_running(self) -> bool:
        """Whether it accepts and runs tasks."""
        return self._state == "running"

    @property
    def state(self) -> State:
        """``stopped``, ``running`` or ``stopping``."""
        return self._state

    @property
    def takes_tasks(self) -> bool:
        """Whether it runs tasks at all, or leaves those it submits to other processes."""
        return self._consumes or self.broker is None

    @property
    def workers(self) -> int:
        """How many tasks it runs at once; none if it takes none."""
        return self._slots if self.takes_tasks else 0

    @property
    def busy_workers(self) -> int:
        """How many tasks it runs now."""
        return len(self._running)

    @property
    def worker_restarts(self) -> int:
        """How many workers died and were replaced."""
        source = self._leased or self._feeder
        return self._workers.restarts + (0 if source is None else source.restarts)

    @property
    def backend_errors(self) -> Counter[str]:
        """How many operations of the result backend failed, by operation."""
        return self.records.errors

    def pending_count(self) -> int:
        """How many tasks wait in this process for a free worker; delayed ones are not among them."""
        return self._queue.size

    def delayed_count(self) -> int:
        """How many tasks wait in this process for their time, be it a retry, a countdown or an eta."""
        return self._queue.delayed

    def oldest_pending_at(self) -> datetime | None:
        """Since when the longest waiting task has been due; None if no task waits in this process."""
        oldest = min((job.ready_at for job in self._queue.oldest()), default=None)
        return None if oldest is None else _wall_clock(oldest)

    def running_jobs(self) -> list[Job]:
        """What runs now, the longest running first."""
        return list(self._running.copy().values())

    def oldest_running_at(self) -> dict[str, datetime]:
        """Since when the longest running attempt of each task name has been running."""
        oldest: dict[str, datetime] = {}
        for job in self.running_jobs():
            oldest.setdefault(job.definition.name, _wall_clock(job.started_at))
        return oldest

    def is_broker(self) -> bool:
        """Whether waiting tasks are shared through a broker."""
        return self.broker is not None

    def is_leasing(self) -> bool:
        """Whether tasks are taken from the broker by leases, and can be steered there from any process."""
        return self._leased is not None

    def feed_error(self) -> str | None:
        """What keeps it from getting tasks from the broker now; None if nothing does."""
        source = self._leased or self._feeder
        return None if source is None else source.error

    # ── registration and submission ─────────────────────────────────────────────────────────────────────────

    def task(
        self,
        name: str | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        retry_delay: float = DEFAULT_RETRY_DELAY,
        **options: Any,
    ) -> Callable[[TaskFunction], TaskFunction]:
        """Register the decorated function as a task of this executor; see :meth:`TaskRegistry.task`."""
        decorate = self.registry.task(name, self.kind == "cpu", max_retries, retry_delay, **options)

        def register(func: TaskFunction) -> TaskFunction:
            registered = decorate(func)
            self.adopt(self.registry.definition(func))
            return registered

        return register

    def adopt(self, definition: TaskDefinition) -> None:
        """Count a task's numbers from now on, and mark its function as this executor's."""
        self._telemetry.register(definition.name, self.kind)
        mark(definition.func, _executor=self)

    async def submit(
        self, task_func: Callable[..., Any] | str, /, *args: Any, priority: int | None = None, **kwargs: Any
    ) -> str:
        """Submit a task, by its function or its name; see :meth:`flowrra.Flowrra.submit`."""
        if priority is not None:
            PRIORITY.check("priority", priority)
        definition = self.registry.definition(task_func)
        return await self.accept(definition, args, kwargs, priority)

    async def accept(
        self,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int | None = None,
        options: SubmitOptions = NO_OPTIONS,
        is_recorded: bool = False,
    ) -> str:
        """Take on a task. Waits while the queue is full, unless a task calls it: that could be a deadlock.

        Args:
            definition: What is to be run.
            args, kwargs: What it is called with.
            priority: Lower numbers run first; None is what ``options`` or else the definition says.
            options: The other options of the submission.
            is_recorded: Whether a leasing broker's task has its record already, and is only to be queued.

        Returns:
            The task's id.

        Raises:
            ExecutorNotRunningError: It isn't started, or stops before there is room.
            BackendError: The task could not be recorded or queued.
            TypeError: The arguments don't fit the task's function.
        """
        # Most calls have a shape that was checked before: that is all they are asked for.
        if ((len(args), *kwargs) if kwargs else len(args)) not in definition.signature.fitting:
            definition.signature.check(definition.name, args, kwargs)
        if self._state != "running" or self._queue.size + self._queue.reserved >= self._queue.max_size:
            await self._admit()
        task, record = self._new_task(definition, args, kwargs, priority, options)
        delay = 0.0 if options is NO_OPTIONS else options.delay
        if self._leased is not None:
            return await self._accept_leased(self._leased, task, record, delay, options, is_recorded)
        telemetry = self._telemetry.tasks.get(task.name) or self._telemetry.register(task.name, self.kind)
        job = Job(task, record, definition, telemetry, time.monotonic() + delay)
        if job.has_changeable_arguments:
            job.keep_arguments()
        if self._memory is not None:
            self._memory.hold(task.id, record)
        else:
            await self._store_accepted(record)
        if self._bus.subscribers:
            self._publisher.publish(record)
        if self.broker is not None and not delay:
            await self._push(self.broker, job)
        elif delay:
            self._enqueue(job, delay)
        else:
            self._queue.put(task.id, task.priority, job)
            if not self._workers.is_waking:
                self._workers.wake()
        telemetry.cells[counters.SUBMITTED] += 1
        return task.id

    def _new_task(
        self,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int | None,
        options: SubmitOptions,
    ) -> tuple[Task, TaskResult]:
        if priority is None:
            priority = definition.priority if options.priority is None else options.priority
        # By position, as this is on every task's way: keywords cost.
        task = Task(
            options.task_id or new_task_id(),
            definition.name,
            args,
            kwargs,
            definition.max_retries if options.max_retries is None else options.max_retries,
            definition.retry_delay if options.retry_delay is None else options.retry_delay,
            0,
            priority,
            definition.cpu_bound,
            options.timeout or definition.timeout,
            definition.backoff,
            definition.jitter,
            options.headers.copy(),
        )
        if self._middlewares:
            tell_of_submission(self._middlewares, task)
        return task, TaskResult(task.id, PENDING, task.name, None, None, datetime.now(UTC), None, None, 0, args, kwargs)

    async def _accept_leased(
        self,
        leased: LeasedSource,
        task: Task,
        record: TaskResult,
        delay: float,
        options: SubmitOptions,
        is_recorded: bool,
    ) -> str:
        entry = leased.entry(task, record, delay, options.remember)
        # Told first: its worker, which may be this process, tells what comes next.
        self.publish(record)
        try:
            if not leased.keeps_records and not is_recorded:
                await self.results.store(task.id, record)
            is_new = await leased.submit(entry)
        except BaseException as error:
            self._refuse(record, error)
            if not leased.keeps_records:
                await self.records.store(record)
            raise
        # An id of our own making can be known already only by this submission, whose first answer was lost.
        self.telemetry_of(task.name).cells[counters.SUBMITTED] += is_new or options.task_id is None
        return task.id

    def _refuse(self, record: TaskResult, error: BaseException) -> None:
        """Say of a task whose submission was published that it was never queued."""
        record.status, record.finished_at = CANCELLED, datetime.now(UTC)
        record.error = f"not queued: {describe(error)}"
        self.publish(record)

    async def accept_many(self, calls: Sequence[tuple[TaskDefinition, tuple[Any, ...], dict[str, Any]]]) -> list[str]:
        """:meth:`accept` for many tasks; with a broker that can do it, in one request for many of them.

        Raises:
            PartialSubmissionError: The broker or the result backend failed after some of them.
        """
        leased = self._leased
        if leased is None or not leased.keeps_records:
            return await self._accept_each(calls)
        if self._state != "running":
            await self._admit()
        created = [self._new_task(*call, None, NO_OPTIONS) for call in calls]
        for _, record in created:
            self.publish(record)
        try:
            await leased.submit_many(created)
        except PartialSubmissionError as error:
            queued, known = set(error.queued), {*error.queued, *error.unsure}
            self._count_submitted([task for task, _ in created if task.id in queued])
            for _, record in created:
                if record.task_id not in known:
                    self._refuse(record, error)
            raise
        self._count_submitted([task for task, _ in created])
        return [task.id for task, _ in created]

    async def _accept_each(self, calls: Sequence[tuple[TaskDefinition, tuple[Any, ...], dict[str, Any]]]) -> list[str]:
        ids: list[str] = []
        for call in calls:
            try:
                ids.append(await self.accept(*call))
            except BackendError as error:
                if ids:
                    raise PartialSubmissionError(str(error), ids, []) from error
                raise
        return ids

    def _count_submitted(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.telemetry_of(task.name).cells[counters.SUBMITTED] += 1

    async def accept_once(
        self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any], options: SubmitOptions
    ) -> str:
        """:meth:`accept`, unless a task with that ``options.task_id`` exists already: then that is all."""
        task_id = options.task_id
        if task_id is None:
            return await self.accept(definition, args, kwargs, options=options)
        if self._leased is not None and self._leased.keeps_records and not self._bus.subscribers:
            # The broker looks for itself, in one step.
            return await self.accept(definition, args, kwargs, options=options)
        while task_id in self._accepting:  # another call may still fail, and is waited for
            await asyncio.shield(self._accepting[task_id])
        accepting = self._accepting[task_id] = asyncio.get_running_loop().create_future()
        try:
            known = await self.results.get(task_id)
            # One that could not be queued was never a task: this is the next try.
            if known is None or (known.status is CANCELLED and (known.error or "").startswith("not queued: ")):
                return await self.accept(definition, args, kwargs, options=options)
            if await self._is_lost(known):
                logger.warning(
                    "task is recorded, and in no queue: queued again task=%s id=%s", known.task_name, task_id
                )
                return await self.accept(definition, args, kwargs, options=options, is_recorded=True)
            return task_id
        finally:
            del self._accepting[task_id]
            accepting.set_result(None)

    async def _is_lost(self, known: TaskResult) -> bool:
        """Whether an unfinished record is all that is left of a task, as when its submitter was killed before it was
        queued. Records in memory don't tell: they don't hear of what other processes do."""
        leased = self._leased
        if leased is None or leased.keeps_records or self._memory is not None or known.is_complete:
            return False
        if await leased.has(known.task_id):
            return False
        # It may have ended just now: an outcome is recorded before the broker forgets the task.
        latest = await self.results.get(known.task_id)
        return latest is None or not latest.is_complete

    async def _store_accepted(self, record: TaskResult) -> None:
        """Store the record of a new task on a backend that takes its time, while its place in the queue is kept."""
        self._queue.reserved += 1
        try:
            await self.results.store(record.task_id, record)
        except BaseException:
            self._queue.offer_room()
            raise
        finally:
            self._queue.reserved -= 1
        if self._state == "stopped":
            await self.records.end(record, CANCELLED, "cancelled before it ran: the app stopped")
            raise ExecutorNotRunningError

    async def _admit(self) -> None:
        """Wait for room in the queue. A task's own submissions don't: all workers could be waiting for each other."""
        inside = running_task.get() is not None
        self._check_accepting(inside)
        if self.broker is None and not inside:
            await self._queue.wait_for_room()
            self._check_accepting(inside)

    def _check_accepting(self, inside: bool) -> None:
        # While it drains, its own tasks may still submit what they need to finish.
        if self._state != "running" and not (inside and self._state == "stopping"):
            raise ExecutorNotRunningError

    async def _push(self, broker: BaseBroker, job: Job) -> None:
        try:
            await broker.push(job.task)
        except BaseException as error:
            self.broker_errors["push"] += 1
            await self.records.end(job.record, CANCELLED, f"not queued: {describe(error)}")
            raise

    def _enqueue(self, job: Job, delay: float) -> None:
        if delay > 0:
            self._queue.put_later(job.task.id, delay, job)
        else:
            self._queue.put(job.task.id, job.task.priority, job)
            self._workers.wake()

    def _start_due(self) -> None:
        for job in self._queue.take_due():
            self._queue.put(job.task.id, job.task.priority, job)
        self._workers.start()

    async def deliver(self, task: Task) -> None:
        """Take on a task that came from the broker."""
        record = await self.records.of(task)
        try:
            definition = self.registry.definition(task.name)
        except TaskNotFoundError as error:
            logger.error("unknown task from the broker, failed task=%r id=%s", task.name, task.id)
            await self.records.end(record, FAILED, describe(error))
            return
        telemetry = self._telemetry.register(task.name, self.kind)
        self._enqueue(Job(task, record, definition, telemetry, time.monotonic()), 0)

    # ── what was taken from a leasing broker ────────────────────────────────────────────────────────────────

    def telemetry_of(self, task_name: str) -> TaskTelemetry:
        """The numbers of a registered task."""
        return self._telemetry.tasks.get(task_name) or self._telemetry.register(task_name, self.kind)

    def enqueue_taken(self, job: Job) -> None:
        """Run a job in the next free slot."""
        if self._memory is not None:
            self._memory.hold(job.task.id, job.record)
        self._enqueue(job, 0)

    def waiting_jobs(self) -> list[Job]:
        """The jobs that wait for a free slot, in order."""
        return self._queue.ready()

    def withdraw(self, task_id: str) -> Job | None:
        """Take back a job that waits for a free slot; None if it has begun, or isn't here."""
        return self._queue.remove(task_id)

    def publish(self, record: TaskResult) -> None:
        """Tell subscribers of a change."""
        if self._bus.subscribers:
            self._publisher.publish(record)

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────────

    async def get_result(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if it is unknown."""
        record = await self.results.get(task_id)
        if record is not None and self._memory is None:
            rebuild_result(record, self.registry)
        return record

    async def wait_for_result(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """The record of a task once it is complete, whatever became of it. An unknown one is waited for.

        Args:
            task_id: What ``submit`` returned.
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            TaskTimeoutError: It was not complete in time; also a TimeoutError.
        """
        try:
            with self.waiting_for(task_id):
                record = await self.results.wait_for(task_id, timeout)
        except TaskTimeoutError:
            raise
        except TimeoutError:
            raise TaskTimeoutError(task_id, timeout) from None
        if self._memory is None:
            rebuild_result(record, self.registry)
        return record

    def waiting_for(self, task_id: str) -> AbstractContextManager[None]:
        """To be entered around a wait for a task's result, which the calling code may do in one of its own tasks."""
        job = running_task.get()
        if isinstance(job, Job) and self._running.get(job.task.id) is job:
            return self._waits.of(job, task_id)
        return nullcontext()

    # ── attempts ────────────────────────────────────────────────────────────────────────────────────────────

    async def _attempt(self, job: Job) -> None:
        """Run a job once, in a worker."""
        task, record = job.task, job.record
        telemetry = job.telemetry
        running_task.set(job)
        if job.awaits_retry:
            job.end_wait()
        self._running[task.id] = job
        job.interrupt, job.settled, job.view = None, False, None
        job.started_at = time.monotonic()
        # A timer may come a little early, and no wait is negative.
        waited = job.started_at - job.ready_at
        telemetry.count_start(waited if waited > 0 else 0.0)
        record.status, record.started_at = RUNNING, datetime.now(UTC)
        record.error = record.traceback = None
        value: Any = None
        error: BaseException | None = None
        try:
            if self._leased is not None and self._leased.keeps_records:
                self._leased.mark_running(job)
            elif self._memory is None:
                await self.records.store(record)
            if self._bus.subscribers:
                self._publisher.publish(record)
            if task.timeout is not None:
                self._limit(job)
            definition = self.registry.by_name.get(task.name)
            if definition is None:  # it was unregistered meanwhile
                raise TaskNotFoundError(task.name)
            if self.broker is not None:
                job.rebuild_arguments(definition.func)
            if self._middlewares:
                value = await self._call_in_middlewares(definition.func, job)
            else:
                value = await self._call(definition.func, job)
        except GeneratorExit:  # the loop is gone, and nothing can be awaited any more
            raise
        except BaseException as caught:  # noqa: BLE001 - a worker survives whatever user code raises
            error = caught
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        settling = self._settle(job, value, error)
        if settling is not None:
            await settling
        if error is not None and isinstance(error, KeyboardInterrupt):
            raise error

    async def _call_in_middlewares(self, func: Callable[..., Any], job: Job) -> Any:
        with ExitStack() as stack:
            for middleware in self._middlewares:
                stack.enter_context(IsolatedMiddleware(middleware, job.shown()))
            return await self._call(func, job)

    def _limit(self, job: Job) -> None:
        """Begin the attempt's time limit, if its task has one."""
        timeout = job.task.timeout
        if timeout is not None:
            job.timer = self._loop.call_later(timeout, self._time_out, job, timeout)

    def _time_out(self, job: Job, timeout: float) -> None:
        assert job.worker is not None  # noqa: S101 - it runs
        if job.interrupt is None:
            job.interrupt = Interrupt.TIMEOUT
        elif job.interrupt is Interrupt.TIMEOUT:
            logger.warning(
                "task goes on after its time limit, told again to end task=%s id=%s timeout=%s",
                job.definition.name,
                job.task.id,
                timeout,
            )
        job.worker.cancel()
        job.timer = self._loop.call_later(max(CANCEL_REPEAT, timeout), self._time_out, job, timeout)

    def _settle(self, job: Job, value: Any, error: BaseException | None) -> Coroutine[Any, Any, None] | None:
        """Decide what became of an attempt, record it and count it. Only the first call for an attempt counts.

        Nothing that the task's data does may keep an attempt from being settled: what can't be written down becomes a
        failure that says so.

        Returns:
            What is still to be awaited, where the result backend or the broker takes its time; None in memory, where a
            coroutine for every task would be a waste.
        """
        if job.settled:
            return None
        job.settled = True
        record = job.record
        seconds = time.monotonic() - job.started_at
        retry_after = None
        if error is None:
            record.status, record.result, record.finished_at = SUCCESS, value, datetime.now(UTC)
        else:
            retry_after = outcomes.fail(job, error, can_give_back=self.broker is not None)
        if self._leased is not None:
            if self._memory is not None:
                self._memory.keep(job.task.id, record)
            elif not self._leased.keeps_records:
                return self._settle_elsewhere(job, seconds, retry_after)
            self._leased.settle(job, retry_after)
        elif self._memory is not None and record.status is not PENDING:
            self._memory.keep(job.task.id, record)
        else:
            return self._settle_elsewhere(job, seconds, retry_after)
        self._close(job, seconds, retry_after)
        return None

    async def _settle_elsewhere(self, job: Job, seconds: float, retry_after: float | None) -> None:
        """Settle an attempt whose record takes its time, be it stored elsewhere or the task given back."""
        is_stored = True
        try:
            is_stored = await self._record_outcome(job) or not job.record.is_complete
            if not is_stored and len(self._late) >= MAX_LATE:  # it keeps its slot, so that there are not ever more
                is_stored = await self.records.store_late(job, lambda: not self._is_giving_up)
            if is_stored and self._leased is not None:
                self._leased.settle(job, retry_after)
        finally:
            self._close(job, seconds, retry_after)
        if not is_stored:
            self._late[job.task.id] = job
            self.spawn(self._settle_late(job))
        elif job.record.status is PENDING and self._leased is None:
            await self._give_back(job)

    async def _settle_late(self, job: Job) -> None:
        """Settle an attempt that ended while the result backend was away."""
        try:
            is_stored = await self.records.store_late(job, lambda: not self._is_giving_up)
            if self._leased is not None:
                if not is_stored:  # another worker shall have another try
                    job.record.status = PENDING
                self._leased.settle(job, None)
        finally:
            del self._late[job.task.id]
            self._workers.notify()

    async def _record_outcome(self, job: Job) -> bool:
        """Store an attempt's outcome; False if the result backend is away."""
        if self._memory is not None:
            self._memory.keep(job.task.id, job.record)
            return True
        if self._leased is not None and not self._leased.is_surely_held(job) and await self._is_known_better(job):
            return True
        return await self.records.store_outcome(job)

    async def _is_known_better(self, job: Job) -> bool:
        """Whether another worker, which had been given the task meanwhile, has told how it ended."""
        known = await self.records.known(job.task.id)
        return known is not None and known.is_complete and (known.is_success or not job.record.is_success)

    def _close(self, job: Job, seconds: float, retry_after: float | None) -> None:
        """Count an attempt whose outcome is recorded, free its slot, and plan the next one."""
        if job.record.status is SUCCESS:
            job.telemetry.count_success(seconds)
        else:
            outcomes.count_failure(job, seconds)
        del self._running[job.task.id]
        if self._bus.subscribers:
            self._publisher.publish(job.record)
        if self._leased is not None:  # a retry waits in the broker, and not in this process
            self._leased.attempt_ended()
        elif job.record.status is RETRYING and retry_after is not None:
            job.plan_retry(time.monotonic() + retry_after)
            self._enqueue(job, retry_after)

    def _bury(self, job: Job, error: BaseException) -> None:
        """Settle the attempt that a worker died over."""
        settling = self._settle(job, None, error)
        if settling is not None:
            self.spawn(settling)

    async def _give_back(self, job: Job) -> None:
        """Return a task to the broker, for another process or a later time."""
        job.end_wait()
        if self._leased is not None:
            self._leased.give_back(job)
            return
        assert self.broker is not None  # noqa: S101 - in memory there is nobody to give it to
        try:
            await self.broker.push(job.task)
        except Exception:
            self.broker_errors["push"] += 1
            logger.exception("task not given back to the broker task=%s id=%s", job.definition.name, job.task.id)
            reason = "cancelled: the app stopped, and the broker did not take it back"
            await self.records.end(job.record, CANCELLED, reason)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something beside the attempts; what is under way at the end is waited for."""
        task = self._loop.create_task(coroutine, context=self._context.copy())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ── cancellation ────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task, be it pending, delayed, waiting for a retry, or running.

        A running one is told to end and waited for, at most 5 s.

        Returns:
            True if it ended by this call; False if it is unknown, was over already, or would not end.
        """
        if self._leased is not None:
            return await self._leased.cancel(task_id, CANCEL_GRACE + CANCEL_REPEAT)
        waiting = self._queue.remove(task_id)
        if waiting is not None:
            await self._cancel_waiting(waiting, "by request")
            return True
        job = self._running.get(task_id)
        if job is None or job.settled or job.interrupt in (Interrupt.CANCEL, Interrupt.STOP):
            return False
        await self._interrupt([job], Interrupt.CANCEL)
        return job.record.status is CANCELLED

    def cancel_running(self, job: Job) -> None:
        """Tell an attempt to end, without waiting for it."""
        if not job.settled and job.interrupt not in (Interrupt.CANCEL, Interrupt.STOP):
            job.interrupt = Interrupt.CANCEL
            self.spawn(self._tell_to_end([job]))

    async def _cancel_waiting(self, job: Job, reason: str) -> None:
        job.end_wait()
        job.telemetry.cells[counters.CANCELLED_BEFORE_START] += 1
        await self.records.end(job.record, CANCELLED, f"cancelled before it ran: {reason}")

    async def _interrupt(self, jobs: list[Job], reason: Interrupt) -> None:
        """Tell running attempts to end, repeatedly, and wait until they have, or have had the time for it."""
        for job in jobs:
            job.interrupt = reason
        await self._tell_to_end(jobs)
        if self._background:  # where a worker died, its attempt is settled there
            await asyncio.wait(self._background, timeout=CANCEL_GRACE)

    async def _tell_to_end(self, jobs: list[Job]) -> None:
        workers = {job.worker for job in jobs if job.worker is not None}
        deadline = self._loop.time() + CANCEL_GRACE
        while workers and (left := deadline - self._loop.time()) > 0:
            for worker in workers:
                worker.cancel()
            _, workers = await asyncio.wait(workers, timeout=min(CANCEL_REPEAT, left))

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Run tasks from now on, on the running event loop; a no-op if it runs.

        Raises:
            RuntimeError: It runs on another event loop, or is stopping.
        """
        if self._state == "running" and self._loop is asyncio.get_running_loop():
            return
        if self._state != "stopped" and not self._loop.is_closed():
            raise RuntimeError(f"The {self.kind} executor runs on another event loop, or is stopping")
        await self.stop()
        self.open()
        self.begin()

    def open(self) -> None:
        """Accept tasks from now on, on the running event loop; none of them runs before :meth:`begin`."""
        self._loop = asyncio.get_running_loop()
        self._queue.max_size = self._max_queue_size
        self._waits.open()
        self._background.clear()
        self._accepting.clear()
        self._late.clear()
        self._is_giving_up = False
        self._state = "running"

    def begin(self) -> None:
        """Run tasks from now on. Their attempts see the context variables that are set here."""
        self._context = contextvars.copy_context()
        self._context.run(running_task.set, None)
        self._workers.open(self._context)
        self._workers.start()
        if self._consumes:
            self._consume()
        logger.info("executor started executor=%s workers=%d", self.kind, self.workers)

    def _consume(self) -> None:
        if self._leased is not None:
            self._leased.start()
        elif self.broker is not None:
            self._feeder = PolledSource(self, self.broker)
            self._feeder.start()

    async def _abandon_closed_loop(self) -> None:
        """Its loop was closed without stop(): what it had can't run any more, and must not look as if it did."""
        reason = "the event loop was closed without stopping the app"
        logger.error("event loop was closed without stop(), tasks cancelled executor=%s", self.kind)
        if self._leased is not None:
            self._leased.abandon()  # others will run them
            for job in self.running_jobs():
                job.settled = True
                job.telemetry.cells[counters.RELEASED] += 1
            self._running.clear()
            self._queue.clear()
        for job in self.running_jobs():
            job.settled = True
            job.telemetry.cells[counters.CANCELLED] += 1
            await self.records.end(job.record, CANCELLED, f"cancelled while running: {reason}")
        self._running.clear()
        for job in self._queue.clear():
            await self._cancel_waiting(job, reason)
        self._state = "stopped"

    async def stop(self, wait: bool = True, timeout: float | None = 30.0) -> None:
        """Finish what there is, then cancel what is left, then stop; a no-op if it is stopped.

        While one call waits, another one with ``wait=False`` ends the waiting. A call that is itself cancelled leaves
        the executor stopping, for another call to finish.

        Args:
            wait: Whether to wait for waiting and running tasks at all.
            timeout: Seconds to wait for them; None waits for as long as it takes. Delayed tasks and retries are waited
                for only if they fall due in that time.
        """
        if self._state == "stopped":
            return
        if self._loop.is_closed():
            await self._abandon_closed_loop()
            return
        self._state = "stopping"
        deadline = float("inf") if timeout is None else self._loop.time() + timeout
        self._queue.release_waiting()
        if self._leased is not None:
            await self._leased.stop_taking()
        elif self._feeder is not None:
            await self._feeder.stop()
        if wait:
            await self._drain(deadline)
        self._is_giving_up = True
        self._workers.close()
        await self._interrupt(self.running_jobs(), Interrupt.STOP)
        await self._leave_resisting()
        while jobs := self._queue.clear():
            for job in jobs:
                await (self._cancel_waiting(job, "the app stopped") if self.broker is None else self._give_back(job))
        if self._leased is not None:
            await self._leased.close(deadline - self._loop.time())
        self._state = "stopped"
        logger.info("executor stopped executor=%s", self.kind)

    async def _drain(self, deadline: float) -> None:
        while (left := deadline - self._loop.time()) > 0 and self._has_work_within(left):
            # Delayed tasks fall due without anything being told of it: look again from time to time.
            with_limit = asyncio.timeout(min(left, CANCEL_REPEAT))
            try:
                async with with_limit:
                    await self._workers.until_changed()
            except TimeoutError:
                continue

    def _has_work_within(self, seconds: float) -> bool:
        due_in = self._queue.next_due_in()
        is_busy = bool(self._running or self._late) or self._queue.size > 0
        return is_busy or (due_in is not None and due_in < seconds)

    async def _leave_resisting(self) -> None:
        """Give up on attempts that won't end: their records say so, and whatever they still do is ignored."""
        for job in self.running_jobs():
            logger.error("task would not end, left to itself task=%s id=%s", job.definition.name, job.task.id)
            settling = self._settle(job, None, asyncio.CancelledError())
            if settling is not None:
                await settling

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _wall_clock(monotonic: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=time.monotonic() - monotonic)
