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
# What waits for threads. It is kept, also once nobody waits for it: where it is let go, it waits for them after all.
_waiting_for_threads: Final[set[asyncio.Task[None]]] = set()


def run(main: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None = None) -> None:
    """As ``asyncio.run``, but that it returns although a task goes on when it is cancelled, or a thread of the loop's
    pool (``asyncio.to_thread``), which nothing can end.

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
            loop.run_until_complete(end_threads())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def end_threads() -> None:
    """End the pool of threads of the running loop, and return when they have ended, or had the time for it. What they
    do may need the loop."""
    ending = asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor())
    ending._log_destroy_pending = False  # type: ignore[attr-defined]  # it is said below
    _waiting_for_threads.add(ending)
    ending.add_done_callback(_waiting_for_threads.discard)
    await asyncio.wait({ending}, timeout=GRACE)
    if ending.done():
        ending.result()
    else:
        logger.error("threads of the event loop's pool go on, left to themselves: the process can't end before they do")


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
