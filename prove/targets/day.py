"""The app of the scripted day: the shop of ``grafana/pictures``, with what goes wrong in it, and its load.

Besides the variables of that app: ``DAY_DELIVERIES`` is how often a task is delivered, ``DAY_RATE`` by what the load is
multiplied. Without a ``FLEET_STORE`` there are no schedules.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from flowrra import Flowrra, FlowrraError
from flowrra.brokers import fitness
from grafana.pictures.app import RATES, TICK, arrivals, make_app

# What happens at times of Flowrra's own is as fast as the day: it looks at its broker's server each 3 minutes.
fitness.INTERVAL /= 60
BURSTS = {"burst": 20.0}
# Of schedules, in seconds.
PERIODS = {"count_stock": 5.0, "sweep_carts": 1.5}


def state() -> str:
    """What the day is like."""
    return Path(os.environ["FLEET_STATE"]).read_text(encoding="utf-8")


async def call_supplier() -> None:
    """Fails in each attempt while the supplier is away."""
    await asyncio.sleep(0.01)
    if state() == "broken":
        raise ConnectionError("supplier unreachable")


async def count_shelves() -> None:
    """Takes its time: whoever is killed meanwhile has it in hand."""
    await asyncio.sleep(15.0)


async def stutter() -> None:
    """The mistake to look for: blocking work, again and again."""
    for _ in range(10):
        time.sleep(1.3)  # this is the mistake
        await asyncio.sleep(0.1)


async def block_a_while() -> None:
    """The same, at a stretch."""
    time.sleep(20.0)  # this is the mistake


async def print_labels() -> None:
    """What only the next release has."""


def crash() -> None:
    """Kills the process that runs it, as memory that runs out does."""
    os._exit(1)


def make(url: str, *, consume: bool, max_deliveries: int = 1) -> Flowrra:
    """The app with all tasks."""
    app = make_app(url, consume=consume, max_deliveries=max_deliveries)
    app.task(name="call_supplier", max_retries=3, retry_delay=0.5)(call_supplier)
    for often in (count_shelves, stutter, block_a_while):
        app.task(name=often.__name__, max_retries=0)(often)
    app.task(name="crash", cpu_bound=True, max_retries=0)(crash)
    return app


def worker() -> Flowrra:
    """Takes tasks; one app has schedules."""
    app = make(os.environ["FLEET_URL"], consume=True, max_deliveries=int(os.environ["DAY_DELIVERIES"]))
    store = os.environ.get("FLEET_STORE")
    if store is None:
        return app
    scheduler = app.create_scheduler(f"sqlite:///{store}", check_interval=1.0)

    @app.on_startup
    async def schedule() -> None:
        for name, period in PERIODS.items():
            await scheduler.schedule_interval(name, period, task_id=name, replace=True, max_running=1)

    return app


async def load() -> None:
    """Submit tasks until the process is ended, as long as the broker takes them."""
    often = float(os.environ["DAY_RATE"])
    async with make(os.environ["FLEET_URL"], consume=False) as app:
        while True:
            factor = often * TICK * BURSTS.get(state(), 1.0)
            for name, rate in {**RATES, "call_supplier": 2.0}.items():
                for _ in range(arrivals(rate * factor)):
                    try:
                        await app.submit(name)
                    except FlowrraError as error:
                        print(f"{name} was not taken: {error}", flush=True)
            await asyncio.sleep(TICK)


if __name__ == "__main__":
    asyncio.run(load())
