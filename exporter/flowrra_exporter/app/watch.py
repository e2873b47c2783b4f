"""Events of the app, brought from its loop to the server's: bounded, and whoever is too slow loses the oldest."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from flowrra_exporter.app.loop import AppLoop

logger = logging.getLogger(__name__)

# Events that wait for a reader.
MOST_WAITING = 1000
# A watch takes events for so long, and then lets them gather for so long: else each change of a task wakes each watch,
# on the loop that the tasks need, and whoever watches slows them down.
_TURN_SECONDS, _REST_SECONDS = 0.02, 0.2

Event = Mapping[str, Any]


class Mailbox:
    """Events that wait for one reader on the server's loop.

    Attributes:
        interrupted: The reader is told to go.
        ended: Nothing more will come.
        error: Why it ended, None if that's no failure.
    """

    def __init__(self) -> None:
        self._server_loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.interrupted = False
        self._lock = threading.Lock()
        # What both threads may use, under the lock.
        self._waiting: deque[Event] = deque()
        self._missed: Event | None = None
        self._told = False
        # What is set once, by who puts the events in.
        self.ended = False
        self.error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will come."""
        self.ended, self.error = True, error
        self._tell()

    def interrupt(self) -> None:
        """Tells the reader to go: it waits no more, and sees ``interrupted``."""
        self.interrupted = True
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Returns once there is something to be taken, it has ended or was interrupted, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def take(self) -> list[Event]:
        """What has come since, in order; first of all, how much of it was lost."""
        with self._lock:
            events = [*(() if self._missed is None else (self._missed,)), *self._waiting]
            self._waiting.clear()
            self._missed, self._told = None, False
            self._news.clear()
        return events

    def put(self, event: Event) -> None:
        """Keeps an event for the reader, at the cost of the oldest."""
        with self._lock:
            self._waiting.append(event)
            if len(self._waiting) > MOST_WAITING:
                self._missed = _lost(self._missed, self._waiting.popleft())
            tell, self._told = not self._told, True
        if tell:
            self._tell()

    def _tell(self) -> None:
        try:
            self._server_loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            logger.debug("the server has stopped; nobody watches any more")


class Watch(Mailbox):
    """Watches from ``open`` to ``close``, which belong to the server's loop, as ``take`` and ``wait`` do.

    Args:
        app_loop: The app's loop.
        watch: Begins to watch, on that loop.
    """

    def __init__(self, app_loop: AppLoop, watch: Callable[[], AsyncGenerator[Event, None]]) -> None:
        super().__init__()
        self._app_loop = app_loop
        self._watch = watch
        # What the app's thread alone uses.
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Begins, as soon as the app's loop turns."""
        self._app_loop.run_soon(self._begin)

    def close(self) -> None:
        """Ends, as soon as the app's loop turns."""
        self._app_loop.run_soon(self._end)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: it has ended, or the app's loop has."""
        return self.ended or self._app_loop.ended

    # On the app's loop:

    def _begin(self) -> None:
        if not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="flowrra-exporter:watch")

    def _end(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        error = None
        try:
            async with aclosing(self._watch()) as events:
                began_at = time.monotonic()
                async for event in events:
                    self.put(event)
                    if time.monotonic() - began_at >= _TURN_SECONDS:
                        await asyncio.sleep(_REST_SECONDS)
                        began_at = time.monotonic()
        except Exception as raised:  # noqa: BLE001 - the reader says it
            error = raised
        finally:
            self.end(error)


def _lost(before: Event | None, event: Event) -> Event:
    """That one more event was lost; None of them if nobody knows how many."""
    missed = 0 if before is None else before["missed"]
    more = 1 if event.get("type") != "missed" else event.get("missed")
    total = None if missed is None or more is None else missed + more
    return {"id": event.get("id"), "type": "missed", "task": None, "missed": total}
