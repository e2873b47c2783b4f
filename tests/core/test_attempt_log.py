"""What the log says of attempts: a failure for good once, with its traceback; a retry without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from flowrra import Config, ExecutorConfig, Flowrra, Reject, Task, TaskResult
from flowrra.backends import BaseResultBackend
from flowrra.executors.attempt_log import MAX_LOGGED, FailedTask
from flowrra.log import TaskLogFilter
from tests.core import cpu_tasks
from tests.core.apps import RemoteBackend, cpu_app, until
from tests.core.test_leftovers import ListBroker
from tests.settlement import misbehaviour

LOGGER = "flowrra.executors.attempt_log"


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("flowrra.") and record.levelno >= level]


async def run(
    func: Callable[..., Any], *args: Any, backend: BaseResultBackend | None = None, **options: Any
) -> Flowrra:
    app = Flowrra(Config(backend=backend, executor=ExecutorConfig(max_retries=0, retry_delay=0)))
    app.task(name="job", **options)(func)
    async with app:
        await app.wait_for_result(await app.submit(func, *args), timeout=5)
    return app


async def fail() -> None:
    raise ValueError("no such order")


async def succeed() -> int:
    return 1


class TestAFailureForGood:
    async def test_is_one_error_with_its_traceback_and_whose_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        app = await run(fail)
        [line] = lines(caplog, logging.WARNING)
        assert line.levelname == "ERROR"
        assert line.exc_info is not None
        assert line.exc_info[0] is ValueError
        message = line.getMessage()
        assert message.startswith("task failed task=job id=")
        assert f"attempt=1 queue=default worker={app.id} error='ValueError: no such order'" in message
        assert "in fail" in caplog.text

    async def test_has_the_same_text_before_its_fields_each_time(self, caplog: pytest.LogCaptureFixture) -> None:
        await run(fail)
        await run(fail)
        first, second = lines(caplog, logging.ERROR)
        assert first.msg == second.msg
        assert first.getMessage() != second.getMessage()

    async def test_after_retries_says_which_attempt_it_was_and_those_have_no_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        await run(fail, max_retries=2)
        *retries, last = lines(caplog, logging.WARNING)
        assert [(line.levelname, line.exc_info) for line in retries] == [("WARNING", None)] * 2
        assert [f"attempt={number} " in line.getMessage() for number, line in enumerate(retries, 1)] == [True, True]
        assert last.levelname == "ERROR"
        assert "attempt=3 " in last.getMessage()

    async def test_that_is_not_worth_a_retry_is_an_error_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def reject() -> None:
            raise Reject("never")

        await run(reject, max_retries=5)
        [line] = lines(caplog, logging.WARNING)
        assert line.levelname == "ERROR"

    async def test_in_a_worker_process_shows_the_traceback_from_there(self, caplog: pytest.LogCaptureFixture) -> None:
        app = cpu_app()
        app.task(cpu_bound=True, max_retries=0)(cpu_tasks.burn)
        async with app:
            await app.wait_for_result(await app.submit("burn", "long"), timeout=20)
        [line] = lines(caplog, logging.ERROR)
        assert line.exc_info is not None
        assert line.exc_info[0] is TypeError
        assert "in the worker process" in caplog.text
        assert "in burn" in caplog.text

    async def test_of_a_time_limit_is_a_time_out(self, caplog: pytest.LogCaptureFixture) -> None:
        await run(hang, timeout=0.01)
        [line] = lines(caplog, logging.ERROR)
        assert "TaskTimeoutError" in line.getMessage()


async def hang() -> None:
    await asyncio.Event().wait()


class TestAnErrorThatMisbehaves:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: misbehaviour.EvilError("x"),
            lambda: misbehaviour.EvilTextError("x"),
            lambda: misbehaviour.EvilKindError("x"),
            lambda: misbehaviour.EvilIdentityError("x"),
            lambda: ValueError("\ud800"),
            lambda: ValueError("x" * 2 * MAX_LOGGED),
        ],
        ids=["error", "text", "kind", "identity", "surrogate", "long"],
    )
    async def test_is_logged_once_and_whole(
        self, make: Callable[[], Exception], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def misbehave() -> None:
            raise make()

        app = await run(misbehave)
        [line] = lines(caplog, logging.ERROR)
        text = logging.Formatter().format(line)
        assert "in misbehave" in text
        assert len(text.encode()) < 2 * MAX_LOGGED
        assert app.telemetry.tasks["job"].snapshot()["failed"] == 1

    async def test_is_stood_in_for_if_it_cant_be_formatted(self, caplog: pytest.LogCaptureFixture) -> None:
        async def misbehave() -> None:
            raise misbehaviour.EvilError

        await run(misbehave)
        [line] = lines(caplog, logging.ERROR)
        assert line.exc_info is not None
        assert line.exc_info[0] is FailedTask

    async def test_a_handler_that_raises_keeps_no_attempt_from_its_outcome(self) -> None:
        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("the disk is full")

        handler = Broken()
        logging.getLogger(LOGGER).addHandler(handler)
        try:
            app = await run(fail)
        finally:
            logging.getLogger(LOGGER).removeHandler(handler)
        assert app.telemetry.tasks["job"].snapshot()["failed"] == 1


async def test_a_result_that_cant_be_stored_is_one_error(caplog: pytest.LogCaptureFixture) -> None:
    class Picky(RemoteBackend):
        async def store(self, task_id: str, result: TaskResult) -> None:
            if result.is_success:
                raise ValueError("too large")
            await super().store(task_id, result)

    await run(succeed, backend=Picky())
    [line] = lines(caplog, logging.WARNING)
    assert "its result could not be stored: ValueError: too large" in line.getMessage()
    assert line.exc_info is not None
    assert line.exc_info[0] is ValueError


class TestBeginningsAndSuccesses:
    async def test_are_for_debugging(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG", LOGGER)
        app = await run(succeed)
        started, succeeded = lines(caplog)[:2]
        assert started.getMessage().startswith("task started task=job id=")
        assert f"attempt=1 queue=default worker={app.id} seconds=0.0" in succeeded.getMessage()
        assert (started.levelname, succeeded.levelname) == ("DEBUG", "DEBUG")

    async def test_are_not_even_made_without_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        await run(succeed)
        assert not [line for line in lines(caplog) if line.name == LOGGER]


async def test_flowrras_own_lines_name_their_task_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(name_task := TaskLogFilter())
    try:
        await run(fail)
    finally:
        caplog.handler.removeFilter(name_task)
    [line] = lines(caplog, logging.ERROR)
    assert "task=job" in line.getMessage()
    assert vars(line)["task_name"] is None


async def test_a_task_of_an_unknown_name_from_a_broker_is_one_error(caplog: pytest.LogCaptureFixture) -> None:
    broker = ListBroker()
    await broker.push(Task("t1", "unheard of", (), {}))
    app = Flowrra(Config(broker=broker))
    app.task("job")(succeed)
    async with app:
        await until(lambda: lines(caplog, logging.WARNING))
    [line] = lines(caplog, logging.WARNING)
    fields = f"task=unheard of id=t1 attempt=1 queue=default worker={app.id} error="
    assert line.getMessage().startswith(f"task given up {fields}")


async def test_a_backend_that_is_away_is_few_lines_however_many_tasks_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Away(RemoteBackend):
        is_away = False

        async def store(self, task_id: str, result: TaskResult) -> None:
            if self.is_away:
                raise ConnectionError("no route")
            await super().store(task_id, result)

    backend = Away()
    app = Flowrra(Config(backend=backend))
    gate = asyncio.Event()

    @app.task("job")
    async def wait_for_gate() -> None:
        await gate.wait()

    async with app:
        ids = [await app.submit("job") for _ in range(50)]
        backend.is_away = True
        gate.set()
        await until(lambda: app.executors["io"].backend_errors["store"] > 100)
        backend.is_away = False
        for task_id in ids:
            await app.wait_for_result(task_id, timeout=10)
    said = [line.getMessage() for line in lines(caplog) if "records not stored" in line.getMessage()]
    begun, over = said
    assert begun.startswith("records not stored executor=io times=1 error=ConnectionError: no route task=job id=")
    assert over.startswith("over: records not stored executor=io times=")
