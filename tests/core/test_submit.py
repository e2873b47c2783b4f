"""Submitting: what a call promises when it returns, in which order tasks run, and what a full queue does."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowrra import ExecutorNotRunningError, Flowrra, Task, TaskNotFoundError, TaskResult, TaskStatus, current_task
from flowrra.exceptions import BackendError, PartialSubmissionError
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, final, memory_app, numbers_of, record_of, until
from tests.core.test_polled_broker import ListBroker


class Bench:
    """One worker, a log of what it ran, and a gate that keeps it busy until opened."""

    def __init__(self, **options: Any) -> None:
        self.app = memory_app(**{"io_workers": 1, **options})
        self.ran: list[Any] = []
        self.gate = asyncio.Event()

        @self.app.task()
        async def occupy() -> None:
            await self.gate.wait()

        @self.app.task()
        async def note(what: Any) -> None:
            self.ran.append(what)

        self.occupy, self.note = occupy, note

    async def keep_worker_busy(self) -> str:
        task_id = await self.app.submit(self.occupy)
        await until(lambda: numbers_of(self.app, "occupy")["running"] == 1)
        return task_id


class TestOneCall:
    async def test_it_returns_a_uuid4_and_the_task_is_still_pending(self) -> None:
        bench = Bench()
        async with bench.app as app:
            before = datetime.now(UTC)
            task_id = await app.submit(bench.note, "a")
            record = await record_of(app, task_id)

            assert uuid.UUID(task_id).version == 4
            assert str(uuid.UUID(task_id)) == task_id
            assert record.status is TaskStatus.PENDING
            assert (record.task_id, record.task_name, record.args, record.kwargs) == (task_id, "note", ("a",), {})
            assert record.submitted_at is not None
            assert before <= record.submitted_at <= datetime.now(UTC)
            assert (record.started_at, record.finished_at, record.result, record.error) == (None,) * 4

    async def test_the_record_keeps_what_was_submitted_through_every_state(self) -> None:
        app = memory_app()
        release = asyncio.Event()

        @app.task()
        async def add(a: int, b: int, *, c: int) -> int:
            await release.wait()
            return a + b + c

        async with app:
            task_id = await app.submit(add, 1, 2, c=3)
            pending = await record_of(app, task_id)
            await until(lambda: numbers_of(app, "add")["running"] == 1)
            running = await record_of(app, task_id)
            release.set()
            finished = await final(app, task_id)

        assert [record.status for record in (pending, running, finished)] == ["pending", "running", "success"]
        for record in (pending, running, finished):
            assert (record.args, record.kwargs) == ((1, 2), {"c": 3})
            assert record.submitted_at == pending.submitted_at
        assert finished.result == 6
        assert pending.submitted_at is not None
        assert running.started_at is not None
        assert finished.finished_at is not None
        assert finished.started_at == running.started_at
        assert pending.submitted_at <= running.started_at <= finished.finished_at
        for moment in (pending.submitted_at, running.started_at, finished.finished_at):
            assert moment.utcoffset() == timedelta(0)

    async def test_ids_are_never_repeated(self) -> None:
        bench = Bench(max_queue_size=2000)
        async with bench.app as app:
            ids = [await app.submit(bench.note, n) for n in range(2000)]

        assert len(set(ids)) == 2000

    async def test_a_task_may_have_a_parameter_called_task_func(self) -> None:
        app = memory_app()

        @app.task()
        async def describe(task_func: str, **options: Any) -> tuple[str, dict[str, Any]]:
            return task_func, options

        async with app:
            task_id = await app.submit(describe, task_func="cron", timeout=1, task_id="mine", headers={"a": "b"})
            record = await final(app, task_id)

        assert record.result == ("cron", {"timeout": 1, "task_id": "mine", "headers": {"a": "b"}})

    async def test_a_registered_name_stands_for_its_function(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await final(app, await app.submit("note", "by name"))

        assert bench.ran == ["by name"]


class TestRefusals:
    async def test_before_start(self) -> None:
        bench = Bench()

        with pytest.raises(ExecutorNotRunningError):
            await bench.app.submit(bench.note, "a")

    async def test_after_stop(self) -> None:
        bench = Bench()
        async with bench.app:
            pass

        with pytest.raises(ExecutorNotRunningError):
            await bench.app.submit(bench.note, "a")

    async def test_a_function_that_is_no_task_of_this_app(self) -> None:
        bench = Bench()

        async def stranger() -> None: ...

        async with bench.app as app:
            with pytest.raises(TaskNotFoundError, match="stranger"):
                await app.submit(stranger)
            with pytest.raises(TaskNotFoundError, match="no such name"):
                await app.submit("no such name")

    async def test_an_app_without_any_task(self) -> None:
        async def stranger() -> None: ...

        async with Flowrra() as app:
            with pytest.raises(TaskNotFoundError) as refused:
                await app.submit(stranger)

        assert isinstance(refused.value, RuntimeError)

    async def test_a_function_of_another_app(self) -> None:
        other = Bench()
        bench = Bench()

        @other.app.task()
        async def theirs() -> None: ...

        async with bench.app as app:
            with pytest.raises(TaskNotFoundError, match="theirs"):
                await app.submit(theirs)

    @pytest.mark.parametrize("priority", ["high", float("nan"), (1,)], ids=repr)
    async def test_a_priority_that_cannot_be_ordered(self, priority: Any) -> None:
        bench = Bench()
        async with bench.app as app:
            with pytest.raises((TypeError, ValueError), match="priority"):
                await app.submit(bench.note, "refused", priority=priority)
            await final(app, await app.submit(bench.note, "accepted"))
            assert await FlowrraManager(app).list_pending_tasks() == []

        assert bench.ran == ["accepted"]

    async def test_an_id_that_cannot_be_written(self) -> None:
        bench = Bench()
        with pytest.raises(ValueError, match="surrogates"):
            bench.app.options(task_id="\ud800")

    async def test_what_is_refused_leaves_no_trace(self) -> None:
        bench = Bench()

        async def stranger() -> None: ...

        async with bench.app as app:
            with pytest.raises(TaskNotFoundError):
                await app.submit(stranger)
            stats = await FlowrraManager(app).get_stats()

        assert stats["tasks"]["pending"] == 0


class TestOrder:
    async def test_three_submissions_are_queued_before_an_idle_worker_takes_the_first(self) -> None:
        bench = Bench()
        async with bench.app as app:
            for priority in (5, 1, 3):
                await app.submit(bench.note, priority, priority=priority)

        assert bench.ran == [1, 3, 5]

    async def test_within_a_priority_first_in_is_first_out(self) -> None:
        bench = Bench()
        async with bench.app as app:
            for n in range(200):
                await app.submit(bench.note, n)

        assert bench.ran == list(range(200))

    async def test_any_mixture_runs_by_priority_and_then_by_order_of_submission(self) -> None:
        chance = random.Random(20261123)
        bench = Bench()
        submitted = [(chance.randint(-3, 3), n) for n in range(300)]
        async with bench.app as app:
            for priority, n in submitted:
                await app.submit(bench.note, (priority, n), priority=priority)

        assert bench.ran == sorted(submitted)

    async def test_an_urgent_task_overtakes_what_already_waits(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "normal")
            await app.submit(bench.note, "urgent", priority=-10)
            bench.gate.set()

        assert bench.ran == ["urgent", "normal"]

    async def test_a_task_has_a_default_priority_that_a_submission_may_override(self) -> None:
        bench = Bench()

        @bench.app.task(priority=-5)
        async def urgent(what: str) -> None:
            bench.ran.append(what)

        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "normal")
            await app.options(priority=7).submit(urgent, "put back")
            await app.submit(urgent, "urgent")
            bench.gate.set()

        assert bench.ran == ["urgent", "normal", "put back"]

    async def test_tasks_run_at_once_up_to_the_number_of_workers(self) -> None:
        app = memory_app(io_workers=3)
        running, most, gate = 0, 0, asyncio.Event()

        @app.task()
        async def job() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1

        async with app:
            for _ in range(10):
                await app.submit(job)
            await until(lambda: running == 3)
            gate.set()

        assert most == 3


class TestFullQueue:
    async def test_submit_waits_until_there_is_room(self) -> None:
        bench = Bench(max_queue_size=2)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, 1)
            await app.submit(bench.note, 2)

            third = asyncio.ensure_future(app.submit(bench.note, 3))
            done, _ = await asyncio.wait([third], timeout=0.1)
            assert not done, "submit returned although the queue was full"

            bench.gate.set()
            await final(app, await third)

        assert bench.ran == [1, 2, 3]

    async def test_those_who_wait_for_room_get_it_in_order(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, 0)
            waiting = [asyncio.ensure_future(app.submit(bench.note, n)) for n in range(1, 20)]
            await asyncio.sleep(0)
            bench.gate.set()
            await asyncio.gather(*waiting)

        assert bench.ran == list(range(20))

    async def test_the_queue_never_holds_more_than_its_size(self) -> None:
        bench = Bench(max_queue_size=3)
        manager = FlowrraManager(bench.app)
        async with bench.app as app:
            await bench.keep_worker_busy()
            waiting = [asyncio.ensure_future(app.submit(bench.note, n)) for n in range(10)]
            await until(lambda: sum(each.done() for each in waiting) >= 3)
            assert (await manager.get_stats())["tasks"]["pending"] == 3
            bench.gate.set()
            await asyncio.gather(*waiting)

        assert sorted(bench.ran) == list(range(10))

    async def test_nor_when_accepting_a_task_takes_the_result_backend_some_time(self) -> None:
        bench = Bench(max_queue_size=3, backend=RemoteBackend())
        async with bench.app as app:
            await bench.keep_worker_busy()
            waiting = [asyncio.ensure_future(app.submit(bench.note, n)) for n in range(30)]
            await until(lambda: sum(each.done() for each in waiting) >= 3)
            for _ in range(50):
                await asyncio.sleep(0)
            most = (await FlowrraManager(app).get_stats())["tasks"]["pending"]
            bench.gate.set()
            await asyncio.gather(*waiting)

        assert most == 3
        assert sorted(bench.ran) == list(range(30))

    async def test_giving_up_the_wait_leaves_nothing_behind(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "first")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await app.submit(bench.note, "given up")
            patient = asyncio.ensure_future(app.submit(bench.note, "patient"))
            bench.gate.set()
            await patient

        assert bench.ran == ["first", "patient"]
        assert numbers_of(bench.app, "note")["submitted"] == 2

    async def test_one_that_gives_up_when_room_arrives_passes_it_on(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "first")
            fickle = asyncio.ensure_future(app.submit(bench.note, "fickle"))
            patient = asyncio.ensure_future(app.submit(bench.note, "patient"))
            await asyncio.sleep(0)
            # In the same turn of the loop the queue gets room, and the first in line gives up.
            assert await FlowrraManager(app).cancel_task((await FlowrraManager(app).list_pending_tasks())[0]["task_id"])
            fickle.cancel()
            await asyncio.wait([fickle])
            bench.gate.set()
            await asyncio.wait_for(patient, timeout=5)

        assert bench.ran[-1] == "patient"

    async def test_one_that_can_not_be_recorded_passes_its_place_on(self) -> None:
        class Refusing(RemoteBackend):
            async def store(self, task_id: str, result: TaskResult) -> None:
                if task_id == "refused":
                    await away.wait()
                    raise BackendError("away")
                await super().store(task_id, result)

        away = asyncio.Event()
        bench = Bench(max_queue_size=1, backend=Refusing())
        async with bench.app as app:
            refused = asyncio.ensure_future(app.options(task_id="refused").submit(bench.note, "refused"))
            await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(app.submit(bench.note, "next"))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            away.set()
            with pytest.raises(BackendError):
                await refused
            await final(app, await asyncio.wait_for(waiting, 5))
        assert bench.ran == ["next"]

    async def test_retries_never_deadlock_with_a_full_queue(self) -> None:
        app = memory_app(io_workers=1, max_queue_size=1)
        attempts: dict[int, int] = {}

        @app.task(max_retries=2, retry_delay=0)
        async def stubborn(n: int) -> int:
            attempts[n] = attempts.get(n, 0) + 1
            if attempts[n] < 3:
                raise ValueError(n)
            return n

        async with app:
            ids = [await app.submit(stubborn, n) for n in range(20)]
            records = [await final(app, task_id) for task_id in ids]

        assert [record.result for record in records] == list(range(20))
        assert set(attempts.values()) == {3}

    async def test_tasks_that_submit_into_a_full_queue_never_deadlock(self) -> None:
        app = memory_app(io_workers=2, max_queue_size=1)
        leaves: list[int] = []

        @app.task()
        async def leaf(n: int) -> None:
            leaves.append(n)

        @app.task()
        async def parent(n: int) -> None:
            for child in range(5):
                await app.submit(leaf, n * 10 + child)

        async with app:
            for n in range(4):
                await app.submit(parent, n)
            await until(lambda: len(leaves) == 20)

        assert sorted(leaves) == [n * 10 + child for n in range(4) for child in range(5)]

    async def test_nor_do_they_wait_for_whoever_waits_for_room_with_the_same_id(self) -> None:
        bench = Bench(max_queue_size=1)

        @bench.app.task()
        async def report() -> str:
            await bench.gate.wait()
            return await bench.app.options(task_id="report").submit(bench.note, "report")

        async with bench.app as app:
            reporting = await app.submit(report)
            await until(lambda: numbers_of(app, "report")["running"] == 1)
            await app.submit(bench.note, "fills the queue")
            same = [asyncio.ensure_future(app.options(task_id="report").submit(bench.note, "other")) for _ in range(2)]
            last = asyncio.ensure_future(app.submit(bench.note, "last"))
            for _ in range(5):
                await asyncio.sleep(0)
            bench.gate.set()
            assert (await final(app, reporting)).result == "report"
            # Those who find the id known, once there is room for them, leave that to the next one.
            assert await asyncio.gather(*same) == ["report", "report"]
            await final(app, await last)

        assert bench.ran == ["fills the queue", "report", "last"]

    async def test_what_a_task_left_running_waits_for_room_as_anybody_does(self) -> None:
        bench = Bench(max_queue_size=2)
        has_ended = asyncio.Event()
        left: list[asyncio.Task[None]] = []

        async def pump() -> None:
            await has_ended.wait()
            for n in range(5):
                await bench.app.submit(bench.note, n)

        @bench.app.task()
        async def starter() -> None:
            left.append(asyncio.create_task(pump()))

        async with bench.app as app:
            await final(app, await app.submit(starter))
            await bench.keep_worker_busy()
            has_ended.set()
            for _ in range(20):
                await asyncio.sleep(0)
            assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 2
            bench.gate.set()
            await left[0]

        assert bench.ran == list(range(5))

    async def test_an_id_that_exists_needs_no_room(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            mine = app.options(task_id="mine")
            await mine.submit(bench.note, "fills the queue")
            assert await asyncio.wait_for(mine.submit(bench.note, "again"), 5) == "mine"
            bench.gate.set()

        assert bench.ran == ["fills the queue"]

    async def test_a_task_may_wait_for_the_children_it_submitted_while_workers_are_left(self) -> None:
        app = memory_app(io_workers=2, max_queue_size=1)

        @app.task()
        async def leaf(n: int) -> int:
            return n

        @app.task()
        async def total() -> int:
            ids = [await app.submit(leaf, n) for n in range(6)]
            return sum([(await final(app, task_id)).result for task_id in ids])

        async with app:
            assert (await final(app, await app.submit(total))).result == 15


class TestOptions:
    async def test_priority(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "normal")
            await app.options(priority=-1).submit(bench.note, "urgent")
            bench.gate.set()

        assert bench.ran == ["urgent", "normal"]

    async def test_a_countdown_delays_the_start_and_holds_no_worker(self) -> None:
        bench = Bench()
        manager = FlowrraManager(bench.app)
        async with bench.app as app:
            loop = asyncio.get_running_loop()
            submitted = loop.time()
            later = await app.options(countdown=0.3).submit(bench.note, "later")
            await final(app, await app.submit(bench.note, "now"))
            queue = (await manager.get_queue_stats())["io"]
            assert queue is not None
            assert (queue["pending"], queue["delayed"]) == (0, 1)
            assert (await record_of(app, later)).status == "pending"

            await final(app, later)
            assert loop.time() - submitted >= 0.3

        assert bench.ran == ["now", "later"]

    async def test_an_eta_is_a_moment(self) -> None:
        bench = Bench()
        async with bench.app as app:
            eta = datetime.now(UTC) + timedelta(seconds=0.25)
            record = await final(app, await app.options(eta=eta).submit(bench.note, "later"))

        assert record.started_at is not None
        assert record.started_at >= eta - timedelta(milliseconds=20)

    async def test_an_eta_in_another_time_zone_is_the_same_moment(self) -> None:
        from datetime import timezone

        bench = Bench()
        east = timezone(timedelta(hours=9))
        async with bench.app as app:
            eta = datetime.now(east) + timedelta(seconds=0.1)
            await final(app, await app.options(eta=eta).submit(bench.note, "later"), within=2)

        assert bench.ran == ["later"]

    async def test_an_eta_in_the_past_runs_at_once(self) -> None:
        bench = Bench()
        async with bench.app as app:
            eta = datetime.now(UTC) - timedelta(hours=1)
            await final(app, await app.options(eta=eta).submit(bench.note, "now"), within=2)

        assert bench.ran == ["now"]

    async def test_delayed_tasks_start_in_order_of_their_time(self) -> None:
        bench = Bench()
        async with bench.app as app:
            ids = [await app.options(countdown=seconds).submit(bench.note, seconds) for seconds in (0.3, 0.1, 0.2)]
            for task_id in ids:
                await final(app, task_id)

        assert bench.ran == [0.1, 0.2, 0.3]

    async def test_an_id_that_exists_already_is_a_no_op_that_returns_it(self) -> None:
        bench = Bench()
        async with bench.app as app:
            mine = app.options(task_id="order-4711")
            assert await mine.submit(bench.note, "first") == "order-4711"
            assert await mine.submit(bench.note, "while pending") == "order-4711"
            await final(app, "order-4711")
            assert await mine.submit(bench.note, "when finished") == "order-4711"

        assert bench.ran == ["first"]
        assert numbers_of(bench.app, "note")["submitted"] == 1

    async def test_many_at_once_with_the_same_id_run_once(self) -> None:
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "fills the queue")
            same = [asyncio.ensure_future(app.options(task_id="same").submit(bench.note, "once")) for _ in range(10)]
            await asyncio.sleep(0)
            bench.gate.set()
            assert set(await asyncio.gather(*same)) == {"same"}
            await final(app, "same")

        assert bench.ran == ["fills the queue", "once"]

    async def test_who_submits_an_id_that_is_being_submitted_relies_on_nobody_else(self) -> None:
        """What `submit` returned is accepted, even if the first one to submit that id gave up meanwhile."""
        bench = Bench(max_queue_size=1)
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit(bench.note, "fills the queue")
            first, second = (
                asyncio.ensure_future(app.options(task_id="same").submit(bench.note, "once")) for _ in range(2)
            )
            for _ in range(5):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            bench.gate.set()
            assert await second == "same"
            assert (await final(app, "same")).status == "success"

        assert bench.ran == ["fills the queue", "once"]

    @pytest.mark.parametrize("is_given_up", [True, False])
    @pytest.mark.parametrize("broker", [None, ListBroker], ids=["memory", "own broker"])
    async def test_an_id_that_was_recorded_and_not_queued_is_queued_by_the_next_try(
        self, broker: type[ListBroker] | None, is_given_up: bool
    ) -> None:
        class Doubtful(RemoteBackend):
            """Keeps the first record, and does not say so."""

            async def store(self, task_id: str, result: TaskResult) -> None:
                await super().store(task_id, result)
                if len(self.stored[task_id]) == 1:
                    kept.set()
                    await answers.wait()
                    raise BackendError("timed out")

        kept, answers = asyncio.Event(), asyncio.Event()
        bench = Bench(backend=Doubtful(), broker=broker and broker())
        async with bench.app as app:
            mine = app.options(task_id="mine")
            first = asyncio.ensure_future(mine.submit(bench.note, "once"))
            await asyncio.wait_for(kept.wait(), 5)
            if is_given_up:
                first.cancel()
            answers.set()
            await asyncio.wait({first}, timeout=5)
            assert first.cancelled() or isinstance(first.exception(), BackendError)
            assert await mine.submit(bench.note, "once") == "mine"
            assert (await final(app, "mine")).status == "success"

        assert bench.ran == ["once"]
        assert numbers_of(bench.app, "note")["submitted"] == 1

    async def test_headers_travel_with_the_task(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> dict[str, str]:
            task = current_task()
            assert task is not None
            return dict(task.headers)

        async with app:
            task_id = await app.options(headers={"traceparent": "00-abc"}).submit(job)
            assert (await final(app, task_id)).result == {"traceparent": "00-abc"}

    @pytest.mark.parametrize(
        "option",
        [
            {"headers": {"a": "x" * 1_000_000}},
            {"headers": {"a": 1}},
            {"headers": "traceparent"},
            {"countdown": "soon"},
            {"countdown": float("nan")},
            {"eta": "tomorrow"},
            {"task_id": ""},
            {"task_id": 7},
            {"timeout": 0},
            {"priority": "high"},
        ],
        ids=lambda option: next(iter(option)),
    )
    async def test_bad_options_are_refused_by_name(self, option: dict[str, Any]) -> None:
        bench = Bench()
        async with bench.app as app:
            with pytest.raises((ValueError, TypeError), match=next(iter(option))):
                await app.options(**option).submit(bench.note, "a")

        assert bench.ran == []

    async def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(TypeError, match="colour"):
            Bench().app.options(colour="red")  # type: ignore[call-arg]

    async def test_options_can_be_kept_and_used_again(self) -> None:
        bench = Bench()
        async with bench.app as app:
            urgent = app.options(priority=-1)
            first, second = await urgent.submit(bench.note, 1), await urgent.submit(bench.note, 2)

        assert first != second
        assert bench.ran == [1, 2]


class TestMany:
    async def test_the_ids_come_back_in_order_and_the_tasks_run_in_order(self) -> None:
        bench = Bench()
        async with bench.app as app:
            ids = await app.submit_many((bench.note, (n,), {}) for n in range(50))
            records = [await record_of(app, task_id) for task_id in ids]

        assert len(set(ids)) == 50
        assert [record.args for record in records] == [(n,) for n in range(50)]
        assert bench.ran == list(range(50))

    async def test_keyword_arguments_and_several_functions(self) -> None:
        bench = Bench()

        @bench.app.task()
        async def shout(what: str, *, times: int = 1) -> None:
            bench.ran.append(what.upper() * times)

        async with bench.app as app:
            await app.submit_many([(bench.note, (), {"what": "quiet"}), (shout, ("loud",), {"times": 2})])

        assert bench.ran == ["quiet", "LOUDLOUD"]

    @pytest.mark.parametrize(("refused", "accepted"), [(0, 0), (2, 2)])
    async def test_what_was_accepted_before_one_that_is_not_is_told_and_runs(self, refused: int, accepted: int) -> None:
        class Refusing(RemoteBackend):
            async def store(self, task_id: str, result: TaskResult) -> None:
                if result.args == (refused,):
                    raise BackendError("away")
                await super().store(task_id, result)

        bench = Bench(backend=Refusing())
        async with bench.app as app:
            with pytest.raises(BackendError, match="away") as caught:
                await app.submit_many((bench.note, (n,), {}) for n in range(4))
            ids = caught.value.queued if isinstance(caught.value, PartialSubmissionError) else []
            assert isinstance(caught.value, PartialSubmissionError) == (accepted > 0)
            assert [(await final(app, task_id)).args for task_id in ids] == [(n,) for n in range(accepted)]

        assert bench.ran == list(range(accepted))

    async def test_a_stop_in_the_midst_of_them_says_which_will_run(self) -> None:
        bench = Bench(max_queue_size=2)
        await bench.app.start()
        await bench.keep_worker_busy()
        submitting = asyncio.ensure_future(bench.app.submit_many((bench.note, (n,), {}) for n in range(10)))
        await until(lambda: numbers_of(bench.app, "note")["submitted"] == 2)
        stopping = asyncio.ensure_future(bench.app.stop())
        with pytest.raises(PartialSubmissionError, match="not running") as caught:
            await submitting
        bench.gate.set()
        await stopping
        assert [(await record_of(bench.app, task_id)).args for task_id in caught.value.queued] == [(0,), (1,)]
        assert bench.ran == [0, 1]

    async def test_so_does_a_broker_of_the_users_own_that_fails(self) -> None:
        class Refusing(ListBroker):
            async def push(self, task: Task) -> None:
                if task.args == (2,):
                    raise OSError("no room left")
                await super().push(task)

        bench = Bench(broker=Refusing())
        async with bench.app as app:
            with pytest.raises(PartialSubmissionError, match="no room left") as caught:
                await app.submit_many((bench.note, (n,), {}) for n in range(4))
            assert [(await final(app, task_id)).args for task_id in caught.value.queued] == [(0,), (1,)]

    async def test_nothing_is_nothing(self) -> None:
        async with Bench().app as app:
            assert await app.submit_many([]) == []

    async def test_more_than_the_queue_holds(self) -> None:
        bench = Bench(max_queue_size=3)
        async with bench.app as app:
            ids = await app.submit_many((bench.note, (n,), {}) for n in range(20))

        assert len(ids) == 20
        assert bench.ran == list(range(20))

    async def test_the_refusals_of_submit_hold(self) -> None:
        bench = Bench()

        async def stranger() -> None: ...

        with pytest.raises(ExecutorNotRunningError):
            await bench.app.submit_many([(bench.note, ("a",), {})])
        async with bench.app as app:
            with pytest.raises(TaskNotFoundError, match="stranger"):
                await app.submit_many([(stranger, (), {})])


class TestWhileNothingIsLookedAt:
    async def test_the_pending_figures_say_how_many_wait(self) -> None:
        bench = Bench()
        manager = FlowrraManager(bench.app)
        async with bench.app as app:
            await bench.keep_worker_busy()
            for n in range(17):
                await app.submit(bench.note, n)

            queue = (await manager.get_queue_stats())["io"]
            assert queue is not None
            assert queue["pending"] == 17
            assert (await manager.get_stats())["tasks"]["pending"] == 17
            assert len(await manager.list_pending_tasks()) == 17
            bench.gate.set()
        assert (await manager.get_stats())["tasks"]["pending"] == 0
