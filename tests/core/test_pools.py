"""Pauses, slots and drains in memory and with a broker of the user's own."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from flowrra.task import Task, TaskStatus
from tests.core.apps import final, in_another_thread, numbers_of, record_of, until
from tests.core.cpu_tasks import hold as cpu_hold
from tests.management.test_answers import Polled


class Bench:
    """An app whose tasks note when they begin, and can be held."""

    def __init__(
        self, *, io_workers: int = 4, queues: Any = None, broker: Any = None, max_queue_size: int = 1000
    ) -> None:
        executor = ExecutorConfig(io_workers=io_workers, queues=queues, max_queue_size=max_queue_size)
        self.app = Flowrra(Config(executor=executor, broker=broker))
        self.manager = FlowrraManager(self.app)
        self.begun: list[Any] = []
        self.running = 0
        self.opened = asyncio.Event()
        self.tickets = asyncio.Semaphore(0)

        @self.app.task(name="note")
        async def note(value: Any = None) -> None:
            self.begun.append(value)

        @self.app.task(name="other")
        async def other(value: Any = None) -> None:
            self.begun.append(value)

        @self.app.task(name="hold")
        async def hold(value: Any = None) -> None:
            self.begun.append(value)
            self.running += 1
            await self.opened.wait()
            self.running -= 1

        @self.app.task(name="queue_up")
        async def queue_up(value: Any) -> None:
            self.begun.append(value)
            self.running += 1
            await self.tickets.acquire()
            self.running -= 1

    async def queue(self, name: str = "default") -> Any:
        return next(each for each in await self.manager.list_queues() if each["queue"] == name)


class TestPauseOfAQueue:
    async def test_nothing_begins_and_all_runs_after_it(self) -> None:
        bench = Bench()
        async with bench.app as app:
            assert await bench.manager.pause_queue() is True
            ids = [await app.submit("note", n) for n in range(50)]
            await asyncio.sleep(0.05)
            assert bench.begun == []
            queue, stats = await bench.queue(), await bench.manager.get_stats()
            assert (queue["pending"], queue["paused"], stats["tasks"]["pending"]) == (50, True, 50)
            assert queue["oldest_pending_at"] is not None
            assert await bench.manager.resume_queue() is True
            for each in ids:
                await final(app, each)
            assert (await bench.queue())["paused"] is False
        assert bench.begun == list(range(50))

    async def test_during_a_full_load_what_runs_goes_on_and_nothing_else_begins(self) -> None:
        bench = Bench(io_workers=3)
        async with bench.app as app:
            ids = [await app.submit("hold", n) for n in range(200)]
            await until(lambda: bench.running == 3)
            await bench.manager.pause_queue()
            bench.opened.set()
            await until(lambda: bench.running == 0)
            await asyncio.sleep(0.05)
            assert bench.begun == [0, 1, 2]
            await bench.manager.resume_queue()
            assert {(await final(app, each)).status for each in ids} == {TaskStatus.SUCCESS}
        assert bench.begun == list(range(200))

    async def test_the_other_queues_go_on(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.manager.pause_queue("mail")
            held = await app.options(queue="mail").submit("note", "mail")
            await final(app, await app.submit("note", "default"))
            assert (await record_of(app, held)).status is TaskStatus.PENDING
            assert (await bench.queue("mail"))["pending"] == 1
            await bench.manager.resume_queue("mail")
            await final(app, held)
        assert bench.begun == ["default", "mail"]

    async def test_what_falls_due_meanwhile_waits_too(self) -> None:
        bench = Bench()
        async with bench.app as app:
            delayed = await app.options(countdown=0.02).submit("note", 1)
            await bench.manager.pause_queue()
            async with asyncio.timeout(5):
                while (await bench.queue())["pending"] == 0:
                    await asyncio.sleep(0.005)
            assert bench.begun == []
            await bench.manager.resume_queue()
            await final(app, delayed)

    async def test_submissions_are_accepted_however_many_wait_already(self) -> None:
        bench = Bench(max_queue_size=5)
        async with bench.app as app:
            await bench.manager.pause_queue()
            async with asyncio.timeout(5):
                ids = [await app.submit("note", n) for n in range(20)]
            await bench.manager.resume_queue()
            for each in ids:
                await final(app, each)

    async def test_twice_changes_nothing(self) -> None:
        bench = Bench()
        async with bench.app:
            manager = bench.manager
            assert [await manager.pause_queue(), await manager.pause_queue()] == [True, False]
            assert [await manager.resume_queue(), await manager.resume_queue()] == [True, False]

    async def test_a_paused_app_is_healthy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flowrra.management.health.STUCK_AFTER", 0.01)
        bench = Bench()
        async with bench.app as app:
            await bench.manager.pause_queue()
            await app.submit("note")
            await asyncio.sleep(0.05)
            assert (await bench.manager.health_check())["healthy"] is True

    async def test_before_the_start_holds_after_it(self) -> None:
        bench = Bench()
        await bench.manager.pause_queue()
        async with bench.app as app:
            waiting = await app.submit("note")
            await asyncio.sleep(0.02)
            assert bench.begun == []
            await bench.manager.resume_queue()
            await final(app, waiting)

    async def test_a_stop_ends_what_waits(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.manager.pause_queue()
            waiting = await app.submit("note")
            async with asyncio.timeout(5):
                await app.stop()
            assert (await record_of(app, waiting)).status is TaskStatus.CANCELLED
        assert bench.begun == []

    async def test_a_task_that_waits_in_it_can_be_cancelled(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.manager.pause_queue()
            waiting = await app.submit("note")
            assert await bench.manager.cancel_task(waiting) is True
            await bench.manager.resume_queue()
            await final(app, await app.submit("note", "next"))
        assert bench.begun == ["next"]

    async def test_from_another_thread(self) -> None:
        bench = Bench()
        async with bench.app as app:
            assert await in_another_thread(bench.manager.pause_queue) is True
            waiting = await app.submit("note")
            assert await in_another_thread(bench.manager.resume_queue) is True
            await final(app, waiting)

    async def test_of_an_app_without_tasks_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="The app has no tasks"):
            await FlowrraManager(Flowrra()).pause_queue()


class TestPauseOfATask:
    async def test_others_go_on(self) -> None:
        bench = Bench()
        async with bench.app as app:
            assert await bench.manager.pause_task("note") is True
            waits = [await app.submit("note", n) for n in range(3)]
            waits.append(await app.options(queue="mail").submit("note", 3))
            await final(app, await app.submit("other", "other"))
            assert bench.begun == ["other"]
            assert (await bench.manager.get_stats())["tasks"]["pending"] == 4
            queue = await bench.queue()
            assert (queue["pending"], queue["oldest_pending_at"]) == (3, None), "it waits by request"
            assert (queue["paused_tasks"], queue["drain_seconds"]) == (3, 0.0), "workers have nothing left to take"
            assert (await bench.manager.get_stats())["paused"] == {"queues": [], "tasks": ["note"]}
            assert await bench.manager.resume_task("note") is True
            for each in waits:
                await final(app, each)
        assert sorted(bench.begun[1:]) == [0, 1, 2, 3]

    async def test_a_queue_that_is_paused_as_well_keeps_it(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.manager.pause_task("note")
            await bench.manager.pause_queue()
            waiting = await app.submit("note", 1)
            await bench.manager.resume_task("note")
            await asyncio.sleep(0.02)
            assert bench.begun == []
            await bench.manager.resume_queue()
            await final(app, waiting)

    async def test_without_a_name_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="must not be empty"):
            await Bench().manager.pause_task("")


class TestOrderAfterAPause:
    async def test_what_is_resumed_comes_before_what_was_submitted_later(self) -> None:
        bench = Bench(io_workers=1)
        async with bench.app as app:
            running = await app.submit("hold")
            await until(lambda: bench.running == 1)
            ids = [await app.submit("other", 0)]
            await bench.manager.pause_task("note")
            ids += [await app.submit("note" if n % 2 else "other", n) for n in range(1, 7)]
            await bench.manager.pause_queue()
            ids.append(await app.submit("note", 7))
            await bench.manager.resume_queue()
            await bench.manager.resume_task("note")
            oldest = (await bench.queue())["oldest_pending_at"]
            assert oldest is not None
            assert oldest - (await record_of(app, ids[0])).submitted_at < timedelta(milliseconds=1)
            bench.opened.set()
            for each in (running, *ids):
                await final(app, each)
        assert bench.begun[1:] == list(range(8))

    async def test_the_oldest_that_waits_is_one_that_was_resumed(self) -> None:
        bench = Bench(io_workers=1)
        async with bench.app as app:
            running = await app.submit("hold")
            await until(lambda: bench.running == 1)
            await bench.manager.pause_task("note")
            first = await app.submit("note", 1)
            since = app.executors["io"]._queue.aside()[0].ready_at
            second = await app.submit("other", 2)
            await bench.manager.resume_task("note")
            assert min(job.ready_at for job in app.executors["io"]._queue.oldest()) == since
            bench.opened.set()
            for each in (running, first, second):
                await final(app, each)


class TestResize:
    async def test_from_10_to_1_to_50_under_load(self) -> None:
        bench = Bench(io_workers=10)
        async with bench.app as app:
            ids = [await app.submit("queue_up", n) for n in range(200)]
            await until(lambda: bench.running == 10)
            assert await bench.manager.resize_workers("io", 1) == 1
            for ended in range(1, 16):
                bench.tickets.release()
                # The first nine that end make room for nobody.
                begun, running = max(10, ended + 1), max(1, 10 - ended)
                await until(lambda now=(begun, running): (len(bench.begun), bench.running) == now)

            assert await bench.manager.resize_workers("io", 50) == 1
            await until(lambda: bench.running == 50)
            stats = (await bench.manager.get_stats())["executors"]["io"]
            assert stats is not None
            assert (stats["workers"], stats["busy"]) == (50, 50)
            (worker,) = await bench.manager.list_workers()
            assert worker["executors"]["io"] == {"slots": 50, "busy": 50}
            for _ in ids:
                bench.tickets.release()
            assert {(await final(app, each)).status for each in ids} == {TaskStatus.SUCCESS}
        assert bench.begun == list(range(200))

    async def test_running_attempts_go_on_to_their_end(self) -> None:
        bench = Bench(io_workers=3)
        async with bench.app as app:
            ids = [await app.submit("hold", n) for n in range(3)]
            await until(lambda: bench.running == 3)
            await bench.manager.resize_workers("io", 1)
            bench.opened.set()
            assert {(await final(app, each)).status for each in ids} == {TaskStatus.SUCCESS}

    async def test_of_cpu_tasks_as_well(self) -> None:
        app = Flowrra(Config(executor=ExecutorConfig(cpu_workers=3), backend=InMemoryBackend()))
        app.task(name="cpu_hold", cpu_bound=True)(cpu_hold)
        async with app:
            assert await FlowrraManager(app).resize_workers("cpu", 2) == 1
            assert app.executors["cpu"].workers == 2
            stats = (await FlowrraManager(app).get_stats())["executors"]["cpu"]
            assert stats is not None
            assert stats["workers"] == 2

    @pytest.mark.slow
    async def test_processes_follow(self, tmp_path: Path) -> None:
        app = Flowrra(Config(executor=ExecutorConfig(cpu_workers=3), backend=InMemoryBackend()))
        app.task(name="cpu_hold", cpu_bound=True)(cpu_hold)
        manager, release = FlowrraManager(app), tmp_path / "release"
        async with app:
            pool = app.executors["cpu"]._pool  # type: ignore[attr-defined]
            ids = [await app.submit("cpu_hold", str(tmp_path / str(n)), str(release)) for n in range(3)]
            await until(lambda: len(list(tmp_path.iterdir())) == 3, within=60)
            await manager.resize_workers("cpu", 1)
            assert len(pool._processes) == 3
            release.touch()
            assert {(await final(app, each, within=60)).status for each in ids} == {TaskStatus.SUCCESS}
            await until(lambda: len(pool._processes) == 1)

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (("io", 0), "at least 1"),
            (("io", True), "n must be"),
            (("io", 1.5), "n must be"),
            (("cpu", 2), "The app has no cpu tasks"),
            (("gpu", 2), "An executor is 'io' or 'cpu'"),
            (("io", 2, "elsewhere"), "no worker is known but this process"),
        ],
    )
    async def test_what_is_refused(self, arguments: Any, problem: str) -> None:
        bench = Bench()
        async with bench.app:
            with pytest.raises((TypeError, ValueError), match=problem):
                await bench.manager.resize_workers(*arguments)

    async def test_all_workers_are_this_one(self) -> None:
        bench = Bench()
        async with bench.app as app:
            assert await bench.manager.resize_workers("io", 7, "all") == 1
            assert await bench.manager.resize_workers("io", 8, app.id) == 1
            assert app.executors["io"].workers == 8


class TestDrain:
    async def test_what_runs_ends_and_what_waits_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flowrra.management.health.STUCK_AFTER", 0.01)
        bench = Bench(io_workers=2)
        async with bench.app as app:
            ids = [await app.submit("hold", n) for n in range(5)]
            await until(lambda: bench.running == 2)
            for one_at_a_time in (bench.manager.drain_worker, bench.manager.resume_worker):
                with pytest.raises(ValueError, match=r"worker must be the id of one worker, .* not 'all'"):
                    await one_at_a_time("all")
            assert await bench.manager.drain_worker() is True
            assert await bench.manager.drain_worker() is False
            bench.opened.set()
            await until(lambda: bench.running == 0)
            await asyncio.sleep(0.02)
            assert bench.begun == [0, 1]
            (worker,) = await bench.manager.list_workers()
            stats, health = (await bench.manager.get_stats())["executors"]["io"], await bench.manager.health_check()
            assert stats is not None
            assert (worker["draining"], stats["draining"], health["healthy"]) == (True, True, True)
            assert await bench.manager.resume_worker() is True
            assert await bench.manager.resume_worker() is False
            for each in ids:
                await final(app, each)

    async def test_a_stop_does_not_wait_for_what_waits(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.manager.drain_worker()
            waiting = await app.submit("note")
            async with asyncio.timeout(5):
                await app.stop()
            assert (await record_of(app, waiting)).status is TaskStatus.CANCELLED

    async def test_it_is_over_with_the_next_start(self) -> None:
        bench = Bench()
        async with bench.app:
            await bench.manager.drain_worker()
        async with bench.app as app:
            await final(app, await app.submit("note"))

    async def test_of_an_app_that_does_not_run_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="does not run"):
            await Bench().manager.drain_worker()


class TestBrokerOfTheUsersOwn:
    @pytest.mark.slow
    async def test_has_one_queue_whatever_tasks_name(self) -> None:
        bench = Bench(broker=Polled())
        async with bench.app as app:
            record = await final(app, await app.options(queue="mail").submit("note"))
            assert record.queue == "default"
            assert [each["queue"] for each in await bench.manager.list_queues()] == ["default"]
            with pytest.raises(ValueError, match="A Polled has one queue"):
                await bench.manager.pause_queue("mail")

    @pytest.mark.slow
    async def test_is_paused_for_this_process(self) -> None:
        broker = Polled()
        bench = Bench(broker=broker)
        async with bench.app as app:
            await bench.manager.pause_queue()
            ids = [await app.submit("note", n) for n in range(3)]
            # One poll may have been under way.
            await asyncio.sleep(0.1)
            assert bench.begun == []
            assert (await bench.queue())["paused"] is True
            await bench.manager.resume_queue()
            for each in ids:
                await final(app, each)

    @pytest.mark.slow
    async def test_a_paused_task_waits_here(self) -> None:
        bench = Bench(broker=Polled())
        async with bench.app as app:
            await bench.manager.pause_task("note")
            waiting = await app.submit("note", 1)
            await final(app, await app.submit("other", 2))
            assert bench.begun == [2]
            await bench.manager.resume_task("note")
            await final(app, waiting)

    @pytest.mark.slow
    async def test_gets_back_what_waits_in_a_draining_worker_for_its_name_to_be_resumed(self) -> None:
        broker = Polled()
        bench = Bench(broker=broker)
        async with bench.app as app:
            await bench.manager.pause_task("note")
            ids = [await app.submit("note", n) for n in range(3)]
            await until(lambda: len(app.executors["io"]._queue.aside()) == 3)
            await bench.manager.drain_worker()
            assert (len(app.executors["io"]._queue.aside()), await broker.size()) == (0, 3)
            await bench.manager.resume_task("note")
            await bench.manager.resume_worker()
            for each in ids:
                await final(app, each)

    @pytest.mark.slow
    async def test_gets_back_what_was_just_being_taken_when_the_worker_began_to_drain(self) -> None:
        class Counting(Polled):
            asked = given = 0

            async def pop(self, timeout: float | None = None) -> Task | None:
                self.asked += 1
                task = await super().pop(timeout)
                self.given += task is not None
                return task

        broker = Counting()
        bench = Bench(broker=broker)
        async with bench.app as app:
            await until(lambda: broker.asked)
            await bench.manager.drain_worker()
            waiting = await app.submit("note", 1)
            await until(lambda: broker.given)
            await until(lambda: broker._queue.qsize() == 1)
            assert app.executors["io"].pending_count() == 0
            await bench.manager.resume_worker()
            await final(app, waiting)

    async def test_a_retry_that_it_gets_back_waits_here_no_more(self) -> None:
        broker = Polled()
        bench = Bench(io_workers=2, broker=broker)

        @bench.app.task(max_retries=1, retry_delay=0.01)
        async def fail() -> None:
            await bench.manager.resize_workers("io", 1)
            raise ValueError

        async with bench.app as app:
            running = await app.submit("hold")
            await until(lambda: bench.running == 1)
            retried = await app.submit(fail)
            await until(lambda: app.executors["io"].pending_count() == 1)
            assert numbers_of(app, "fail")["retrying"] == 1
            await bench.manager.drain_worker()
            assert (numbers_of(app, "fail")["retrying"], await broker.size()) == (0, 1)
            bench.opened.set()
            await bench.manager.resume_worker()
            for each in (running, retried):
                await final(app, each)
            assert numbers_of(app, "fail")["retrying"] == 0

    async def test_gets_back_what_a_draining_worker_had_taken(self) -> None:
        broker = Polled()
        bench = Bench(io_workers=1, broker=broker)
        async with bench.app as app:
            running = await app.submit("hold", 0)
            await until(lambda: bench.running == 1)
            waiting = await app.options(countdown=0.01).submit("note", 1)
            await until(lambda: app.executors["io"].pending_count() == 1)
            await bench.manager.drain_worker()
            assert (app.executors["io"].pending_count(), await broker.size()) == (0, 1)
            bench.opened.set()
            await final(app, running)
            assert await broker.size() == 1
            await bench.manager.resume_worker()
            await final(app, waiting)
