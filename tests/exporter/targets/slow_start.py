"""Apps whose start never ends: one waits, one waits on though it is cancelled, one blocks the event loop."""

import asyncio
import contextlib
import time

from plain import Duck


class Waits(Duck):
    async def start(self) -> None:
        print("starting", flush=True)
        await asyncio.Event().wait()

    async def stop(self) -> None:
        print("stopped", flush=True)


class Insists(Duck):
    async def start(self) -> None:
        print("starting", flush=True)
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class Blocks(Duck):
    async def start(self) -> None:
        print("starting", flush=True)
        time.sleep(600)


waits = Waits()
insists = Insists()
blocks = Blocks()
