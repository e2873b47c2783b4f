"""Asyncio tasks beside the user's: each in a context of its own, replaced when it dies, and ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

# Seconds after which what is to end is cancelled again.
CANCEL_REPEAT = 0.05


def spawn(coroutine: Coroutine[Any, Any, Value], name: str | None = None) -> asyncio.Task[Value]:
    """Run a coroutine on the running event loop, in an empty context: it is no part of the task that calls this."""
    return asyncio.get_running_loop().create_task(coroutine, name=name, context=contextvars.Context())


async def see_through(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end, and return what it returns, whatever cancels the calling task meanwhile."""
    task = spawn(coroutine)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    return task.result()


def is_for_caller(error: BaseException) -> bool:
    """Whether what awaited user code has raised is for whoever awaits that, and no failure of the user code: Ctrl-C,
    the end of the event loop, and the cancellation of the current asyncio task. A CancelledError without that is user
    code's own, and a SystemExit would end the program."""
    if issubclass(type(error), asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return issubclass(type(error), KeyboardInterrupt | GeneratorExit)


async def cancel_until_ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: a driver may lose a cancellation that comes while it connects. Whoever is
    cancelled while it waits for that waits no more, and they are cancelled all the same."""
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait({spawn(_cancel_again(left))})


async def _cancel_again(left: set[asyncio.Task[Any]]) -> None:
    while left:
        _, left = await asyncio.wait(left, timeout=CANCEL_REPEAT)
        for task in left:
            task.cancel()


class Supervised:
    """An asyncio task that goes on until it is stopped, and is replaced when it dies.

    Args:
        work: Makes what is run.
        name: Of the asyncio task.
        delay: Seconds before it is replaced. A loop that cancels everything because it is about to close is closed by
            then.
        on_death: Called with what it died of; None is a cancellation, or its end.
    """

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        name: str,
        delay: float,
        on_death: Callable[[BaseException | None], None],
    ) -> None:
        self._work = work
        self._name = name
        self._delay = delay
        self._on_death = on_death
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False

    def start(self) -> None:
        """Begin on the running event loop."""
        self._is_wanted = True
        self._begin()

    def _begin(self) -> None:
        if self._is_wanted:
            self._task = spawn(self._run(), self._name)
            self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        try:
            await self._work()
        except SystemExit as error:  # of user code: out of an asyncio task it would end the program
            raise RuntimeError(f"it raised {error!r}") from error

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task is self._task and self._is_wanted and not task.get_loop().is_closed():
            self._on_death(error)
            task.get_loop().call_later(self._delay, self._begin, context=contextvars.Context())
        elif error is not None:
            logger.warning("%s died as it was stopped error=%r", self._name, error)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled, though it is wanted, and is not replaced yet."""
        return self._is_wanted and self._task is not None and self._task.cancelling() > 0

    def release(self) -> asyncio.Task[None] | None:
        """Replace it no more. Returns what runs, if anything does: it is the caller's to end."""
        self._is_wanted = False
        task, self._task = self._task, None
        return task

    async def stop(self) -> None:
        """End it."""
        task = self.release()
        if task is not None:
            await cancel_until_ended(task)
