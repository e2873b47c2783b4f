"""Cancelling: True means that this call ended the task, and the record says so for everybody who waits for it."""

from __future__ import annotations

import asyncio
import random

import pytest

from flowrra import Flowrra, TaskStatus
from flowrra.management import FlowrraManager
from tests.core.apps import (
    BACKENDS,
    LoopThread,
    assert_counts_add_up,
    final,
    in_another_thread,
    memory_app,
    numbers_of,
    record_of,
    until,
)


class Bench:
    """An app whose single worker can be kept busy."""

    def __init__(self, io_workers: int = 1, max_queue_size: int = 1000) -> None:
        self.app = memory_app(io_workers=io_workers, max_queue_size=max_queue_size)
        self.manager = FlowrraManager(self.app)
        self.ran: list[int] = []
        self.ended: list[str] = []
        self.gate = asyncio.Event()

        @self.app.task()
        async def occupy() -> str:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            return "done"

        @self.app.task()
        async def note(n: int) -> None:
            self.ran.append(n)

        @self.app.task(max_retries=3, retry_delay=60)
        async def failing() -> None:
            raise ValueError

        self.occupy, self.note, self.failing = occupy, note, failing

    async def keep_worker_busy(self) -> str:
        task_id = await self.app.submit(self.occupy)
        await until(lambda: numbers_of(self.app, "occupy")["running"] >= 1)
        return task_id


async def assert_cancelled(app: Flowrra, task_id: str) -> None:
    record = await record_of(app, task_id)
    assert record.status is TaskStatus.CANCELLED
    assert record.is_complete
    assert not record.is_success
    assert record.finished_at is not None
    assert record.result is None


class TestByState:
    async def test_pending(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            task_id = await app.submit(bench.note, 1)

            assert await bench.manager.cancel_task(task_id) is True

            await assert_cancelled(app, task_id)
            assert (await bench.manager.get_stats())["tasks"]["pending"] == 0
            bench.gate.set()

        assert bench.ran == []
        numbers = numbers_of(bench.app, "note")
        assert (numbers["submitted"], numbers["started"]) == (1, 0)
        assert (numbers["cancelled_before_start"], numbers["cancelled"]) == (1, 0)

    async def test_delayed(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.options(countdown=60).submit(bench.note, 1)

            assert await bench.manager.cancel_task(task_id) is True

            await assert_cancelled(app, task_id)
            queue = (await bench.manager.get_queue_stats())["io"]
            assert queue is not None
            assert queue["delayed"] == 0

        assert numbers_of(bench.app, "note")["cancelled_before_start"] == 1

    async def test_running(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await bench.keep_worker_busy()

            assert await bench.manager.cancel_task(task_id) is True

            await assert_cancelled(app, task_id)
            assert (await record_of(app, task_id)).started_at is not None
            assert bench.ended == ["cancelled"]
            await final(app, await app.submit(bench.note, 1))  # its worker is free again

        numbers = numbers_of(bench.app, "occupy")
        assert (numbers["started"], numbers["cancelled"], numbers["cancelled_before_start"]) == (1, 1, 0)
        assert_counts_add_up(numbers, running=0)

    async def test_waiting_for_a_retry(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit(bench.failing)
            await until(lambda: numbers_of(app, "failing")["retrying"] == 1)

            assert await bench.manager.cancel_task(task_id) is True

            await assert_cancelled(app, task_id)

        numbers = numbers_of(bench.app, "failing")
        assert (numbers["started"], numbers["retried"], numbers["retrying"]) == (1, 1, 0)
        assert_counts_add_up(numbers, running=0)

    async def test_finished(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit(bench.note, 1)
            await final(app, task_id)

            assert await bench.manager.cancel_task(task_id) is False

            assert (await record_of(app, task_id)).status == "success"

    async def test_unknown(self) -> None:
        bench = Bench()
        async with bench.app:
            assert await bench.manager.cancel_task("no-such-id") is False

    async def test_only_one_call_did_it(self) -> None:
        bench = Bench()
        async with bench.app:
            task_id = await bench.keep_worker_busy()

            answers = await asyncio.gather(*(bench.manager.cancel_task(task_id) for _ in range(5)))

            assert sorted(answers) == [False, False, False, False, True]
            assert await bench.manager.cancel_task(task_id) is False

    async def test_after_stop_nothing_is_cancelled_and_nothing_breaks(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit(bench.note, 1)

        assert await bench.manager.cancel_task(task_id) is False


class TestConsequences:
    async def test_everybody_who_waits_is_told(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            task_id = await app.submit(bench.note, 1)
            waiters = [asyncio.ensure_future(app.wait_for_result(task_id, timeout=5)) for _ in range(10)]
            await asyncio.sleep(0)

            await bench.manager.cancel_task(task_id)

            assert {record.status for record in await asyncio.gather(*waiters)} == {"cancelled"}
            bench.gate.set()

    async def test_a_cancelled_task_makes_room_in_a_full_queue(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            waiting = await app.submit(bench.note, 1)
            blocked = asyncio.ensure_future(app.submit(bench.note, 2))
            await asyncio.sleep(0)

            assert await bench.manager.cancel_task(waiting) is True

            await asyncio.wait_for(blocked, timeout=5)
            bench.gate.set()

        assert bench.ran == [2]

    async def test_the_order_of_the_others_stays(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            ids = [await app.submit(bench.note, n) for n in range(20)]
            for task_id in ids[::3]:
                assert await bench.manager.cancel_task(task_id) is True
            bench.gate.set()

        assert bench.ran == [n for n in range(20) if n % 3]

    async def test_a_cancelled_task_is_not_retried(self) -> None:
        app = memory_app()
        runs = 0

        @app.task(max_retries=3, retry_delay=0, retry_on=BaseException)
        async def job() -> None:
            nonlocal runs
            runs += 1
            await asyncio.sleep(60)

        async with app:
            task_id = await app.submit(job)
            await until(lambda: runs == 1)
            assert await FlowrraManager(app).cancel_task(task_id) is True
            await assert_cancelled(app, task_id)

        assert runs == 1


class TestTasksThatResist:
    async def test_cleaning_up_takes_its_time_and_the_answer_waits_for_it(self) -> None:
        app = memory_app()
        started, cleaned_up = asyncio.Event(), False

        @app.task()
        async def careful() -> None:
            nonlocal cleaned_up
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.1)
                cleaned_up = True

        async with app:
            task_id = await app.submit(careful)
            await started.wait()

            assert await FlowrraManager(app).cancel_task(task_id) is True

            await final(app, task_id)
            assert cleaned_up
            await assert_cancelled(app, task_id)

    async def test_one_that_returns_all_the_same(self) -> None:
        app = memory_app()
        started = asyncio.Event()

        @app.task()
        async def stubborn() -> str:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "done anyway"
            return "never"

        async with app:
            task_id = await app.submit(stubborn)
            await started.wait()
            cancelled = await FlowrraManager(app).cancel_task(task_id)
            record = await final(app, task_id)

        assert cancelled is (record.status is TaskStatus.CANCELLED)
        assert_counts_add_up(numbers_of(app, "stubborn"), running=0)

    async def test_one_that_fails_while_it_ends(self) -> None:
        app = memory_app()
        started = asyncio.Event()

        @app.task(max_retries=3, retry_delay=60)
        async def clumsy() -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError("while cleaning up")

        async with app:
            task_id = await app.submit(clumsy)
            await started.wait()
            cancelled = await FlowrraManager(app).cancel_task(task_id)
            record = await final(app, task_id)

        assert record.is_complete
        assert cancelled is (record.status is TaskStatus.CANCELLED)
        assert_counts_add_up(numbers_of(app, "clumsy"), running=0)

    async def test_one_that_cancels_itself_does_not_wait_for_itself(self) -> None:
        app = memory_app(io_workers=1)
        manager = FlowrraManager(app)
        answers: list[bool] = []

        @app.task()
        async def suicidal() -> None:
            from flowrra import current_task

            task = current_task()
            assert task is not None
            answers.append(await manager.cancel_task(task.id))
            await asyncio.sleep(60)

        @app.task()
        async def fine() -> str:
            return "fine"

        async with app:
            task_id = await app.submit(suicidal)
            assert (await final(app, task_id, within=10)).is_complete
            assert (await final(app, await app.submit(fine))).result == "fine"


class TestFromElsewhere:
    async def test_from_another_loop_in_another_thread(self) -> None:
        bench = Bench()
        async with bench.app as app:
            running = await bench.keep_worker_busy()
            waiting = await app.submit(bench.note, 1)

            assert await in_another_thread(lambda: bench.manager.cancel_task(waiting)) is True
            assert await in_another_thread(lambda: bench.manager.cancel_task(running)) is True
            assert await in_another_thread(lambda: bench.manager.cancel_task(running)) is False

            await assert_cancelled(app, running)
            await assert_cancelled(app, waiting)

    def test_from_a_script_while_the_app_runs_in_a_thread(self) -> None:
        with LoopThread() as elsewhere:
            bench = Bench()
            elsewhere.run(bench.app.start())
            task_id = elsewhere.run(bench.keep_worker_busy())

            assert asyncio.run(bench.manager.cancel_task(task_id)) is True

            elsewhere.run(bench.app.stop())


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
async def test_at_any_moment_true_means_cancelled_and_false_means_not_by_this_call(seed: int, backend: str) -> None:
    chance = random.Random(seed)
    app = memory_app(io_workers=3, backend=BACKENDS[backend]())
    manager = FlowrraManager(app)

    @app.task(max_retries=2, retry_delay=0.001)
    async def job(turns: int, fails: bool) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        if fails:
            raise ValueError
        return "done"

    answers: dict[str, list[bool]] = {}

    async def cancel_sometime(task_id: str) -> None:
        for _ in range(chance.randint(0, 20)):
            await asyncio.sleep(0)
        answers.setdefault(task_id, []).append(await manager.cancel_task(task_id))

    async with app:
        cancellers = []
        for _ in range(150):
            task_id = await app.submit(job, chance.randint(0, 6), chance.random() < 0.4)
            cancellers += [asyncio.ensure_future(cancel_sometime(task_id)) for _ in range(chance.randint(1, 2))]
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*cancellers)
        for task_id, answer in answers.items():
            record = await final(app, task_id)
            assert sum(answer) == (1 if record.status is TaskStatus.CANCELLED else 0), record

    numbers = numbers_of(app, "job")
    assert_counts_add_up(numbers, running=0)
    assert numbers["retrying"] == 0
    assert numbers["submitted"] == 150
    assert numbers["succeeded"] + numbers["failed"] + numbers["cancelled"] + numbers["cancelled_before_start"] == 150
