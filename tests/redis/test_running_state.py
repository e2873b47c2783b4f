"""The record of an attempt says that it runs once it has lasted for a while: short attempts don't pay for it."""

from __future__ import annotations

import asyncio
import time

import redis

from flowrra import TaskResult, TaskStatus, codec
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import QueuedTask
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.job import Job
from flowrra.executors.sources.settler import Settler
from flowrra.registry import TaskRegistry
from flowrra.task import Task
from flowrra.telemetry import Telemetry
from tests.core.apps import final, until
from tests.history.test_watch import watching
from tests.redis.apps import QUEUE, redis_app

NO_ARGUMENTS = codec.encode_call((), {}, "work")


def attempt(task_id: str, age: float) -> Job:
    """An attempt that has been running for so many seconds."""
    registry = TaskRegistry()

    @registry.task("work")
    async def work() -> None: ...

    record = TaskResult(task_id, TaskStatus.RUNNING, "work")
    job = Job(Task(task_id, "work", (), {}), record, registry.definition(work), Telemetry().register("work", "io"), 0.0)
    job.started_at, job.call = time.monotonic() - age, NO_ARGUMENTS
    return job


async def test_what_has_just_begun_is_not_told_with_what_has_run_for_a_while(url: str, look: redis.Redis) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    assert broker.keeps_records_of(RedisBackend(url))
    old, young = attempt("old", 1.0), attempt("young", -60.0)
    for job in (old, young):
        text = codec.encode_task(job.task, None, NO_ARGUMENTS)
        await broker.submit([QueuedTask(job.task.id, 0, 0.0, text, None)])
    await broker.take(2)
    settler = Settler(broker, "io", lambda ids: None, lambda outcome: None, lambda *_: None, lambda error: None)

    settler.mark_running(old)
    settler.mark_running(young)
    await until(lambda: look.exists("flowrra:task:old"))
    await settler.flush(5)
    assert not look.exists("flowrra:task:young")
    settler.close()

    young.started_at -= 120.0
    settler.mark_running(young)
    await until(lambda: look.exists("flowrra:task:young"))
    settler.close()
    await broker.close()


async def test_what_ends_as_soon_as_a_busy_loop_comes_to_it_is_not_told(url: str) -> None:
    app = redis_app(url, workers=1)

    @app.task(name="ends_late")
    async def ends_late() -> None:
        time.sleep(0.1)  # blocks the loop, for longer than an attempt may run without being told
        loop = asyncio.get_running_loop()
        due = loop.create_future()
        loop.call_soon(due.set_result, None)
        await due

    async with app, watching(app) as watch:
        task_id = await app.submit("ends_late")
        await final(app, task_id)
        await until(lambda: watch.of(task_id)[-1:] == ["success"])
        assert watch.of(task_id) == ["pending", "success"]
