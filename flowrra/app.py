"""Flowrra: the object that users hold. It wires registry, executors, results, events and telemetry into one app."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Set
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from contextvars import Context, ContextVar, copy_context
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any, Final, Self, TypeVar, overload
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from flowrra import own_loop
from flowrra._version import __version__
from flowrra.app_thread import AppThread, result_of
from flowrra.arguments import id_text
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.brokers.base import BaseBroker
from flowrra.brokers.fitness import FitnessMonitor
from flowrra.config import BackendConfig, BrokerConfig, Config, SchedulerConfig
from flowrra.events import EventPublisher
from flowrra.exceptions import (
    BackendError,
    ExecutorNotRunningError,
    NoTasksRegisteredError,
    PartialSubmissionError,
    ResultNotFoundError,
    SubmittedInWorkerProcessError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from flowrra.executors.base import BaseTaskExecutor, State
from flowrra.executors.cpu_executor import CPUExecutor
from flowrra.executors.io_executor import IOExecutor
from flowrra.executors.processes.program_import import end_import, imports_another_module, is_worker_process
from flowrra.forks import detach_loop, leave_to_parent, tell_of_forks
from flowrra.loop_monitor import LoopMonitor
from flowrra.middleware import Middleware
from flowrra.queue_flow import QueueFlow
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.ranges import PRIORITY, SECONDS, check_wait, shown
from flowrra.rebuilding import rebuild_result
from flowrra.registry import ExceptionTypes, TaskDefinition, TaskFunction, TaskRegistry, is_async
from flowrra.runner import Runner
from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.scheduler.scheduler import Scheduler
from flowrra.starting import Starting, StoppedWhileStartingError
from flowrra.submission import Submission, SubmitOptions
from flowrra.task import TaskResult, new_task_id, running_task
from flowrra.task_history import TaskHistory
from flowrra.telemetry import Telemetry

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Hook = Callable[[], Awaitable[Any] | Any]
Lifespan = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]
Call = tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any]]

# The apps that have not closed their connections yet, by their ids.
_using_connections: WeakValueDictionary[int, Flowrra] = WeakValueDictionary()
# The resources that an app is acquiring or releasing, for the hooks and lifespans that it calls for that.
_calling_for: Final[ContextVar[AsyncExitStack | None]] = ContextVar("flowrra_calling_for", default=None)


class Flowrra:
    """An asyncio task queue.

    Register tasks with :meth:`task`, run the app with ``async with app:`` (or :meth:`start` and :meth:`stop`), and
    submit tasks with :meth:`submit`.

    Args:
        config: Where tasks and results live and how tasks run; all in memory with 4 workers if None.

    Raises:
        TypeError: It is none.
    """

    def __init__(self, config: Config | None = None) -> None:
        if config is not None and not isinstance(config, Config):
            expected = "a Config, such as Config(broker=BrokerConfig(url=…)); Flowrra.from_urls() takes URLs"
            raise TypeError(f"config must be {expected}, not a {type(config).__name__}")
        self.config = Config() if config is None else config
        self.id = _new_id()
        self.telemetry = Telemetry()
        self.task_history = TaskHistory(self.telemetry)
        # What was seen of each queue, by the kind of its tasks, and its name: "io", "io@mail".
        self.queue_flows: defaultdict[str, QueueFlow] = defaultdict(QueueFlow)
        self.events = EventPublisher(app=self.id)
        self.loop_monitor = LoopMonitor(self._name_task, self.task_history.take_if_due)
        self.broker_fitness = FitnessMonitor(self._unfitness)
        self.started_at: datetime | None = None
        self._registry = TaskRegistry()
        self._results: BaseResultBackend | None = None
        self._io_executor: BaseTaskExecutor | None = None
        self._cpu_executor: BaseTaskExecutor | None = None
        self._scheduler: Scheduler | None = None
        self._middlewares: list[Middleware] = []
        self._startup_hooks: list[Hook] = []
        self._shutdown_hooks: list[Hook] = []
        self._lifespans: list[Lifespan] = []
        self._state: State = "stopped"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: AppThread | None = None
        # Held while the thread is started; and whether it is to be started by the first use, as the parent had one.
        self._thread_starts = threading.Lock()
        self._starts_on_use = False
        self._resources = AsyncExitStack()
        # Between open() and begin() of the executors the startup hooks run: tasks are accepted, and none runs.
        self._has_begun = False
        self._has_started = False
        # A start that is under way.
        self._starting: Starting | None = None
        # Whether the resources are being released, and what carries out stops, whoever still waits for them.
        self._is_releasing = False
        self._endings: set[asyncio.Task[None]] = set()
        if (store := self.config.create_scheduler_backend()) is not None:
            assert self.config.scheduler is not None  # noqa: S101 - it made the store
            self.create_scheduler(store, self.config.scheduler.check_interval, self.config.scheduler.timezone)
        tell_of_forks(self)

    @classmethod
    def from_urls(cls, broker: str | None = None, backend: str | None = None) -> Self:
        """An app with a broker and a result backend at these URLs, each in memory if None."""
        return cls(
            Config(
                broker=BrokerConfig(url=broker) if broker else None,
                backend=BackendConfig(url=backend) if backend else None,
            )
        )

    def producer(self) -> Flowrra:
        """Another app with the same tasks, broker and results, that runs no task, no schedule and no hook: for programs
        that submit, look and steer. Without tasks it has the queues of both kinds. In memory it would run its tasks."""
        executor = replace(self.config.executor, consume=False)
        other = Flowrra(replace(self.config, executor=executor, scheduler=None))
        other._registry, other._middlewares = self._registry, self._middlewares
        for cpu_bound in {each.cpu_bound for each in self._registry.definitions()} or (False, True):
            if cpu_bound and self.config.backend is None:  # there can't be any
                continue
            other._ensure_executor(cpu_bound)
        return other

    def configure_executor(self, **changes: Any) -> None:
        """Run tasks otherwise than the configuration says, before the app starts.

        Args:
            **changes: Fields of :class:`flowrra.ExecutorConfig`.

        Raises:
            RuntimeError: The app is not stopped.
            ValueError: A value is out of range.
        """
        if self._state != "stopped":
            raise RuntimeError("How tasks run can't be changed while the app runs")
        if not changes:
            return
        self.config = replace(self.config, executor=replace(self.config.executor, **changes))
        if self._io_executor is not None:
            self._io_executor = self._renewed(self._io_executor)
        if self._cpu_executor is not None:
            self._cpu_executor = self._renewed(self._cpu_executor)

    def forked(self) -> None:
        """In a forked child: it is another app, which is stopped, and has nothing to run."""
        self.id = self.events.app = _new_id()
        self._thread_starts = threading.Lock()
        if self._state == "stopped":
            return
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.forked()
            self._starts_on_use = True
        elif self._loop is not None:
            detach_loop(self._loop, with_connections=False)
        leave_to_parent(self._resources, self._io_executor, self._cpu_executor)
        self._state, self._loop, self.started_at = "stopped", None, None
        self._has_begun = self._has_started = False
        self._starting = None
        self._is_releasing = False
        self._endings = set()
        self._resources = AsyncExitStack()
        self.telemetry.reset()
        self.task_history.forget()
        self.queue_flows.clear()
        self.events = EventPublisher(self.events.bus, self.id)
        self.loop_monitor.forked()
        self.broker_fitness = FitnessMonitor(self._unfitness)
        if self._io_executor is not None:
            self._io_executor = self._renewed(self._io_executor)
        if self._cpu_executor is not None:
            self._cpu_executor = self._renewed(self._cpu_executor)

    def _renewed(self, executor: BaseTaskExecutor) -> BaseTaskExecutor:
        new = self._new_executor(executor.kind == "cpu")
        for definition in self._registry.by_name.values():
            if getattr(definition.func, "_executor", None) is executor:
                new.adopt(definition)
        return new

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
    def has_started(self) -> bool:
        """Whether all of it started when it was started last; it may have stopped since."""
        return self._has_started

    @property
    def lost_at_stop(self) -> int:
        """How many tasks its stops have cancelled that it had accepted, since the start of the process: 0 where all
        were done, or given back to the broker. For an exit status: ``raise SystemExit(app.lost_at_stop > 0)``."""
        return sum(sum(executor.lost_at_stop.values()) for executor in self.executors.values())

    @property
    def registry(self) -> TaskRegistry:
        """Its tasks."""
        return self._registry

    @property
    def scheduler(self) -> Scheduler | None:
        """Its scheduler, if it has one."""
        return self._scheduler

    def create_scheduler(
        self,
        backend: BaseSchedulerBackend | str | None = None,
        check_interval: float = 60.0,
        timezone: str | None = None,
    ) -> Scheduler:
        """A scheduler that starts and stops with the app; tasks may be registered before or after. One that the app had
        before is replaced: stop that first, if it runs.

        Args:
            backend: A schedule store or its URL; None is an SQLite file in the current folder.
            check_interval: Seconds after which changes made by other processes are noticed.
            timezone: The name of the zone that cron expressions are read in; None is the server's.

        Raises:
            ValueError: The URL's scheme is not supported, or the time zone is not known.
        """
        url = None if isinstance(backend, BaseSchedulerBackend) else backend
        config = SchedulerConfig(database_url=url, check_interval=check_interval, timezone=timezone)
        if not isinstance(backend, BaseSchedulerBackend):
            backend = config.create_backend()
        zone = None if timezone is None else ZoneInfo(timezone)
        self._scheduler = Scheduler(backend, self._registry, check_interval, timezone=zone)
        self._scheduler.use_app(self.submit_with, self.get_result, lambda: self.executors)
        return self._scheduler

    @property
    def executors(self) -> dict[str, BaseTaskExecutor]:
        """Its executors by kind, ``io`` and ``cpu``; each exists once a task of its kind is registered."""
        both = {"io": self._io_executor, "cpu": self._cpu_executor}
        return {kind: executor for kind, executor in both.items() if executor is not None}

    @property
    def results(self) -> BaseResultBackend:
        """Its result backend.

        Raises:
            BackendError: The configured URL can't be used.
        """
        if self._results is None:
            self._results = self.config.create_backend()
        return self._results

    def announcement(self) -> dict[str, Any]:
        """What other processes are to know of this one: ``id, host, pid, started_at, heartbeat_at`` (aware UTC
        datetimes), ``version``, ``draining``, and ``executors`` with ``slots`` and ``busy``."""
        return {
            "id": self.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self.started_at,
            "heartbeat_at": datetime.now(UTC),
            "version": __version__,
            "executors": {
                kind: {"slots": executor.workers, "busy": executor.busy_workers}
                for kind, executor in self.executors.items()
            },
            "draining": any(executor.is_draining for executor in self.executors.values()),
        }

    async def _unfitness(self) -> dict[str, str | None]:
        """What makes the broker's server unfit; of one of its brokers, as they have the same server."""
        brokers = [executor.broker for executor in self.executors.values() if executor.broker is not None]
        return await brokers[0].unfitness() if brokers else {}

    def _name_task(self, holder: asyncio.Task[Any]) -> dict[str, str] | None:
        jobs = (job for executor in self.executors.values() for job in executor.running_jobs())
        return next(({"id": job.task.id, "name": job.definition.name} for job in jobs if job.worker is holder), None)

    # ── registration ────────────────────────────────────────────────────────────────────────────────────────

    @overload
    def task(self, name: TaskFunction) -> TaskFunction: ...

    @overload
    def task(
        self,
        name: str | None = None,
        cpu_bound: bool = False,
        *,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        timeout: float | None = None,
        priority: int = 0,
        backoff: float = 1.0,
        jitter: float = 0.0,
        retry_on: ExceptionTypes = Exception,
        queue: str = DEFAULT_QUEUE,
    ) -> Callable[[TaskFunction], TaskFunction]: ...

    def task(
        self,
        name: str | Callable[..., Any] | None = None,
        cpu_bound: bool = False,
        *,
        max_retries: int | None = None,
        retry_delay: float | None = None,
        timeout: float | None = None,
        priority: int = 0,
        backoff: float = 1.0,
        jitter: float = 0.0,
        retry_on: ExceptionTypes = Exception,
        queue: str = DEFAULT_QUEUE,
    ) -> Any:
        """Register the decorated function as a task; it is returned as it is and stays callable.

        Args:
            name: Defaults to the function's name.
            cpu_bound: Run it in a process pool; it must then be a plain function at module level.
            max_retries: Attempts that may follow a failed first one; default ``ExecutorConfig.max_retries``.
            retry_delay: Seconds before the second attempt; default ``ExecutorConfig.retry_delay``.
            timeout: Seconds that one attempt may take; None is no limit.
            priority: Used when a submission names none; lower numbers run first.
            backoff: Each further delay is this many times the one before.
            jitter: The fraction, 0 to 1, by which a delay may be shorter or longer by chance.
            retry_on: The exceptions that are worth another attempt, be it in an exception group; raising
                :class:`flowrra.Reject` never is, nor is a group that holds nothing else.
            queue: The name of the queue that it is submitted to: 1 to 64 of the characters ``A-Z a-z 0-9 _ . -``.

        Raises:
            TypeError: The function is of the wrong kind, or an option of the wrong type.
            ValueError: The name is taken or unusable, an option is out of range, or a CPU-bound task has no backend.
        """
        defaults = self.config.executor
        decorate = self._registry.task(
            None if callable(name) else name,
            cpu_bound,
            defaults.max_retries if max_retries is None else max_retries,
            defaults.retry_delay if retry_delay is None else retry_delay,
            timeout=timeout,
            priority=priority,
            backoff=backoff,
            jitter=jitter,
            retry_on=retry_on,
            queue=queue,
        )

        def register(func: TaskFunction) -> TaskFunction:
            if cpu_bound:
                self._check_cpu_task(func)
            executor = self._executor_for(cpu_bound) or self._new_executor(cpu_bound)
            decorate(func)
            executor.adopt(self._registry.definition(func))
            self._use(executor)
            return func

        # @app.task without parentheses passes the function where a name would be.
        return register(name) if callable(name) else register

    def _check_cpu_task(self, func: Callable[..., Any]) -> None:
        if is_async(func):
            raise TypeError(f"CPU task '{getattr(func, '__name__', shown(func))}' must be a sync function (def)")
        if self.config.backend is None:
            raise ValueError("CPU-bound tasks require backend configuration: give Config(backend=...)")

    def _executor_for(self, cpu_bound: bool) -> BaseTaskExecutor | None:
        return self._cpu_executor if cpu_bound else self._io_executor

    def _ensure_executor(self, cpu_bound: bool) -> BaseTaskExecutor:
        return self._executor_for(cpu_bound) or self._use(self._new_executor(cpu_bound))

    def _new_executor(self, cpu_bound: bool) -> BaseTaskExecutor:
        executor_class = CPUExecutor if cpu_bound else IOExecutor
        return executor_class(
            self.config,
            self._registry,
            results=self.results,
            telemetry=self.telemetry,
            publisher=self.events,
            middlewares=self._middlewares,
            announcement=self.announcement,
            worker=self.id,
        )

    def _use(self, executor: BaseTaskExecutor) -> BaseTaskExecutor:
        if self._executor_for(executor.kind == "cpu") is not None:
            return executor
        if executor.kind == "cpu":
            self._cpu_executor = executor
        else:
            self._io_executor = executor
        if self.is_running:
            self._open_late(executor)
        return executor

    def _open_late(self, executor: BaseTaskExecutor) -> None:
        """Start an executor whose first task is registered while the app runs, from whichever thread."""
        assert self._loop is not None  # noqa: S101 - it runs
        if _running_loop() is self._loop:
            self._open(executor)
        else:
            self._loop.call_soon_threadsafe(self._open, executor)

    def _open(self, executor: BaseTaskExecutor) -> None:
        executor.open()
        if self._has_begun:
            executor.begin()

    def on_startup(self, func: Hook) -> Hook:
        """Call ``func``, async or not, on the app's loop before tasks run. Usable as a decorator."""
        self._startup_hooks.append(func)
        return func

    def on_shutdown(self, func: Hook) -> Hook:
        """Call ``func``, async or not, on the app's loop after the last task has ended. Usable as a decorator."""
        self._shutdown_hooks.append(func)
        return func

    def lifespan(self, manager: Lifespan) -> Lifespan:
        """Enter ``manager()``, a context manager, async or not, before tasks run, and leave it after the last has
        ended.

        Usable as a decorator over ``contextlib.asynccontextmanager``.
        """
        self._lifespans.append(manager)
        return manager

    def add_middleware(self, middleware: Middleware) -> None:
        """Call the hooks of ``middleware`` for every task from now on; see :class:`flowrra.middleware.Middleware`."""
        self._middlewares.append(middleware)

    # ── submission ──────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self, task_func: Callable[..., Any] | str, /, *args: Any, priority: int | None = None, **kwargs: Any
    ) -> str:
        """Submit a task. It never starts before this returns; while the queue is full, this waits.

        Args:
            task_func: A registered function or its name.
            *args, **kwargs: What it is called with.
            priority: Lower numbers run first; default is the task's own, 0 unless it set one. A task's own parameter of
                that name is given through :meth:`options`: ``app.options(priority=…).submit(func, priority=…)``.

        Returns:
            The task's id, a random UUID.

        Raises:
            ExecutorNotRunningError: The app is not started, or is stopping.
            TaskNotFoundError: That function or name is not registered; also a RuntimeError if nothing is.
            BackendError: The task could not be recorded or queued.
            TypeError: The arguments don't fit the task's function.
            TypeError, ValueError: The priority is not a finite number.
        """
        if priority is not None:
            PRIORITY.check("priority", priority)
        if self._loop is not asyncio.get_running_loop():
            options = SubmitOptions(priority=priority)
            return await self._run_on_live_loop(lambda: self._submit(task_func, args, kwargs, options))
        try:
            definition = self._registry.by_function[task_func]  # type: ignore[index]  # a name is no key of it
        except (KeyError, TypeError):  # a name, or what no task is made of
            definition = self._definition(task_func)
        executor = self._cpu_executor if definition.cpu_bound else self._io_executor
        return await (executor or self._ensure_executor(definition.cpu_bound)).submit_task(
            definition, args, kwargs, priority
        )

    def options(
        self,
        *,
        priority: int | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        task_id: str | None = None,
        timeout: float | None = None,
        headers: dict[str, str] | None = None,
        queue: str | None = None,
    ) -> Submission:
        """Options for one submission: ``await app.options(countdown=60).submit(func, …)``.

        Args:
            priority: Lower numbers run first.
            countdown: Seconds until the task becomes due.
            eta: When the task becomes due; a naive time is local time.
            task_id: An id of your choice; submitting one that exists is a no-op that returns it.
            timeout: Seconds that one attempt may take.
            headers: Text that travels with the task; at most 8192 bytes in all.
            queue: The name of the queue; default is the task's own.

        Raises:
            TypeError, ValueError: A value is of the wrong type or out of range.
        """
        chosen = SubmitOptions(
            priority, countdown, eta, task_id, timeout, {} if headers is None else headers, queue=queue
        )
        return Submission(self.submit_with, chosen)

    async def submit_many(self, calls: Iterable[Call]) -> list[str]:
        """Submit many tasks.

        Args:
            calls: Of ``(function or name, args, kwargs)``. All are looked up and checked before the first is
                submitted, and on Redis a round trip carries many of them.

        Returns:
            The tasks' ids, in the same order.

        Raises:
            PartialSubmissionError: The server failed, or the app stopped, after some of them, or one may be queued all
                the same; it says which are queued.
            As :meth:`submit`.
        """
        found = [self._checked_call(index, call) for index, call in enumerate(calls)]
        if self._loop is asyncio.get_running_loop():
            return await self._submit_many(found)
        return await self._run_on_live_loop(lambda: self._submit_many(found))

    def _checked_call(self, index: int, call: Call) -> tuple[TaskDefinition, tuple[Any, ...], dict[str, Any]]:
        try:
            func, args, kwargs = call
        except (TypeError, ValueError):
            raise TypeError(f"calls[{index}] must be (function or name, args, kwargs), not {shown(call)}") from None
        # The letters of a text, or the keys of a dict, are hardly meant to be arguments.
        if isinstance(args, str | bytes | bytearray | Mapping | Set) or not isinstance(args, Iterable):
            raise TypeError(f"args of calls[{index}] must be a tuple or a list of arguments, not {shown(args)}")
        if not isinstance(kwargs, dict):
            raise TypeError(f"kwargs of calls[{index}] must be a dict, not {shown(kwargs)}")
        definition, args = self._definition(func), tuple(args)
        definition.signature.check(definition.name, args, kwargs)
        return definition, args, kwargs

    async def _submit_many(self, calls: list[tuple[TaskDefinition, tuple[Any, ...], dict[str, Any]]]) -> list[str]:
        ids: list[str] = []
        # Neighbours of one kind go together, and the order stays.
        for cpu_bound, group in groupby(calls, key=lambda call: call[0].cpu_bound):
            try:
                ids += await self._ensure_executor(cpu_bound).submit_tasks(list(group))
            except PartialSubmissionError as error:
                raise PartialSubmissionError(error.reason, ids + error.queued, error.unsure) from error
            except Exception as error:
                if ids:
                    raise PartialSubmissionError(str(error), ids, []) from error
                raise
        return ids

    def submit_sync(
        self, task_func: Callable[..., Any] | str, /, *args: Any, priority: int | None = None, **kwargs: Any
    ) -> str:
        """:meth:`submit` for code without an event loop, from any thread but the app's own.

        Raises:
            RuntimeError: It was called on the app's event loop, which it would block for ever.
            As :meth:`submit`.
        """
        options = SubmitOptions(priority=priority)
        return self._call_from_thread(lambda: self._submit(task_func, args, kwargs, options))

    async def submit_with(
        self,
        task_func: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: SubmitOptions,
    ) -> str:
        """:meth:`submit` with all options of a submission, from any loop; what :meth:`options` makes is shorter."""
        if self._loop is asyncio.get_running_loop():
            return await self._submit(task_func, args, kwargs, options)
        return await self._run_on_live_loop(lambda: self._submit(task_func, args, kwargs, options))

    async def _submit(
        self,
        task_func: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: SubmitOptions,
    ) -> str:
        definition = self._definition(task_func)
        # A task put straight into app.registry has not been given an executor yet.
        return await self._ensure_executor(definition.cpu_bound).submit_once(definition, args, kwargs, options)

    def _definition(self, task_func: Callable[..., Any] | str) -> TaskDefinition:
        try:
            return self._registry.definition(task_func)
        except TaskNotFoundError as error:
            if self._registry:
                raise
            raise NoTasksRegisteredError(error.task_name) from None

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────────

    async def get_result(self, task_id: str) -> TaskResult | None:
        """The record of a task as it stands now; None if it is unknown. Works in any state of the app, on any loop."""
        record = await self.results.get(id_text(task_id))
        if record is not None and type(self.results) is not InMemoryBackend:
            rebuild_result(record, self._registry)
        return record

    async def wait_for_result(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """The record of a task once it is complete. A failed or cancelled task is returned, not raised.

        Args:
            task_id: What ``submit`` returned.
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            ResultNotFoundError: That id is unknown, or its record went while the server was out of reach; also a
                ValueError.
            TaskTimeoutError: It was not complete in time; also a TimeoutError.
            BackendError: The app stopped, and the task can't complete any more.
            TypeError, ValueError: The timeout is no number of seconds.
        """
        check_wait("timeout", timeout)
        task_id = id_text(task_id)
        results = self.results if self._results is None else self._results
        try:
            # A CPU-bound task can't wait here.
            if running_task.get() is None or self._io_executor is None:
                record = await results.wait_for_known(task_id, timeout)
            else:
                with self._io_executor.waiting_for(task_id):
                    record = await results.wait_for_known(task_id, timeout)
        except TimeoutError:
            raise TaskTimeoutError(task_id, timeout) from None
        except ResultNotFoundError as error:
            if is_worker_process() and isinstance(results, InMemoryBackend):
                raise BackendError(
                    "A CPU-bound task runs in a worker process, and can't see results in its app's memory: "
                    "wait for them in an async task, and submit this one with what they are"
                ) from error
            raise
        if type(results) is not InMemoryBackend:
            rebuild_result(record, self._registry)
        return record

    def wait_for_result_sync(self, task_id: str, timeout: float | None = None) -> TaskResult:
        """:meth:`wait_for_result` for code without an event loop, from any thread.

        Raises:
            RuntimeError: An event loop runs in this thread, and would be blocked.
            As :meth:`wait_for_result`.
        """
        # On a loop of its own: the time limit then holds even while the app's is blocked.
        if _running_loop() is not None:
            raise RuntimeError("This would block the running event loop; use await app.wait_for_result() instead")
        return asyncio.run(self.wait_for_result(task_id, timeout))

    async def cancel_task(self, task_id: str) -> bool:
        """Cancel a task, be it pending, delayed, waiting for a retry, or running; from any loop.

        A running one gets ``asyncio.CancelledError``, or SystemExit in its process, and is waited for, at most 5 s.

        Returns:
            True if it ended by this call; False if it is unknown, was over already, or would not end.

        Raises:
            NotReplicatedError: It is cancelled, and fewer replicas than ``min_replicas`` have confirmed that in time:
                it may run after a failover.
        """
        task_id = id_text(task_id)
        if self._state == "stopped":
            return await self._cancel(task_id)  # in a broker there may be tasks all the same
        if self._loop is asyncio.get_running_loop():
            return await self._cancel(task_id)
        return await self._run_on_live_loop(lambda: self._cancel(task_id))

    async def _cancel(self, task_id: str) -> bool:
        for executor in self.executors.values():
            if await executor.cancel(task_id):
                return True
        return False

    # ── other loops and threads ─────────────────────────────────────────────────────────────────────────────

    async def run_on_app_loop(self, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Await ``call()`` on the app's loop if it runs on another one, else here."""
        if self._loop is None or self._loop.is_closed() or self._loop is _running_loop():
            return await call()
        return await self._run_on_live_loop(call)

    async def _run_on_live_loop(self, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        loop = self._live_loop()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), loop))

    def _call_from_thread(self, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        loop = self._live_loop()
        if _running_loop() is not None and _running_loop() is loop:
            raise RuntimeError("This would block the app's own event loop; use the async method with await instead")
        return result_of(asyncio.run_coroutine_threadsafe(call(), loop))

    def _live_loop(self) -> asyncio.AbstractEventLoop:
        end_import()
        # Once tasks are accepted there is no wait for the start: it may itself wait for who submits, such as its hooks.
        if self._starts_on_use and not any(executor.is_running for executor in self.executors.values()):
            self.start_sync()
        if self._state == "stopped" or self._loop is None or self._loop.is_closed():
            raise SubmittedInWorkerProcessError if is_worker_process() else ExecutorNotRunningError
        return self._loop

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start on the running event loop: enter the lifespans, call the startup hooks, run tasks. A no-op if it runs.
        While another call starts it, that is waited for, unless one of its hooks or lifespans calls this.

        If any of it fails, what was started is stopped again, and the error is raised.

        Raises:
            RuntimeError: It runs on another event loop, or is stopping, or was stopped while it started.
        """
        end_import()
        loop = asyncio.get_running_loop()
        while self._state != "stopped" and self._loop is not None and not self._loop.is_closed():
            if self._state != "running" or self._loop is not loop:
                raise RuntimeError("This app runs on another event loop, or is stopping; wait for stop() there first")
            if self._starting is None or self._is_called_by_hook():
                return
            await self._starting.wait()
        self._loop = loop
        self._state = "running"
        self._resources = AsyncExitStack()
        self._releasing = asyncio.Lock()
        self._has_started = False
        self.started_at = datetime.now(UTC)
        self._ended = asyncio.Event()
        self._entered_by = asyncio.current_task()
        self._starting = starting = Starting()
        try:
            await self._acquire()
        except BaseException as error:
            await starting.take_cancellation()
            await self._clean_up()
            if starting.is_only_stopped:
                raise StoppedWhileStartingError from error
            raise
        finally:
            self._starting = None
            starting.is_over.set()
        self._starts_on_use = False
        logger.info("app started id=%s tasks=%d", self.id, len(self._registry))

    async def _clean_up(self) -> None:
        try:
            if self._state != "stopped":
                await self._end_from_here(wait=False, timeout=None)
        except Exception:
            logger.exception("app did not start, and cleaning up failed as well id=%s", self.id)

    async def _acquire(self) -> None:
        """Start everything; what ends it again is on the stack of resources, in the order of its ending from the
        top."""
        stack = self._resources
        # Nothing is counted while the app is stopped: its history says so.
        self.task_history.take()
        stack.callback(self.task_history.take)
        stack.callback(self.loop_monitor.stop)
        _using_connections[id(self)] = self
        stack.push_async_callback(self._close_connections)
        stack.push_async_callback(self.broker_fitness.stop)
        stack.push_async_callback(self.events.close)
        for executor in self.executors.values():
            await executor.stop()  # a no-op, unless its loop was closed without it
        for lifespan in self._lifespans:
            with self._calling_hooks():
                manager = lifespan()
                if isinstance(manager, AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            self._check_starting()
        for hook in reversed(self._shutdown_hooks):
            stack.push_async_callback(_call_hook, hook)
        for executor in self.executors.values():
            if not executor.is_running:  # else its first task was registered in a lifespan
                executor.open()
        for hook in self._startup_hooks:
            with self._calling_hooks():
                await _call_hook(hook)
            self._check_starting()
        self._has_begun = True
        for executor in self.executors.values():
            executor.begin()
        self.loop_monitor.start()
        if self.config.broker is not None:
            self.broker_fitness.start()
        if self._scheduler is not None:
            await self._scheduler.start()
            self._check_starting()
        self._has_started = True

    def _check_starting(self) -> None:
        """End the start if somebody has stopped the app meanwhile, whatever a hook made of the cancellation."""
        if self._state != "running":
            raise StoppedWhileStartingError

    async def stop(self, wait: bool = True, timeout: float | None = 30.0) -> None:
        """Finish waiting and running tasks, cancel what is left, call the shutdown hooks, stop. A no-op if stopped.

        While one call waits, another one with ``wait=False`` ends the waiting. A start that is under way is cancelled,
        and waited for. Works from any loop. A caller that is cancelled, as by ``asyncio.wait_for``, waits no more, and
        the app stops all the same.

        What the app would have to wait for can't wait for the app: to a running task of its own, to one of its hooks or
        lifespans, and to a subscriber of its events, this returns at once, and the app stops when that lets it. To
        what a hook or a lifespan has begun and left running, it returns when the last task has ended.

        Args:
            wait: Whether to wait for tasks at all.
            timeout: Seconds to wait for them; None waits for as long as it takes. In memory, what has not run by then
                is recorded as cancelled.

        Raises:
            RuntimeError: Its event loop neither turns nor is closed.
            TypeError, ValueError: The timeout is no number of seconds.
        """
        _check_timeout("timeout", timeout)
        if self._state == "stopped":
            return
        loop = self._loop
        if loop is not None and loop is not asyncio.get_running_loop() and not loop.is_closed():
            if not loop.is_running():
                raise RuntimeError("The app's event loop does not turn; stop it there, or close that loop first")
            # On a thread of one of its tasks, the context says so there, too.
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.stop(wait, timeout), loop))
        elif self._starting is not None:
            self._state = "stopping"
            if self._starting.task is not asyncio.current_task():
                await self._starting.stop(waits=not self._is_waited_for())
        elif self._is_waited_for():
            self._state = "stopping"
            self._carry_out(self._end(wait, timeout)).add_done_callback(_tell_of_failure)
        else:
            await self._end_from_here(wait, timeout)

    def _is_waited_for(self) -> bool:
        """Whether this is called by what the end of the app waits for."""
        is_task = any(executor.runs(running_task.get()) for executor in self.executors.values())
        return is_task or self._is_called_by_hook() or self.events.is_handing_over()

    def _is_called_by_hook(self) -> bool:
        is_calling = self._starting is not None or self._is_releasing
        return is_calling and _calling_for.get() is self._resources

    @contextlib.contextmanager
    def _calling_hooks(self) -> Iterator[None]:
        token = _calling_for.set(self._resources)
        try:
            yield
        finally:
            _calling_for.reset(token)

    def _carry_out(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Carry out a part of a stop in an asyncio task of its own. What cancels its caller, which may be the stop
        itself, can't reach it."""
        context = copy_context()
        context.run(running_task.set, None)  # a hook is no part of the task that calls for the stop
        task = asyncio.get_running_loop().create_task(ending, name="flowrra-stop", context=context)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _end_from_here(self, wait: bool, timeout: float | None) -> None:
        """Stop, and wait for it. What the task that calls this has entered, it leaves itself, as a lifespan may be a
        context manager that insists on that; once it is cancelled, it is left without it."""
        self._state = "stopping"
        running = self._carry_out(self._end_running(wait, timeout))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            self._carry_out(self._release_after(running)).add_done_callback(_tell_of_failure)
            raise
        if asyncio.current_task() is self._entered_by:
            await self._release()
            return
        releasing = self._carry_out(self._release())
        if _calling_for.get() is self._resources:  # what began this may be about to wait for it
            releasing.add_done_callback(_tell_of_failure)
        else:
            await asyncio.shield(releasing)

    async def _end(self, wait: bool, timeout: float | None) -> None:
        await self._end_running(wait, timeout)
        await self._release()

    async def _release_after(self, running: asyncio.Task[None]) -> None:
        await running
        await self._release()

    async def _end_running(self, wait: bool, timeout: float | None) -> None:
        """Begin and accept nothing more, and end what runs."""
        if self._state != "stopping":  # another call was first
            return
        if self._scheduler is not None:
            await self._scheduler.stop()
        await asyncio.gather(*(executor.stop(wait, timeout) for executor in self.executors.values()))

    async def _release(self) -> None:
        """Call the shutdown hooks, leave the lifespans, and close what the app has opened."""
        async with self._releasing:
            if self._state != "stopping":  # another call was first
                return
            self._is_releasing = True
            try:
                with self._calling_hooks():
                    await self._resources.aclose()
            finally:
                self._is_releasing = False
                self._loop = None
                self._has_begun = False
                self.started_at = None
                self._state = "stopped"
                self._ended.set()
        logger.info("app stopped id=%s", self.id)

    def start_sync(self) -> None:
        """:meth:`start` for programs without an event loop: the app gets one of its own, in a thread. A no-op if it
        runs there.

        :meth:`submit_sync` and :meth:`wait_for_result_sync` then work from every thread. With
        ``ExecutorConfig(consume=False)`` tasks are only submitted there.

        A process that is forked later (a server's worker, ``gunicorn --preload``) has an app of its own: it starts when
        it is first used there, or by calling this. What waits in memory stays the parent's, and its results too.

        Raises:
            As :meth:`start`.
        """
        if imports_another_module():
            return
        end_import()
        if self._thread is not None and self._thread.is_current and self._state == "running":
            return  # also where a startup hook calls it, for which the start waits
        with self._thread_starts:
            if self._thread is not None and self._state == "running":
                return
            if self._thread is None:
                thread = AppThread()
                thread.start()
                self._thread = thread
            try:
                self._thread.call(self.start)
            except BaseException:
                if self._state == "stopped":
                    self._end_thread(self._thread)
                raise

    def stop_sync(self, wait: bool = True, timeout: float | None = 30.0) -> None:
        """:meth:`stop` for an app that :meth:`start_sync` started, or just starts; a no-op for any other. Ctrl-C ends
        the waiting, as another call with ``wait=False`` does. On a thread that a running task of the app waits for, it
        returns at once, as :meth:`stop` does.

        Raises:
            RuntimeError: It was called on the app's event loop, which it would block for ever.
            TypeError, ValueError: The timeout is no number of seconds.
        """
        _check_timeout("timeout", timeout)
        self._starts_on_use = False
        thread = self._thread
        if thread is None:
            return
        if thread.is_current:
            raise RuntimeError("This would block the app's own event loop; use await app.stop() instead")
        if self._is_waited_for():
            # In an empty context: it is no part of what calls it.
            stop = partial(Context().run, self.stop_sync, wait, timeout)
            threading.Thread(target=stop, name="flowrra-stop", daemon=True).start()
            return
        try:
            thread.call(lambda: self.stop(wait, timeout))
        except BaseException:
            thread.call(lambda: self.stop(wait=False))
            raise
        finally:
            with self._thread_starts:
                self._end_thread(thread)

    def _end_thread(self, thread: AppThread) -> None:
        if self._thread is thread:
            thread.stop()
            self._thread = None

    async def _close_connections(self) -> None:
        """Close what no other app uses that has begun to: several may have been given the same instance."""
        _using_connections.pop(id(self), None)
        others = [app for app in (use() for use in _using_connections.valuerefs()) if app is not None and app._is_live]
        used = [connection for app in others for connection in app._connections()]
        for connection in self._connections():
            if not any(connection is each for each in used):
                await connection.close()

    def _connections(self) -> list[BaseResultBackend | BaseBroker]:
        brokers = (executor.broker for executor in self.executors.values())
        return [each for each in (self._results, *brokers) if each is not None]

    @property
    def _is_live(self) -> bool:
        """Whether it was started, in this process, and its event loop is there."""
        return self._state != "stopped" and self._loop is not None and not self._loop.is_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def run(self, *, shutdown_timeout: float = 30.0) -> None:
        """Run the app, blocking, until SIGINT or SIGTERM; a second signal cancels what still runs, and a third one ends
        the process at once. What goes on though it is cancelled is left to itself after 5 s, and so are the threads of
        the loop's pool (``asyncio.to_thread``): the process itself can't end before those do.

        It returns as well once :meth:`stop` was called, from wherever, also by a task or a hook.

        A signal that comes while the app starts cancels its start, and cleans up what was started; a second one then
        ends the process at once.

        It returns also if tasks were lost: :attr:`lost_at_stop` says how many.

        Args:
            shutdown_timeout: Seconds that waiting and running tasks get to finish.

        Raises:
            RuntimeError: An event loop runs in this thread already.
            TypeError, ValueError: That is no number of seconds.
        """
        _check_timeout("shutdown_timeout", shutdown_timeout)
        end_import()
        if _running_loop() is not None:
            raise RuntimeError("An event loop runs in this thread already; use await app.start() instead")
        own_loop.run(self._run(shutdown_timeout))

    async def _run(self, shutdown_timeout: float) -> None:
        await Runner(
            self._start_unless_stopped,
            lambda: self._has_started,
            lambda: self._ended.wait(),
            lambda: self.stop(timeout=shutdown_timeout),
            lambda: self.stop(wait=False),
        ).run()

    async def _start_unless_stopped(self) -> None:
        with contextlib.suppress(StoppedWhileStartingError):
            await self.start()


def _tell_of_failure(ending: asyncio.Task[None]) -> None:
    """Say what a stop failed with, for which nobody waits."""
    if not ending.cancelled() and (error := ending.exception()) is not None:
        logger.error("app stopped, and a part of that failed error=%r", error, exc_info=error)


def _check_timeout(name: str, seconds: float | None) -> None:
    if seconds is not None:
        SECONDS.check(name, seconds)


def _new_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{new_task_id()[:8]}"


async def _call_hook(hook: Hook) -> None:
    outcome = hook()
    if inspect.isawaitable(outcome):
        await outcome


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
