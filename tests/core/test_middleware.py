"""Middleware: hooks around submission and attempts, which see everything and can break nothing."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest

from flowrra import Task, current_task
from flowrra.middleware import AttemptOutcome, Middleware
from tests.core.apps import assert_counts_add_up, final, memory_app, numbers_of, record_of, until

SPAN: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")


class Recorder:
    """Writes down what it is told, as a tracer would."""

    def __init__(self, name: str = "", story: list[str] | None = None) -> None:
        self.name = name
        self.story: list[str] = [] if story is None else story

    def on_submit(self, task: Task) -> None:
        self.story.append(f"{self.name}submit {task.name}{task.args}")

    @contextmanager
    def around_attempt(self, task: Task) -> Iterator[None]:
        self.story.append(f"{self.name}begin {task.attempt}")
        try:
            yield
        except BaseException as error:
            self.story.append(f"{self.name}{type(error).__name__}")
            raise
        finally:
            self.story.append(f"{self.name}end {task.attempt}")


async def test_it_sees_the_submission_and_every_attempt_with_its_exception() -> None:
    app = memory_app()
    recorder = Recorder()
    app.add_middleware(recorder)

    @app.task(max_retries=1, retry_delay=0)
    async def flaky(n: int) -> str:
        recorder.story.append("run")
        task = current_task()
        assert task is not None
        if task.attempt == 1:
            raise ValueError
        return "done"

    async with app:
        assert (await final(app, await app.submit(flaky, 1))).result == "done"

    assert recorder.story == [
        "submit flaky(1,)", "begin 1", "run", "ValueError", "end 1", "begin 2", "run", "end 2",
    ]  # fmt: skip


async def test_several_are_nested_in_the_order_in_which_they_were_added() -> None:
    app = memory_app()
    story: list[str] = []
    app.add_middleware(Recorder("outer ", story))
    app.add_middleware(Recorder("inner ", story))

    @app.task()
    async def job() -> None:
        story.append("run")

    async with app:
        await final(app, await app.submit(job))

    assert story == [
        "outer submit job()", "inner submit job()",
        "outer begin 1", "inner begin 1", "run", "inner end 1", "outer end 1",
    ]  # fmt: skip


async def test_headers_set_at_submission_reach_the_attempt() -> None:
    app = memory_app()

    class Tracing:
        def on_submit(self, task: Task) -> None:
            task.headers["traceparent"] = SPAN.get()

        @contextmanager
        def around_attempt(self, task: Task) -> Iterator[None]:
            token = SPAN.set("child of " + task.headers["traceparent"])
            yield
            SPAN.reset(token)

    app.add_middleware(Tracing())

    @app.task()
    async def job() -> str:
        return SPAN.get()

    async with app:
        token = SPAN.set("request 7")
        task_id = await app.submit(job)
        SPAN.reset(token)
        assert (await final(app, task_id)).result == "child of request 7"


async def test_it_sees_cancellations_and_time_limits() -> None:
    app = memory_app()
    recorder = Recorder()
    app.add_middleware(recorder)

    @app.task(max_retries=0, timeout=0.02)
    async def slow() -> None:
        await asyncio.sleep(60)

    async with app:
        await final(app, await app.submit(slow))

    assert recorder.story[0] == "submit slow()"
    assert recorder.story[1] == "begin 1"
    assert recorder.story[2] in {"CancelledError", "TimeoutError", "TaskTimeoutError"}
    assert recorder.story[3] == "end 1"


async def test_it_cannot_hide_a_failure() -> None:
    class Swallowing:
        def on_submit(self, task: Task) -> None: ...

        @contextmanager
        def around_attempt(self, task: Task) -> Iterator[None]:
            with suppress(ValueError):
                yield

    app = memory_app()
    app.add_middleware(Swallowing())

    @app.task(max_retries=0)
    async def failing() -> None:
        raise ValueError("boom")

    async with app:
        record = await final(app, await app.submit(failing))

    assert (record.status, record.error) == ("failed", "ValueError: boom")


class Broken:
    """Fails at one of its moments."""

    def __init__(self, moment: str, error: BaseException | None = None) -> None:
        self.moment = moment
        self.error = RuntimeError(f"broken at {moment}") if error is None else error

    def _fail(self, moment: str) -> None:
        if moment == self.moment:
            raise self.error

    def on_submit(self, task: Task) -> None:
        self._fail("on_submit")

    def around_attempt(self, task: Task) -> AbstractContextManager[Any]:
        self._fail("around_attempt")
        return self._manager()

    @contextmanager
    def _manager(self) -> Iterator[None]:
        self._fail("enter")
        try:
            yield
        finally:
            self._fail("exit")


# What ends a program, or an asyncio task, is no more than a failure, where a hook raises it.
ERRORS = [ValueError("careless"), SystemExit(2), asyncio.CancelledError("careless")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("moment", ["on_submit", "around_attempt", "enter", "exit"])
async def test_a_broken_one_is_logged_and_harms_neither_task_nor_worker(
    moment: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    app = memory_app(io_workers=1)
    app.add_middleware(Broken(moment, error))
    recorder = Recorder()
    app.add_middleware(recorder)

    @app.task(max_retries=0)
    async def job(n: int) -> int:
        return n

    async with app:
        ids = [await app.submit(job, n) for n in range(3)]
        assert [(await final(app, task_id)).result for task_id in ids] == [0, 1, 2]

    assert any(record.levelno >= logging.ERROR and record.name.startswith("flowrra") for record in caplog.records)
    assert recorder.story.count("end 1") == 3, "the others still get what is theirs"
    assert_counts_add_up(numbers_of(app, "job"), running=0)


async def test_a_broken_one_does_not_change_what_failed() -> None:
    app = memory_app()
    app.add_middleware(Broken("exit"))

    @app.task(max_retries=0)
    async def failing() -> None:
        raise ValueError("boom")

    async with app:
        record = await final(app, await app.submit(failing))

    assert record.error == "ValueError: boom"


async def test_headers_that_are_too_large_or_no_text_cost_the_headers_and_not_the_task() -> None:
    class Greedy:
        def on_submit(self, task: Task) -> None:
            task.headers["baggage"] = "x" * 1_000_000

        def around_attempt(self, task: Task) -> AbstractContextManager[Any]:
            return contextmanager(lambda: iter([None]))()

    app = memory_app()
    app.add_middleware(Greedy())

    @app.task()
    async def job() -> int:
        task = current_task()
        assert task is not None
        return sum(len(value) for value in task.headers.values())

    async with app:
        record = await final(app, await app.submit(job))

    assert record.status == "success"
    assert record.result <= 100_000, "headers are bounded in size, whoever sets them"


async def test_one_added_while_the_app_runs_counts_from_then_on() -> None:
    app = memory_app()
    recorder = Recorder()

    @app.task()
    async def job() -> None: ...

    async with app:
        await final(app, await app.submit(job))
        app.add_middleware(recorder)
        await final(app, await app.submit(job))

    assert recorder.story == ["submit job()", "begin 1", "end 1"]


async def test_the_task_is_not_told_to_exist_before_it_is_accepted() -> None:
    app = memory_app()
    known: list[bool] = []

    class Curious:
        def on_submit(self, task: Task) -> None:
            known.append(bool(task.id))

        def around_attempt(self, task: Task) -> AbstractContextManager[Any]:
            return contextmanager(lambda: iter([None]))()

    app.add_middleware(Curious())

    @app.task()
    async def job() -> None: ...

    async with app:
        task_id = await app.submit(job)
        assert (await record_of(app, task_id)).status == "pending"
        await until(lambda: known == [True])


class Told(Middleware):
    """Writes down what became of each attempt."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, int, str, str | None]] = []

    def on_outcome(self, task: Task, outcome: AttemptOutcome) -> None:
        assert outcome.seconds >= 0
        self.outcomes.append((task.name, task.attempt, outcome.status, outcome.exception))


async def test_it_is_told_what_became_of_each_attempt_as_the_record_says_it() -> None:
    app, told = memory_app(), Told()
    app.add_middleware(told)

    @app.task(name="good")
    async def good() -> int:
        return 1

    @app.task(name="bad", max_retries=1, retry_delay=0)
    async def bad() -> None:
        raise ValueError("no")

    @app.task(name="slow", max_retries=0, timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(60)

    async with app:
        for name in ("good", "bad", "slow"):
            await final(app, await app.submit(name))
        await until(lambda: len(told.outcomes) == 4)
    assert told.outcomes == [
        ("good", 1, "success", None),
        ("bad", 1, "retrying", "ValueError"),
        ("bad", 2, "failed", "ValueError"),
        ("slow", 1, "failed", "TaskTimeoutError"),
    ]


async def test_a_cancellation_whose_clean_up_outlasts_the_time_limit_is_one_everywhere() -> None:
    app, told, begun = memory_app(), Told(), asyncio.Event()
    app.add_middleware(told)

    @app.task(name="tidy", max_retries=0, timeout=0.2)
    async def tidy() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    async with app:
        task_id = await app.submit(tidy)
        await begun.wait()
        assert await app.cancel_task(task_id)
        assert (await record_of(app, task_id)).status == "cancelled"
        assert numbers_of(app, "tidy")["cancelled"] == 1
    assert told.outcomes == [("tidy", 1, "cancelled", None)]


@pytest.mark.slow
async def test_an_attempt_that_would_not_end_is_told_once() -> None:
    app, told, begun = memory_app(), Told(), asyncio.Event()
    app.add_middleware(told)
    ended = asyncio.Event()

    @app.task(name="stubborn", max_retries=0)
    async def stubborn() -> None:
        begun.set()
        while not ended.is_set():
            with suppress(asyncio.CancelledError):
                await ended.wait()

    async with app:
        await app.submit(stubborn)
        await begun.wait()
        await app.stop(wait=False)
        assert told.outcomes == [("stubborn", 1, "cancelled", None)]
        ended.set()
        for _ in range(10):
            await asyncio.sleep(0)
    assert len(told.outcomes) == 1


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_a_broken_hook_for_outcomes_is_logged_and_harms_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Careless(Middleware):
        def on_outcome(self, task: Task, outcome: AttemptOutcome) -> None:
            raise error

    app, told = memory_app(io_workers=1), Told()
    app.add_middleware(Careless())
    app.add_middleware(told)

    @app.task(name="good")
    async def good() -> int:
        return 1

    async with app:
        for _ in range(2):
            assert (await final(app, await app.submit(good))).result == 1
    assert [status for _, _, status, _ in told.outcomes] == ["success", "success"]
    assert caplog.text.count("middleware failed at an outcome") == 2
