"""An app whose queue and results are on a server: ``make`` for a process that runs tasks, ``produce`` for one that only
submits them."""

from __future__ import annotations

import asyncio
import os

import redis.asyncio

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

SLOTS = 2
LEASE = 1.5


def _app(consume: bool, url: str) -> Flowrra:
    broker = BrokerConfig(url=url, lease=LEASE, socket_timeout=1.0)
    client = redis.asyncio.Redis.from_url(url)
    app = Flowrra(Config(broker, BackendConfig(url=url), ExecutorConfig(io_workers=SLOTS, consume=consume)))

    @app.task()
    async def hold() -> None:
        """Runs until the key ``open`` is set."""
        while await client.get("open") is None:
            await asyncio.sleep(0.02)

    @app.task()
    async def count() -> None:
        """Notes which process ran it."""
        await client.incr("ran")

    app.on_shutdown(client.aclose)
    return app


def make() -> Flowrra:
    """A worker, on the server at SHARED_URL."""
    return _app(True, os.environ["SHARED_URL"])


def make_with_schedules() -> Flowrra:
    """A worker with its schedules in the file SCHEDULES."""
    app = make()
    app.create_scheduler(f"sqlite:///{os.environ['SCHEDULES']}")
    return app


def produce(url: str) -> Flowrra:
    """One that only submits."""
    return _app(False, url)


in_memory = Flowrra()


@in_memory.task()
async def idle() -> None:
    """Nothing."""
