"""The start of an app while it is under way, which a stop may come into from any task."""

from __future__ import annotations

import asyncio
import contextlib


class StoppedWhileStartingError(RuntimeError):
    """The app does not run, as somebody called ``stop()``."""

    def __init__(self) -> None:
        super().__init__("The app was stopped while it started")


class Starting:
    """A start of an app that is under way in the current asyncio task.

    Attributes:
        task: That task.
        is_over: Set when it is over, and what it had started is stopped again if it has failed.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start() is a coroutine
        self.task = task
        self.is_over = asyncio.Event()
        self._is_stopped = False

    async def stop(self, *, waits: bool) -> None:
        """Cancel it, and return when it is over, unless nobody waits for that."""
        if not self._is_stopped:
            self._is_stopped = True
            self.task.cancel()
        if waits:
            await self.is_over.wait()

    async def wait(self) -> None:
        """Return when it is over.

        Raises:
            StoppedWhileStartingError: Somebody has stopped it.
        """
        await self.is_over.wait()
        if self._is_stopped:
            raise StoppedWhileStartingError

    async def take_cancellation(self) -> None:
        """In its task: let the cancellation by :meth:`stop` arrive, if it has not, and take it back."""
        if self._is_stopped:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            self.task.uncancel()

    @property
    def is_only_stopped(self) -> bool:
        """Whether nothing but :meth:`stop` has cancelled it."""
        return self._is_stopped and not self.task.cancelling()
