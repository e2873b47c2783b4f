"""Watches the app's event loop from the server's: sends the heartbeats, and logs when the loop blocks."""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
import threading
from collections.abc import Callable

from flowrra_exporter.app_loop import AppLoop
from flowrra_exporter.lifecycle import Lifecycle, Phase

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_WATCHED = (Phase.RUNNING, Phase.DRAINING)


def where(thread: threading.Thread) -> str:
    """The line of code that a thread is at, as ``file:line in function: source``; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}: {source}"


class Watchdog:
    """Ticks the heartbeat, and says whether the loop has been blocked past the threshold.

    `app_loop` returns the loop to watch, None before there is one; `threshold` is in seconds. A start that
    takes its time isn't judged here: that's what the startup probe is for.
    """

    def __init__(self, app_loop: Callable[[], AppLoop | None], lifecycle: Lifecycle, threshold: float) -> None:
        self._app_loop = app_loop
        self._lifecycle = lifecycle
        self._threshold = threshold
        self._blocked = False
        self._longest = 0.0

    @property
    def blocked_for(self) -> float | None:
        """For how many seconds the loop has been blocked, if that is past the threshold; else None."""
        loop = self._app_loop()
        if loop is None or self._lifecycle.status.phase not in _WATCHED:
            return None
        return loop.silence if loop.silence >= self._threshold else None

    async def run(self) -> None:
        """Ticks until it's cancelled."""
        while True:
            loop = self._app_loop()
            if loop is not None and not loop.ended:
                loop.tick()
                self._report(loop)
            await asyncio.sleep(_TICK_SECONDS)

    def _report(self, loop: AppLoop) -> None:
        blocked_for = self.blocked_for
        if blocked_for is not None:
            self._longest = blocked_for
            if not self._blocked:
                self._blocked = True
                logger.warning("event loop blocked for %.1f s, at %s", blocked_for, where(loop.thread))
        elif self._blocked:
            self._blocked = False
            logger.warning("event loop answers again; it was blocked for %.1f s", self._longest)
