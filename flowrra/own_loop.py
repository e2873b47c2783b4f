"""Runs an app on an event loop of its own, whose end is not held up by what won't end."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

# Seconds that what is left on a loop has for its end, once it is cancelled.
GRACE: Final = 5.0

# What has not ended in that time, and is not waited for again.
_left: Final[weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakSet()


def run(main: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None = None) -> None:
    """As ``asyncio.run``, but that it returns although a task goes on when it is cancelled.

    Args:
        main: What is run.
        loop: Where it is run, and which is closed then; a new one if None.
    """
    loop = asyncio.new_event_loop() if loop is None else loop
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(end_others())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def end_others(hurry: asyncio.Future[Any] | None = None) -> None:
    """Cancel all other tasks of the running loop, and return when they have ended, or had the time for it.

    Args:
        hurry: Once it is done, nothing is waited for any more.
    """
    others = asyncio.all_tasks() - {asyncio.current_task(), hurry} - set(_left)
    for task in others:
        task.cancel()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GRACE
    while others and (left := deadline - loop.time()) > 0 and not (hurry is not None and hurry.done()):
        waiting = others if hurry is None else others | {hurry}
        await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        others = {task for task in others if not task.done()}
    if others:
        names = ", ".join(sorted(task.get_name() for task in others))
        logger.error("asyncio tasks go on though they were cancelled, left to themselves: %s", names)
    for task in others:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it has been said
        _left.add(task)
