"""Runs an app on an event loop of its own in a thread, for programs that have none: WSGI web servers, scripts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from flowrra.forks import detach_loop


class AppThread:
    """An event loop in a daemon thread, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="flowrra-app", daemon=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._stopped = asyncio.Event()
        self._started.set()
        await self._stopped.wait()

    def start(self) -> None:
        """Start the thread, and return when its loop turns."""
        self._started = threading.Event()
        self._thread.start()
        self._started.wait()

    def call(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry out a coroutine on the loop, and return when it is done. Raises what it raises."""
        asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def forked(self) -> None:
        """In a forked child: leave the loop to the parent."""
        detach_loop(self._loop, with_connections=True)

    def stop(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
