"""A broker that a user writes, and that is away or slow, dies, or answers what nobody expects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from flowrra import Flowrra, Task, TaskResult
from flowrra.backends import InMemoryBackend
from flowrra.backoff import Backoff
from flowrra.brokers import BaseBroker
from flowrra.exceptions import BackendError
from flowrra.executors.sources import polled
from flowrra.management import FlowrraManager
from tests.core.apps import comes_true, final, memory_app, numbers_of, record_of, until


class ListBroker(BaseBroker):
    """Keeps tasks in a list, and does what it is told to do wrong."""

    address = "somewhere:1"

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.refuses_push: BaseException | None = None
        self.refuses_pop: BaseException | None = None
        self.holds_pop: asyncio.Event | None = None
        self.holds_push: asyncio.Event | None = None
        self.waiting_pushes = 0
        # Once it is there, a pop waits for a task though it is cancelled, once.
        self.hands_on: asyncio.Event | None = None
        self.is_asked = False
        self.pops = 0
        self.ended_pops = 0

    async def push(self, task: Task) -> None:
        if self.refuses_push is not None:
            raise self.refuses_push
        if self.holds_push is not None:
            self.waiting_pushes += 1
            await self.holds_push.wait()
        self.tasks.append(task)
        if self.hands_on is not None:
            self.hands_on.set()
            await asyncio.sleep(0.05)  # it goes to whoever waits, before the answer comes

    async def pop(self, timeout: float | None = None) -> Task | None:
        self.pops += 1
        if self.refuses_pop is not None:
            raise self.refuses_pop
        if self.holds_pop is not None:
            try:
                await self.holds_pop.wait()
            finally:
                self.ended_pops += 1
        if self.hands_on is not None and not self.tasks:
            self.is_asked = True
            with contextlib.suppress(asyncio.CancelledError):
                await self.hands_on.wait()
            await self.hands_on.wait()
        if self.tasks:
            return self.tasks.pop(0)
        await asyncio.sleep(0.005)
        return None

    async def size(self) -> int:
        return len(self.tasks)


@pytest.fixture
def broker() -> ListBroker:
    return ListBroker()


@pytest.fixture
def gate() -> asyncio.Event:
    """Lets "hold" go on."""
    return asyncio.Event()


@pytest.fixture
def app(broker: ListBroker, gate: asyncio.Event) -> Flowrra:
    """An app of one slot, on the broker."""
    app = memory_app(io_workers=1, broker=broker)

    @app.task(name="work", max_retries=0)
    async def work(n: int = 0) -> int:
        return n

    @app.task(name="hold", max_retries=0)
    async def hold() -> None:
        await gate.wait()

    return app


async def hold_the_slot(app: Flowrra) -> None:
    await app.submit("hold")
    await until(lambda: app.executors["io"].busy_workers == 1)


async def wait_due(app: Flowrra, task_id: str) -> None:
    """Until a delayed task waits for nothing but a slot."""
    await until(lambda: task_id in [job.task.id for job in app.executors["io"].source.workers.queue.ready()])


def errors_of(app: Flowrra) -> dict[str, int]:
    return dict(app.executors["io"].broker_errors)


async def feeding(app: Flowrra) -> str | None:
    """What health says of the broker; None if nothing is wrong."""
    component = (await FlowrraManager(app).health_check())["components"]["broker"]
    return None if component["healthy"] else component["message"]


class TestBrokerThatIsAway:
    @pytest.mark.parametrize("error", [ConnectionError, SystemExit])
    async def test_while_tasks_are_taken_is_counted_and_shown_until_it_is_back(
        self, error: type[BaseException], app: Flowrra, broker: ListBroker
    ) -> None:
        async with app:
            assert errors_of(app) == {"push": 0, "pop": 0}
            broker.refuses_pop = error("away")
            await until(lambda: errors_of(app)["pop"] == 2)
            assert await feeding(app) == f"not usable: {error.__name__}: away"
            broker.refuses_pop = None
            assert (await final(app, await app.submit("work", 3))).result == 3
            assert await feeding(app) is None
            assert app.executors["io"].worker_restarts == 0

    async def test_is_asked_ever_less_often_and_as_often_as_before_once_it_is_back(
        self, app: Flowrra, broker: ListBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []

        class Quick(Backoff):
            def next(self) -> float:
                pauses.append(super().next())
                return pauses[-1] / 100

        monkeypatch.setattr(polled, "Backoff", Quick)
        broker.refuses_pop = ConnectionError("away")
        async with app:
            await until(lambda: len(pauses) >= 4)
            assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(pauses[:4]))
            broker.refuses_pop, asked = None, broker.pops
            await until(lambda: broker.pops >= asked + 2)
            pauses.clear()
            broker.refuses_pop = ConnectionError("away again")
            await until(lambda: pauses)
            assert pauses[0] <= 0.1
            assert await feeding(app) == "not usable: ConnectionError: away again"

    async def test_refuses_a_submission_which_is_counted_and_recorded(self, app: Flowrra, broker: ListBroker) -> None:
        broker.refuses_push = BackendError("no more")
        async with app:
            with pytest.raises(BackendError, match="no more"):
                await app.options(task_id="mine").submit("work")
            record = await record_of(app, "mine")
            assert (record.status, record.error) == ("cancelled", "not queued: BackendError: no more")
            assert errors_of(app) == {"push": 1, "pop": 0}
            assert app.telemetry.tasks["work"].snapshot()["submitted"] == 0
            broker.refuses_push = None
            await app.options(task_id="mine").submit("work", 2)
            assert (await final(app, "mine")).result == 2
            assert app.telemetry.tasks["work"].snapshot()["submitted"] == 1

    async def test_loses_what_it_does_not_take_back_and_says_so(
        self, app: Flowrra, broker: ListBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        async with app:
            delayed = await app.options(countdown=3600).submit("work")
            broker.refuses_push = ConnectionError("away")
            await app.stop(wait=False)
        record = await record_of(app, delayed)
        assert record.status == "cancelled"
        assert record.error == "cancelled: the app stopped, and the broker did not take it back"
        assert errors_of(app)["push"] == 1
        assert "tasks not given back to the broker executor=io times=1 error=ConnectionError: away" in caplog.text

    async def test_whose_pop_dies_is_asked_again(
        self, app: Flowrra, broker: ListBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Dying(BaseException):
            pass

        async with app:
            broker.refuses_pop = Dying("now")
            await until(lambda: app.executors["io"].worker_restarts == 1)
            broker.refuses_pop = None
            assert (await final(app, await app.submit("work", 1))).result == 1
            assert app.executors["io"].worker_restarts == 1
        assert "polling died, replaced executor=io error=Dying('now')" in caplog.text


class TestStop:
    async def test_delivers_what_is_just_being_taken(self, app: Flowrra, broker: ListBroker) -> None:
        broker.holds_pop = asyncio.Event()
        async with app:
            await until(lambda: broker.pops == 1)
            task_id = await app.submit("work", 7)
            stopping = asyncio.create_task(app.stop())
            await asyncio.sleep(0)
            broker.holds_pop.set()
            await stopping
        assert (await record_of(app, task_id)).result == 7

    @pytest.mark.slow
    async def test_loses_nothing_to_a_broker_that_hands_on_at_once_what_it_is_given_back(
        self, app: Flowrra, broker: ListBroker
    ) -> None:
        """Whoever asks it for a task may go on though it is cancelled, and is then given what the stop gives back."""
        app.configure_executor(io_workers=2)
        await app.start()
        task_id = await app.submit("hold")
        await until(lambda: app.executors["io"].busy_workers == 1)
        broker.hands_on = asyncio.Event()
        await until(lambda: broker.is_asked)
        await app.stop(timeout=0)
        await until(lambda: [task.id for task in broker.tasks] == [task_id])

    async def test_waits_no_longer_for_a_broker_than_it_may(
        self, app: Flowrra, broker: ListBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(polled, "POP_TIMEOUT", 0.02)
        broker.holds_pop = asyncio.Event()
        async with asyncio.timeout(5), app:
            await until(lambda: broker.pops == 1)
        await until(lambda: broker.ended_pops == 1)


class TestWorker:
    async def test_takes_no_more_than_it_has_slots(self, app: Flowrra, broker: ListBroker, gate: asyncio.Event) -> None:
        async with app:
            await hold_the_slot(app)
            task_id = await app.submit("work")
            await asyncio.sleep(0.05)
            [queue] = await FlowrraManager(app).list_queues()
            assert (queue["pending"], queue["broker"], queue["server"]) == (1, "ListBroker", "somewhere:1")
            assert [task.id for task in broker.tasks] == [task_id]
            gate.set()
            await final(app, task_id)

    async def test_gives_back_what_is_due_when_it_drains(
        self, app: Flowrra, broker: ListBroker, gate: asyncio.Event
    ) -> None:
        async with app:
            manager = FlowrraManager(app)
            await hold_the_slot(app)
            task_id = await app.options(countdown=0.01).submit("work")
            await wait_due(app, task_id)
            await manager.resize_workers("io", 1)
            assert broker.tasks == []
            await manager.drain_worker()
            assert [task.id for task in broker.tasks] == [task_id]
            assert (await manager.list_queues())[0]["pending"] == 1
            gate.set()
            await manager.resume_worker()
            await final(app, task_id)

    async def test_keeps_what_the_broker_does_not_take_back_then(
        self, app: Flowrra, broker: ListBroker, gate: asyncio.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        async with app:
            manager = FlowrraManager(app)
            await hold_the_slot(app)
            ids = [await app.options(countdown=0.01).submit("work", n) for n in range(2)]
            for task_id in ids:
                await wait_due(app, task_id)
            broker.refuses_push = ConnectionError("away")
            await manager.drain_worker()
            assert errors_of(app)["push"] == 2
            await manager.resume_worker()
            assert "over: tasks not given back" not in caplog.text
            broker.refuses_push = None
            await manager.drain_worker()
            assert [task.id for task in broker.tasks] == ids
            assert "over: tasks not given back to the broker executor=io times=2" in caplog.text
            gate.set()
            await manager.resume_worker()
            assert [(await final(app, task_id)).result for task_id in ids] == [0, 1]

    async def test_gives_back_what_waits_for_its_time_when_it_drains(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            manager = FlowrraManager(app)
            delayed = await app.options(countdown=3600).submit("work")
            assert broker.tasks == []
            await manager.drain_worker()
            later = await app.options(countdown=3600).submit("work")
            assert [task.id for task in broker.tasks] == [delayed, later]
            assert all(3590 < (task.due_at or 0) - time.time() <= 3600 for task in broker.tasks)

    async def test_gives_back_a_retry_that_is_planned_while_it_drains(
        self, app: Flowrra, broker: ListBroker, gate: asyncio.Event
    ) -> None:
        @app.task(name="fickle", max_retries=1, retry_delay=3600)
        async def fickle() -> None:
            await gate.wait()
            raise ValueError

        async with app:
            task_id = await app.submit("fickle")
            await until(lambda: app.executors["io"].busy_workers == 1)
            await FlowrraManager(app).drain_worker()
            gate.set()
            await until(lambda: broker.tasks)
            [task] = broker.tasks
            assert (task.id, task.current_retry) == (task_id, 1)
            assert 3590 < (task.due_at or 0) - time.time() <= 3600

    async def test_keeps_delayed_what_the_broker_does_not_take_back(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            manager = FlowrraManager(app)
            task_id = await app.options(countdown=3600).submit("work")
            broker.refuses_push = ConnectionError("away")
            await manager.drain_worker()
            await manager.resume_worker()
            assert [job.task.id for job in app.executors["io"].source.workers.queue.delayed_items()] == [task_id]
            broker.refuses_push = None

    async def test_runs_what_is_delivered_twice_once_while_it_is_here(
        self, app: Flowrra, broker: ListBroker, gate: asyncio.Event
    ) -> None:
        await app.executors["io"].resize(4)
        async with app:
            broker.tasks += [Task("same", "hold", (), {}) for _ in range(2)]
            await until(lambda: app.executors["io"].busy_workers)
            broker.tasks.append(Task("same", "hold", (), {}))
            await until(lambda: not broker.tasks)
            gate.set()
            await app.results.wait_for("same", 10)
            assert (await FlowrraManager(app).get_queue_stats())["io"]["pending"] == 0  # type: ignore[index]  # there is
            assert numbers_of(app, "hold")["started"] == 1

    async def test_takes_nothing_while_it_drains(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            manager = FlowrraManager(app)
            await manager.drain_worker()
            await asyncio.sleep(0.02)  # what it was just asking for
            task_id = await app.submit("work")
            await asyncio.sleep(0.05)
            assert [task.id for task in broker.tasks] == [task_id]
            await manager.resume_worker()
            await final(app, task_id)

    async def test_takes_nothing_while_its_queue_is_paused(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            manager = FlowrraManager(app)
            assert await manager.pause_queue()
            assert [each["paused"] for each in await manager.list_queues()] == [True]
            await asyncio.sleep(0.02)
            task_id = await app.submit("work")
            await asyncio.sleep(0.05)
            assert [task.id for task in broker.tasks] == [task_id]
            assert await manager.resume_queue()
            assert [each["paused"] for each in await manager.list_queues()] == [None]
            await final(app, task_id)

    async def test_takes_others_past_those_whose_name_is_paused(
        self, app: Flowrra, broker: ListBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @app.task(name="other")
        async def other() -> None: ...

        monkeypatch.setattr(polled, "MOST_ASIDE", 3)
        async with app:
            manager = FlowrraManager(app)
            await manager.pause_task("work")
            paused = [await app.submit("work") for _ in range(2)]
            await final(app, await app.submit("other"))
            paused += [await app.submit("work") for _ in range(2)]
            await until(lambda: len(app.executors["io"].source.workers.queue.aside()) == 3)
            await asyncio.sleep(0.05)
            assert [task.id for task in broker.tasks] == paused[3:]
            await manager.resume_task("work")
            for task_id in paused:
                await final(app, task_id)

    async def test_has_one_queue_whatever_a_task_names(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            with pytest.raises(ValueError, match="A ListBroker has one queue, 'default'"):
                await FlowrraManager(app).pause_queue("mail")
            record = await final(app, await app.options(queue="mail").submit("work"))
            assert record.queue == "default"
            broker.tasks.append(Task("other", "work", (1,), {}, queue="mail"))
            assert (await app.results.wait_for("other", 10)).queue == "default"

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("args", None, "its arguments are no list, or no dict"),
            ("kwargs", [], "its arguments are no list, or no dict"),
            ("current_retry", None, "its current_retry is no number"),
            ("retry_delay", float("nan"), "its retry_delay is not between 0 and 3.1536e+09"),
            ("priority", "high", "its priority is no number, or too large"),
            ("headers", {"a": 1}, "its headers are not text to text"),
        ],
    )
    async def test_fails_what_is_no_task(
        self, app: Flowrra, broker: ListBroker, field: str, value: object, reason: str
    ) -> None:
        task = Task("odd", "work", (), {})
        setattr(task, field, value)
        async with app:
            broker.tasks.append(task)
            record = await app.results.wait_for("odd", 10)
            assert (record.status, record.error) == ("failed", f"ValueError: {reason}")
            assert (await final(app, await app.submit("work"))).status == "success"

    async def test_fails_what_nobody_here_knows(self, app: Flowrra, broker: ListBroker) -> None:
        async with app:
            broker.tasks.append(Task("odd", "unheard of", (), {}))
            record = await app.results.wait_for("odd", 10)
            assert record.status == "failed"
            assert (record.error or "").startswith("TaskNotFoundError: ")


class SlowToRead(InMemoryBackend):
    """Tells of no record before its gate opens, but to who waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()

    async def get(self, task_id: str) -> TaskResult | None:
        self.asked.set()
        await self.gate.wait()
        return await super().get(task_id)


class TestWhatIsJustBeingTaken:
    async def test_is_given_back_where_its_record_takes_longer_than_the_stop_waits(
        self, broker: ListBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(polled, "POP_TIMEOUT", 0.05)
        backend = SlowToRead()
        app = memory_app(broker=broker, backend=backend)
        ran: list[str] = []

        @app.task(name="work")
        async def work() -> None:
            ran.append("work")

        async with app:
            task_id = await app.submit("work")
            await backend.asked.wait()
        assert (ran, [task.id for task in broker.tasks], app.lost_at_stop) == ([], [task_id], 0)
        backend.gate.set()
        record = await record_of(app, task_id)
        assert (record.status, record.submitted_at is None) == ("pending", False)
        async with app:
            await final(app, task_id)
        assert ran == ["work"]

    async def test_is_run_where_anything_else_cancels_that(self, broker: ListBroker) -> None:
        backend = SlowToRead()
        app = memory_app(broker=broker, backend=backend)

        @app.task(name="work")
        async def work() -> str:
            return "done"

        async with app:
            task_id = await app.submit("work")
            await backend.asked.wait()
            (polling,) = [task for task in asyncio.all_tasks() if task.get_name() == "flowrra-io-poll"]
            polling.cancel()
            backend.gate.set()
            assert (await final(app, task_id)).result == "done"

    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), asyncio.CancelledError("no")], ids=repr)
    async def test_is_run_where_its_record_can_not_be_read(self, broker: ListBroker, error: BaseException) -> None:
        class Unreadable(InMemoryBackend):
            async def get(self, task_id: str) -> TaskResult | None:
                raise error

        backend = Unreadable()
        app = memory_app(broker=broker, backend=backend)

        @app.task(name="work")
        async def work() -> str:
            return "done"

        async with app:
            task_id = await app.submit("work")
            assert (await backend.wait_for(task_id, 5)).result == "done"
            assert app.executors["io"].backend_errors["get"] == 1
            assert app.executors["io"].worker_restarts == 0

    async def test_is_run_where_records_can_not_be_read_of_which_beginning_and_end_are_told(
        self, broker: ListBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Unreadable(InMemoryBackend):
            is_away = True

            async def get(self, task_id: str) -> TaskResult | None:
                if self.is_away:
                    raise ConnectionError("away")
                return await super().get(task_id)

        caplog.set_level(logging.INFO)
        backend = Unreadable()
        app = memory_app(broker=broker, backend=backend)

        @app.task(name="work")
        async def work() -> None: ...

        async with app:
            for backend.is_away, told in ((True, "records not readable"), (False, "over: records not readable")):
                await backend.wait_for(await app.submit("work"), 5)
                assert told in caplog.text

    async def test_fails_all_the_same_where_its_name_is_unknown(
        self, broker: ListBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(polled, "POP_TIMEOUT", 0.05)
        backend = SlowToRead()
        app = memory_app(broker=broker, backend=backend)
        app.task(name="work")(asyncio.sleep)
        await broker.push(Task("stranger", "elsewhere", (), {}))
        async with app:
            await backend.asked.wait()
        backend.gate.set()
        await comes_true(lambda: app.get_result("stranger"))
        assert (await final(app, "stranger")).status == "failed"
        caplog.clear()

    async def test_is_not_lost_where_the_one_who_gives_it_back_gives_up(
        self, app: Flowrra, broker: ListBroker, gate: asyncio.Event
    ) -> None:
        held = asyncio.Event()
        async with app:
            await hold_the_slot(app)
            executor = app.executors["io"]
            task_id = await app.options(countdown=0.01).submit("work")
            await wait_due(app, task_id)
            broker.holds_push = held
            draining = asyncio.create_task(executor.drain())
            await until(lambda: broker.waiting_pushes)
            draining.cancel()
            held.set()
            await asyncio.wait({draining})
            assert [task.id for task in broker.tasks] == [task_id]
            gate.set()
