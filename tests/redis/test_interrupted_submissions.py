"""Results kept apart from the broker: a task is recorded, then queued. Whatever ends its submitter between the two, a
submission of the same id is the task, and it runs once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import redis

from flowrra import TaskResult, TaskStatus
from flowrra.brokers.base import QueuedTask
from flowrra.brokers.redis import RedisBroker
from tests.core.apps import final, record_of, until
from tests.redis.apps import QUEUE, Gate, redis_app, with_tasks
from tests.redis.test_databases import at

UNFINISHED = [TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.RETRYING]


async def die_before_queueing(url: str) -> None:
    """Submit a task, and be killed when it is recorded and not yet queued."""

    async def submit(self: RedisBroker, entries: Sequence[QueuedTask]) -> list[bool]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(self, entries)

    RedisBroker.submit = submit  # type: ignore[method-assign]
    async with with_tasks(redis_app(url, backend=at(url, 1), consume=False)) as app:
        await app.options(task_id="order-7").submit("echo", 7)


@pytest.mark.slow
async def test_what_a_killed_submitter_recorded_runs_once_when_it_is_submitted_again(
    url: str, look: redis.Redis
) -> None:
    program = f"import asyncio; from {__name__} import *; asyncio.run(die_before_queueing({url!r}))"
    submitter = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False, timeout=60)
    assert submitter.returncode == -signal.SIGKILL

    gate = Gate()
    async with (
        with_tasks(redis_app(url, backend=at(url, 1)), gate) as one,
        with_tasks(redis_app(url, backend=at(url, 1)), gate) as other,
    ):
        assert (await record_of(one, "order-7")).status is TaskStatus.PENDING
        for app in (one, other, one):
            assert await app.options(task_id="order-7").submit("echo", 7) == "order-7"
        assert (await final(one, "order-7")).result == [[7], {}]
        await other.options(task_id="order-7").submit("echo", 7)
        await until(lambda: not look.exists(f"{QUEUE}:tasks"))
    assert gate.begun == [7]


@pytest.mark.parametrize("status", UNFINISHED)
async def test_whatever_its_record_says(url: str, status: TaskStatus) -> None:
    gate, now = Gate(), datetime.now(UTC)
    async with with_tasks(redis_app(url, backend=at(url, 1)), gate) as app:
        lost = TaskResult("lost", status, "echo", submitted_at=now, started_at=now, args=(1,))
        await app.results.store("lost", lost)
        await app.options(task_id="lost").submit("echo", 1)
        assert (await final(app, "lost")).is_success
    assert gate.begun == [1]


async def test_one_that_waits_or_runs_or_is_over_is_known(url: str, look: redis.Redis) -> None:
    gate = Gate()
    async with with_tasks(redis_app(url, backend=at(url, 1), workers=1), gate) as app:
        await app.options(task_id="running").submit("hold", "running")
        await until(lambda: gate.begun)
        await app.options(task_id="waiting").submit("hold", "waiting")
        await app.options(task_id="delayed", countdown=60).submit("hold", "delayed")
        for task_id in ("running", "waiting", "delayed"):
            await app.options(task_id=task_id).submit("hold", task_id)
        assert look.hlen(f"{QUEUE}:tasks") == 3
        gate.opened.set()
        for task_id in ("running", "waiting"):
            await final(app, task_id)
            await app.options(task_id=task_id).submit("hold", task_id)
        assert await app.cancel_task("delayed")
        await app.options(task_id="delayed").submit("hold", "delayed")
        await until(lambda: not look.exists(f"{QUEUE}:tasks"))
    assert gate.begun == ["running", "waiting"]


async def test_one_that_ends_while_the_broker_is_asked_is_known(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with with_tasks(redis_app(url, backend=at(url, 1)), gate) as app:
        await app.options(task_id="quick").submit("hold", 1)
        await until(lambda: gate.begun)
        has = RedisBroker.has

        async def has_later(self: RedisBroker, task_id: str, queue: str) -> bool:
            gate.opened.set()
            await final(app, task_id)
            while await has(self, task_id):
                await asyncio.sleep(0.01)
            return False

        monkeypatch.setattr(RedisBroker, "has", has_later)
        await app.options(task_id="quick").submit("hold", 1)
    assert gate.begun == [1]
