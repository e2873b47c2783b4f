"""Where a scheduler submits its runs to: an app, executors, or a callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flowrra.brokers.base import LeasingBroker
from flowrra.executors.base import BaseTaskExecutor
from flowrra.rebuilding import rebuilt_call
from flowrra.registry import TaskRegistry
from flowrra.scheduler.models import Run
from flowrra.submission import SubmitOptions
from flowrra.task import TaskResult

# Seconds: less than a claim lasts, so that nobody else submits meanwhile.
SUBMIT_TIMEOUT = 20.0
# Seconds that a broker has to tell the time.
CLOCK_TIMEOUT = 0.5
# Seconds for which a broker remembers a run's id beyond the time until which its submission is tried, and at the most.
REMEMBER_MORE = 60.0
LONGEST_MEMORY = 7 * 24 * 3600.0

Submit = Callable[..., Awaitable[Any]]
SubmitRun = Callable[[str, tuple[Any, ...], dict[str, Any], SubmitOptions], Awaitable[str]]
GetResult = Callable[[str], Awaitable[TaskResult | None]]
Executors = Callable[[], Mapping[str, BaseTaskExecutor]]


class Target:
    """Where runs are submitted to.

    Args:
        registry: The tasks.
        executors: Returns what there is, by kind.

    Attributes:
        callback: Takes precedence over all else: ``await callback(task_func, *args, **kwargs)``.
    """

    def __init__(self, registry: TaskRegistry, executors: Executors) -> None:
        self.callback: Submit | None = None
        self._registry = registry
        self._executors = executors
        self._submit_run: SubmitRun | None = None
        self._get_result: GetResult | None = None

    def use_app(self, submit: SubmitRun, get_result: GetResult, executors: Executors) -> None:
        """Submit to an app."""
        self._submit_run, self._get_result, self._executors = submit, get_result, executors

    @property
    def is_there(self) -> bool:
        """Whether there is anything to submit to."""
        return bool(self.callback or self._submit_run or self._executors())

    def is_in_memory(self, task_name: str) -> bool:
        """Whether a task waits in the memory of this process, in a queue that may be full for any time."""
        executor = self._find_executor(task_name)
        return self.callback is None and executor is not None and executor.broker is None

    async def clock(self) -> float | None:
        """The time of the broker's clock, in seconds since 1970; None without a broker that can tell it."""
        for executor in self._executors().values():
            if isinstance(executor.broker, LeasingBroker):
                async with asyncio.timeout(CLOCK_TIMEOUT):
                    return await executor.broker.clock()
        return None

    async def submit(self, run: Run, now: int, timeout: float | None) -> None:
        """Submit a run, at most so many seconds long.

        Raises:
            TimeoutError: It took longer.
            Exception: What the submission raised.
        """
        try:
            async with asyncio.timeout(timeout) as limit:
                await self._submit(run, now)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"its submission did not end within {timeout:g} s") from error
            raise
        except SystemExit as error:  # of a callback or a broker: out of an asyncio task it would end the program
            raise RuntimeError(f"its submission raised {error!r}") from error

    async def _submit(self, run: Run, now: int) -> None:
        task = run.schedule
        options = SubmitOptions(
            priority=-task.priority,
            task_id=run.id,
            max_retries=task.max_retries,
            retry_delay=task.retry_delay,
            # Whoever submits it again, as its row in the store doesn't say yet that it was, finds it known.
            remember=min(max(0.0, (run.until - now) / 1e6) + REMEMBER_MORE, LONGEST_MEMORY),
        )
        function = self._registry.get(task.task_name)
        args, kwargs = (task.args, task.kwargs) if function is None else rebuilt_call(function, task.args, task.kwargs)
        if self.callback is not None:
            await self.callback(self._registry.get_or_raise(task.task_name), *args, **kwargs)
        elif self._submit_run is not None:
            await self._submit_run(task.task_name, args, kwargs, options)
        else:
            definition = self._registry.definition(task.task_name)
            await self._executor(task.task_name).submit_once(definition, args, kwargs, options)

    async def is_unfinished(self, task_name: str, task_id: str) -> bool:
        """Whether anything is still to come of a task, as far as this process can know."""
        executor = self._find_executor(task_name)
        if executor is not None and isinstance(executor.broker, LeasingBroker):
            # A record may say "running" for ever, a lease can't.
            return await executor.broker.has(task_id, self._registry.definition(task_name).queue)
        if self._get_result is not None:
            record = await self._get_result(task_id)
        else:
            record = await self._executor(task_name).get_result(task_id)
        return record is not None and not record.is_complete

    def _executor(self, task_name: str) -> BaseTaskExecutor:
        executor = self._find_executor(task_name)
        if executor is None:
            raise ValueError(f"The scheduler has no executor for task '{task_name}'")
        return executor

    def _find_executor(self, task_name: str) -> BaseTaskExecutor | None:
        return self._executors().get("cpu" if self._registry.definition(task_name).cpu_bound else "io")
