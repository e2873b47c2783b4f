"""Tasks that wait for other tasks inside, with the queue on a server."""

from __future__ import annotations

import asyncio

import pytest

from flowrra.executors import waits
from tests.core.apps import final
from tests.redis.apps import redis_app

WARNING = "every slot waits for a task that needs one"


@pytest.mark.slow
async def test_parents_on_every_slot(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "PATIENCE", 0.1)
    app = redis_app(url, workers=2)
    begun = asyncio.Barrier(2)

    @app.task()
    async def child() -> None: ...

    @app.task(max_retries=0)
    async def parent() -> None:
        await begun.wait()
        await app.wait_for_result(await app.submit(child), 2)

    async with app:
        ids = [await app.submit(parent) for _ in range(2)]
        for task_id in ids:
            await final(app, task_id)

    [warning] = [record.getMessage() for record in caplog.records if WARNING in record.getMessage()]
    assert "executor=io slots=2 waiting=parent for=child" in warning
