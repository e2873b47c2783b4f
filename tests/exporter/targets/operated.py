"""An app on the server at SHARED_URL for operators to find out what is wrong, and to mend it: ``make`` runs tasks,
``produce`` only submits them. What ``charge`` needs is there once the key ``bank`` is set."""

from __future__ import annotations

import os

import redis.asyncio

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

RIGHT_TO_LEFT = "חיוב_כרטיס"


def _app(consume: bool, url: str) -> Flowrra:
    client = redis.asyncio.Redis.from_url(url)
    app = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(io_workers=4, consume=consume)))

    @app.task("charge", max_retries=0)
    async def charge(card: str) -> str:
        """Fails until the bank is there."""
        if await client.get("bank") is None:
            raise ConnectionError(f"no bank for {card}")
        return f"charged {card}"

    @app.task("report", max_retries=0)
    async def report() -> str:
        return "reported"

    @app.task(RIGHT_TO_LEFT, max_retries=0)
    async def in_hebrew() -> None: ...

    app.on_shutdown(client.aclose)
    return app


def make() -> Flowrra:
    """A worker, with a schedule in the file SCHEDULES."""
    app = _app(True, os.environ["SHARED_URL"])
    scheduler = app.create_scheduler(os.environ["SCHEDULES"], timezone="Asia/Tokyo")

    async def plan() -> None:
        await scheduler.schedule_cron("report", "0 3 * * *", task_id="nightly", description="The nightly report")

    app.on_startup(plan)
    return app


def produce(url: str) -> Flowrra:
    """One that only submits."""
    return _app(False, url)
