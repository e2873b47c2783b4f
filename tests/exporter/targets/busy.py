"""An app in memory that has more to do than its one slot does in time: submitted as it starts."""

from __future__ import annotations

import asyncio
import os

from flowrra import Config, ExecutorConfig, Flowrra

app = Flowrra(Config(executor=ExecutorConfig(io_workers=1)))


@app.task()
async def hold() -> None:
    """Runs until it is cancelled."""
    await asyncio.Event().wait()


@app.task()
async def insist() -> None:
    """Runs on, whatever it is told."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


app.task("overstay", timeout=0.1)(insist)


@app.on_startup
async def submit() -> None:
    await app.submit(os.environ.get("FIRST", "hold"))
    for _ in range(4):
        await app.submit(hold)
    await app.options(countdown=3600).submit(hold)
