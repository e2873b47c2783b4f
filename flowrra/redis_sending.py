"""Connections to Redis whose sending can be cancelled."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any


@cache
def cancellable(connection_class: Any) -> Any:
    """A class of redis-py's connections on an event loop, whose sending never loses a cancellation.

    redis-py limits the time of sending by ``asyncio.wait_for``. Before Python 3.12 that loses a cancellation which
    comes as it ends (https://github.com/python/cpython/issues/86296), and who listens would listen on for ever.
    """
    if sys.version_info >= (3, 12):
        return connection_class

    class Cancellable(connection_class):  # type: ignore[misc]  # it is a class
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - it is awaited
            before = task.cancelling()
            await super().send_packed_command(command, check_health)
            if task.cancelling() > before:
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    Cancellable.__name__ = connection_class.__name__
    return Cancellable
