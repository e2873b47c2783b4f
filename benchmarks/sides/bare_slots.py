"""Slots that never wait for a task, on a bare event loop: what asyncio itself leaves of slots / duration, as it wakes
those that sleep up to a millisecond late.

    bare_slots.py SLOTS MILLISECONDS TASKS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time


async def drain(slots: int, seconds: float, tasks: int) -> float:
    """Tasks a second of so many slots, each of which begins the next one as its last one ends."""
    left = iter(range(tasks))

    async def work() -> None:
        for _ in left:
            await asyncio.sleep(seconds)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(slots)))
    return tasks / (time.perf_counter() - started)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    print(json.dumps({"drain": asyncio.run(drain(given[0], given[1] / 1000, given[2]))}))
