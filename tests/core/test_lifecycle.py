"""Starting, stopping and starting again: nothing is lost or left over, and a user's resources live around it all."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest

from flowrra import ExecutorNotRunningError, Flowrra, TaskResult, current_task
from flowrra.management import FlowrraManager
from tests.core.apps import (
    BACKENDS,
    RemoteBackend,
    assert_counts_add_up,
    final,
    memory_app,
    numbers_of,
    record_of,
    until,
)

UNFINISHED = {"pending", "running", "retrying"}


def working_app(**options: Any) -> Flowrra:
    """An app with tasks that are quick, slow, endless, failing and unstoppable."""
    app = memory_app(**options)

    @app.task()
    async def quick(n: int = 0) -> int:
        return n

    @app.task()
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @app.task()
    async def endless() -> None:
        await asyncio.sleep(3600)

    @app.task(max_retries=5, retry_delay=3600)
    async def failing() -> None:
        raise ValueError

    @app.task()
    async def unstoppable(until_released: asyncio.Event) -> None:
        deadline = asyncio.get_running_loop().time() + 15
        while not until_released.is_set() and asyncio.get_running_loop().time() < deadline:
            with suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(until_released.wait(), timeout=1)

    return app


async def assert_nothing_left(app: Flowrra, ids: list[str]) -> None:
    """No record says that something still happens, and no asyncio task is left but the test's own."""
    statuses = [(await record_of(app, task_id)).status for task_id in ids]
    assert not UNFINISHED & set(statuses), statuses
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for numbers in (await FlowrraManager(app).get_task_stats()).values():
        assert_counts_add_up(numbers, running=0)
        assert numbers["retrying"] == 0
    assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 0


class TestStates:
    async def test_an_app_runs_from_start_to_stop(self) -> None:
        app = working_app()
        assert app.is_running is False
        await app.start()
        assert app.is_running is True
        await app.stop()
        assert app.is_running is False

    async def test_the_context_manager_starts_and_stops(self) -> None:
        app = working_app()
        async with app as entered:
            assert entered is app
            assert app.is_running
        assert not app.is_running

    async def test_it_stops_when_the_block_raises(self) -> None:
        app = working_app()
        with pytest.raises(KeyError):
            async with app:
                raise KeyError
        assert not app.is_running

    async def test_starting_twice_is_starting_once(self) -> None:
        app = working_app(io_workers=1)
        await app.start()
        ids = [await app.submit("quick", n) for n in range(5)]
        await app.start()
        await asyncio.gather(app.start(), app.start())

        assert [(await final(app, task_id)).result for task_id in ids] == [0, 1, 2, 3, 4]
        stats = await FlowrraManager(app).get_stats()
        assert stats["executors"]["io"]["workers"] == 1
        await app.stop()

    async def test_stopping_twice_is_stopping_once(self) -> None:
        app = working_app()
        await app.start()
        await asyncio.gather(app.stop(), app.stop())
        await app.stop()

        assert not app.is_running

    async def test_stopping_what_never_ran_is_a_no_op(self) -> None:
        app = working_app()
        await app.stop()
        await Flowrra().stop(wait=False)

        assert not app.is_running

    async def test_an_app_without_tasks_starts_and_stops(self) -> None:
        async with Flowrra() as app:
            assert app.is_running


class TestDraining:
    async def test_what_waits_and_what_runs_is_finished_first(self) -> None:
        app = working_app(io_workers=2)
        await app.start()
        ids = [await app.submit("slow", 0.02) for _ in range(10)]

        await app.stop()

        assert [(await record_of(app, task_id)).result for task_id in ids] == ["done"] * 10
        await assert_nothing_left(app, ids)

    async def test_what_takes_too_long_is_cancelled(self) -> None:
        app = working_app(io_workers=1)
        await app.start()
        running, waiting = await app.submit("endless"), await app.submit("endless")
        await until(lambda: numbers_of(app, "endless")["running"] == 1)

        started = asyncio.get_running_loop().time()
        await app.stop(timeout=0.1)

        assert asyncio.get_running_loop().time() - started < 3
        for task_id in (running, waiting):
            record = await record_of(app, task_id)
            assert record.status == "cancelled"
            assert record.finished_at is not None
        numbers = numbers_of(app, "endless")
        assert (numbers["cancelled"], numbers["cancelled_before_start"]) == (1, 1)
        await assert_nothing_left(app, [running, waiting])

    async def test_without_waiting_everything_is_cancelled_at_once(self) -> None:
        app = working_app(io_workers=1)
        await app.start()
        ids = [await app.submit("slow", 0.5) for _ in range(3)]
        await until(lambda: numbers_of(app, "slow")["running"] == 1)

        await app.stop(wait=False)

        assert {(await record_of(app, task_id)).status for task_id in ids} == {"cancelled"}
        await assert_nothing_left(app, ids)

    async def test_retries_and_delayed_tasks_that_come_too_late_are_cancelled(self) -> None:
        app = working_app()
        await app.start()
        ids = [await app.submit("failing"), await app.options(countdown=3600).submit("quick")]
        await until(lambda: numbers_of(app, "failing")["retrying"] == 1)

        started = asyncio.get_running_loop().time()
        await app.stop(timeout=0.2)

        assert asyncio.get_running_loop().time() - started < 3
        assert {(await record_of(app, task_id)).status for task_id in ids} == {"cancelled"}
        await assert_nothing_left(app, ids)

    async def test_a_task_may_submit_another_while_the_app_drains(self) -> None:
        app = working_app()
        children: list[str] = []
        stopping = asyncio.Event()

        @app.task()
        async def parent() -> None:
            await stopping.wait()
            children.append(await app.submit("quick", 7))

        await app.start()
        await app.submit(parent)
        await until(lambda: numbers_of(app, "parent")["running"] == 1)
        stop = asyncio.ensure_future(app.stop(timeout=5))
        await until(lambda: not app.executors["io"].is_running)
        stopping.set()
        await stop

        assert (await record_of(app, children[0])).result == 7

    async def test_nobody_else_may_submit_while_the_app_drains(self) -> None:
        app = working_app()
        await app.start()
        await app.submit("slow", 0.1)
        stop = asyncio.ensure_future(app.stop(timeout=5))
        await until(lambda: not app.is_running)

        with pytest.raises(ExecutorNotRunningError):
            await app.submit("quick")
        await stop

    async def test_who_waits_for_room_in_the_queue_is_told(self) -> None:
        app = working_app(io_workers=1, max_queue_size=1)
        await app.start()
        ids = [await app.submit("endless")]
        await until(lambda: numbers_of(app, "endless")["running"] == 1)
        ids.append(await app.submit("endless"))
        blocked = [asyncio.ensure_future(app.submit("quick", n)) for n in range(3)]
        await asyncio.sleep(0)

        await app.stop(timeout=0.1)

        outcomes = await asyncio.gather(*blocked, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, str):
                ids.append(outcome)
            else:
                assert isinstance(outcome, ExecutorNotRunningError)
        await assert_nothing_left(app, ids)

    async def test_a_task_that_is_being_accepted_while_the_app_stops_is_refused_or_settled(self) -> None:
        class Slow(RemoteBackend):
            async def store(self, task_id: str, result: TaskResult) -> None:
                if result.status == "pending":
                    await stopped.wait()
                await super().store(task_id, result)

        stopped = asyncio.Event()
        app = working_app(backend=Slow())
        await app.start()
        submission = asyncio.ensure_future(app.options(task_id="mine").submit("quick"))
        await asyncio.sleep(0.01)
        stop = asyncio.ensure_future(app.stop(wait=False))
        await asyncio.sleep(0.05)
        stopped.set()
        await stop
        (outcome,) = await asyncio.gather(submission, return_exceptions=True)

        assert outcome == "mine" or isinstance(outcome, ExecutorNotRunningError)
        record = await app.get_result("mine")
        assert record is None or record.status in {"cancelled", "success"}, record
        assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 0

    @pytest.mark.slow
    async def test_a_task_that_will_not_end_is_left_to_itself(self) -> None:
        app = working_app(io_workers=1)
        release = asyncio.Event()
        await app.start()
        task_id = await app.submit("unstoppable", release)
        await until(lambda: numbers_of(app, "unstoppable")["running"] == 1)

        await app.stop(wait=False)

        assert (await record_of(app, task_id)).status == "cancelled"
        release.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert (await record_of(app, task_id)).status == "cancelled", "what it still does is ignored"
        await assert_nothing_left(app, [task_id])

    async def test_a_task_may_stop_the_app_it_runs_in(self) -> None:
        app = working_app(io_workers=1)

        @app.task()
        async def last() -> None:
            await app.stop(timeout=0.1)

        await app.start()
        task_id = await app.submit(last)
        await until(lambda: not app.is_running)
        await until(lambda: len(asyncio.all_tasks()) == 1, within=10)

        await assert_nothing_left(app, [task_id])

    @pytest.mark.slow
    async def test_the_loop_turns_while_the_app_stops(self) -> None:
        app = working_app()
        await app.start()
        for _ in range(4):
            await app.submit("slow", 2.0)
        loop = asyncio.get_running_loop()
        gaps: list[float] = []

        async def tick() -> None:
            while True:
                before = loop.time()
                await asyncio.sleep(0.005)
                gaps.append(loop.time() - before)

        ticker = asyncio.ensure_future(tick())
        await app.stop()
        ticker.cancel()

        assert len(gaps) > 5
        assert max(gaps) < 2.0 / 2

    async def test_a_stop_that_is_given_up_leaves_nothing_running_either(self) -> None:
        app = working_app()
        await app.start()
        task_id = await app.submit("endless")
        await until(lambda: numbers_of(app, "endless")["running"] == 1)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await app.stop(timeout=30)
        await app.stop(wait=False)

        assert not app.is_running
        await assert_nothing_left(app, [task_id])

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("seed", range(4))
    async def test_at_any_moment_of_any_load_no_record_is_left_unfinished(self, seed: int, backend: str) -> None:
        chance = random.Random(seed)
        app = working_app(io_workers=3, max_queue_size=20, backend=BACKENDS[backend]())
        await app.start()
        ids: list[str] = []

        async def submit_some() -> None:
            try:
                while True:
                    name, args = chance.choice(
                        [("quick", ()), ("slow", (0.01,)), ("slow", (30,)), ("failing", ()), ("endless", ())]
                    )
                    delay = chance.choice([None, None, 0.01, 60])
                    ids.append(await app.options(countdown=delay).submit(name, *args))
                    await asyncio.sleep(0)
            except ExecutorNotRunningError:
                pass

        submitters = [asyncio.ensure_future(submit_some()) for _ in range(3)]
        await asyncio.sleep(chance.random() * 0.05)
        await app.stop(timeout=chance.choice([0, 0.05]))
        await asyncio.gather(*submitters)

        assert ids
        await assert_nothing_left(app, ids)


class TestAgain:
    async def test_a_stopped_app_can_be_started_again_and_keeps_results_and_numbers(self) -> None:
        app = working_app()
        async with app:
            first = await app.submit("quick", 1)
        async with app:
            second = await app.submit("quick", 2)
            assert (await final(app, second)).result == 2

        assert (await record_of(app, first)).result == 1
        assert numbers_of(app, "quick")["succeeded"] == 2

    async def test_after_a_hard_stop_as_well(self) -> None:
        app = working_app(io_workers=1)
        for _ in range(3):
            await app.start()
            for _ in range(3):
                await app.submit("endless")
            await app.stop(wait=False)

        async with app:
            assert (await final(app, await app.submit("quick", 1))).result == 1

    def test_under_a_new_event_loop(self) -> None:
        app = working_app()

        async def session(n: int) -> Any:
            async with app:
                return (await final(app, await app.submit("quick", n))).result

        assert [asyncio.run(session(n)) for n in range(3)] == [0, 1, 2]
        assert numbers_of(app, "quick")["succeeded"] == 3

    def test_a_full_queue_does_not_follow_into_the_next_loop(self) -> None:
        app = working_app(io_workers=1, max_queue_size=2)

        async def crowded() -> None:
            await app.start()
            submitters = [asyncio.ensure_future(app.submit("endless")) for _ in range(10)]
            await asyncio.sleep(0.02)
            await app.stop(timeout=0)
            await asyncio.gather(*submitters, return_exceptions=True)

        async def quiet() -> Any:
            async with app:
                return (await final(app, await app.submit("quick", 1))).result

        asyncio.run(crowded())
        assert asyncio.run(quiet()) == 1

    def test_a_loop_that_was_closed_without_stopping_does_not_end_the_app(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = working_app(io_workers=1)
        ids: list[str] = []

        async def leave() -> None:
            await app.start()
            ids.extend([await app.submit("endless") for _ in range(2)])
            ids.append(await app.submit("failing"))
            await asyncio.sleep(0.02)

        async def come_back() -> Any:
            async with app:
                result = (await final(app, await app.submit("quick", 1))).result
            return result, {(await record_of(app, task_id)).status for task_id in ids}

        asyncio.run(leave())
        result, left = asyncio.run(come_back())

        assert result == 1
        assert not UNFINISHED & left
        assert_counts_add_up(numbers_of(app, "endless"), running=0)
        caplog.clear()  # asyncio may well complain about what such a loop leaves behind

    @pytest.mark.slow
    def test_what_was_in_a_loop_that_was_closed_at_once_is_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        app = working_app(io_workers=1)

        async def leave() -> list[str]:
            await app.start()
            ids = [await app.submit("endless"), await app.submit("quick")]
            ids.append(await app.options(countdown=3600).submit("quick"))
            await until(lambda: numbers_of(app, "endless")["running"] == 1)
            return ids

        async def come_back() -> Any:
            async with app:
                return (await final(app, await app.submit("quick", 1))).result

        loop = asyncio.new_event_loop()
        ids = loop.run_until_complete(leave())
        loop.close()  # unlike asyncio.run(), which ends what runs first
        assert asyncio.run(come_back()) == 1
        records = [asyncio.run(record_of(app, task_id)) for task_id in ids]
        why = "the event loop was closed without stopping the app"
        before = "cancelled before it ran: "
        assert [record.error for record in records] == [f"cancelled while running: {why}", before + why, before + why]
        assert {record.status for record in records} == {"cancelled"}
        assert numbers_of(app, "endless")["cancelled"] == 1
        assert_counts_add_up(numbers_of(app, "endless"), running=0)
        gc.collect()
        caplog.clear()  # asyncio complains about what such a loop leaves behind, when it is collected

    async def test_an_app_runs_on_one_loop_at_a_time(self) -> None:
        app = working_app()
        async with app:
            with pytest.raises(RuntimeError, match="loop"):
                await asyncio.to_thread(lambda: asyncio.run(app.start()))
            assert app.is_running
            assert (await final(app, await app.submit("quick", 1))).result == 1


class TestRegisteringWhileRunning:
    async def test_the_first_task_of_all(self) -> None:
        async with Flowrra() as app:

            @app.task()
            async def late() -> str:
                return "done"

            assert (await final(app, await app.submit(late))).result == "done"

    async def test_another_task(self) -> None:
        app = working_app()
        async with app:
            await final(app, await app.submit("quick"))

            @app.task()
            async def late() -> str:
                return "done"

            assert (await final(app, await app.submit(late))).result == "done"

    async def test_inside_of_a_task(self) -> None:
        app = working_app()

        @app.task()
        async def registers() -> str:
            @app.task()
            async def late() -> str:
                return "done"

            return await app.submit(late)

        async with app:
            late_id = (await final(app, await app.submit(registers))).result
            assert (await final(app, late_id)).result == "done"

    async def test_from_another_thread(self) -> None:
        async with Flowrra() as app:

            async def late() -> str:
                return "done"

            await asyncio.to_thread(lambda: app.task()(late))
            assert (await final(app, await app.submit(late))).result == "done"

    async def test_a_registration_that_fails_leaves_no_executor(self) -> None:
        app = Flowrra()
        with pytest.raises(TypeError):
            app.task()(lambda: None)

        assert (await FlowrraManager(app).get_stats())["executors"]["io"] is None


class TestTwoApps:
    async def test_one_function_registered_with_both_stays_with_both(self) -> None:
        first, second = memory_app(), memory_app()

        async def shared(n: int) -> tuple[int, str]:
            task = current_task()
            assert task is not None
            return n, task.name

        first.task(name="in first")(shared)
        second.task(name="in second")(shared)

        async with first, second:
            in_first, in_second = await first.submit(shared, 1), await second.submit(shared, 2)
            assert (await final(first, in_first)).result == (1, "in first")
            assert (await final(second, in_second)).result == (2, "in second")
            assert await first.get_result(in_second) is None
            assert await second.get_result(in_first) is None

        assert numbers_of(first, "in first")["succeeded"] == 1
        assert numbers_of(second, "in second")["succeeded"] == 1

    async def test_it_keeps_working_in_one_when_the_other_stops(self) -> None:
        first, second = memory_app(), memory_app()

        async def shared() -> str:
            return "done"

        first.task()(shared)
        second.task()(shared)

        async with first:
            async with second:
                pass
            assert (await final(first, await first.submit(shared))).result == "done"
            with pytest.raises(ExecutorNotRunningError):
                await second.submit(shared)

    async def test_each_uses_its_own_options(self) -> None:
        first, second = memory_app(), memory_app()

        async def shared() -> None:
            raise ValueError

        first.task(max_retries=0)(shared)
        second.task(max_retries=2, retry_delay=0)(shared)

        async with first, second:
            assert (await final(first, await first.submit(shared))).retries == 0
            assert (await final(second, await second.submit(shared))).retries == 2


class TestHooks:
    async def test_they_run_around_the_tasks_on_the_apps_loop(self) -> None:
        app = working_app()
        story: list[str] = []
        loop = asyncio.get_running_loop()

        @app.on_startup
        async def open_pool() -> None:
            assert asyncio.get_running_loop() is loop
            story.append("pool open")

        @app.on_startup
        def warm_up() -> None:
            story.append("warm")

        @app.on_shutdown
        async def close_pool() -> None:
            assert asyncio.get_running_loop() is loop
            story.append("pool closed")

        @app.task()
        async def job() -> None:
            await asyncio.sleep(0.02)
            story.append("task")

        async with app:
            await app.submit(job)

        assert story == ["pool open", "warm", "task", "pool closed"]

    async def test_plain_functions_and_lambdas_are_hooks_too(self) -> None:
        app = working_app()
        story: list[str] = []
        app.on_startup(lambda: story.append("start"))
        app.on_shutdown(lambda: story.append("stop"))

        async with app:
            story.append("run")

        assert story == ["start", "run", "stop"]

    async def test_they_run_again_at_each_start(self) -> None:
        app = working_app()
        story: list[str] = []
        app.on_startup(lambda: story.append("start"))
        app.on_shutdown(lambda: story.append("stop"))

        for _ in range(2):
            async with app:
                pass

        assert story == ["start", "stop"] * 2

    async def test_a_startup_hook_that_fails_undoes_the_start(self) -> None:
        app = working_app()
        fails = True

        @app.on_startup
        async def connect() -> None:
            if fails:
                raise ConnectionError("no database")

        with pytest.raises(ConnectionError, match="no database"):
            await app.start()

        assert app.is_running is False
        with pytest.raises(ExecutorNotRunningError):
            await app.submit("quick")
        assert (await FlowrraManager(app).health_check())["healthy"] is False
        assert asyncio.all_tasks() == {asyncio.current_task()}

        fails = False
        async with app:
            assert (await final(app, await app.submit("quick", 1))).result == 1

    async def test_the_reason_of_a_failed_start_is_not_hidden_by_the_cleaning_up(self) -> None:
        app = working_app()

        @app.on_startup
        def connect() -> None:
            raise ConnectionError("no database")

        @app.on_shutdown
        def disconnect() -> None:
            raise AttributeError("there is no pool to close")

        with pytest.raises(ConnectionError, match="no database"):
            await app.start()
        assert app.is_running is False

    async def test_a_failing_shutdown_hook_does_not_keep_the_app_from_stopping(self) -> None:
        app = working_app()
        story: list[str] = []
        app.on_shutdown(lambda: story.append("one"))

        @app.on_shutdown
        async def failing() -> None:
            raise ConnectionError("already gone")

        app.on_shutdown(lambda: story.append("two"))
        await app.start()
        task_id = await app.submit("quick")
        try:
            await app.stop()
        except ConnectionError:
            story.append("raised")

        assert app.is_running is False
        assert {"one", "two"} <= set(story)
        await assert_nothing_left(app, [task_id])

    async def test_what_a_startup_hook_submits_runs_once_all_hooks_have_run(self) -> None:
        app = working_app()
        ids: list[str] = []
        statuses: list[str] = []

        @app.on_startup
        async def early() -> None:
            ids.append(await app.submit("quick", 1))
            await asyncio.sleep(0.02)

        @app.on_startup
        async def later() -> None:
            statuses.append((await record_of(app, ids[0])).status)

        async with app:
            assert (await final(app, ids[0])).result == 1
        assert statuses == ["pending"]


class TestLifespan:
    async def test_it_is_entered_before_and_left_after_the_tasks(self) -> None:
        app = working_app()
        story: list[str] = []

        @app.lifespan
        @asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            story.append("open")
            yield
            story.append("closed")

        @app.lifespan
        @contextmanager
        def log() -> Iterator[None]:
            story.append("log open")
            yield
            story.append("log closed")

        @app.task()
        async def job() -> None:
            story.append("task")

        for _ in range(2):
            async with app:
                await app.submit(job)

        assert story == ["open", "log open", "task", "log closed", "closed"] * 2

    async def test_what_it_registers_and_submits_is_run(self) -> None:
        app = memory_app()
        ids: list[str] = []

        @app.lifespan
        @asynccontextmanager
        async def plugins() -> AsyncIterator[None]:
            @app.task()
            async def plugged() -> str:
                return "in"

            ids.append(await app.submit(plugged))
            yield

        async with app:
            assert (await final(app, ids[0])).result == "in"
        assert app.lost_at_stop == 0

    async def test_what_was_entered_is_left_when_the_start_fails_later(self) -> None:
        app = working_app()
        story: list[str] = []

        @app.lifespan
        @asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            story.append("open")
            try:
                yield
            finally:
                story.append("closed")

        @app.on_startup
        async def fails() -> None:
            raise ConnectionError("no database")

        with pytest.raises(ConnectionError, match="no database"):
            await app.start()

        assert story == ["open", "closed"]
        assert not app.is_running

    async def test_one_that_cannot_be_entered_undoes_the_start(self) -> None:
        app = working_app()

        @app.lifespan
        @asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            raise ConnectionError("no database")
            yield

        with pytest.raises(ConnectionError, match="no database"):
            await app.start()
        assert not app.is_running


async def test_a_busy_app_leaves_no_asyncio_task_behind() -> None:
    app = working_app()
    async with app:
        ids = [await app.submit("slow", 0.01) for _ in range(20)]
        await final(app, ids[-1])

    await assert_nothing_left(app, ids)
