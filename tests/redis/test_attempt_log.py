"""What the log says of tasks that fail for good on a server: one error for each cause, whoever finds it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis

from flowrra import Flowrra
from tests.core.apps import final, until
from tests.redis.apps import QUEUE, redis_app


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def app_with(url: str, func: Callable[..., Any], **options: Any) -> Flowrra:
    app = redis_app(url)
    app.task("job", max_retries=0, **options)(func)
    return app


async def fail() -> None:
    raise ValueError("no such order")


async def return_what_is_no_json() -> object:
    return object()


async def succeed() -> int:
    return 1


async def test_an_error_is_one_line(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with app_with(url, fail) as app:
        task_id = await app.submit("job")
        await final(app, task_id)
    [line] = errors(caplog)
    fields = f"task=job id={task_id} attempt=1 queue=default worker={app.id} error='ValueError: no such order'"
    assert line == f"task failed {fields}"
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


async def test_a_result_that_is_no_json_is_one_line(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with app_with(url, return_what_is_no_json) as app:
        record = await final(app, await app.submit("job"))
    assert record.status == "failed"
    [line] = errors(caplog)
    assert line.startswith("task failed task=job ")
    assert "its result could not be stored" in line


@pytest.mark.slow
async def test_a_task_that_no_worker_knows_for_too_long_is_one_line(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with redis_app(url, consume=False) as producer:
        producer.task("job")(succeed)
        task_id = await producer.submit("job")
        worker = redis_app(url, unknown_ttl=0.2)
        worker.task("other")(succeed)
        async with worker:
            await until(lambda: any("given up" in line for line in errors(caplog)))
            await final(producer, task_id)
    lines = [line for line in errors(caplog) if "left to other workers" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"task given up task=job id={task_id} attempt=1 queue=default worker={worker.id} error=")
    assert "not registered" in lines[0]


async def test_a_task_whose_outcome_the_server_refuses_is_one_line(
    url: str, look: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a delay that the server's script can't take."""
    monkeypatch.setattr("flowrra.executors.outcomes.retry_delay", lambda task: float("nan"))
    app = redis_app(url)
    app.task("job", max_retries=1)(fail)
    async with app:
        await app.submit("job")
        await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
    [line] = errors(caplog)
    assert line.startswith("task failed task=job ")
    assert "its outcome could not be told" in line
