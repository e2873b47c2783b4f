"""The cardinality budget: what is left out is counted, sums stay true, and a series never changes its meaning."""

from __future__ import annotations

from typing import Any

import pytest

from flowrra import Flowrra, TaskNotFoundError
from tests.exporter.conftest import Answer, Serve

SERIES_OF_ONE = 64
"""More than a task's own series, less than those of two."""


def app_of(*names: str) -> Flowrra:
    app = Flowrra()
    for name in names:

        @app.task(name=name, max_retries=0)
        async def work(fails: str = "") -> None:
            if fails:
                raise type(fails, (Exception,), {})

    return app


async def run(app: Flowrra, name: str, times: int = 1, **arguments: Any) -> None:
    for _ in range(times):
        task_id = await app.submit(name, **arguments)
        await app.wait_for_result(task_id, timeout=5)


def tasks_of(answer: Answer) -> set[str]:
    return {dict(labels)["task"] for _, labels in answer.samples if "task" in dict(labels)}


async def test_names_beyond_the_budget_share_one(serve: Serve) -> None:
    app = app_of("first", "second", "third")
    async with app:
        service = await serve(app, max_series=SERIES_OF_ONE)
        await run(app, "first", 2)
        await run(app, "second", 3)
        await run(app, "third", 4)
        answer = await service.get()
    assert tasks_of(answer) == {"first", "__other__"}
    assert answer.value("flowrra_tasks_submitted_total", task="first") == 2
    assert answer.value("flowrra_tasks_submitted_total", task="__other__") == 7
    assert answer.value("flowrra_tasks_succeeded_total", task="__other__") == 7
    count = answer.value("flowrra_task_run_duration_seconds_count", task="__other__", outcome="success")
    assert count == 7
    # Two names were left out, and have one set of series together instead.
    kept = sum(dict(labels).get("task") == "first" for _, labels in answer.samples)
    assert answer.value("flowrra_exporter_series_dropped") == kept
    assert answer.value("flowrra_tasks_registered", executor="io") == 3


async def test_with_room_for_all_nothing_is_dropped(serve: Serve) -> None:
    app = app_of("first", "second")
    async with app:
        service = await serve(app)
        answer = await service.get()
    assert tasks_of(answer) == {"first", "second"}
    assert answer.value("flowrra_exporter_series_dropped") == 0


async def test_who_was_registered_first_keeps_its_series_whatever_comes_later(serve: Serve) -> None:
    app = app_of("first")
    async with app:
        service = await serve(app, max_series=SERIES_OF_ONE)
        assert tasks_of(await service.get()) == {"first"}

        @app.task(name="a_later_one")
        async def later() -> None: ...

        await run(app, "a_later_one", 5)
        answer = await service.get()
    assert tasks_of(answer) == {"first", "__other__"}
    assert answer.value("flowrra_tasks_submitted_total", task="__other__") == 5


async def test_exception_classes_are_bounded_and_their_sum_is_true(serve: Serve) -> None:
    app = app_of("first")
    async with app:
        service = await serve(app)
        for number in range(30):
            await run(app, "first", fails=f"Trouble{number:02}")
        answer = await service.get()
    counts = {
        dict(labels)["exception"]: value
        for (name, labels), value in answer.samples.items()
        if name == "flowrra_task_exceptions_total"
    }
    assert len(counts) == 21
    assert counts["__other__"] == 10
    assert sum(counts.values()) == 30
    assert answer.value("flowrra_tasks_failed_total", task="first") == 30


async def test_a_name_that_nobody_registered_never_becomes_a_label(serve: Serve) -> None:
    app = app_of("first")
    async with app:
        service = await serve(app)
        for name in ("nothing", "__other__", 'with "quotes"\n'):
            with pytest.raises(TaskNotFoundError):
                await app.submit(name)
        assert tasks_of(await service.get()) == {"first"}


async def test_the_page_tells_of_the_budget(serve: Serve) -> None:
    app = app_of("first", "second")
    async with app:
        service = await serve(app, max_series=SERIES_OF_ONE)
        page = (await service.get("/")).text
    assert f"of at most {SERIES_OF_ONE:,}" in page
