"""Runs an app until a signal ends it: what ``app.run()`` does on its event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, Final

from flowrra import own_loop

logger = logging.getLogger(__name__)

# The first one stops the app, the second one hurries that; then it can only be stuck.
MOST_SIGNALS: Final = 3
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Runner:
    """One run of an app, from its start to its stop.

    Args:
        start: Starts the app; cancelled, it cleans up what it has started.
        is_started: Whether the app has started. Its start may yet have a line to log; a signal stops it then, as later.
        until_stopped: Returns when somebody has stopped it.
        stop: Stops it, and waits for its tasks.
        stop_now: Stops it, and waits for nothing.
    """

    def __init__(
        self,
        start: Callable[[], Coroutine[Any, Any, None]],
        is_started: Callable[[], bool],
        until_stopped: Callable[[], Coroutine[Any, Any, object]],
        stop: Callable[[], Coroutine[Any, Any, None]],
        stop_now: Callable[[], Awaitable[None]],
    ) -> None:
        self._start = start
        self._is_started = is_started
        self._until_stopped = until_stopped
        self._stop = stop
        self._stop_now = stop_now
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._has_signal = False
        self._count = 0

    async def run(self) -> None:
        """Run it on the running event loop, until a signal or a stop. Without signals in any but the main thread."""
        self._loop = asyncio.get_running_loop()
        self._starting = self._loop.create_task(self._start(), name="flowrra-start")
        in_main_thread = threading.current_thread() is threading.main_thread()
        # Not the loop's own handlers: those are called by a loop that turns, and it may be blocked when a signal comes.
        previous = {number: signal.signal(number, self._handle) for number in SIGNALS} if in_main_thread else {}
        try:
            if await self._has_started():
                await self._serve()
            await self._end_rest()
        finally:
            for number, handler in previous.items():
                # There is none if it was not set from Python: that one can't be set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    async def _end_rest(self) -> None:
        """End what is left on the loop; a signal that comes from now on ends the waiting for it."""
        while not self._signals.empty():
            self._signals.get_nowait()
        hurry = asyncio.create_task(self._signals.get())
        await own_loop.end_others(hurry)
        hurry.cancel()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == MOST_SIGNALS or (self._has_signal and not self._has_ended_start()):
            # Whatever its stop is stuck in; or its start: no task has begun yet, and none is lost.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._has_signal = True
        # A start that may block the loop just now can't be cancelled by it.
        is_blocking = asyncio.current_task(self._loop) is self._starting and not self._is_started()
        self._loop.call_soon_threadsafe(self._take, signal.Signals(number), is_blocking)
        if is_blocking:
            raise asyncio.CancelledError

    def _take(self, number: signal.Signals, is_cancelled: bool) -> None:
        self._signals.put_nowait(number)
        if not self._has_ended_start() or self._starting.cancelled():
            logger.warning("%s while the app starts: its start is cancelled", number.name)
            if not is_cancelled:  # what cleans up after it by now is not to be cancelled, too
                self._starting.cancel()

    def _has_ended_start(self) -> bool:
        return self._starting.done() or self._is_started()

    async def _has_started(self) -> bool:
        await asyncio.wait({self._starting})
        if self._starting.cancelled() and self._has_signal:
            return False
        await self._starting
        return self._is_started()

    async def _serve(self) -> None:
        asked = asyncio.create_task(self._signals.get())
        stopped = asyncio.create_task(self._until_stopped())
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        stopped.cancel()
        if not stopped.done():
            await self._stop_by_signal()

    async def _stop_by_signal(self) -> None:
        stopping = asyncio.create_task(self._stop())
        hurry = asyncio.create_task(self._signals.get())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await self._stop_now()
        hurry.cancel()
        await stopping
