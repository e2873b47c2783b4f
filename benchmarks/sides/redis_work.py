"""What the engines of redis_engine.py share: the task that they run, and how their steps are timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# A second task isn't submitted in the moment in which the first one's worker still acknowledges it.
PAUSE = 0.002
# Where each task takes a tenth of a second, fewer of them say as much.
LATENCY_TIME = 8.0

Spent = dict[str, float]


def stopwatch() -> Callable[[], Spent]:
    """Starts now. What it returns tells the seconds since then, and the processor seconds of this process."""
    started, before = time.perf_counter(), time.process_time()
    return lambda: {"seconds": time.perf_counter() - started, "cpu": time.process_time() - before}


class Work:
    """The task of all engines: waits, if it is to wait, and notes its number.

    Args:
        count: How many tasks there are; their numbers begin with 0.
        seconds: What each waits.
    """

    def __init__(self, count: int = 0, seconds: float = 0.0) -> None:
        self._left = set(range(count))
        self._count = count
        self._seconds = seconds
        self._runs = 0
        self._all_ran = asyncio.Event()

    async def run(self, number: int) -> int:
        """The task."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        self._runs += 1
        self._left.discard(number)
        if not self._left:
            self._all_ran.set()
        return number

    async def all_ran(self) -> None:
        """Wait until each number has been there.

        Raises:
            RuntimeError: Some ran more than once: that is other work than the other engines'.
        """
        await self._all_ran.wait()
        if self._runs != self._count:
            raise RuntimeError(f"{self._count} tasks ran {self._runs} times")


async def until(is_reached: Callable[[], Awaitable[bool]], every: float = 0.001) -> None:
    """Wait for what can only be looked for, every so many seconds."""
    while not await is_reached():
        await asyncio.sleep(every)


async def seconds_of_each(count: int, round_trip: Callable[[int], Awaitable[None]]) -> list[float]:
    """One round trip after the other, with pauses; the first one connects and is left out.

    Args:
        count: How many, or fewer if they take long.
        round_trip: Submits the task of that number and waits for its result.
    """
    seconds: list[float] = []
    over = time.perf_counter() + LATENCY_TIME
    for number in range(count + 1):
        started = time.perf_counter()
        await round_trip(number)
        seconds.append(time.perf_counter() - started)
        if time.perf_counter() > over:
            break
        await asyncio.sleep(PAUSE)
    return seconds[1:]
