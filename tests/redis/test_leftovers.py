"""What a stop leaves undone goes back to the server: it is said, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.management import FlowrraManager
from tests.core.apps import until


def make_app(url: str) -> Flowrra:
    app = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(io_workers=1)))

    @app.task()
    async def hold() -> None:
        await asyncio.Event().wait()

    return app


async def test_it_is_left_to_other_workers_and_not_lost(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    app = make_app(url)
    await app.start()
    ids = [await app.submit("hold") for _ in range(3)]
    await until(lambda: app.executors["io"].busy_workers == 1)
    await app.stop(wait=False)
    [line] = [message for message in caplog.messages if "tasks left to other workers" in message]
    assert line.endswith(f"running=1 running_ids={ids[0]}")
    assert not [record for record in caplog.records if "tasks lost" in record.getMessage()]
    manager = FlowrraManager(app)
    stats = await manager.get_runtime_stats()
    assert stats["abandoned_at_stop"]["io"] == {"waiting": 0, "delayed": 0, "running": 0}
    assert app.lost_at_stop == 0
    assert (await manager.get_stats())["tasks"]["pending"] == 3
