"""Runs an app on an event loop of its own in a thread, for programs that have none: WSGI web servers, scripts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from flowrra import own_loop
from flowrra.forks import detach_loop

Result = TypeVar("Result")

# Seconds after which a wait begins anew. A signal that another thread gets, or that comes just as a wait begins, does
# not end the wait: Python calls its handler, which is that of Ctrl-C, when the wait is over.
SIGNALS_SEEN_WITHIN = 0.5


def result_of(future: Future[Result]) -> Result:
    """What a call on a loop returns, or raises. Signals are handled meanwhile."""
    while True:
        try:
            return future.result(SIGNALS_SEEN_WITHIN)
        except TimeoutError:
            if future.done():
                return future.result()


class AppThread:
    """An event loop in a daemon thread, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="flowrra-app", daemon=True)
        self._calls: set[asyncio.Task[Any]] = set()
        self._ending = threading.Lock()
        self._ends = False

    def _run(self) -> None:
        own_loop.run(self._until_stopped(), self._loop)

    async def _until_stopped(self) -> None:
        self._stopped = asyncio.Event()
        self._started.set()
        await self._stopped.wait()
        while self._calls:
            await asyncio.wait(self._calls)

    def start(self) -> None:
        """Start the thread, and return when its loop turns."""
        self._started = threading.Event()
        self._thread.start()
        self._started.wait()

    @property
    def is_current(self) -> bool:
        """Whether this is called in the thread, whose loop must not be blocked."""
        return threading.current_thread() is self._thread

    def call(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry out a coroutine on the loop, and return when it is done; raises what it raises. Where the loop is being
        ended, only return when it is. If the wait is interrupted, as by Ctrl-C, the coroutine is cancelled."""
        with self._ending:
            # Before the end, which waits for it then.
            future = None if self._ends else asyncio.run_coroutine_threadsafe(self._carry_out(call), self._loop)
        if future is None:
            self._join()
            return
        try:
            result_of(future)
        except BaseException:
            future.cancel()
            raise

    async def _carry_out(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._calls.add(task)
        try:
            await call()
        finally:
            self._calls.discard(task)

    def forked(self) -> None:
        """In a forked child: leave the loop to the parent."""
        detach_loop(self._loop, with_connections=True)

    def stop(self) -> None:
        """End the loop and the thread, once all calls are done."""
        with self._ending:
            if not self._ends:
                self._ends = True
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._join()

    def _join(self) -> None:
        while self._thread.is_alive():
            self._thread.join(SIGNALS_SEEN_WITHIN)
