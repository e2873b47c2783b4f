"""`python -m prove.targets.noting URL FOLDER MIN_REPLICAS`: a worker process that can be killed. Each run of a
task is a line in a file of that folder before it goes on, so that it is known whatever happens to the process or the
server afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

SLOTS = 16


def make_app(url: str, folder: Path, min_replicas: int = 0, *, consume: bool = True) -> Flowrra:
    """An app with everything as it is by default. ``note`` writes down that it runs and takes as long as it is told;
    ``answer`` only answers."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url, min_replicas=min_replicas),
            backend=BackendConfig(url=url),
            executor=ExecutorConfig(io_workers=SLOTS, cpu_workers=1, consume=consume),
        )
    )
    notes = os.open(folder / f"{os.getpid()}.runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @app.task(name="note")
    async def note(number: int, seconds: float) -> int:
        os.write(notes, f"{number} {time.time()}\n".encode())
        await asyncio.sleep(seconds)
        return number

    @app.task(name="answer")
    async def answer(number: int) -> int:
        return number

    return app


async def work(url: str, folder: Path, min_replicas: int) -> None:
    async with make_app(url, folder, min_replicas):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
