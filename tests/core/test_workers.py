"""Whatever a task, a subscriber or a result backend does: the workers go on, and nothing is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flowrra import Flowrra, TaskResult
from flowrra.backends import BaseResultBackend
from flowrra.events import event_bus
from flowrra.executors import workers
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, assert_counts_add_up, final, memory_app, numbers_of, record_of, until


class Custom(BaseException):
    """Not an Exception: `except Exception` lets it through."""


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


async def raises_exception() -> None:
    raise ValueError("boom")


async def raises_base_exception() -> None:
    raise Custom("boom")


async def raises_system_exit() -> None:
    raise SystemExit(3)


async def raises_generator_exit() -> None:
    raise GeneratorExit


async def raises_cancelled_error() -> None:
    raise asyncio.CancelledError("from inside")


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def awaits_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def raises_stop_iteration() -> None:
    next(iter(()))


async def raises_without_text() -> None:
    raise StrRaises


async def raises_a_group() -> None:
    raise ExceptionGroup("several", [ValueError(1), KeyError(2)])


async def recurses_for_ever() -> None:
    await recurses_for_ever()


async def gives_back_a_chain_without_end() -> None:
    error = ValueError("a")
    error.__cause__ = error
    raise error


FAULTS: dict[Callable[[], Awaitable[None]], str] = {
    raises_exception: "ValueError",
    raises_base_exception: "Custom",
    raises_system_exit: "SystemExit",
    raises_generator_exit: "GeneratorExit",
    raises_cancelled_error: "CancelledError",
    cancels_itself: "CancelledError",
    awaits_a_cancelled_future: "CancelledError",
    raises_stop_iteration: "RuntimeError",
    raises_without_text: "StrRaises",
    raises_a_group: "ExceptionGroup",
    recurses_for_ever: "RecursionError",
    gives_back_a_chain_without_end: "ValueError",
}


async def assert_works(app: Flowrra, task: Any) -> None:
    """All workers are there, and one more task runs."""
    stats = await FlowrraManager(app).get_stats()
    io = stats["executors"]["io"]
    assert io["running"] is True
    assert (await final(app, await app.submit(task), within=5)).result == "fine"


async def test_the_time_limit_of_what_died_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flowrra.executors.base.CANCEL_REPEAT", 0.02)
    app = memory_app(io_workers=1)
    app.task(max_retries=0, timeout=0.02)(raises_generator_exit)
    async with app:
        assert (await final(app, await app.submit(raises_generator_exit))).status == "failed"
        await asyncio.sleep(0.2)
    assert "told again to end" not in caplog.text
    assert numbers_of(app, "raises_generator_exit")["timed_out"] == 0
    caplog.clear()


@pytest.mark.parametrize(("fault", "error"), FAULTS.items(), ids=lambda each: getattr(each, "__name__", each))
async def test_a_worker_survives_and_the_task_has_failed(fault: Callable[[], Awaitable[None]], error: str) -> None:
    app = memory_app(io_workers=1)

    @app.task()
    async def fine() -> str:
        return "fine"

    app.task(max_retries=0)(fault)

    async with app:
        for _ in range(3):
            record = await final(app, await app.submit(fault))
            assert record.status == "failed"
            assert record.error is not None
            assert record.error.startswith(error)
            assert record.finished_at is not None
        await assert_works(app, fine)

    numbers = numbers_of(app, fault.__name__)
    assert (numbers["started"], numbers["failed"]) == (3, 3)
    assert_counts_add_up(numbers, running=0)


@pytest.mark.slow
async def test_a_random_storm_of_faults_costs_no_worker() -> None:
    app = memory_app(io_workers=3)
    chance = random.Random(7)

    @app.task()
    async def fine() -> str:
        return "fine"

    for fault in FAULTS:
        app.task(max_retries=1, retry_delay=0)(fault)

    async with app:
        ids = [await app.submit(chance.choice(list(FAULTS))) for _ in range(200)]
        for task_id in ids:
            assert (await final(app, task_id)).status == "failed"
        await assert_works(app, fine)
        stats = await FlowrraManager(app).get_stats()

    idle = {"running": True, "workers": 3, "busy": 0, "waiting": 0, "stuck": False, "draining": False}
    assert stats["executors"]["io"] == {**idle, "queues": None}
    for fault in FAULTS:
        assert_counts_add_up(numbers_of(app, fault.__name__), running=0)


@pytest.mark.slow
async def test_what_a_task_leaves_behind_does_not_reach_the_next() -> None:
    app = memory_app(io_workers=1)

    @app.task(max_retries=0)
    async def poisons_its_own_cancellation() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # takes effect at the next await, which is not the task's own any more

    @app.task()
    async def short() -> None: ...

    @app.task(max_retries=0)
    async def fine() -> str:
        await asyncio.sleep(0)
        return "fine"

    async with app:
        following = []
        for _ in range(20):
            for task in (short, poisons_its_own_cancellation):
                await app.submit(task)
            following.append(await app.submit(fine))  # waits behind them, for the same worker
        assert [(await final(app, task_id)).result for task_id in following] == ["fine"] * 20


class TestAsyncioInsideOfATask:
    """Asyncio's own tools work in a task as in any coroutine, and what they leave reaches no other task."""

    async def run(self, coroutine: Callable[[], Awaitable[object]]) -> TaskResult:
        app = memory_app(io_workers=1)

        @app.task()
        async def fine() -> str:
            await asyncio.sleep(0)
            return "fine"

        app.task(max_retries=0)(coroutine)
        async with app:
            record = await final(app, await app.submit(coroutine))
            await assert_works(app, fine)
        assert_counts_add_up(numbers_of(app, coroutine.__name__), running=0)
        return record

    async def test_a_time_limit(self) -> None:
        async def job() -> str:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                await asyncio.sleep(0)
                return "in time"
            return "never"

        assert (await self.run(job)).result == "in time"

    async def test_a_task_group(self) -> None:
        async def number(n: int) -> int:
            await asyncio.sleep(0.001 * n)
            return n

        async def job() -> list[int]:
            async with asyncio.TaskGroup() as group:
                children = [group.create_task(number(n)) for n in range(3)]
            return [child.result() for child in children]

        assert (await self.run(job)).result == [0, 1, 2]

    async def test_a_task_group_whose_child_fails(self) -> None:
        async def fails() -> None:
            raise KeyError("child")

        async def job() -> str:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails())
                    await asyncio.sleep(60)
            except* KeyError:
                pass
            await asyncio.sleep(0)
            return "caught"

        assert (await self.run(job)).result == "caught"

    async def test_a_cancellation_that_the_task_takes_back(self) -> None:
        async def job() -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                task.uncancel()
            await asyncio.sleep(0)
            return "still here"

        assert (await self.run(job)).result == "still here"

    async def test_an_asynchronous_generator_that_is_left_half_way(self) -> None:
        closed: list[str] = []

        async def job() -> int:
            async def numbers() -> AsyncIterator[int]:
                try:
                    yield 1
                    yield 2
                finally:
                    closed.append("closed")

            async with contextlib.aclosing(numbers()) as each:
                async for n in each:
                    return n
            return 0

        assert (await self.run(job)).result == 1
        assert closed == ["closed"]

    async def test_a_reference_to_its_asyncio_task_is_no_handle_on_later_tasks(self) -> None:
        app = memory_app(io_workers=1)
        kept: list[asyncio.Task[Any]] = []

        @app.task()
        async def leaks() -> None:
            task = asyncio.current_task()
            assert task is not None
            kept.append(task)
            await asyncio.sleep(0)

        @app.task(max_retries=0)
        async def innocent() -> str:
            await asyncio.sleep(0.05)
            return "fine"

        async with app:
            await app.submit(leaks)
            task_id = await app.submit(innocent)  # waits behind it, for the same worker
            await until(lambda: numbers_of(app, "innocent")["running"] == 1)
            kept[0].cancel()
            assert (await final(app, task_id)).result == "fine"


class TestManySlots:
    """Slots cost only those who use them: tasks that are never suspended share a worker, and those that are have one
    each, in few turns of the loop."""

    SLOTS = 200

    async def test_tasks_that_are_never_suspended_share_a_worker(self) -> None:
        app = memory_app(io_workers=self.SLOTS, max_queue_size=2 * self.SLOTS)
        workers: list[int] = []

        @app.task()
        async def short() -> None:
            workers.append(sum("worker" in task.get_name() for task in asyncio.all_tasks()))

        async with app:
            ids = await app.submit_many((short, (), {}) for _ in range(2 * self.SLOTS))
            for task_id in ids:
                assert (await final(app, task_id)).is_success
        assert max(workers) < self.SLOTS / 10

    async def test_tasks_that_are_suspended_have_all_slots_at_once(self) -> None:
        app = memory_app(io_workers=self.SLOTS, max_queue_size=2 * self.SLOTS)
        go = asyncio.Event()

        @app.task()
        async def waits() -> None:
            await go.wait()

        async with app:
            await app.submit_many((waits, (), {}) for _ in range(2 * self.SLOTS))
            for _ in range(50):  # turns of the loop
                await asyncio.sleep(0)
            assert numbers_of(app, "waits")["running"] == self.SLOTS
            go.set()
        assert numbers_of(app, "waits")["succeeded"] == 2 * self.SLOTS

    async def test_a_suspended_task_holds_up_no_other(self) -> None:
        app = memory_app(io_workers=2)
        go = asyncio.Event()

        @app.task()
        async def waits() -> None:
            await go.wait()

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            waiting = await app.submit(waits)
            following = [await app.submit(fine) for _ in range(10)]
            for task_id in following:
                assert (await final(app, task_id)).result == "fine"
            go.set()
            assert (await final(app, waiting)).is_success


if sys.version_info >= (3, 12):  # there are no eager tasks before

    async def test_on_a_loop_whose_tasks_begin_at_once() -> None:
        app = memory_app(io_workers=3)

        @app.task()
        async def short() -> str:
            return "fine"

        @app.task()
        async def waits() -> str:
            await asyncio.sleep(0.001)
            return "fine"

        @app.task(max_retries=0)
        async def cancels_itself() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with app:
            ids = [await app.submit(task) for _ in range(20) for task in (short, waits, cancels_itself)]
            results = [(await final(app, task_id)).result for task_id in ids]
        assert results == ["fine", "fine", None] * 20


@pytest.mark.slow
async def test_very_many_short_tasks_leave_the_loop_its_turns() -> None:
    app = memory_app(io_workers=4, max_queue_size=10_000)
    turns = 0

    @app.task()
    async def short() -> None: ...

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with app:
        await app.submit_many((short, (), {}) for _ in range(10_000))
        counter = asyncio.ensure_future(count_turns())
        await until(lambda: numbers_of(app, "short")["succeeded"] == 10_000, within=10)
        counter.cancel()

    assert turns > 10


async def test_after_each_turn_of_the_loop_tasks_have_as_long_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = 100.0, 0
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now))
    app = memory_app(io_workers=1)

    @app.task()
    async def work() -> None:
        nonlocal now
        now += workers.TURN / 10

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with app:
        ids = await app.submit_many([("work", (), {})] * 200)
        counting = asyncio.create_task(count())
        await final(app, ids[-1])
        counting.cancel()
    assert 20 / 2 < turns < 200 / 2


class TestSomebodyCancelsEveryAsyncioTask:
    """Code that "cleans up" like this is found in the wild; the app must come through."""

    @staticmethod
    def cancel_them_all() -> None:
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not me:
                task.cancel()

    async def test_running_tasks_end_and_the_app_goes_on(self) -> None:
        app = memory_app(io_workers=2)

        @app.task(max_retries=0)
        async def long() -> None:
            await asyncio.sleep(60)

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            ids = [await app.submit(long) for _ in range(2)]
            await until(lambda: numbers_of(app, "long")["running"] == 2)

            self.cancel_them_all()

            for task_id in ids:
                assert (await final(app, task_id)).is_complete
            for _ in range(5):
                await assert_works(app, fine)
        assert_counts_add_up(numbers_of(app, "long"), running=0)

    async def test_attempts_that_never_got_to_run_are_not_lost(self) -> None:
        app = memory_app(io_workers=4)

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            ids = []
            for turn in range(20):
                ids.append(await app.submit(fine))
                for _ in range(turn % 4):
                    await asyncio.sleep(0)
                self.cancel_them_all()
            records = [await final(app, task_id) for task_id in ids]
            await assert_works(app, fine)

        assert all(record.is_complete for record in records)
        numbers = numbers_of(app, "fine")
        assert numbers["submitted"] == 21
        assert_counts_add_up(numbers, running=0)

    async def test_retries_and_delays_still_come(self) -> None:
        app = memory_app(io_workers=1)
        runs = 0

        @app.task(max_retries=1, retry_delay=0.3)
        async def flaky() -> str:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise ValueError
            return "fine"

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            retried = await app.submit(flaky)
            delayed = await app.options(countdown=0.3).submit(fine)
            await until(lambda: numbers_of(app, "flaky")["retrying"] == 1)

            self.cancel_them_all()

            assert (await final(app, retried)).result == "fine"
            assert (await final(app, delayed)).result == "fine"

    async def test_again_and_again(self) -> None:
        app = memory_app(io_workers=2)

        @app.task(max_retries=0)
        async def long() -> None:
            await asyncio.sleep(60)

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            for _ in range(10):
                await app.submit(long)
                await until(lambda: numbers_of(app, "long")["running"] == 1)
                self.cancel_them_all()
                await until(lambda: numbers_of(app, "long")["running"] == 0)
            await assert_works(app, fine)

        assert_counts_add_up(numbers_of(app, "long"), running=0)

    async def test_events_go_on(self) -> None:
        app = memory_app()
        seen: list[str] = []

        async def watch(event: dict[str, Any]) -> None:
            seen.append(event["task"]["task_id"])

        @app.task()
        async def fine() -> str:
            return "fine"

        event_bus.subscribe(watch)
        try:
            async with app:
                first = await app.submit(fine)
                await until(lambda: seen.count(first) == 3)
                self.cancel_them_all()
                second = await app.submit(fine)
                await until(lambda: seen.count(second) == 3)
        finally:
            await event_bus.unsubscribe(watch)

    async def test_stop_still_ends(self) -> None:
        app = memory_app()

        @app.task()
        async def fine() -> str:
            return "fine"

        await app.start()
        await app.submit(fine)
        self.cancel_them_all()
        await app.stop(timeout=2)

        assert app.is_running is False


class ThreeMethods(BaseResultBackend):
    """A user's backend: exactly the abstract methods, and it keeps JSON only."""

    def __init__(self) -> None:
        self.records: dict[str, str] = {}
        self.fails_with: BaseException | None = None

    async def store(self, task_id: str, result: TaskResult) -> None:
        await asyncio.sleep(0)
        if self.fails_with is not None:
            raise self.fails_with
        self.records[task_id] = json.dumps(result.to_dict)

    async def get(self, task_id: str) -> TaskResult | None:
        text = self.records.get(task_id)
        return None if text is None else TaskResult.from_dict(json.loads(text))

    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        async with asyncio.timeout(timeout):
            while True:
                record = await self.get(task_id)
                if record is not None and record.is_complete:
                    return record
                await asyncio.sleep(0.005)


class Hanging(ThreeMethods):
    """Takes no record while it hangs, nor lets go whoever stores one then, until its gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.gate = asyncio.Event()

    async def store(self, task_id: str, result: TaskResult) -> None:
        if self.hangs:
            await self.gate.wait()
        await super().store(task_id, result)


class TestUsersResultBackend:
    async def test_three_methods_are_enough(self) -> None:
        app = memory_app(backend=ThreeMethods())
        runs = 0

        @app.task(max_retries=1, retry_delay=0)
        async def add(a: int, *, b: int) -> int:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise ValueError
            return a + b

        async with app:
            record = await final(app, await app.submit(add, 1, b=2))
            assert (await FlowrraManager(app).health_check())["healthy"] is True

        assert (record.status, record.result, record.retries, record.args) == ("success", 3, 1, (1,))

    async def test_a_result_that_cannot_be_stored_fails_the_task_and_does_not_run_it_again(self) -> None:
        app = memory_app(io_workers=1, backend=ThreeMethods())
        runs = 0

        @app.task(max_retries=3, retry_delay=0)
        async def unstorable() -> object:
            nonlocal runs
            runs += 1
            return object()

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            record = await final(app, await app.submit(unstorable))
            await assert_works(app, fine)

        assert runs == 1
        assert (record.status, record.result) == ("failed", None)
        assert record.error is not None
        assert "TypeError" in record.error
        numbers = numbers_of(app, "unstorable")
        assert (numbers["started"], numbers["succeeded"], numbers["failed"]) == (1, 0, 1)
        assert_counts_add_up(numbers, running=0)

    @pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes on"])
    async def test_one_that_hangs_holds_up_neither_stop_nor_restart(
        self, ends: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for module in ("workers", "hangs"):
            monkeypatch.setattr(f"flowrra.executors.{module}.CANCEL_GRACE", 0.1)
        backend = Hanging()
        app = memory_app(io_workers=1, backend=backend)
        begun = asyncio.Event()

        @app.task(max_retries=0)
        async def job() -> str:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0 if ends else 60)
            while not ends and backend.hangs:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)
            return "done"

        @app.task()
        async def fine() -> str:
            return "fine"

        await app.start()
        await app.submit(job)
        await begun.wait()
        backend.hangs = True
        async with asyncio.timeout(20):
            await app.stop(wait=False)
        assert app.executors["io"].busy_workers == 0
        assert_counts_add_up(numbers_of(app, "job"), running=0)
        assert [text for text in caplog.messages if text.startswith("outcome not recorded in time task=job")]
        counted = numbers_of(app, "job")

        backend.hangs = False
        backend.gate.set()
        async with app:
            await assert_works(app, fine)
        assert numbers_of(app, "job") == counted, "what comes late is not counted again"
        caplog.clear()

    async def test_an_outage_costs_neither_worker_nor_a_second_run_and_is_counted(self) -> None:
        backend = ThreeMethods()
        app = memory_app(io_workers=1, backend=backend)
        manager = FlowrraManager(app)
        runs = 0

        @app.task(max_retries=3, retry_delay=0)
        async def job() -> str:
            nonlocal runs
            runs += 1
            backend.fails_with = OSError("disk full")
            return "done"

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            await app.submit(job)
            await until(lambda: runs == 1)
            await until(lambda: numbers_of(app, "job")["running"] == 0)
            backend.fails_with = None
            await assert_works(app, fine)
            errors = (await manager.get_runtime_stats())["backend_errors"]

        assert runs == 1
        assert sum(errors.values()) >= 1
        assert_counts_add_up(numbers_of(app, "job"), running=0)

    async def test_a_task_that_cannot_be_recorded_is_refused_at_submit(self) -> None:
        backend = ThreeMethods()
        app = memory_app(backend=backend)
        runs = 0

        @app.task()
        async def job() -> None:
            nonlocal runs
            runs += 1

        async with app:
            backend.fails_with = OSError("disk full")
            with pytest.raises(Exception, match="disk full"):
                await app.submit(job)
            backend.fails_with = None
            assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 0

        assert runs == 0

    async def test_unserialisable_arguments_are_refused_at_submit(self) -> None:
        app = memory_app(backend=ThreeMethods())

        @app.task()
        async def job(value: object) -> None: ...

        async with app:
            with pytest.raises(TypeError):
                await app.submit(job, object())

        assert numbers_of(app, "job")["started"] == 0

    async def test_even_an_error_that_is_no_exception_does_not_end_the_worker(self) -> None:
        backend = ThreeMethods()
        app = memory_app(io_workers=1, backend=backend)

        @app.task(max_retries=0)
        async def job() -> None:
            backend.fails_with = Custom("from the backend")

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            await app.submit(job)
            await until(lambda: backend.fails_with is not None)
            await until(lambda: numbers_of(app, "job")["running"] == 0)
            backend.fails_with = None
            await assert_works(app, fine)

        assert_counts_add_up(numbers_of(app, "job"), running=0)

    async def test_being_cancelled_again_and_again_while_the_outcome_is_stored_loses_nothing(self) -> None:
        class Slow(ThreeMethods):
            async def store(self, task_id: str, result: TaskResult) -> None:
                await asyncio.sleep(0.03)
                await super().store(task_id, result)

        app = memory_app(io_workers=1, backend=Slow())
        runs = 0

        @app.task(max_retries=0)
        async def job() -> str:
            nonlocal runs
            runs += 1
            return "done"

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            task_id = await app.submit(job)
            await until(lambda: runs == 1)
            for _ in range(4):
                TestSomebodyCancelsEveryAsyncioTask.cancel_them_all()
                await asyncio.sleep(0.01)
            await until(lambda: numbers_of(app, "job")["running"] == 0)
            assert (await final(app, task_id)).status == "success", "the task's own code had ended well"
            await assert_works(app, fine)

        assert runs == 1
        assert_counts_add_up(numbers_of(app, "job"), running=0)

    async def test_the_states_are_stored_in_their_order(self) -> None:
        backend = RemoteBackend()
        app = memory_app(io_workers=3, backend=backend)

        @app.task(max_retries=1, retry_delay=0)
        async def job(fails: bool) -> None:
            if fails:
                raise ValueError

        async with app:
            ids = {await app.submit(job, n % 2 == 0): n % 2 == 0 for n in range(50)}
            for task_id in ids:
                await final(app, task_id)

        for task_id, fails in ids.items():
            retry = ["retrying", "running", "failed"] if fails else ["success"]
            assert backend.stored[task_id] == ["pending", "running", *retry]

    async def test_a_slow_backend_changes_nothing_but_the_time(self) -> None:
        class Slow(ThreeMethods):
            async def store(self, task_id: str, result: TaskResult) -> None:
                await asyncio.sleep(0.01)
                await super().store(task_id, result)

        app = memory_app(io_workers=2, backend=Slow())

        @app.task(max_retries=1, retry_delay=0)
        async def job(n: int) -> int:
            return n

        async with app:
            ids = [await app.submit(job, n) for n in range(10)]
            assert [(await final(app, task_id)).result for task_id in ids] == list(range(10))
            assert {(await record_of(app, task_id)).status for task_id in ids} == {"success"}
