"""The app of the fleet: a made-up shop on one database of a Valkey server, told where by the environment.

``worker`` takes tasks, ``load`` submits them: as many, and as sound ones, as the file in ``FLEET_STATE`` says.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, Reject

TICK = 0.2
LEASE = 5.0
# Submissions a second while all is well; four times as many in a burst.
RATES = {"send_receipt": 8.0, "charge_card": 4.0, "resize_image": 2.0, "import_catalog": 1.0, "sweep_carts": 3.0}
BURST = 4.0
BROKEN = "broken"


def _is_broken() -> bool:
    return Path(os.environ["FLEET_STATE"]).read_text() == BROKEN


def make_app(url: str, *, consume: bool, max_deliveries: int = 1) -> Flowrra:
    """The app on a database; one that doesn't consume only submits."""
    # A short lease, and one delivery: what a killed worker held is soon dead.
    broker = BrokerConfig(url=url, lease=LEASE, max_deliveries=max_deliveries)
    config = Config(broker, BackendConfig(url=url, ttl=600), ExecutorConfig(io_workers=8, consume=consume))
    app = Flowrra(config)
    for task, options in TASKS.items():
        app.task(name=task.__name__, **options)(task)
    return app


def worker() -> Flowrra:
    """Takes tasks, and has schedules."""
    app = make_app(os.environ["FLEET_URL"], consume=True)
    scheduler = app.create_scheduler(f"sqlite:///{os.environ['FLEET_STORE']}", check_interval=5.0)
    # In a picture, what a real one looks like, rather than where this one is.
    scheduler.backend.address = f"db:5432/{Path(os.environ['FLEET_STORE']).stem}"

    @app.on_startup
    async def schedule() -> None:
        await scheduler.schedule_interval("count_stock", 10.0, description="stock of the front shelf")
        await scheduler.schedule_interval("sweep_carts", 30.0, description="carts that nobody came back to")
        await scheduler.schedule_cron("build_report", "0 3 * * *", description="figures of the day before")

    return app


async def load() -> None:
    """Submit tasks until the process is ended."""
    async with make_app(os.environ["FLEET_URL"], consume=False) as app:
        while True:
            is_broken = _is_broken()
            for name, rate in RATES.items():
                for _ in range(arrivals(rate * TICK * (BURST if is_broken else 1.0))):
                    await app.submit(name)
            if is_broken and random.random() < 0.01 * TICK * 10:
                await app.submit("export_ledger")
            await asyncio.sleep(TICK)


def arrivals(expected: float) -> int:
    """How many independent arrivals there are in a span of time that sees ``expected`` of them on average."""
    count, left = 0, random.expovariate(1.0)
    while left < expected:
        count += 1
        left += random.expovariate(1.0)
    return count


# ── the tasks ───────────────────────────────────────────────────────────────────────────────────────────────────


async def send_receipt() -> None:
    """Short, and the most frequent."""
    await asyncio.sleep(random.uniform(0.01, 0.08))
    if random.random() < 0.01:
        raise ConnectionError("mail server unreachable")


async def charge_card() -> None:
    """Declined now and then; while the provider is broken, nearly always."""
    await asyncio.sleep(random.uniform(0.05, 0.25))
    chance = random.random()
    if chance < (0.6 if _is_broken() else 0.001):
        raise Reject("card declined")
    if chance < (0.8 if _is_broken() else 0.01):
        raise ConnectionError("payment provider hung up")


async def resize_image() -> None:
    """From a tenth of a second to several."""
    await asyncio.sleep(min(8.0, random.lognormvariate(-0.7, 0.8)))


async def import_catalog() -> None:
    """Some suppliers answer too late."""
    await asyncio.sleep(3.0 if random.random() < 0.05 else random.uniform(0.1, 0.6))


async def sweep_carts() -> None:
    """Next to nothing."""
    await asyncio.sleep(0.005)


async def count_stock() -> None:
    """Submitted by the clock."""
    await asyncio.sleep(0.2)


async def build_report() -> None:
    """Once a night."""
    await asyncio.sleep(5.0)


async def export_ledger() -> None:
    """The mistake to look for: it holds up every other task of its process, and the process's event loop."""
    time.sleep(3.0)  # this is the mistake


async def block() -> None:
    """The same, until somebody restarts the process."""
    time.sleep(3600.0)  # this is the mistake


async def hang() -> None:
    """Waits for what never comes."""
    await asyncio.Event().wait()


TASKS: dict[Callable[[], Any], dict[str, Any]] = {
    send_receipt: {"max_retries": 3, "retry_delay": 0.5},
    charge_card: {"max_retries": 2, "retry_delay": 1.0, "priority": -10},
    resize_image: {},
    import_catalog: {"timeout": 1.0, "max_retries": 1},
    sweep_carts: {"max_retries": 0},
    count_stock: {},
    build_report: {},
    export_ledger: {"max_retries": 0},
    block: {"max_retries": 0},
    hang: {"max_retries": 0},
}


async def submit(name: str) -> None:
    """Submit one task."""
    async with make_app(os.environ["FLEET_URL"], consume=False) as app:
        await app.submit(name)


if __name__ == "__main__":
    asyncio.run(load())
