"""A value for each event loop, such as a client: its connections belong to the loop that they were made on."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class PerLoop(Generic[Value]):
    """Values by event loop. Each is made when it is asked for first, and goes with its loop.

    Args:
        make: Makes one.
        close: Closes one when its loop ends, or :meth:`close` is called there; None if there is nothing to close.
    """

    def __init__(self, make: Callable[[], Value], close: Callable[[Value], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._close = close
        self._values: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Value] = weakref.WeakKeyDictionary()
        self._closers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = (
            weakref.WeakKeyDictionary()
        )

    def __len__(self) -> int:
        return len(self._values)

    def get(self) -> Value:
        """The running loop's value."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            value = self._values[loop] = self._make()
            if self._close is not None:
                self._closers[loop] = closer = self._close_with_loop(loop, value, self._close)
                with contextlib.suppress(StopIteration):
                    # Begun, so that the loop knows it: a loop closes all its generators before it ends.
                    anext(closer).send(None)
        return value

    def pop(self) -> Value | None:
        """Forget the running loop's value, unclosed; None if there is none."""
        self._closers.pop(asyncio.get_running_loop(), None)
        return self._values.pop(asyncio.get_running_loop(), None)

    async def close(self) -> None:
        """Close the running loop's value, if there is one; the next is made when it is asked for."""
        closer = self._closers.pop(asyncio.get_running_loop(), None)
        if closer is not None:
            await closer.aclose()

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, value: Value, close: Callable[[Value], Awaitable[None]]
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._values.get(loop) is value:
                del self._values[loop]
            await close(value)
