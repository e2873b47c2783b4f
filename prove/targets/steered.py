"""An app under a load that is told on standard input, one command a line.

steady RATE     so many tasks a second, each waits for 5 ms
saturate        as many tasks as the loop can do; they do nothing
rest            no more tasks
fail, pass      its component `shop` is unhealthy, or healthy again
count NUMBER    prints how many tasks have run, when, and the processor time of the process
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from itertools import cycle
from typing import Any

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager

NAMES = 20
BATCH = 200
TICK = 0.01
TASK_SECONDS = 0.005

app = Flowrra(Config(backend=InMemoryBackend(max_results=1_000), executor=ExecutorConfig(io_workers=32)))
ran = 0


def register(number: int) -> tuple[Any, Any]:
    """A task that waits, and one that doesn't."""

    @app.task(name=f"shop.tasks.wait_{number}")
    async def wait() -> None:
        global ran
        await asyncio.sleep(TASK_SECONDS)
        ran += 1

    @app.task(name=f"shop.tasks.pass_{number}")
    async def go_by() -> None:
        global ran
        ran += 1

    return wait, go_by


waiting, passing = zip(*(register(number) for number in range(NAMES // 2)), strict=True)


class Shop(FlowrraManager):
    """The app's manager, with a component that fails when told so."""

    healthy = True

    async def start(self) -> None:
        await self.app.start()
        loop = asyncio.get_running_loop()
        threading.Thread(target=listen, args=(loop, self), daemon=True).start()

    async def stop(self) -> None:
        load.rest()
        await self.app.stop()

    async def health_check(self) -> dict[str, Any]:
        health = await super().health_check()
        health["components"]["shop"] = {"healthy": self.healthy, "message": "open" if self.healthy else "closed"}
        health["healthy"] = health["healthy"] and self.healthy
        return health


class Load:
    """The load at the moment: an asyncio task, or none. Its methods belong to the app's loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def rest(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def steady(self, rate: float) -> None:
        self.rest()
        self._task = asyncio.create_task(_steady(rate))

    def saturate(self) -> None:
        self.rest()
        self._task = asyncio.create_task(_saturate())


async def _steady(rate: float) -> None:
    functions, started, submitted = cycle(waiting), time.monotonic(), 0
    while True:
        while submitted < (time.monotonic() - started) * rate:
            await app.submit(next(functions))
            submitted += 1
        await asyncio.sleep(TICK)


async def _saturate() -> None:
    functions = cycle(passing)
    while True:
        ids = [await app.submit(next(functions)) for _ in range(BATCH)]
        for task_id in ids:
            await app.wait_for_result(task_id)


load = Load()
manager = Shop(app)


def obey(loop: asyncio.AbstractEventLoop, shop: Shop, command: str, *arguments: str) -> None:
    if command == "count":
        print(f"count {arguments[0]}: {ran} tasks {time.monotonic()} s {time.process_time()} s processor", flush=True)
    elif command in ("fail", "pass"):
        shop.healthy = command == "pass"
    elif command == "steady":
        loop.call_soon_threadsafe(load.steady, float(arguments[0]))
    else:
        loop.call_soon_threadsafe({"saturate": load.saturate, "rest": load.rest}[command])


def listen(loop: asyncio.AbstractEventLoop, shop: Shop) -> None:
    for line in sys.stdin:
        obey(loop, shop, *line.split())
