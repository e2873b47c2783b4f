"""Queues by name in memory: which names can be, in which order queues are served, and what is told of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.executors.io_executor import IOExecutor
from flowrra.executors.queue_order import QueueOrder
from flowrra.management import FlowrraManager
from flowrra.queue_names import MAX_QUEUES
from flowrra.registry import TaskRegistry
from flowrra.task import Task, TaskResult, TaskStatus
from tests.core.apps import final, memory_app, record_of, until
from tests.core.cpu_tasks import pid

IMPOSSIBLE: list[Any] = ["", "a b", "mail:io", "ümlaut", "x" * 65, "a@b", "line\n", None, 3]


def app_with(queues: Any, ran: list[Any], **executor: Any) -> Flowrra:
    """An app with one slot, whose tasks note what they are given; the queue is chosen at submission."""
    app = Flowrra(Config(executor=ExecutorConfig(io_workers=1, queues=queues, **executor)))

    @app.task(name="note")
    async def note(value: Any) -> None:
        ran.append(value)
        await asyncio.sleep(0)

    return app


async def ran_in_order(queues: Any, *submitted: str) -> list[str]:
    """The queues of tasks in the order in which they ran, submitted while nothing began."""
    ran: list[str] = []
    async with app_with(queues, ran) as app:
        await FlowrraManager(app).drain_worker()
        for queue in submitted:
            await app.options(queue=queue).submit("note", queue)
        await FlowrraManager(app).resume_worker()
    return ran


class TestNames:
    @pytest.mark.parametrize("name", ["mail", "default", "A.b_c-9", "x" * 64])
    async def test_what_can_be_is_the_same_everywhere(self, name: str) -> None:
        app = memory_app()

        @app.task(queue=name)
        async def work() -> None: ...

        async with app:
            record = await final(app, await app.submit(work))
        assert record.queue == name
        assert ExecutorConfig(queues=(name,)).queues == (name,)

    @pytest.mark.parametrize("name", IMPOSSIBLE)
    def test_what_cannot_be_is_refused_everywhere(self, name: Any) -> None:
        app = memory_app()

        async def work() -> None: ...

        makers: list[Any] = [
            lambda: app.task(queue=name)(work),
            lambda: TaskRegistry().task(queue=name)(work),
            lambda: IOExecutor().task(queue=name)(work),
            lambda: ExecutorConfig(queues=(name,)),
            lambda: ExecutorConfig(queues={name: 1}),
        ]
        if name is not None:  # that is the task's own
            makers.append(lambda: app.options(queue=name))
        for make in makers:
            with pytest.raises(ValueError, match="A queue's name must have 1 to 64 of the characters"):
                make()

    @pytest.mark.parametrize("name", [each for each in IMPOSSIBLE if each is not None])
    async def test_nor_can_it_be_paused(self, name: Any) -> None:
        app = memory_app()
        with pytest.raises(ValueError, match="queue"):
            await FlowrraManager(app).pause_queue(name)

    async def test_a_submission_names_another_one_than_its_task(self) -> None:
        app = memory_app()

        @app.task(queue="mail")
        async def work() -> None: ...

        async with app:
            own, other = await app.submit(work), await app.options(queue="sms").submit(work)
            many = await app.submit_many([(work, (), {})])
            assert [(await final(app, each)).queue for each in (own, other, *many)] == ["mail", "sms", "mail"]
        info = await FlowrraManager(app).get_task_info("work")
        assert info is not None
        assert info["queue"] == "mail"

    @pytest.mark.slow
    async def test_of_cpu_bound_tasks(self) -> None:
        app = Flowrra(Config(executor=ExecutorConfig(cpu_workers=1), backend=InMemoryBackend()))
        app.task(name="pid", cpu_bound=True, queue="heavy")(pid)
        async with app:
            record = await final(app, await app.submit("pid"), within=30)
            queues = await FlowrraManager(app).list_queues()
        assert (record.queue, record.is_success) == ("heavy", True)
        assert [(each["queue"], each["executor"]) for each in queues] == [("default", "cpu"), ("heavy", "cpu")]

    async def test_a_schedule_submits_to_the_queue_of_its_task(self, tmp_path: Path) -> None:
        app = memory_app()
        app.create_scheduler(str(tmp_path / "schedules.db"))

        @app.task(queue="mail")
        async def work() -> None: ...

        async with app:
            manager = FlowrraManager(app)
            task_id = await manager.trigger_schedule(await manager.create_schedule_cron("work", "@yearly"))
            assert (await final(app, task_id)).queue == "mail"


class TestRecords:
    def test_the_name_travels_and_is_default_where_none_is_written(self) -> None:
        record = TaskResult("t1", TaskStatus.PENDING, queue="mail")
        assert (record.to_dict["queue"], record.copy().queue) == ("mail", "mail")
        assert TaskResult.from_dict(record.to_dict).queue == "mail"
        assert TaskResult.from_dict({"task_id": "t1", "status": "pending"}).queue == "default"
        assert Task("t1", "work", (), {}).queue == "default"


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "queues"),
        [
            ("mail,default", ("mail", "default")),
            (" mail , default ", ("mail", "default")),
            ("mail=3,default=1", {"mail": 3, "default": 1}),
        ],
    )
    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch, text: str, queues: Any) -> None:
        monkeypatch.setenv("FLOWRRA_EXECUTOR_QUEUES", text)
        assert Config.from_env().executor.queues == queues

    @pytest.mark.parametrize(
        "text", ["a b", "mail,", "mail,mail", "mail=3,default", "mail=0", "mail=x", "mail=1,mail=2"]
    )
    def test_what_it_cannot_be_names_the_variable(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("FLOWRRA_EXECUTOR_QUEUES", text)
        with pytest.raises(ValueError, match="FLOWRRA_EXECUTOR_QUEUES must be names of queues"):
            Config.from_env()

    @pytest.mark.parametrize(
        ("queues", "problem"),
        [
            ("mail", "queues must be a tuple of names"),
            (5, "queues must be a tuple of names"),
            ((), "at least one"),
            (("mail", "mail"), "each queue once"),
            ({"mail": 0}, "the share of queue 'mail' must be at least 1"),
            ({"mail": 1.5}, "the share of queue 'mail' must be"),
        ],
    )
    def test_what_is_refused(self, queues: Any, problem: str) -> None:
        with pytest.raises((TypeError, ValueError), match=problem):
            ExecutorConfig(queues=queues)

    def test_later_changes_of_what_was_given_do_not_reach_it(self) -> None:
        shares = {"mail": 3}
        config = ExecutorConfig(queues=shares)
        shares["mail"] = 0
        assert config.queues == {"mail": 3}


class TestOrder:
    async def test_the_preferred_one_goes_first_and_those_that_are_not_named_last(self) -> None:
        ran = await ran_in_order(("mail", "default"), "other", "default", "mail", "default", "other", "mail")
        assert ran == ["mail", "mail", "default", "default", "other", "other"]

    async def test_by_their_shares_while_all_have_work(self) -> None:
        submitted = ["mail"] * 60 + ["default"] * 60
        ran = await ran_in_order({"mail": 3, "default": 1}, *submitted)
        assert Counter(ran[:40]) == {"mail": 30, "default": 10}
        assert max(len(run) for run in "".join("m" if each == "mail" else "d" for each in ran[:80]).split("d")) <= 4

    async def test_none_starves_however_small_its_share(self) -> None:
        ran = await ran_in_order({"mail": 1000, "default": 1}, *["mail"] * 500, "default")
        assert ran.index("default") < 3

    async def test_without_configuration_all_get_the_same(self) -> None:
        ran = await ran_in_order(None, *["default"] * 20, *["mail"] * 20, *["sms"] * 20)
        assert Counter(ran[:30]) == {"default": 10, "mail": 10, "sms": 10}

    async def test_priorities_order_the_tasks_of_one_queue(self) -> None:
        ran: list[int] = []
        async with app_with(("mail", "default"), ran) as app:
            await FlowrraManager(app).drain_worker()
            for queue, priority in (("default", -5), ("mail", 2), ("mail", 1), ("default", -6)):
                await app.options(queue=queue, priority=priority).submit("note", priority)
            await FlowrraManager(app).resume_worker()
        assert ran == [1, 2, -6, -5]

    async def test_what_waits_when_the_first_named_one_comes_is_kept_in_order(self) -> None:
        ran: list[Any] = []
        async with app_with(("mail", "default"), ran) as app:
            await FlowrraManager(app).drain_worker()
            for n in range(3):
                await app.submit("note", n)
            await app.options(queue="mail").submit("note", "mail")
            await FlowrraManager(app).resume_worker()
        assert ran == ["mail", 0, 1, 2]

    def test_one_that_was_idle_makes_up_for_nothing(self) -> None:
        order = QueueOrder(None)
        for _ in range(100):
            order.took("busy")
        turns = []
        for _ in range(10):
            turns.append(order.next_first(["busy", "idle"])[0])
            order.took(turns[-1])
        assert 4 <= Counter(turns)["idle"] <= 6

    def test_parts_are_by_share_of_those_that_are_equally_preferred(self) -> None:
        shares, preferences = QueueOrder({"mail": 3, "default": 1}), QueueOrder(("mail", "default"))
        assert (shares.part("mail", 40, {"default"}), shares.part("default", 40, {"mail"})) == (30, 10)
        assert shares.part("default", 40, set()) == 40
        assert preferences.part("default", 40, {"mail"}) == 40

    def test_remembers_no_more_queues_than_there_may_be(self) -> None:
        order = QueueOrder(None)
        for n in range(5000):
            order.took(f"q{n}")
        assert len(order._positions) <= 1000

    def test_ranks_those_that_are_not_named_behind_the_others(self) -> None:
        shares, preferences, none = QueueOrder({"mail": 3}), QueueOrder(("mail", "default")), QueueOrder(None)
        assert [shares.rank(name) for name in ("mail", "other")] == [0, 1]
        assert [preferences.rank(name) for name in ("mail", "default", "other")] == [0, 1, 2]
        assert none.rank("other") == 0

    def test_counts_what_was_taken_from_each(self) -> None:
        order = QueueOrder(None)
        order.took("mail")
        order.took("mail", 3)
        order.took("sms")
        assert order.taken == {"mail": 4, "sms": 1}
        for n in range(MAX_QUEUES - 2):
            order.took(f"q{n}")
        assert order.taken["mail"] == 4
        for _ in range(2):
            order.took("one too many")
        assert (order.taken_from("mail"), order.taken_from("sms"), order.taken_from("one too many")) == (4, 1, None)


class TestFigures:
    async def test_of_each_queue(self) -> None:
        app = memory_app(io_workers=1)
        opened = asyncio.Event()

        @app.task(queue="mail")
        async def hold() -> None:
            await opened.wait()

        async with app:
            manager = FlowrraManager(app)
            await app.submit(hold)
            await until(lambda: app.executors["io"].busy_workers)
            await app.submit(hold)
            await app.options(queue="default").submit(hold)
            await app.options(queue="sms", countdown=3600).submit(hold)
            found = {each["queue"]: each for each in await manager.list_queues()}
            default, stats = await manager.get_queue_stats(), await manager.get_stats()
            listed = [task["queue"] for task in await manager.list_pending_tasks()]
            opened.set()
            await app.stop(timeout=1)

        figures = {name: (each["pending"], each["delayed"], each["in_flight"]) for name, each in found.items()}
        assert figures == {"default": (1, 0, 0), "mail": (1, 0, 1), "sms": (0, 1, 0)}
        assert found["mail"]["oldest_pending_at"] is not None
        assert found["sms"]["oldest_pending_at"] is None
        assert default["io"] is not None
        assert default["io"]["pending"] == 1
        assert stats["tasks"]["pending"] == 2
        assert sorted(listed) == ["default", "mail", "sms"]

    async def test_what_was_taken_before_there_was_a_second_queue_still_counts(self) -> None:
        ran: list[Any] = []
        async with app_with(None, ran) as app:
            manager = FlowrraManager(app)

            async def taken() -> dict[str, int | None]:
                return {each["queue"]: each["taken"] for each in await manager.list_queues()}

            for n in range(5):
                await final(app, await app.submit("note", n))
            assert await taken() == {"default": 5}
            await final(app, await app.options(queue="mail").submit("note", 5))
            assert await taken() == {"default": 5, "mail": 1}
            await final(app, await app.submit("note", 6))
            assert await taken() == {"default": 6, "mail": 1}

    async def test_a_queue_that_was_submitted_to_stays_listed_when_it_is_empty(self) -> None:
        async with app_with(None, []) as app:
            manager = FlowrraManager(app)
            await final(app, await app.options(queue="mail").submit("note", 1))
            assert await manager.cancel_task(await app.options(queue="sms", countdown=3600).submit("note", 2))
            found = {each["queue"]: (each["pending"], each["taken"]) for each in await manager.list_queues()}
            assert found == {"default": (0, 0), "mail": (0, 1), "sms": (0, 0)}

    async def test_a_task_is_cancelled_in_whichever_queue_it_is(self) -> None:
        ran: list[Any] = []
        async with app_with(None, ran) as app:
            await FlowrraManager(app).drain_worker()
            ids = [await app.options(queue=queue).submit("note", queue) for queue in ("a", "b", "c")]
            assert await FlowrraManager(app).cancel_task(ids[1])
            await FlowrraManager(app).resume_worker()
            await final(app, ids[2])
            assert (await record_of(app, ids[1])).status is TaskStatus.CANCELLED
        assert sorted(ran) == ["a", "c"]

    async def test_retries_stay_in_their_queue(self) -> None:
        app, seen = memory_app(), []

        @app.task(queue="mail", max_retries=2, retry_delay=0.01)
        async def fail() -> None:
            seen.append([each["queue"] for each in await FlowrraManager(app).list_queues() if each["in_flight"]])
            raise ValueError

        async with app:
            record = await final(app, await app.submit(fail))
        assert (record.queue, seen) == ("mail", [["mail"]] * 3)
