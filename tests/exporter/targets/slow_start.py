"""Apps whose start never ends: one waits, the other blocks the event loop."""

import asyncio
import time

from plain import Duck


class Waits(Duck):
    async def start(self) -> None:
        print("starting", flush=True)
        await asyncio.Event().wait()

    async def stop(self) -> None:
        print("stopped", flush=True)


class Blocks(Duck):
    async def start(self) -> None:
        print("starting", flush=True)
        time.sleep(600)


waits = Waits()
blocks = Blocks()
