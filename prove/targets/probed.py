"""A worker for the proof of the kubelet: the variable BROKER says where tasks wait, START how long its start takes."""

from __future__ import annotations

import asyncio
import os
import time

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra


def make_app(url: str, consume: bool = True, start: float = 0.0) -> Flowrra:
    """The app of the worker, or of who submits to it."""
    config = Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url))
    config.executor.consume = consume
    app = Flowrra(config)

    @app.task()
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @app.task(max_retries=0)
    async def block(seconds: float) -> None:
        time.sleep(seconds)

    @app.on_startup
    async def start_slowly() -> None:
        await asyncio.sleep(start)

    return app


def worker() -> Flowrra:
    return make_app(os.environ["BROKER"], start=float(os.environ.get("START", "0")))
