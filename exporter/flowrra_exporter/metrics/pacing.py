"""Cuts long work into slices: a scrape may hold the interpreter lock for a millisecond at a time, not longer."""

from __future__ import annotations

import asyncio
import time

SLICE_SECONDS = 0.0008


async def yield_gil() -> None:
    """Gives the lock to another thread, and this thread's loop a turn."""
    time.sleep(0)  # noqa: ASYNC251 - releases the interpreter lock; waits for nothing
    await asyncio.sleep(0)


class ThreadPacer:
    """The same in a thread without a loop. Call it between small pieces of work."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    def __call__(self) -> None:
        if time.perf_counter() >= self._until:
            time.sleep(0)
            self._until = time.perf_counter() + SLICE_SECONDS


class Pacer:
    """Rests whenever a slice is used up. Call ``pause_if_due`` between small pieces of work."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def pause_if_due(self) -> None:
        if time.perf_counter() >= self._until:
            await yield_gil()
            self._until = time.perf_counter() + SLICE_SECONDS
