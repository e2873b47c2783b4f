"""The app that the command is tried on. Its address is a variable, for the processes of the tests."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from flowrra import Config, Flowrra, current_task
from flowrra.config import BackendConfig, BrokerConfig

app = Flowrra()


def use(url: str) -> None:
    """Have the tasks wait there."""
    app.config = Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url))
    app._results = None


if url := os.environ.get("SHOP_URL"):
    lease = float(os.environ.get("SHOP_LEASE", "20"))
    app = Flowrra(Config(broker=BrokerConfig(url=url, lease=lease), backend=BackendConfig(url=url)))


@app.on_startup
def started() -> None:
    """Only a worker calls it."""
    print("the shop opens", flush=True)


@app.task(queue="mail")
async def send(to: Any, copies: int = 1) -> str:
    return f"{copies} sent to {to}"


@app.task(max_retries=1, retry_delay=0.01)
async def fail(text: str = "boom") -> None:
    raise ValueError(text)


@app.task
async def hold(seconds: float = 600) -> None:
    await asyncio.sleep(seconds)


@app.task
async def give_back(number: str | float) -> float:
    return float(number)


@app.task
async def copy(files: int) -> None:
    for number in range(1, files + 1):
        await asyncio.sleep(0.7)
        current_task().progress(number, files, f"file {number}")


memory = Flowrra()


@memory.task
async def alone() -> None: ...


async def make() -> Flowrra:
    return app


def needs(argument: int) -> Flowrra:
    return app


def broken() -> Flowrra:
    raise OSError("no redis://me:secret@host/0")


number = 17


impatient = Flowrra()


@impatient.task
async def dawdle() -> None:
    print("begun", flush=True)
    await asyncio.sleep(600)


@impatient.on_startup
async def begin() -> None:
    await impatient.submit(dawdle)


unstartable = Flowrra()


@unstartable.on_startup
def refuse() -> None:
    raise OSError("no redis://me:secret@host/0")
