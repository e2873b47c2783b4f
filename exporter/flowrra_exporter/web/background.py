"""Work that goes on beside the server: it may fail, but it neither ends the server nor stops for good."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from flowrra_exporter.logs import ThrottledWarning

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# Work that went on for so long has got over what made it fail before.
_SOUND_SECONDS = 60.0


class Background:
    """Keeps work going that goes on until it's cancelled.

    Args:
        name: What the log calls it.
        label: What metrics call it.
        work: A coroutine function.

    Attributes:
        errors: How often it has failed.
    """

    def __init__(self, name: str, label: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self.label = label
        self.errors = 0
        self._work = work
        self._failed_again = ThrottledWarning(logger, f"{name} failed %d times more, and is tried again each time")

    async def run(self) -> None:
        """Does the work until it's cancelled. When it fails, it's logged and counted, and begun again after a while."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                await self._work()
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                self._report("was cancelled, which nobody had asked for")
            except Exception as error:  # noqa: BLE001 - logged, with its traceback
                self._report(f"failed with {type(error).__name__}", error)
            if time.monotonic() - began > _SOUND_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _report(self, what: str, error: Exception | None = None) -> None:
        self.errors += 1
        if self.errors == 1:
            logger.error("%s %s, and is tried again", self.name, what, exc_info=error)
        else:
            self._failed_again.warn()


def _is_cancelled() -> bool:
    """Whether it's us who are to end, and not something that we wait for which has been ended."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
