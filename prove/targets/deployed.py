"""`python -m prove.targets.deployed URL VERSION`: a worker of an old or a new version of an app: each knows a task that
the other one doesn't."""

from __future__ import annotations

import asyncio
import signal
import sys

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

VERSIONS = {"old": ("common", "leaving"), "new": ("common", "coming"), "any": ("common", "leaving", "coming")}


def make_app(url: str, version: str, *, consume: bool = True) -> Flowrra:
    """An app of that version, with everything as it is by default."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url),
            backend=BackendConfig(url=url),
            executor=ExecutorConfig(io_workers=8, consume=consume),
        )
    )
    for name in VERSIONS[version]:

        @app.task(name=name)
        async def task(number: int) -> int:
            await asyncio.sleep(0.02)
            return number

    return app


async def work(url: str, version: str) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with make_app(url, version):
        await told.wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2]))
