"""What all executors share: they accept tasks, run attempts in their workers' slots, and close what has ended.

The parts: ``workers.py`` has what waits and runs in this process, ``sources/`` brings tasks and takes them back,
``outcomes.py`` decides and counts what became of attempts, ``records.py`` keeps and publishes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeGuard, overload

from flowrra.arguments import id_text
from flowrra.backends.base import BaseResultBackend
from flowrra.brokers.base import BaseBroker
from flowrra.config import Config
from flowrra.events import EventPublisher
from flowrra.exceptions import ExecutorNotRunningError, TaskNotFoundError, TaskTimeoutError
from flowrra.executors import attempt_log, outcomes
from flowrra.executors.hangs import Hanging, HangMonitor
from flowrra.executors.job import Interrupt, Job
from flowrra.executors.leftovers import Leftovers
from flowrra.executors.leftovers import State as Found
from flowrra.executors.progress import ProgressReports
from flowrra.executors.queue_order import QueueOrder
from flowrra.executors.sources import source_for
from flowrra.executors.teardown import TeardownWatch
from flowrra.executors.waits import Waits
from flowrra.executors.workers import CANCEL_REPEAT, Workers, wall_clock
from flowrra.middleware import IsolatedMiddleware, Middleware, tell_of_outcome, tell_of_submission
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.ranges import COUNT, PRIORITY, SECONDS, check_wait
from flowrra.registry import TaskDefinition, TaskFunction, TaskRegistry, mark
from flowrra.submission import NO_OPTIONS, SubmitOptions
from flowrra.supervision import spawn
from flowrra.task import (
    CANCELLED,
    PENDING,
    RUNNING,
    SUCCESS,
    Task,
    TaskResult,
    new_task_id,
    progress_report,
    running_task,
)
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

State = Literal["stopped", "running", "stopping"]
# A task function, and what it is called with.
Call = tuple[TaskDefinition, tuple[Any, ...], dict[str, Any]]


class BaseTaskExecutor(ABC):
    """Runs the tasks of one kind.

    Args:
        config: Slots, queue size, broker and result backend; the defaults if None.
        registry: Where its tasks are registered; one of its own if None.
        results, telemetry, publisher, middlewares: Shared with the other parts of an app; its own if None.
        announcement: Returns what other processes are to know of this one; None announces nothing.
        worker: The id of the app, which the records of its attempts name.

    Attributes:
        registry: The task registry.
        results: The result backend.
        source: Where its tasks come from and go back to.
        takes_tasks: Whether it runs tasks at all, or leaves those it submits to other processes.
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
        worker: str | None = None,
    ) -> None:
        config = Config() if config is None else config
        self.registry = TaskRegistry() if registry is None else registry
        self.results = config.create_backend() if results is None else results
        self._telemetry = Telemetry() if telemetry is None else telemetry
        self._middlewares = middlewares
        self._defaults = config.executor
        self._worker_id = worker
        self._state: State = "stopped"
        self._workers = Workers(
            self.kind,
            self._slots_of(config),
            self._attempt,
            self._on_worker_death,
            self._worker_id,
            QueueOrder(config.executor.queues),
            partial(self._telemetry.started_by, self.kind),
        )
        self._queue, self._running = self._workers.queue, self._workers.running
        self.source = source_for(
            config.create_broker(f":{self.kind}"),
            self.results,
            self._workers,
            registry=self.registry,
            telemetry=self._telemetry,
            publisher=EventPublisher() if publisher is None else publisher,
            config=config.executor,
            announcement=announcement,
            obey=self._obey,
        )
        self.takes_tasks = self.source.consumes
        self._records = self.source.records
        self._can_release = self.source.shared
        # Both are looked at for every task, to spare it calls that would do nothing.
        self._hears_of_starts, self._bus = self.source.hears_of_starts, self._records.bus
        self._progress = ProgressReports(self._workers, self.source)
        self._waits = Waits(self._workers, self._records, self.registry)
        self._leftovers = Leftovers(self.kind)
        self._hangs = HangMonitor(self._workers, self.source, self._unlist_expired)
        self._teardown = TeardownWatch(self.kind, self.running_jobs)
        # Those whose outcome a stop could not wait to be recorded.
        self._closed_early: set[Job] = set()
        # What carries out stops, whoever still waits for them.
        self._stops: set[asyncio.Task[None]] = set()
        # Looked at once, when it opens: to ask the logger for every task would cost.
        self._logs_each = False

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
    def has_begun(self) -> bool:
        """Whether it runs the tasks that it accepts yet: none runs while the app starts."""
        return self._workers.is_open

    @property
    def workers(self) -> int:
        """How many tasks it runs at once; none if it takes none."""
        return self._workers.slots if self.takes_tasks else 0

    @property
    def busy_workers(self) -> int:
        """How many tasks it runs now."""
        return len(self._running)

    @property
    def worker_restarts(self) -> int:
        """How many workers, or what brings them tasks, died and were replaced."""
        return self._workers.restarts + self.source.restarts

    def hanging(self) -> list[Hanging]:
        """The attempts that hold all of its slots, although they should have ended long ago, while tasks wait; by task
        name. Empty if it is not stuck."""
        return self._hangs.hanging()

    @property
    def lost_at_stop(self) -> dict[str, int]:
        """How many tasks its stops cancelled since the start of the process, by how they found them: ``waiting``,
        ``delayed`` (a retry is, too) or ``running``."""
        return self._leftovers.lost.copy()

    @property
    def broker_errors(self) -> Counter[str]:
        """How many operations of the broker failed, by operation."""
        return self.source.errors

    @property
    def backend_errors(self) -> Counter[str]:
        """How many operations of the result backend failed, by operation."""
        return self._records.errors

    @property
    def broker(self) -> BaseBroker | None:
        """The broker; None if waiting tasks are in this process."""
        return self.source.broker

    def is_broker(self) -> bool:
        """Whether waiting tasks are shared through a broker."""
        return self.source.shared

    def pending_count(self) -> int:
        """How many tasks wait in this process for a free worker; delayed ones are not among them."""
        return self._queue.size

    def running_jobs(self) -> list[Job]:
        """What runs now, the longest running first."""
        return self._workers.running_jobs()

    def oldest_running_at(self) -> dict[str, datetime]:
        """Since when the longest running attempt of each task name has been running."""
        oldest: dict[str, datetime] = {}
        for job in self.running_jobs():
            oldest.setdefault(job.definition.name, wall_clock(job.started_at))
        return oldest

    def oldest_pending_at(self) -> datetime | None:
        """Since when the longest waiting task has been due; None if no task waits in this process."""
        return self._workers.oldest_waiting_at()

    # ── registration and submission ─────────────────────────────────────────────────────────────────────────

    @overload
    def task(self, name: TaskFunction) -> TaskFunction: ...

    @overload
    def task(
        self,
        name: str | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        **options: Any,
    ) -> Callable[[TaskFunction], TaskFunction]: ...

    def task(
        self,
        name: str | Callable[..., Any] | None = None,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        **options: Any,
    ) -> Any:
        """Register the decorated function as a task of this executor; see :meth:`flowrra.Flowrra.task`."""
        decorate = self.registry.task(
            None if callable(name) else name,
            self.kind == "cpu",
            self._defaults.max_retries if max_retries is None else max_retries,
            self._defaults.retry_delay if retry_delay is None else retry_delay,
            **options,
        )

        def register(func: TaskFunction) -> TaskFunction:
            registered = decorate(func)
            self.adopt(self.registry.definition(func))
            return registered

        # @executor.task without parentheses passes the function where a name would be.
        return register(name) if callable(name) else register

    def adopt(self, definition: TaskDefinition) -> None:
        """Count a task's numbers from now on, and mark its function as this executor's."""
        self._telemetry.move(definition.name, self.kind)
        mark(definition.func, _executor=self)

    async def submit(
        self, task_func: Callable[..., Any] | str, /, *args: Any, priority: int | None = None, **kwargs: Any
    ) -> str:
        """Submit a task, by its function or its name; see :meth:`flowrra.Flowrra.submit`."""
        if priority is not None:
            PRIORITY.check("priority", priority)
        definition = self.registry.definition(task_func)
        return await self.submit_task(definition, args, kwargs, priority)

    async def submit_task(
        self,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int | None = None,
        options: SubmitOptions = NO_OPTIONS,
    ) -> str:
        """Take on a task. Waits while the queue is full, unless a task calls it: that could be a deadlock.

        Args:
            definition: What is to be run.
            args, kwargs: What it is called with.
            priority: Lower numbers run first; None is what ``options`` or else the definition says.
            options: The other options of the submission.

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
        delay = 0.0 if options is NO_OPTIONS else options.delay
        job = self._new_job(definition, args, kwargs, priority, delay, options)
        submitting = self.source.submit(job, delay, options)
        if submitting is not None:
            await submitting
        return job.task.id

    def _new_job(
        self,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: int | None,
        delay: float,
        options: SubmitOptions,
    ) -> Job:
        if priority is None:
            priority = definition.priority if options.priority is None else options.priority
        queue = definition.queue if options is NO_OPTIONS else options.queue or definition.queue
        # By position, as this is on every task's way: keywords cost.
        task = Task(
            new_task_id(),
            definition.name,
            args,
            kwargs,
            definition.max_retries,
            definition.retry_delay,
            0,
            priority,
            definition.cpu_bound,
            definition.timeout,
            definition.backoff,
            definition.jitter,
            {},
            queue,
        )
        if options is not NO_OPTIONS:
            _apply(options, task)
        if self._middlewares:
            tell_of_submission(self._middlewares, task)
        record = TaskResult(task.id, PENDING, task.name, None, None, datetime.now(UTC), None, None, 0, args, kwargs)
        if queue is not DEFAULT_QUEUE and queue != DEFAULT_QUEUE:
            record.queue = queue
            self._workers.tell_apart(queue)
        if options is not NO_OPTIONS:
            record.retry_of = options.retry_of
        telemetry = self._telemetry.tasks.get(task.name) or self._telemetry.register(task.name, self.kind)
        return Job(task, record, definition, telemetry, time.monotonic() + delay)

    async def submit_once(
        self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any], options: SubmitOptions
    ) -> str:
        """:meth:`submit_task`, unless a task with that ``options.task_id`` exists already: then that is all."""
        if options.task_id is None:
            return await self.submit_task(definition, args, kwargs, options=options)
        try:
            while True:
                async with self.source.claim_id(options.task_id) as is_new:
                    if is_new and not self._would_wait():
                        await self.submit_task(definition, args, kwargs, options=options)
                        return options.task_id
                if not is_new:
                    return options.task_id
                # Others may submit that id meanwhile: a task that does must not wait for what waits for its slot.
                await self._admit()
        finally:
            self._queue.offer_room()  # it may have been woken for room that it has not used

    def _would_wait(self) -> bool:
        """Whether a submission would wait for room now."""
        return self._state == "running" and not _is_inside_a_task() and not self._queue.has_room()

    async def submit_tasks(self, calls: Sequence[Call]) -> list[str]:
        """:meth:`submit_task` for many tasks, whose arguments were checked; many in one request where that is possible.

        Raises:
            PartialSubmissionError: The broker or the result backend failed, or this was stopped, after some of them.
        """

        async def admitted() -> AsyncIterator[Job]:
            for call in calls:
                if self._state != "running" or self._queue.size + self._queue.reserved >= self._queue.max_size:
                    await self._admit()
                yield self._new_job(*call, None, 0.0, NO_OPTIONS)

        return await self.source.submit_many(admitted())

    async def _admit(self) -> None:
        """Wait for room in the queue. A task's own submissions don't: all workers could be waiting for each other."""
        inside = _is_inside_a_task()
        self._check_accepting(inside)
        if not inside:
            await self._queue.wait_for_room()
            self._check_accepting(inside)

    def _check_accepting(self, inside: bool) -> None:
        # While it drains, its own tasks may still submit what they need to finish.
        if self._state != "running" and not (inside and self._state == "stopping"):
            raise ExecutorNotRunningError

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────────

    async def get_result(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if it is unknown."""
        record = await self.results.get(id_text(task_id))
        if record is not None:
            self._records.rebuild(record, self.registry)
        return record

    async def wait_for_result(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """The record of a task once it is complete, whatever became of it. An unknown one is waited for.

        Args:
            task_id: What ``submit`` returned.
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            TaskTimeoutError: It was not complete in time; also a TimeoutError.
            TypeError, ValueError: The timeout is no number of seconds.
        """
        check_wait("timeout", timeout)
        task_id = id_text(task_id)
        try:
            with self.waiting_for(task_id):
                record = await self.results.wait_for(task_id, timeout)
        except TimeoutError:
            raise TaskTimeoutError(task_id, timeout) from None
        self._records.rebuild(record, self.registry)
        return record

    def waiting_for(self, task_id: str) -> AbstractContextManager[None]:
        """To be entered around a wait for a task's result, which the calling code may do in one of its own tasks."""
        job = running_task.get()
        return self._waits.of(job, task_id) if self.runs(job) else nullcontext()

    def runs(self, job: object) -> TypeGuard[Job]:
        """Whether that is a job in an attempt here, from any thread: what is in ``running_task`` may be another
        executor's, or one that is over."""
        return isinstance(job, Job) and self._running.get(job.task.id) is job

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task, be it pending, delayed, waiting for a retry, or running.

        A running one is told to end and waited for, at most 5 s.

        Returns:
            True if it ended by this call; False if it is unknown, was over already, or would not end.
        """
        return await self.source.cancel(id_text(task_id))

    # ── attempts ────────────────────────────────────────────────────────────────────────────────────────────

    async def _attempt(self, job: Job) -> None:
        """Run a job once, in a worker."""
        task, record = job.task, job.record
        running_task.set(job)
        if job.awaits_retry:
            job.end_wait()
        job.interrupt, job.settled, job.view = None, False, None
        job.started_at = time.monotonic()
        # Last: another thread that sees it there sees when it began.
        self._running[task.id] = job
        # A timer may come a little early, and no wait is negative.
        waited = job.started_at - job.ready_at
        job.telemetry.count_start(waited if waited > 0 else 0.0)
        record.status, record.started_at, record.worker = RUNNING, datetime.now(UTC), self._worker_id
        record.error = record.traceback = record.progress = None
        value: Any = None
        error: BaseException | None = None
        if self._logs_each:
            attempt_log.started(job, self._worker_id)
        try:
            if self._hears_of_starts and (starting := self.source.started(job)) is not None:
                await starting
            if self._bus.subscribers:
                self._records.publish(record)
            if task.timeout is not None:
                self._limit(job)
            definition = self.registry.by_name.get(task.name)
            if definition is None:  # it was unregistered meanwhile
                raise TaskNotFoundError(task.name)
            if job.is_decoded:
                job.rebuild_arguments(definition.func)
            if self._middlewares:
                value = await self._call_in_middlewares(definition.func, job)
            else:
                value = await self._call(definition.func, job)
        except GeneratorExit:  # the loop is gone, and nothing can be awaited any more
            raise
        except BaseException as caught:  # noqa: BLE001 - a worker survives whatever user code raises
            error = caught
            self._teardown.mark(job)
        settling = self._settle(job, value, error)
        if settling is not None:
            await settling
        # By its own class: what it says of itself is user code.
        is_interrupted = error is not None and issubclass(type(error), KeyboardInterrupt)
        if is_interrupted or job.interrupt is Interrupt.TEARDOWN:
            await self.source.told()  # the loop ends now: it would be too late
        if error is not None and is_interrupted:
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
            What is still to be awaited, where the result backend or the broker takes its time; None where that would be
            a coroutine for nothing.
        """
        if job.settled:
            return None
        job.settled = True
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        seconds = time.monotonic() - job.started_at
        outcomes.decide(job, value, error, self._can_release, self._worker_id)
        finishing = self.source.finished(job)
        if finishing is not None:
            return self._close_after(finishing, job, seconds)
        self._close(job, seconds)
        return None

    async def _close_after(self, finishing: Coroutine[Any, Any, None], job: Job, seconds: float) -> None:
        try:
            await finishing
        finally:
            if job in self._closed_early:
                self._closed_early.remove(job)
            else:
                self._close(job, seconds)

    def _close(self, job: Job, seconds: float) -> None:
        """Count an attempt whose outcome is recorded, free its slot, and tell of it."""
        if job.record.status is SUCCESS:  # without a call more, as most do
            job.telemetry.count_success(seconds)
            if self._logs_each:
                attempt_log.succeeded(job, seconds, self._worker_id)
        else:
            outcomes.count_unsuccessful(job, seconds)
            if job.interrupt in (Interrupt.STOP, Interrupt.TEARDOWN):
                self._leave("running", job)
        if self._running.get(job.task.id) is job:  # else its next attempt has begun
            del self._running[job.task.id]
        if self._bus.subscribers:
            self._records.publish(job.record)
        if self._middlewares:
            tell_of_outcome(self._middlewares, job.shown(), outcomes.of_attempt(job, seconds))

    def _on_worker_death(self, job: Job, error: BaseException) -> None:
        """Settle the attempt that a worker died over."""
        settling = self._settle(job, None, error)
        if settling is not None:
            self._workers.spawn(settling, settles=job)

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    @property
    def is_draining(self) -> bool:
        """Whether it begins nothing more, by request."""
        return self._workers.is_draining

    async def resize(self, slots: int) -> None:
        """Run so many tasks at once from now on. What runs beyond that goes on to its end.

        Raises:
            ValueError: ``slots`` is out of range.
        """
        COUNT.check("slots", slots)
        self._workers.resize(slots)
        await self.source.slots_changed()
        logger.info("executor resized executor=%s workers=%d", self.kind, slots)

    async def drain(self, is_draining: bool = True) -> None:
        """Begin nothing more, and give back what was taken ahead; or go on with tasks. What runs goes on to its end."""
        self._workers.set_draining(is_draining)
        await self.source.slots_changed()
        logger.info("executor %s executor=%s", "drains" if is_draining else "takes tasks again", self.kind)

    async def _obey(self, order: dict[str, Any]) -> None:
        try:
            if "slots" in order:
                await self.resize(order["slots"])
            elif order.get("draining") in (True, False):
                await self.drain(order["draining"])
        except (TypeError, ValueError) as error:  # a server's data may be anybody's
            logger.warning("order not understood executor=%s error=%s", self.kind, error)

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
        self._workers.prepare(self.source.max_waiting)
        self._waits.open()
        self._progress.open()
        self._records.open()
        self.source.open()
        self._logs_each = attempt_log.logger.isEnabledFor(logging.DEBUG)
        self._state = "running"

    def begin(self) -> None:
        """Run tasks from now on. Their attempts see the context variables that are set here."""
        context = contextvars.copy_context()
        context.run(running_task.set, None)
        context.run(progress_report.set, self._progress.report)
        self._workers.open(context)
        self.source.start()
        self._hangs.start()
        self._teardown.start()
        logger.info("executor started executor=%s workers=%d", self.kind, self.workers)

    async def stop(self, wait: bool = True, timeout: float | None = 30.0) -> None:
        """Finish what there is, then cancel what is left, then stop; a no-op if it is stopped.

        While one call waits, another one with ``wait=False`` ends the waiting. A caller that is cancelled waits no
        more, and the executor stops all the same. To a task that runs here, for which that waits, this returns at once.

        Args:
            wait: Whether to wait for waiting and running tasks at all.
            timeout: Seconds to wait for them; None waits for as long as it takes. Delayed tasks and retries are waited
                for only if they fall due in that time.

        Raises:
            TypeError, ValueError: The timeout is no number of seconds.
        """
        if timeout is not None:
            SECONDS.check("timeout", timeout)
        if self._state == "stopped":
            return
        if self._loop.is_closed():
            await self._abandon_closed_loop()
            return
        self._state = "stopping"
        # Not in the task that calls this: it may be one of those that are ended.
        stopping = spawn(self._stop(wait, timeout), f"flowrra-{self.kind}-stop")
        self._stops.add(stopping)
        stopping.add_done_callback(self._stops.discard)
        if not self.runs(running_task.get()):
            await asyncio.shield(stopping)

    async def _stop(self, wait: bool, timeout: float | None) -> None:
        if self._state == "stopped":  # another call was first
            return
        deadline = float("inf") if timeout is None else self._loop.time() + timeout
        self._queue.release_waiting()
        await asyncio.gather(self.source.stop_fetching(), self._hangs.stop())
        if wait:
            await self._workers.drain(deadline)
        self._records.give_up()
        self._workers.close()
        waiting = self._found_waiting()
        self._teardown.end()
        await self._workers.interrupt(self.running_jobs(), Interrupt.STOP)
        await self._workers.end_background()
        await self._abandon_unresponsive()
        while jobs := self._queue.clear():
            for job in jobs:
                await self.source.release(job)
                self._leave(waiting.get(job, "delayed"), job)
        await self.source.close(deadline - self._loop.time())
        self._state = "stopped"
        self._leftovers.tell()
        logger.info("executor stopped executor=%s", self.kind)

    def _unlist_expired(self) -> None:
        """Have expired records counted no more, wherever tasks come from: nobody may write who does that beside."""
        if self.takes_tasks and self._records.tells_of_others:
            self._workers.spawn(self._records.unlist_expired())

    def _found_waiting(self) -> dict[Job, Found]:
        """What waits, and is not begun any more, by whether it is due. What nobody can take back is lost: that is
        counted at once, as what still runs may take longer than this process has."""
        found: dict[Job, Found] = dict.fromkeys((*self._queue.ready(), *self._queue.aside()), "waiting")
        found |= dict.fromkeys(self._queue.delayed_items(), "delayed")
        if not self._can_release:
            for job, state in found.items():
                self._leftovers.lose(state, job.task.id)
        return found

    def _leave(self, found: Found, job: Job) -> None:
        """Count a task that the stop ended, by what its record says it did with it."""
        if job.record.status is CANCELLED:
            self._leftovers.lose(found, job.task.id)
        elif not job.record.is_complete:
            self._leftovers.give_back(found, job.task.id)

    async def _abandon_closed_loop(self) -> None:
        """Its loop was closed without stop(): what it had can't run any more, and must not look as if it did."""
        logger.error("event loop was closed without stop(), its tasks are left executor=%s", self.kind)
        running = self.running_jobs()
        for job in running:
            job.settled = True
        self._running.clear()
        self._hangs.abandon()
        self._teardown.end()
        waiting = self._found_waiting()
        await self.source.abandon(running, self._queue.clear())
        for job in running:
            self._leave("running", job)
        for job, found in waiting.items():
            self._leave(found, job)
        self._leftovers.tell()
        self._state = "stopped"

    async def _abandon_unresponsive(self) -> None:
        """Give up on attempts that won't end: their records say so, and whatever they still do is ignored. A result
        backend that does not take the records is given up on, too."""
        for job in self.running_jobs():
            if job.settled:  # it has ended
                continue
            logger.error("task would not end, left to itself task=%s id=%s", job.definition.name, job.task.id)
            settling = self._settle(job, None, asyncio.CancelledError())
            if settling is not None:
                self._workers.spawn(settling, settles=job)
        if self._running:
            await self._workers.end_background()
        for job in self.running_jobs():
            logger.error("outcome not recorded in time task=%s id=%s", job.definition.name, job.task.id)
            self._closed_early.add(job)
            self._close(job, time.monotonic() - job.started_at)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _is_inside_a_task() -> bool:
    """Whether an attempt calls; what one has left running, when it has ended, holds no slot."""
    job = running_task.get()
    return job is not None and not (isinstance(job, Job) and job.settled)


def _apply(options: SubmitOptions, task: Task) -> None:
    """Give a task what its submission says otherwise than its definition."""
    if options.task_id is not None:
        task.id = options.task_id
    if options.max_retries is not None:
        task.max_retries = options.max_retries
    if options.retry_delay is not None:
        task.retry_delay = options.retry_delay
    if options.timeout is not None:
        task.timeout = options.timeout
    task.headers = options.headers.copy()
