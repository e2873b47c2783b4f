"""CPU-bound tasks: what they see, what comes back, what they raise; in worker processes, several at once."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowrra import Config, CPUExecutor, ExecutorConfig, Flowrra, Middleware, Task, TaskRegistry
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from tests.core import cpu_tasks
from tests.core.apps import RemoteBackend, assert_counts_add_up, cpu_app, final, memory_app, numbers_of


def with_tasks(app: Flowrra, *functions: Callable[..., Any], **options: Any) -> Flowrra:
    for function in functions:
        app.task(cpu_bound=True, **options)(function)
    return app


async def result_of(app: Flowrra, function: Callable[..., Any], *args: Any) -> Any:
    record = await final(app, await app.submit(function, *args), within=10)
    assert record.status == "success", record.traceback or record.error
    return record.result


class TestWhatATaskSees:
    async def test_a_process_of_its_own_its_task_and_its_headers(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid, cpu_tasks.who_am_i)
        async with app:
            assert await result_of(app, cpu_tasks.pid) != os.getpid()
            task_id = await app.options(headers={"trace": "abc"}).submit(cpu_tasks.who_am_i)
            record = await final(app, task_id)

        assert record.result == (task_id, "who_am_i", 1, {"trace": "abc"})
        assert (record.status, record.error, record.retries) == ("success", None, 0)
        assert None not in (record.submitted_at, record.started_at, record.finished_at)

    @pytest.mark.slow
    async def test_its_arguments_also_large_ones_and_the_way_back(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.echo)
        async with app:
            for value in (None, (1, {"a": {2}}), b"x" * 20_000_000, os.urandom(300_000)):
                assert await result_of(app, cpu_tasks.echo, value) == value

    @pytest.mark.slow
    async def test_threads_sockets_and_processes_work_inside(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.use_a_pool, cpu_tasks.run_a_thread, cpu_tasks.send_over_a_socket)
        async with app:
            assert await result_of(app, cpu_tasks.use_a_pool) == [1, 2, 3]
            assert await result_of(app, cpu_tasks.run_a_thread) == 42
            assert await result_of(app, cpu_tasks.send_over_a_socket) == 5

    @pytest.mark.slow
    async def test_an_app_with_results_elsewhere(self) -> None:
        app = with_tasks(cpu_app(backend=RemoteBackend()), cpu_tasks.echo, cpu_tasks.fail, max_retries=0)
        async with app:
            assert await result_of(app, cpu_tasks.echo, [1]) == [1]
            record = await final(app, await app.submit(cpu_tasks.fail, "exception"))

        assert (record.status, record.error) == ("failed", "ValueError: boom")

    async def test_an_executor_without_an_app(self) -> None:
        config = Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=1))
        async with CPUExecutor(config) as executor:
            executor.task()(cpu_tasks.echo)
            record = await executor.wait_for_result(await executor.submit(cpu_tasks.echo, "hello"), timeout=10)

        assert record.result == "hello"
        assert (executor.kind, executor.workers, executor.is_running) == ("cpu", 1, False)


class TestParallel:
    @pytest.mark.slow
    async def test_as_many_at_once_as_there_are_workers(self, tmp_path: Path) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.meet)
        async with app:
            ids = [await app.submit(cpu_tasks.meet, str(tmp_path), *names) for names in (("a", "b"), ("b", "a"))]
            pids = {(await final(app, task_id, within=10)).result for task_id in ids}

        assert len(pids) == 2

    @pytest.mark.slow
    async def test_and_no_more(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.log_turn, cpu_tasks.meet)
        async with app:
            # Both processes are there from now on.
            meeting = [await app.submit(cpu_tasks.meet, str(tmp_path), *names) for names in (("a", "b"), ("b", "a"))]
            for task_id in meeting:
                await final(app, task_id, within=10)
            ids = [await app.submit(cpu_tasks.log_turn, str(log), str(n)) for n in range(6)]
            for task_id in ids:
                assert (await final(app, task_id, within=10)).status == "success"

        running, most = 0, 0
        for line in log.read_text().splitlines():
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
        assert most == 2

    @pytest.mark.slow
    async def test_the_event_loop_turns_meanwhile(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.burn)
        async with app:
            await result_of(app, cpu_tasks.burn, 0)
            burning = asyncio.create_task(result_of(app, cpu_tasks.burn, 0.5))
            turns = 0
            while not burning.done():
                await asyncio.sleep(0.005)
                turns += 1
            await burning

        assert turns > 30  # of 100, on a machine with other things to do

    async def test_a_process_is_started_once_and_kept(self) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.pid)
        async with app:
            pids = {await result_of(app, cpu_tasks.pid) for _ in range(5)}

        assert len(pids) == 1

    @pytest.mark.slow
    async def test_lower_priorities_run_first(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        app = with_tasks(cpu_app(), cpu_tasks.note)
        async with app:
            ids = [await app.submit(cpu_tasks.note, str(log), str(p), priority=p) for p in (5, -1, 3, 0)]
            for task_id in ids:
                await final(app, task_id, within=10)

        assert log.read_text().split() == ["-1", "0", "3", "5"]

    async def test_io_tasks_run_beside_them(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid)

        @app.task()
        async def here() -> int:
            return await result_of(app, cpu_tasks.pid)

        async with app:
            assert await result_of(app, here) != os.getpid()


class TestFailures:
    @pytest.mark.slow
    @pytest.mark.parametrize("how", cpu_tasks.FAILURES)
    async def test_an_exception_comes_back_by_name_and_text(self, how: str) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.fail, cpu_tasks.pid, max_retries=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.fail, how), within=10)
            first = await result_of(app, cpu_tasks.pid)
            second = await result_of(app, cpu_tasks.pid)

        expected = cpu_tasks.FAILURES[how][1]
        assert (record.status, record.error) == ("failed", expected)
        assert record.traceback is not None
        assert "raise FAILURES[how][0]()" in record.traceback
        assert first == second
        numbers = numbers_of(app, "fail")
        assert_counts_add_up(numbers, running=0)
        assert numbers["exceptions"] == {expected.partition(":")[0]: 1}

    async def test_the_traceback_is_the_one_in_the_process_causes_included(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.fail_with_a_cause, cpu_tasks.recurse, max_retries=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.fail_with_a_cause), within=10)
            deep = await final(app, await app.submit(cpu_tasks.recurse), within=10)

        assert record.traceback is not None
        assert record.traceback.startswith("Traceback (most recent call last):\n")
        assert "KeyError: 'the first'" in record.traceback
        assert record.traceback.endswith("ValueError: the second\n")
        assert "/flowrra/" not in record.traceback
        assert (deep.error or "").startswith("RecursionError")

    @pytest.mark.slow
    async def test_retries_by_the_tasks_own_rules(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.fail_before, max_retries=2, retry_delay=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.fail_before, 3, "exception"), within=10)

        assert (record.status, record.result, record.retries) == ("success", 3, 2)
        numbers = numbers_of(app, "fail_before")
        assert (numbers["started"], numbers["retried"], numbers["succeeded"]) == (3, 2, 1)
        assert_counts_add_up(numbers, running=0)

    @pytest.mark.parametrize(("how", "attempts"), [("two arguments", 2), ("holds a lock", 1)])
    async def test_retry_on_knows_an_exception_that_could_not_travel(self, how: str, attempts: int) -> None:
        app = cpu_app()
        options = {"max_retries": 1, "retry_delay": 0, "retry_on": cpu_tasks.TwoArguments}
        with_tasks(app, cpu_tasks.fail, **options)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.fail, how), within=10)

        assert (record.status, record.retries + 1) == ("failed", attempts)

    async def test_reject_fails_at_once(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.reject)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.reject), within=10)

        assert (record.status, record.error, record.retries) == ("failed", "Reject: never again", 0)


class TestWhatCannotTravel:
    async def test_an_argument_fails_its_task_at_once_and_is_named(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.echo)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.echo, value=threading.Lock()), within=10)
            assert await result_of(app, cpu_tasks.echo, 1) == 1

        assert (record.status, record.retries) == ("failed", 0)
        assert record.error is not None
        assert record.error.startswith("SerializationError: value can't be sent to a worker process: TypeError:")

    async def test_an_argument_that_can_not_be_read_there(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.echo)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.echo, cpu_tasks.NeedsProcess(os.getpid())), within=10)

        assert (record.status, record.retries) == ("failed", 0)
        assert (record.error or "").startswith("SerializationError: its arguments can't be read in the worker")
        assert "LookupError: not here" in (record.error or "")

    @pytest.mark.slow
    async def test_a_result_fails_its_task_which_does_not_run_again(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        app = with_tasks(cpu_app(), cpu_tasks.return_a_lock, retry_delay=0)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.return_a_lock, str(log)), within=10)

        assert record.status == "failed"
        assert (record.error or "").startswith("SerializationError: its result, a lock, can't be sent back")
        assert log.read_text() == "ran\n"

    async def test_a_result_that_can_not_be_read_here(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.return_unreadable, cpu_tasks.echo)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.return_unreadable), within=10)
            assert await result_of(app, cpu_tasks.echo, 1) == 1

        assert (record.status, record.retries) == ("failed", 0)
        assert (record.error or "").startswith("SerializationError: its result can't be read")


module_level_lambda = lambda: 1  # noqa: E731 - what is refused


class TestWhereFunctionsAre:
    @pytest.mark.parametrize("function", [lambda: 1, module_level_lambda], ids=["nested", "module level"])
    def test_a_lambda_is_refused_with_what_to_do(self, function: Callable[[], int]) -> None:
        with pytest.raises(TypeError, match=r"must be module-level.*define it with `def` at the top level"):
            cpu_app().task("named", cpu_bound=True)(function)

    def test_a_partial_is_refused(self) -> None:
        with pytest.raises(TypeError, match="must be a function, not a partial"):
            cpu_app().task("named", cpu_bound=True)(functools.partial(cpu_tasks.echo, 1))

    def test_a_coroutine_function_is_refused_and_an_app_without_backend(self) -> None:
        async def coroutine() -> None: ...

        with pytest.raises(TypeError, match="must be a sync function"):
            cpu_app().task(cpu_bound=True)(coroutine)
        with pytest.raises(ValueError, match="CPU-bound tasks require backend"):
            memory_app().task(cpu_bound=True)(cpu_tasks.echo)
        with pytest.raises(ValueError, match="requires backend configuration"):
            CPUExecutor(Config())
        with pytest.raises(TypeError, match="config"):
            CPUExecutor()  # type: ignore[call-arg]

    @pytest.mark.slow
    async def test_a_closure_that_was_let_through_fails_with_what_to_do(self) -> None:
        config = Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=1))

        def closure() -> None: ...

        async with CPUExecutor(config, TaskRegistry(strict_cpu_checks=False)) as executor:
            executor.task()(closure)
            record = await executor.wait_for_result(await executor.submit(closure), timeout=10)

        assert (record.status, record.retries) == ("failed", 0)
        assert (record.error or "").startswith("TaskImportError: Task 'closure' can't be found in a worker process")
        assert "Define it with `def`, at the top level of a module" in (record.error or "")

    async def test_a_module_that_can_not_be_imported_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.pid)
        monkeypatch.setattr(cpu_tasks.pid, "__module__", "made_up_at_run_time")
        async with app:
            record = await final(app, await app.submit(cpu_tasks.pid), within=10)

        assert record.status == "failed"
        assert "it was defined as 'pid' in the module 'made_up_at_run_time'" in (record.error or "")

    async def test_tasks_registered_while_the_app_runs_and_past_it(self) -> None:
        app = cpu_app()
        async with app:
            with_tasks(app, cpu_tasks.pid)
            assert await result_of(app, cpu_tasks.pid) != os.getpid()
            app.registry.task(cpu_bound=True)(cpu_tasks.echo)
            assert await result_of(app, cpu_tasks.echo, "by the app's own executor") == "by the app's own executor"


class TestNumbers:
    async def test_the_management_api_shows_them_as_it_does_io_tasks(self, tmp_path: Path) -> None:
        app = with_tasks(cpu_app(cpu_workers=2), cpu_tasks.meet, cpu_tasks.echo)
        manager = FlowrraManager(app)
        async with app:
            task_id = await app.submit(cpu_tasks.meet, str(tmp_path), "a", "b")
            while not (tmp_path / "a").exists():
                await asyncio.sleep(0.002)
            stats = await manager.get_stats()
            numbers = (await manager.get_task_stats())["meet"]
            queues = await manager.get_queue_stats()
            health = await manager.health_check()
            (tmp_path / "b").touch()
            await final(app, task_id)

        cpu = {"running": True, "workers": 2, "busy": 1, "waiting": 0, "stuck": False, "draining": False}
        assert stats["executors"] == {"io": None, "cpu": {**cpu, "queues": None}}
        assert (numbers["executor"], numbers["running"], numbers["started"]) == ("cpu", 1, 1)
        assert numbers["oldest_running_at"] is not None
        assert queues["cpu"] is not None
        assert queues["cpu"]["in_flight"] == 1
        assert health["components"]["cpu_executor"] == {"healthy": True, "message": "running, 1 of 2 workers busy"}

    @pytest.mark.slow
    async def test_a_run_is_as_long_as_its_function_not_as_the_start_of_a_process(self) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.burn)
        async with app:
            submitted = time.monotonic()
            await result_of(app, cpu_tasks.burn, 0.02)
            everything = time.monotonic() - submitted

        assert 0 < numbers_of(app, "burn")["run_duration"]["success"]["sum"] < everything / 2

    async def test_middlewares_are_around_each_attempt(self) -> None:
        seen: list[tuple[str, str]] = []

        class Spy(Middleware):
            def on_submit(self, task: Task) -> None:
                task.headers["from"] = "spy"

            @contextmanager
            def around_attempt(self, task: Task) -> Iterator[None]:
                try:
                    yield
                except Exception as error:
                    seen.append((type(error).__name__, type(error.__cause__).__name__))
                    raise
                seen.append(("", ""))

        app = with_tasks(cpu_app(), cpu_tasks.fail, cpu_tasks.who_am_i, max_retries=0)
        app.add_middleware(Spy())
        async with app:
            await final(app, await app.submit(cpu_tasks.fail, "exception"), within=10)
            assert (await result_of(app, cpu_tasks.who_am_i))[3] == {"from": "spy"}

        assert seen == [("ValueError", "RemoteTraceback"), ("", "")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
class TestWhatRaisesInTheAppWhenItTravels:
    """It fails its task, and not the app, whose event loop it would otherwise end or cancel."""

    @pytest.mark.slow
    @pytest.mark.parametrize("function", [cpu_tasks.return_what_raises, cpu_tasks.raise_what_raises])
    async def test_on_the_way_back(self, error: type[BaseException], function: Callable[..., Any]) -> None:
        app = with_tasks(cpu_app(), function, cpu_tasks.add_up, max_retries=0)
        async with app:
            record = await final(app, await app.submit(function, error), within=20)
            assert record.status == "failed"
            assert "can't be read, back from the worker process" in (record.error or "")
            assert await result_of(app, cpu_tasks.add_up, 1, 2) == 3

    @pytest.mark.slow
    async def test_on_the_way_there(self, error: type[BaseException]) -> None:
        app = with_tasks(cpu_app(), cpu_tasks.take, cpu_tasks.add_up, max_retries=0)
        async with app:
            try:
                task_id = await app.submit(cpu_tasks.take, cpu_tasks.RaisesWhenPickled(error))
            except Exception as refused:
                assert type(refused).__name__ == "SerializationError"  # noqa: PT017
            else:
                assert (await final(app, task_id, within=20)).status == "failed"
            assert await result_of(app, cpu_tasks.add_up, 1, 2) == 3
