"""Results: who can ask for them, from where, for how long they are kept; waiting for one never leaks or hangs."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from flowrra import BackendError, Flowrra, TaskResult, TaskStatus, TaskTimeoutError
from flowrra.backends import InMemoryBackend
from flowrra.executors import hangs
from tests.core.apps import (
    LoopThread,
    RemoteBackend,
    final,
    in_another_thread,
    memory_app,
    numbers_of,
    record_of,
    until,
)
from tests.core.test_polled_broker import ListBroker

NO_SECONDS = [math.nan, True, "1", 1e300, 10**400]


def echo_app(**options: int) -> Flowrra:
    """An app with a task that returns its argument, one that fails, and one that never ends."""
    app = memory_app(**options)

    @app.task()
    async def echo(value: object) -> object:
        return value

    @app.task(max_retries=0)
    async def failing() -> None:
        raise ValueError("boom")

    @app.task()
    async def endless() -> None:
        await asyncio.sleep(3600)

    return app


def record(task_id: str, status: TaskStatus = TaskStatus.SUCCESS, age: float | None = 0.0) -> TaskResult:
    """A record that was submitted that many seconds ago."""
    submitted = None if age is None else datetime.now(UTC) - timedelta(seconds=age)
    return TaskResult(task_id, status, "echo", submitted_at=submitted)


class TestAsking:
    async def test_an_unknown_id_has_no_record(self) -> None:
        app = echo_app()
        assert await app.get_result("unknown") is None
        async with app:
            assert await app.get_result("unknown") is None
        assert await app.get_result("unknown") is None

    async def test_what_is_no_text_stands_for_its_text(self) -> None:
        app = echo_app()
        async with app:
            task_id = UUID(await app.submit("echo", 1))
            executor = app.executors["io"]

            for found in (
                await app.wait_for_result(task_id, timeout=5),  # type: ignore[arg-type]
                await executor.wait_for_result(task_id, timeout=5),  # type: ignore[arg-type]
                await app.get_result(task_id),  # type: ignore[arg-type]
                await executor.get_result(task_id),  # type: ignore[arg-type]
            ):
                assert found is not None
                assert (found.task_id, found.result) == (str(task_id), 1)
            later = UUID(await app.options(countdown=60).submit("echo", 2))
            assert await app.cancel_task(later) is True  # type: ignore[arg-type]

    async def test_even_an_app_without_tasks_can_be_asked(self) -> None:
        assert await Flowrra().get_result("unknown") is None

    async def test_results_outlive_the_app_running(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.submit("echo", 1)

        assert (await record_of(app, task_id)).result == 1
        assert (await app.wait_for_result(task_id, timeout=1)).result == 1

    async def test_what_the_asker_does_with_a_record_changes_nothing(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.submit("echo", 1)
            mine = await final(app, task_id)
            mine.status, mine.result = TaskStatus.FAILED, "tampered"

            theirs = await record_of(app, task_id)

        assert (theirs.status, theirs.result) == ("success", 1)

    async def test_a_record_that_was_read_does_not_change_afterwards(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.submit("echo", 1)
            before = await record_of(app, task_id)
            await final(app, task_id)

            assert before.status == "pending"


class TestWaiting:
    async def test_a_failure_is_returned_and_not_raised(self) -> None:
        app = echo_app()
        async with app:
            failed = await app.wait_for_result(await app.submit("failing"), timeout=5)

        assert (failed.status, failed.error) == ("failed", "ValueError: boom")

    async def test_an_unknown_id_is_an_error_at_once(self) -> None:
        app = echo_app()
        async with app:
            with pytest.raises(ValueError, match="not found"):
                await app.wait_for_result("unknown", timeout=5)

    @pytest.mark.parametrize("timeout", [0, 0.02])
    async def test_too_late_is_a_timeout_that_names_the_task(self, timeout: float) -> None:
        app = echo_app()
        await app.start()
        try:
            task_id = await app.submit("endless")
            with pytest.raises(TaskTimeoutError, match=task_id) as too_late:
                await app.wait_for_result(task_id, timeout=timeout)
        finally:
            await app.stop(wait=False)

        assert isinstance(too_late.value, asyncio.TimeoutError)
        assert (too_late.value.task_id, too_late.value.timeout) == (task_id, timeout)

    @pytest.mark.parametrize("timeout", NO_SECONDS, ids=repr)
    async def test_what_is_no_number_of_seconds_is_refused(self, timeout: object) -> None:
        """NaN would make every timer of the event loop late."""
        app = echo_app()
        async with app:
            task_id = await app.submit("echo", 1)
            waits = {
                "app": app.wait_for_result,
                "executor": app.executors["io"].wait_for_result,
                "backend": app.results.wait_for,
                "thread": partial(asyncio.to_thread, app.wait_for_result_sync),
            }
            for wait in waits.values():
                with pytest.raises((TypeError, ValueError), match=r"^timeout must be "):
                    await wait(task_id, timeout)  # type: ignore[operator]

    async def test_a_deadline_that_has_passed_leaves_no_time_and_infinity_all_of_it(self) -> None:
        app = echo_app()
        async with app:
            waiting = await app.submit("endless")
            for wait in (app.wait_for_result, app.executors["io"].wait_for_result):
                with pytest.raises(TaskTimeoutError):
                    await wait(waiting, -1.5)
            done = await app.submit("echo", 1)
            assert (await app.wait_for_result(done, math.inf)).result == 1
            await app.cancel_task(waiting)

    async def test_a_finished_result_is_there_even_without_time_to_wait(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.submit("echo", 1)
            await final(app, task_id)
            assert (await app.wait_for_result(task_id, timeout=0)).result == 1

    async def test_hundreds_of_waiters_are_all_woken(self) -> None:
        app = echo_app(io_workers=1)
        async with app:
            task_id = await app.options(countdown=0.1).submit("echo", "for all")
            waiters = [asyncio.ensure_future(app.wait_for_result(task_id, timeout=5)) for _ in range(300)]
            records = await asyncio.gather(*waiters)

        assert {each.result for each in records} == {"for all"}

    @pytest.mark.slow
    async def test_waiters_that_give_up_leave_nothing_behind(self) -> None:
        app = echo_app()
        await app.start()
        try:
            task_id = await app.submit("endless")

            async def give_up() -> None:
                with pytest.raises(TaskTimeoutError):
                    await app.wait_for_result(task_id, timeout=0.001)

            async def many_give_up() -> None:
                await asyncio.gather(*(give_up() for _ in range(50)))

            await many_give_up()
            before = count_futures()
            for _ in range(10):
                await many_give_up()
            assert count_futures() <= before + 5
        finally:
            await app.stop(wait=False)

    async def test_a_cancelled_waiter_does_not_disturb_the_others(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.options(countdown=0.1).submit("echo", 1)
            first, second = (asyncio.ensure_future(app.wait_for_result(task_id, timeout=5)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).result == 1

    async def test_without_a_time_limit(self) -> None:
        app = echo_app()
        async with app:
            assert (await app.wait_for_result(await app.submit("echo", 1))).result == 1

    async def test_a_task_may_wait_for_another(self) -> None:
        app = echo_app(io_workers=2)

        @app.task()
        async def parent() -> object:
            return (await app.wait_for_result(await app.submit("echo", "child"), timeout=5)).result

        async with app:
            assert (await final(app, await app.submit(parent))).result == "child"


class TestExecutor:
    """The executor answers as the app does, except that an unknown id is waited for."""

    async def test_its_results_are_in_memory_when_nothing_is_configured(self) -> None:
        from flowrra import IOExecutor

        assert isinstance(IOExecutor().results, InMemoryBackend)

    async def test_it_works_without_an_app(self) -> None:
        from flowrra import IOExecutor

        executor = IOExecutor()

        @executor.task(max_retries=0)
        async def double(number: int) -> int:
            return number * 2

        assert executor.is_broker() is False
        assert executor.broker is None
        async with executor:
            assert executor.is_running
            task_id = await executor.submit(double, 21)
            assert executor.pending_count() == 1
            result = await executor.wait_for_result(task_id, timeout=5)
            assert executor.pending_count() == 0
            again = await executor.get_result(task_id)

        assert result.result == 42
        assert again == result
        assert not executor.is_running
        assert executor.registry.list_tasks() == ["double"]

    async def test_an_unknown_id_is_waited_for_until_the_time_is_over(self) -> None:
        from flowrra import IOExecutor

        async with IOExecutor() as executor:
            with pytest.raises(TaskTimeoutError):
                await executor.wait_for_result("unknown", timeout=0.02)
            assert await executor.get_result("unknown") is None


class TestInMemoryBackend:
    async def test_it_keeps_and_forgets_records(self) -> None:
        backend = InMemoryBackend()
        await backend.store("a", record("a"))
        await backend.store("b", record("b"))

        assert len(backend) == 2
        assert await backend.delete("a") is True
        assert await backend.delete("a") is False
        assert await backend.get("a") is None
        assert sum((await backend.count()).values()) == 1
        assert await backend.clear() == 1
        assert len(backend) == 0
        assert not await backend.count()
        await backend.store("c", record("c"))
        assert sum((await backend.count()).values()) == 1

    async def test_an_id_may_be_waited_for_before_it_exists(self) -> None:
        backend = InMemoryBackend()
        waiter = asyncio.ensure_future(backend.wait_for("later", timeout=5))
        await asyncio.sleep(0)

        await backend.store("later", record("later", TaskStatus.RUNNING))
        done, _ = await asyncio.wait([waiter], timeout=0.02)
        assert not done, "only a complete record ends the wait"
        await backend.store("later", record("later", TaskStatus.FAILED))

        assert (await waiter).status == "failed"

    async def test_a_wait_ends_with_the_builtin_timeout(self) -> None:
        with pytest.raises(TimeoutError):
            await InMemoryBackend().wait_for("never", timeout=0.01)

    async def test_lists_are_by_status_and_newest_first(self) -> None:
        backend = InMemoryBackend()
        for task_id, age in {"old": 30.0, "undated": None, "new": 10.0, "middle": 20.0}.items():
            await backend.store(task_id, record(task_id, TaskStatus.FAILED, age))
        await backend.store("other", record("other", TaskStatus.SUCCESS))

        async def listed(limit: int | None = None, offset: int = 0) -> list[str]:
            return [each.task_id for each in await backend.list_by_status(TaskStatus.FAILED, limit, offset)]

        assert await listed() == ["new", "middle", "old", "undated"]
        assert await listed(limit=2) == ["new", "middle"]
        assert await listed(limit=2, offset=1) == ["middle", "old"]
        assert await listed(offset=3) == ["undated"]
        assert await listed(limit=0) == []
        assert await listed(limit=5, offset=9) == []

    async def test_naive_and_aware_times_can_be_listed_together(self) -> None:
        backend = InMemoryBackend()
        naive = record("naive")
        naive.submitted_at = datetime.now() - timedelta(hours=1)  # noqa: DTZ005 - as earlier releases wrote it
        await backend.store("naive", naive)
        await backend.store("aware", record("aware"))

        assert [each.task_id for each in await backend.list_by_status(TaskStatus.SUCCESS)] == ["aware", "naive"]


class TestRetention:
    async def test_the_oldest_finished_records_go_first(self) -> None:
        app = memory_app(backend=InMemoryBackend(max_results=10))

        @app.task()
        async def echo(n: int) -> int:
            return n

        async with app:
            ids = [await app.submit(echo, n) for n in range(25)]
            await final(app, ids[-1])
            kept = [task_id for task_id in ids if await app.get_result(task_id) is not None]

        assert kept == ids[-10:]

    async def test_an_unfinished_task_is_never_forgotten(self) -> None:
        backend = InMemoryBackend(max_results=1, max_age=0.001)
        for n in range(50):
            await backend.store(f"waiting-{n}", record(f"waiting-{n}", TaskStatus.PENDING))
        for n in range(50):
            await backend.store(f"done-{n}", record(f"done-{n}"))

        assert all([await backend.get(f"waiting-{n}") is not None for n in range(50)])

    async def test_finished_records_grow_old(self) -> None:
        backend = InMemoryBackend(max_age=0.05)
        await backend.store("a", record("a"))
        assert await backend.get("a") is not None

        async with asyncio.timeout(5):
            while await backend.get("a") is not None:
                await asyncio.sleep(0.01)

    async def test_what_finished_while_somebody_waited_reaches_the_waiter(self) -> None:
        app = memory_app(io_workers=1, backend=InMemoryBackend(max_results=1))

        @app.task()
        async def echo(n: int) -> int:
            return n

        async with app:
            ids = [await app.submit(echo, n) for n in range(30)]
            waiters = [asyncio.ensure_future(app.wait_for_result(task_id, timeout=5)) for task_id in ids]
            results = [each.result for each in await asyncio.gather(*waiters)]

        assert results == list(range(30))

    async def test_waiting_for_what_is_forgotten_is_an_error_and_not_a_hang(self) -> None:
        app = memory_app(backend=InMemoryBackend(max_results=1))

        @app.task()
        async def echo(n: int) -> int:
            return n

        async with app:
            first = await app.submit(echo, 1)
            await final(app, first)
            await final(app, await app.submit(echo, 2))
            with pytest.raises(ValueError, match="not found"):
                await app.wait_for_result(first)

    async def test_records_that_were_deleted_take_no_place(self) -> None:
        backend = InMemoryBackend(max_results=2)
        await backend.store("a", record("a"))
        await backend.store("b", record("b"))
        await backend.delete("b")
        await backend.store("c", record("c"))

        assert await backend.get("a") is not None
        assert await backend.get("c") is not None

    async def test_a_record_stored_twice_takes_one_place(self) -> None:
        backend = InMemoryBackend(max_results=2)
        await backend.store("a", record("a"))
        twice = record("b")
        await backend.store("b", twice)
        await backend.store("b", twice)

        assert await backend.get("a") is not None

    @pytest.mark.parametrize("options", [{"max_results": 0}, {"max_age": 0}, {"max_age": -1}], ids=str)
    def test_limits_must_be_positive(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            InMemoryBackend(**options)


@pytest.fixture
def threads_take_turns_quickly() -> Iterator[None]:
    """Interrupt threads far more often than usual, so that what can go wrong between two steps does."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


class TestFromElsewhere:
    async def test_any_thread_may_ask_and_wait_under_a_loop_of_its_own(self) -> None:
        app = echo_app()
        async with app:
            task_id = await app.options(countdown=0.1).submit("echo", 1)

            pending = await in_another_thread(lambda: app.get_result(task_id))
            waited = await in_another_thread(lambda: app.wait_for_result(task_id, timeout=5))

        assert pending is not None
        assert pending.status == "pending"
        assert waited.result == 1

    async def test_many_threads_wait_for_many_tasks_at_once(self) -> None:
        app = echo_app(io_workers=2)
        async with app:
            ids = [await app.options(countdown=0.05 + n / 100).submit("echo", n) for n in range(8)]

            async def wait_for_all() -> list[object]:
                waits = [app.wait_for_result(task_id, timeout=10) for task_id in ids]
                return [each.result for each in await asyncio.gather(*waits)]

            answers = await asyncio.gather(*(in_another_thread(wait_for_all) for _ in range(4)))

        assert answers == [list(range(8))] * 4

    async def test_a_time_limit_holds_there_too(self) -> None:
        app = echo_app()
        await app.start()
        try:
            task_id = await app.submit("endless")
            with pytest.raises(TaskTimeoutError):
                await in_another_thread(lambda: app.wait_for_result(task_id, timeout=0.05))
        finally:
            await app.stop(wait=False)

    def test_one_loop_after_another_may_ask(self) -> None:
        with LoopThread() as elsewhere:
            app = echo_app()
            elsewhere.run(app.start())
            task_id = elsewhere.run(app.submit("echo", 1))
            for _ in range(3):
                assert asyncio.run(app.wait_for_result(task_id, timeout=5)).result == 1
            elsewhere.run(app.stop())

        assert asyncio.run(app.wait_for_result(task_id, timeout=5)).result == 1

    @pytest.mark.slow
    @pytest.mark.usefixtures("threads_take_turns_quickly")
    async def test_records_expire_in_one_thread_while_others_read_and_delete(self) -> None:
        backend = InMemoryBackend(max_results=5, max_age=0.0001)
        done = threading.Event()

        async def read_all_the_time() -> int:
            turns = 0
            while not done.is_set():
                await backend.get("task-0")
                await backend.delete(f"task-{turns % 50}")
                await backend.list_by_status(TaskStatus.SUCCESS, limit=3)
                turns += 1
            return turns

        readers = [asyncio.ensure_future(in_another_thread(read_all_the_time)) for _ in range(3)]
        try:
            for n in range(20_000):
                await backend.store(f"task-{n % 50}", record(f"task-{n % 50}"))
                if n % 500 == 0:
                    await asyncio.sleep(0)
        finally:
            done.set()
        assert min(await asyncio.gather(*readers)) > 0
        assert len(backend) <= 50

    @pytest.mark.usefixtures("threads_take_turns_quickly")
    async def test_waiters_that_come_and_go_in_other_threads_are_all_woken(self) -> None:
        """Impatient waiters leave at the very moment at which patient ones arrive."""
        backend = InMemoryBackend()

        async def impatient(name: str) -> None:
            with suppress(TimeoutError):
                await backend.wait_for(name, timeout=0)

        async def come_and_go() -> int:
            woken = 0
            for n in range(100):
                await asyncio.gather(*(impatient(f"task-{n}") for _ in range(20)))
                woken += (await backend.wait_for(f"task-{n}", timeout=5)).is_complete
            return woken

        threads = [asyncio.ensure_future(in_another_thread(come_and_go)) for _ in range(3)]
        for n in range(100):
            await backend.store(f"task-{n}", record(f"task-{n}"))
            await asyncio.sleep(0.001)

        assert await asyncio.gather(*threads) == [100, 100, 100]

    async def test_a_waiter_that_leaves_takes_none_along_that_just_arrives(self) -> None:
        backend = InMemoryBackend()
        arrives, has_left = threading.Event(), threading.Event()

        class SlowDoor(dict[str, list[asyncio.Future[TaskResult]]]):
            """Gives the turn to the thread that leaves, just when another one has found where to wait."""

            def setdefault(self, *entry: Any) -> Any:
                found = super().setdefault(*entry)
                if threading.current_thread() is not threading.main_thread():
                    arrives.set()
                    has_left.wait(0.1)
                return found

        backend._waiters = SlowDoor()
        leaving = asyncio.ensure_future(backend.wait_for("task", timeout=60))
        await asyncio.sleep(0)
        with LoopThread() as elsewhere:
            arriving = asyncio.run_coroutine_threadsafe(backend.wait_for("task", timeout=5), elsewhere.loop)
            await asyncio.to_thread(arrives.wait)
            leaving.cancel()
            await asyncio.wait([leaving])
            has_left.set()
            elsewhere.run(asyncio.sleep(0))
            await backend.store("task", record("task"))
            assert (await asyncio.wrap_future(arriving)).is_complete


async def test_waiters_are_told_when_the_app_stops() -> None:
    app = echo_app(io_workers=1)
    await app.start()
    running, waiting = await app.submit("endless"), await app.submit("endless")
    await until(lambda: numbers_of(app, "endless")["running"] == 1)
    waiters = [asyncio.ensure_future(app.wait_for_result(task_id)) for task_id in (running, waiting)]
    await asyncio.sleep(0)

    await app.stop(wait=False)

    assert [each.status for each in await asyncio.gather(*waiters)] == ["cancelled", "cancelled"]


async def echo(value: object) -> object:
    return value


async def test_what_two_apps_share_is_closed_by_the_last_one_that_stops() -> None:
    closed: list[str] = []

    class Results(InMemoryBackend):
        async def close(self) -> None:
            closed.append("results")
            await super().close()

    class Broker(ListBroker):
        async def close(self) -> None:
            closed.append("broker")

    results, broker = Results(), Broker()
    one, other = (memory_app(backend=results, broker=broker) for _ in range(2))
    for app in (one, other):
        app.task(name="echo")(echo)
        await app.start()
    waiting = asyncio.ensure_future(results.wait_for("not yet submitted", 60))
    await one.stop()
    assert closed == []
    assert (await final(other, await other.options(task_id="not yet submitted").submit(echo, 1))).result == 1
    assert (await waiting).result == 1

    waiting = asyncio.ensure_future(results.wait_for("never submitted", 60))
    await other.stop()
    assert closed == ["results", "broker"]
    with pytest.raises(BackendError, match="The app stopped"):
        await waiting


def count_futures() -> int:
    gc.collect()
    return sum(isinstance(each, asyncio.Future) for each in gc.get_objects())


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("no"), None], ids=["exit", "error", "none"])
async def test_a_backend_of_ones_own_is_asked_ever_again_to_count_no_expired_records(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises; a SystemExit that nobody catches would end the event loop."""
    monkeypatch.setattr(hangs, "LOOK_EVERY", 0.01)
    calls: list[int] = []

    class Backend(RemoteBackend):
        async def unlist_expired(self) -> None:
            calls.append(1)
            if error is not None:
                raise error

    app = memory_app(backend=Backend())
    app.task(name="nothing")(_nothing)
    async with app:
        await until(lambda: len(calls) > 2)


async def test_one_that_takes_long_to_unlist_expired_records_is_asked_once_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hangs, "LOOK_EVERY", 0.01)
    is_over, calls = asyncio.Event(), 0

    class Backend(RemoteBackend):
        async def unlist_expired(self) -> None:
            nonlocal calls
            calls += 1
            await is_over.wait()

    app = memory_app(backend=Backend())
    app.task(name="nothing")(_nothing)
    async with app:
        await until(lambda: calls)
        await asyncio.sleep(0.1)  # in which it looks several times more
        assert calls == 1
        is_over.set()
        await until(lambda: calls > 1)


async def _nothing() -> None: ...
