"""FlowrraManager: the exact shape of every answer, and that it is true."""

from __future__ import annotations

import asyncio
import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowrra import BackendError, Flowrra, TaskResult, TaskStatus
from flowrra.backends import BaseResultBackend, InMemoryBackend
from flowrra.executors.sources import memory
from flowrra.executors.workers import wall_clock
from flowrra.management import FlowrraManager
from tests.core.apps import (
    LoopThread,
    final,
    in_another_thread,
    memory_app,
    numbers_of,
    record_of,
    until,
    without_a_loop,
)


class Bench:
    """An app with tasks in every state, and its manager."""

    def __init__(self, *, io_workers: int = 1, **options: Any) -> None:
        self.app = memory_app(io_workers=io_workers, **options)
        self.manager = FlowrraManager(self.app)
        self.gate = asyncio.Event()

        @self.app.task(name="occupy")
        async def occupy() -> str:
            await self.gate.wait()
            return "occupied"

        @self.app.task(name="echo", max_retries=2, retry_delay=0.5)
        async def echo(value: object, *, loud: bool = False) -> object:
            """Give back what came in."""
            return value

        @self.app.task(name="failing", max_retries=0)
        async def failing() -> None:
            raise ValueError("boom")

        @self.app.task(name="retrying", max_retries=1, retry_delay=3600)
        async def retrying() -> None:
            raise ValueError("again")

        self.echo = echo

    async def keep_worker_busy(self) -> str:
        task_id = await self.app.submit("occupy")
        await until(lambda: numbers_of(self.app, "occupy")["running"] == 1)
        return task_id


class TestStats:
    async def test_an_app_without_tasks(self) -> None:
        manager = FlowrraManager(Flowrra())

        assert await manager.get_stats() == {
            "app": {"running": False},
            "executors": {"io": None, "cpu": None},
            "tasks": {"registered": 0, "pending": 0},
            "paused": {"queues": [], "tasks": []},
            "scheduler": None,
        }

    async def test_before_during_and_after_a_run(self) -> None:
        bench = Bench(io_workers=3)
        idle = {"running": False, "workers": 3, "busy": 0, "waiting": 0, "stuck": False, "draining": False}
        idle |= {"queues": None}

        assert (await bench.manager.get_stats())["executors"]["io"] == idle
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.options(countdown=3600, task_id="later").submit("echo", 1)
            for n in range(5):
                await app.submit("echo", n)
            busy = {**idle, "running": True, "busy": 1, "waiting": 5}
            assert await bench.manager.get_stats() == {
                "app": {"running": True},
                "executors": {"io": busy, "cpu": None},
                "tasks": {"registered": 4, "pending": 5},
                "paused": {"queues": [], "tasks": []},
                "scheduler": None,
            }
            bench.gate.set()
            await bench.manager.cancel_task("later")
        assert await bench.manager.get_stats() == {
            "app": {"running": False},
            "executors": {"io": idle, "cpu": None},
            "tasks": {"registered": 4, "pending": 0},
            "paused": {"queues": [], "tasks": []},
            "scheduler": None,
        }

    @pytest.mark.parametrize("waiting", [0, 1, 7, 500])
    async def test_the_pending_count_is_the_number_of_tasks_that_wait(self, waiting: int) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            for n in range(waiting):
                await app.submit("echo", n)

            assert (await bench.manager.get_stats())["tasks"]["pending"] == waiting
            queue = (await bench.manager.get_queue_stats())["io"]
            assert queue["pending"] == waiting
            assert len(await bench.manager.list_pending_tasks()) == waiting
            bench.gate.set()

    async def test_it_is_json_as_it_is(self) -> None:
        bench = Bench()
        async with bench.app:
            stats = await bench.manager.get_stats()

        assert json.loads(json.dumps(stats)) == stats


class TestRegisteredTasks:
    async def test_they_are_listed_with_their_configuration(self) -> None:
        tasks = await Bench().manager.list_registered_tasks()

        assert [task["name"] for task in tasks] == ["occupy", "echo", "failing", "retrying"]
        echo = next(task for task in tasks if task["name"] == "echo")
        assert {key: echo[key] for key in ("name", "cpu_bound", "max_retries", "retry_delay")} == {
            "name": "echo",
            "cpu_bound": False,
            "max_retries": 2,
            "retry_delay": 0.5,
        }
        assert json.loads(json.dumps(tasks)) == tasks

    async def test_one_task_says_where_it_comes_from(self) -> None:
        info = await Bench().manager.get_task_info("echo")

        assert info is not None
        assert info["module"] == __name__
        assert info["qualname"].endswith("echo")
        assert (info["name"], info["cpu_bound"], info["max_retries"], info["retry_delay"]) == ("echo", False, 2, 0.5)
        json.dumps(info)

    async def test_an_unknown_one_is_none(self) -> None:
        assert await Bench().manager.get_task_info("unknown") is None

    async def test_the_options_of_each_app_are_its_own(self) -> None:
        first, second = memory_app(), memory_app()

        async def shared() -> None: ...

        first.task(max_retries=1)(shared)
        second.task(max_retries=2)(shared)

        for app, retries in ((first, 1), (second, 2)):
            info = await FlowrraManager(app).get_task_info("shared")
            assert info is not None
            assert info["max_retries"] == retries

    def test_they_need_no_event_loop(self) -> None:
        manager = Bench().manager

        assert len(without_a_loop(manager.list_registered_tasks())) == 4
        assert without_a_loop(manager.get_task_info("echo")) is not None


class TestTaskResult:
    async def test_a_finished_task(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit("echo", "hello")
            record = await final(app, task_id)
            result = await bench.manager.get_task_result(task_id)

        assert result is not None
        assert {key: result[key] for key in ("task_id", "status", "result", "error", "completed_at")} == {
            "task_id": task_id,
            "status": "success",
            "result": "hello",
            "error": None,
            "completed_at": record.finished_at,
        }
        assert isinstance(result["status"], str)
        assert result["status"] == TaskStatus.SUCCESS
        assert f"{result['status']}" == "success"
        assert isinstance(result["completed_at"], datetime)

    async def test_a_failed_one(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit("failing")
            await final(app, task_id)
            result = await bench.manager.get_task_result(task_id)

        assert result is not None
        assert (result["status"], result["result"], result["error"]) == ("failed", None, "ValueError: boom")
        assert result["completed_at"] is not None

    async def test_one_that_still_waits(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.submit("echo", 1)
            result = await bench.manager.get_task_result(task_id)

        assert result is not None
        assert (result["status"], result["result"], result["error"], result["completed_at"]) == (
            "pending", None, None, None,
        )  # fmt: skip

    async def test_an_unknown_one_is_none(self) -> None:
        assert await Bench().manager.get_task_result("unknown") is None


PENDING_KEYS = {"task_id", "task_name", "status", "submitted_at", "args", "kwargs", "retries"}
OTHER_KEYS = PENDING_KEYS | {"started_at", "finished_at"}


class TestLists:
    async def test_each_state_has_its_list(self) -> None:
        bench = Bench(io_workers=1)
        async with bench.app as app:
            done = await app.submit("echo", "x", loud=True)
            failed = await app.submit("failing")
            await final(app, failed)
            running = await bench.keep_worker_busy()
            waiting = await app.submit("echo", 1)

            pending_list = await bench.manager.list_pending_tasks()
            running_list = await bench.manager.list_running_tasks()
            completed_list = await bench.manager.list_completed_tasks()
            failed_list = await bench.manager.list_failed_tasks()
            bench.gate.set()

        assert [task["task_id"] for task in pending_list] == [waiting]
        assert [task["task_id"] for task in running_list] == [running]
        assert [task["task_id"] for task in completed_list] == [done]
        assert [task["task_id"] for task in failed_list] == [failed]

        assert set(pending_list[0]) >= PENDING_KEYS
        assert set(running_list[0]) >= OTHER_KEYS
        assert set(completed_list[0]) >= OTHER_KEYS | {"result"}
        assert set(failed_list[0]) >= OTHER_KEYS | {"error"}
        assert completed_list[0].get("error") is None
        assert failed_list[0].get("result") is None

        completed = completed_list[0]
        assert (completed["task_name"], completed["status"], completed["result"]) == ("echo", "success", "x")
        assert (tuple(completed["args"]), completed["kwargs"], completed["retries"]) == (("x",), {"loud": True}, 0)
        assert type(completed["status"]) is str
        assert failed_list[0]["error"] == "ValueError: boom"

    async def test_what_never_ran_is_newest_first_and_limited(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            ids = []
            for n in range(5):
                ids.append(await app.submit("echo", n))
                await asyncio.sleep(0.001)  # the order is by time, to the microsecond

            assert [task["task_id"] for task in await bench.manager.list_pending_tasks()] == ids[::-1]
            assert [task["task_id"] for task in await bench.manager.list_pending_tasks(limit=2)] == ids[:-3:-1]
            assert await bench.manager.list_pending_tasks(limit=0) == []
            bench.gate.set()

        assert [task["task_id"] for task in await bench.manager.list_completed_tasks(limit=3)] == ids[:-4:-1]

    async def test_without_any_task_they_are_empty(self) -> None:
        manager = FlowrraManager(Flowrra())

        for query in (
            manager.list_pending_tasks,
            manager.list_running_tasks,
            manager.list_completed_tasks,
            manager.list_failed_tasks,
        ):
            assert await query() == []

    async def test_cancelled_tasks_are_in_none_of_them(self) -> None:
        bench = Bench()
        async with bench.app as app:
            task_id = await app.options(countdown=3600).submit("echo", 1)
            assert await bench.manager.cancel_task(task_id)
            lists = [
                await bench.manager.list_pending_tasks(),
                await bench.manager.list_running_tasks(),
                await bench.manager.list_completed_tasks(),
                await bench.manager.list_failed_tasks(),
            ]

        assert lists == [[], [], [], []]


class WithoutLists(BaseResultBackend):
    """A user's backend of exactly the three abstract methods."""

    def __init__(self) -> None:
        self._memory = InMemoryBackend()

    async def store(self, task_id: str, result: TaskResult) -> None:
        await self._memory.store(task_id, result)

    async def get(self, task_id: str) -> TaskResult | None:
        return await self._memory.get(task_id)

    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        return await self._memory.wait_for(task_id, timeout)


class TestLimitedBackends:
    async def test_a_backend_without_lists_gives_empty_ones(self) -> None:
        bench = Bench(backend=WithoutLists())
        async with bench.app as app:
            await final(app, await app.submit("echo", 1))
            assert await bench.manager.list_completed_tasks() == []
            assert (await bench.manager.list_tasks()) == {"tasks": [], "next": None}
            assert (await bench.manager.get_stats())["tasks"]["pending"] == 0

    async def test_what_it_would_have_to_list_for_is_an_error_and_not_nothing(self) -> None:
        bench = Bench(backend=WithoutLists())
        async with bench.app as app:
            for _ in range(3):
                await app.options(countdown=3600).submit("echo", 1)
            with pytest.raises(BackendError, match="can't be counted with this result backend: WithoutLists does not"):
                await bench.manager.count_tasks()
            with pytest.raises(BackendError, match="can't be listed with this result backend: WithoutLists does not"):
                await bench.manager.cancel_tasks()
            assert await bench.manager.purge_queue() == {"done": 3, "left": 0}

    async def test_a_backend_that_fails_is_an_error_and_not_an_empty_list(self) -> None:
        class Failing(WithoutLists):
            async def list_by_status(
                self, status: TaskStatus, limit: int | None = None, offset: int = 0
            ) -> list[TaskResult]:
                raise ConnectionError("the server is gone")

        bench = Bench(backend=Failing())
        async with bench.app:
            with pytest.raises(BackendError, match="the server is gone"):
                await bench.manager.list_completed_tasks()


QUEUE_KEYS = {
    "pending", "delayed", "in_flight", "taken", "dead", "unknown", "oldest_pending_at",
    "paused", "paused_tasks", "broker", "namespace", "server", "shared", "drain_seconds",
}  # fmt: skip


class TestQueueStats:
    async def test_only_executors_that_exist_have_a_queue(self) -> None:
        assert await FlowrraManager(Flowrra()).get_queue_stats() == {"io": None, "cpu": None}
        assert (await Bench().manager.get_queue_stats())["cpu"] is None

    async def test_a_queue_in_memory(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            before = datetime.now(UTC)
            await app.submit("echo", 1)
            between = datetime.now(UTC)
            await app.submit("echo", 2)
            await app.options(countdown=3600, task_id="later").submit("echo", 3)
            queue = (await bench.manager.get_queue_stats())["io"]
            await bench.manager.cancel_task("later")
            bench.gate.set()

        assert set(queue) == QUEUE_KEYS
        assert (queue["pending"], queue["delayed"], queue["broker"], queue["shared"]) == (2, 1, "memory", False)
        assert isinstance(queue["namespace"], str)
        assert queue["dead"] in {0, None}
        assert queue["in_flight"] in {1, None}
        assert queue["paused"] in {False, None}
        oldest = queue["oldest_pending_at"]
        assert oldest.utcoffset() == timedelta(0)
        assert before <= oldest <= between, "the first of the two waits longest"

    async def test_the_oldest_tasks_moment_stays_as_it_was_told_unless_a_clock_is_put(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            await app.submit("echo", 1)
            told = {(await bench.manager.get_queue_stats())["io"]["oldest_pending_at"] for _ in range(100)}
            monkeypatch.setattr(memory, "wall_clock", lambda moment: wall_clock(moment) + timedelta(hours=1))
            put = {(await bench.manager.get_queue_stats())["io"]["oldest_pending_at"] for _ in range(100)}
            bench.gate.set()

        assert (len(told), len(put)) == (1, 1)
        assert put.pop() - told.pop() == pytest.approx(timedelta(hours=1), abs=timedelta(seconds=1))

    async def test_an_empty_queue_has_no_oldest_task(self) -> None:
        bench = Bench()
        async with bench.app:
            queue = (await bench.manager.get_queue_stats())["io"]

        assert (queue["pending"], queue["delayed"], queue["oldest_pending_at"]) == (0, 0, None)

    async def test_a_task_that_waited_for_its_time_is_as_old_as_its_due_time(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await bench.keep_worker_busy()
            submitted = datetime.now(UTC)
            await app.options(countdown=0.2).submit("echo", 1)
            async with asyncio.timeout(5):
                while (queue := (await bench.manager.get_queue_stats())["io"])["pending"] == 0:
                    await asyncio.sleep(0.005)
            bench.gate.set()

        assert queue["oldest_pending_at"] - submitted >= timedelta(seconds=0.19)

    async def test_a_retry_that_waits_is_delayed_and_not_pending(self) -> None:
        bench = Bench()
        async with bench.app as app:
            await app.submit("retrying")
            await until(lambda: numbers_of(app, "retrying")["retrying"] == 1)
            queue = (await bench.manager.get_queue_stats())["io"]
            await app.stop(timeout=0.1)

        assert (queue["pending"], queue["delayed"]) == (0, 1)


class TestWorkers:
    async def test_this_process_is_listed(self) -> None:
        import os

        bench = Bench(io_workers=3)
        async with bench.app:
            await bench.keep_worker_busy()
            workers = await bench.manager.list_workers()
            bench.gate.set()

        assert len(workers) == 1
        worker = workers[0]
        assert set(worker) >= {"id", "host", "pid", "started_at", "heartbeat_at", "version", "executors"}
        assert worker["pid"] == os.getpid()
        assert worker["executors"]["io"]["slots"] == 3
        assert worker["executors"]["io"]["busy"] == 1
        for moment in (worker["started_at"], worker["heartbeat_at"]):
            assert moment.utcoffset() == timedelta(0)
            assert datetime.now(UTC) - moment < timedelta(minutes=1)

    async def test_an_app_that_does_not_run_is_no_worker(self) -> None:
        assert await Bench().manager.list_workers() == []


class TestSchedules:
    """Without a scheduler there is nothing to list."""

    async def test_the_answers_are_empty(self) -> None:
        manager = Bench().manager

        assert await manager.list_schedules() == []
        assert await manager.list_schedules(enabled_only=True) == []
        assert await manager.get_schedule("any") is None
        assert await manager.get_scheduler_stats() is None


class TestFromEverywhere:
    """Every query answers under any event loop, whether or not the app runs."""

    QUERIES = (
        ("get_stats", ()),
        ("list_registered_tasks", ()),
        ("get_task_info", ("echo",)),
        ("get_task_result", ("any",)),
        ("list_pending_tasks", ()),
        ("list_running_tasks", ()),
        ("list_completed_tasks", ()),
        ("list_failed_tasks", ()),
        ("health_check", ()),
        ("get_queue_stats", ()),
        ("get_task_stats", ()),
        ("get_runtime_stats", ()),
        ("list_workers", ()),
        ("list_schedules", ()),
        ("get_schedule", ("any",)),
        ("get_scheduler_stats", ()),
        ("cancel_task", ("any",)),
    )

    @pytest.mark.parametrize(("method", "args"), QUERIES, ids=[name for name, _ in QUERIES])
    def test_one_loop_after_another(self, method: str, args: tuple[Any, ...]) -> None:
        with LoopThread() as elsewhere:
            bench = Bench()
            query = getattr(bench.manager, method)

            asyncio.run(query(*args))
            elsewhere.run(bench.app.start())
            answers = [asyncio.run(query(*args)) for _ in range(3)]
            own = elsewhere.run(query(*args))
            elsewhere.run(bench.app.stop())
            asyncio.run(query(*args))

        assert [type(answer) for answer in answers] == [type(own)] * 3

    async def test_the_app_can_be_watched_from_another_thread_while_it_works(self) -> None:
        bench = Bench(io_workers=4)
        stop = asyncio.Event()

        async def watch() -> int:
            turns = 0
            while not stop.is_set():
                stats = await bench.manager.get_stats()
                assert 0 <= stats["executors"]["io"]["busy"] <= 4
                assert 0 <= stats["tasks"]["pending"] <= 1000
                assert (await bench.manager.health_check())["healthy"] is True
                await bench.manager.get_queue_stats()
                await bench.manager.list_pending_tasks(limit=5)
                await bench.manager.list_running_tasks(limit=5)
                turns += 1
            return turns

        async with bench.app as app:
            watcher = asyncio.ensure_future(in_another_thread(watch))
            for n in range(1500):
                await app.submit("echo", n)
                if n % 50 == 0:
                    await asyncio.sleep(0.001)
            stop.set()
            assert await watcher > 0

    async def test_a_loop_that_is_blocked_does_not_block_who_asks_in_another_thread(self) -> None:
        import threading

        bench = Bench()
        blocked, release = threading.Event(), threading.Event()
        released = []

        @bench.app.task()
        async def blocks() -> None:
            blocked.set()
            released.append(release.wait(timeout=5))

        async def ask() -> dict[str, Any]:
            stats = await bench.manager.get_stats()
            await bench.manager.get_queue_stats()
            await bench.manager.list_pending_tasks()
            await bench.manager.health_check()
            return stats

        answers: list[dict[str, Any]] = []

        def ask_from_a_thread() -> None:
            blocked.wait(timeout=5)
            try:
                answers.append(asyncio.run(ask()))
            finally:
                release.set()

        async with bench.app as app:
            thread = threading.Thread(target=ask_from_a_thread)
            thread.start()
            await final(app, await app.submit(blocks), within=10)
            await asyncio.to_thread(thread.join)

        assert released == [True], "all was answered while the loop was blocked"
        assert answers[0]["executors"]["io"]["busy"] == 1


@pytest.mark.parametrize("method", ["cancel_tasks", "purge_queue", "requeue_dead_tasks", "delete_dead_tasks"])
def test_what_is_done_with_many_tasks_is_done_with_a_thousand_unless_more_are_asked_for(method: str) -> None:
    assert inspect.signature(getattr(FlowrraManager, method)).parameters["limit"].default == 1000


def test_the_manager_knows_its_app() -> None:
    app = Flowrra()

    assert FlowrraManager(app).app is app


async def test_cancelling_is_told_by_the_record() -> None:
    bench = Bench()
    async with bench.app as app:
        task_id = await app.options(countdown=3600).submit("echo", 1)

        assert await bench.manager.cancel_task(task_id) is True
        assert await bench.manager.cancel_task(task_id) is False

        result = await bench.manager.get_task_result(task_id)
        assert result is not None
        assert (result["status"], (await record_of(app, task_id)).status) == ("cancelled", "cancelled")
        assert result["completed_at"] is not None
