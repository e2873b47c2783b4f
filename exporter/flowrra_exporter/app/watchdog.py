"""Watches the app's event loop from the server's: sends the heartbeats, and logs a stall that the app doesn't."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from flowrra_exporter.app.lifecycle import Lifecycle, Phase
from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management
from flowrra_exporter.app.stall import Stall, current_stall, read_runtime_stats

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
# By then flowrra's own monitor has noticed a stall of its loop, and logs it when it lasts for a second.
_REPORT_SECONDS = 1.5
_WATCHED = (Phase.RUNNING, Phase.DRAINING)


class Watchdog:
    """Ticks the heartbeat, and says whether the loop has been blocked past the threshold.

    A start that takes its time isn't judged here: that's what the startup probe is for.

    Args:
        app_loop: Returns the loop to watch, None before there is one.
        management: Returns the Management API, None before there is an app.
        lifecycle: Where the app stands.
        threshold: From how many seconds on a stall counts.
    """

    def __init__(
        self,
        app_loop: Callable[[], AppLoop | None],
        management: Callable[[], Management | None],
        lifecycle: Lifecycle,
        threshold: float,
    ) -> None:
        self._app_loop = app_loop
        self._management = management
        self._lifecycle = lifecycle
        self._threshold = threshold
        self._stall: Stall | None = None
        self._app_reports_it = False

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
        """Logs a stall once when it begins and once when it ends, unless the app's own monitor does."""
        seconds = self.blocked_for
        if seconds is None or seconds < _REPORT_SECONDS:
            self._end()
        elif self._stall is None:
            self._begin(loop)
        else:
            self._stall = self._stall._replace(seconds=seconds)

    def _begin(self, loop: AppLoop) -> None:
        runtime = read_runtime_stats(self._management())
        self._stall = current_stall(loop, runtime)
        self._app_reports_it = runtime.get("blocking") is not None
        if not self._app_reports_it:
            logger.warning("event loop blocked for %.1f s: %s", self._stall.seconds, self._stall.culprit)

    def _end(self) -> None:
        if self._stall is not None and not self._app_reports_it:
            logger.info("event loop turns again; blocked for %.1f s: %s", self._stall.seconds, self._stall.culprit)
        self._stall = None
