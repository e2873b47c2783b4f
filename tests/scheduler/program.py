"""`python -m tests.scheduler.program STORE BROKER RESULTS LEASE`: an app that schedules, as another process, with the
addresses of its servers. It writes "RUN <argument> <monotonic time>" for each run of its tasks, `note` and `hold`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra
from flowrra.scheduler import submissions
from flowrra.scheduler.backends import sql


def tell(value: Any) -> None:
    print("RUN", value, time.monotonic(), flush=True)


def make_app(store: str, broker: str, results: str) -> Flowrra:
    """The app; an empty address is none."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=broker) if broker else None,
            backend=BackendConfig(url=results) if results else None,
        )
    )
    app.create_scheduler(store, check_interval=0.2)

    @app.task("note")
    async def note(value: Any) -> None:
        tell(value)

    @app.task("hold")
    async def hold(value: Any) -> None:
        tell(value)
        await asyncio.Event().wait()

    return app


async def main(store: str, broker: str, results: str) -> None:
    async with make_app(store, broker, results):
        print("READY", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    if lease := float(sys.argv[4]):
        sql.LEASE, submissions.BEAT = round(lease * 1e6), lease / 4
    asyncio.run(main(*sys.argv[1:4]))
