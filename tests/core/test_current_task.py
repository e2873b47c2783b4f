"""What code inside a task can know about it: the current task, its context, and its log records."""

from __future__ import annotations

import asyncio
import contextvars
import logging

import pytest

import flowrra
from flowrra.log import TaskLogFilter
from tests.core.apps import final, memory_app

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


def test_outside_of_a_task_there_is_none() -> None:
    assert flowrra.current_task() is None


async def test_inside_it_has_the_id_name_and_attempt() -> None:
    app = memory_app()

    @app.task(name="mail.send", max_retries=1, retry_delay=0)
    async def send() -> tuple[str, str, int]:
        task = flowrra.current_task()
        assert task is not None
        if task.attempt == 1:
            raise ValueError
        return task.id, task.name, task.attempt

    async with app:
        task_id = await app.submit(send)
        record = await final(app, task_id)
        assert flowrra.current_task() is None

    assert record.result == (task_id, "mail.send", 2)


async def test_it_reaches_into_everything_the_task_starts() -> None:
    app = memory_app()

    def name() -> str | None:
        task = flowrra.current_task()
        return task and task.name

    async def nested() -> str | None:
        return name()

    @app.task()
    async def job() -> list[str | None]:
        return [await asyncio.create_task(nested()), await asyncio.to_thread(name)]

    async with app:
        assert (await final(app, await app.submit(job))).result == ["job", "job"]


async def test_tasks_that_run_at_once_each_see_their_own() -> None:
    app = memory_app(io_workers=10)
    everyone = asyncio.Barrier(10)

    @app.task()
    async def job() -> str:
        await everyone.wait()
        task = flowrra.current_task()
        assert task is not None
        return task.id

    async with app:
        ids = [await app.submit(job) for _ in range(10)]
        assert [(await final(app, task_id)).result for task_id in ids] == ids


async def test_every_attempt_runs_in_a_fresh_context() -> None:
    app = memory_app(io_workers=1)
    seen: list[str] = []

    @app.task(max_retries=1, retry_delay=0)
    async def job() -> None:
        seen.append(REQUEST.get())
        REQUEST.set("left behind by a task")
        raise ValueError

    async with app:
        token = REQUEST.set("of the submitter")
        first = await app.submit(job)
        second = await app.submit(job)
        REQUEST.reset(token)
        await final(app, first)
        await final(app, second)

    assert seen == ["none"] * 4


async def test_a_context_variable_holds_across_awaits_and_reaches_children() -> None:
    app = memory_app(io_workers=3)

    async def seen() -> str:
        return REQUEST.get()

    @app.task()
    async def job(n: int) -> list[str]:
        token = REQUEST.set(f"request {n}")
        await asyncio.sleep(0.001 * n)
        inside = [REQUEST.get(), await asyncio.create_task(seen()), await asyncio.to_thread(REQUEST.get)]
        REQUEST.reset(token)
        await asyncio.sleep(0)
        return [*inside, REQUEST.get()]

    async with app:
        ids = [await app.submit(job, n) for n in range(10)]
        for n, task_id in enumerate(ids):
            assert (await final(app, task_id)).result == [f"request {n}"] * 3 + ["none"]


async def test_a_task_submitted_by_a_task_is_its_own() -> None:
    app = memory_app()

    @app.task()
    async def child() -> str | None:
        task = flowrra.current_task()
        return task and task.name

    @app.task()
    async def parent() -> str:
        return await app.submit(child)

    async with app:
        child_id = (await final(app, await app.submit(parent))).result
        assert (await final(app, child_id)).result == "child"


async def test_log_records_name_the_task(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app()
    logger = logging.getLogger("shop")
    caplog.set_level(logging.INFO)
    task_filter = TaskLogFilter()
    caplog.handler.addFilter(task_filter)

    @app.task(name="mail.send")
    async def send() -> None:
        logger.info("inside")

    try:
        async with app:
            task_id = await app.submit(send)
            await final(app, task_id)
            logger.info("outside")
    finally:
        caplog.handler.removeFilter(task_filter)

    inside, outside = (record for record in caplog.records if record.name == "shop")
    assert [getattr(inside, name) for name in ("task_id", "task_name", "attempt")] == [task_id, "mail.send", 1]
    assert [getattr(outside, name) for name in ("task_id", "task_name", "attempt")] == [None, None, None]
