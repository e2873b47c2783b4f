"""A submission of which nobody knows whether it was queued: its record is left to the worker that may have it, and the
same id submitted again is the same task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from flowrra import Flowrra, TaskStatus
from flowrra.brokers.base import Outcome, QueuedTask, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.events import event_bus
from flowrra.exceptions import (
    BackendError,
    NotReplicatedError,
    PartialSubmissionError,
    RequestRefusedError,
    SerializationError,
    ServerUnavailableError,
)
from flowrra.management import FlowrraManager
from flowrra.submission import SubmitOptions
from tests.core.apps import final, record_of, until
from tests.redis.apps import QUEUE, Gate, counts_of, redis_app, with_tasks
from tests.redis.test_databases import at
from tests.support.servers import free_port


def doubtful(url: str, database: int = 1) -> Flowrra:
    """A producer that hears of no submission that replicas have it, as there are none."""
    results = at(url, database)
    return with_tasks(redis_app(url, backend=results, consume=False, min_replicas=1, replication_timeout=0.1))


@pytest.fixture(autouse=True)
def nobody_stays_subscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bus is that of the whole process, and the next test's too."""
    monkeypatch.setattr(event_bus, "subscribers", ())


def told_by(app: Flowrra) -> list[str]:
    """What subscribers are told of its tasks, as it comes."""
    told: list[str] = []
    app.events.bus.subscribe(lambda event: told.append(str(event["task"]["status"])))
    return told


@pytest.mark.parametrize("database", [0, 1])
class TestOne:
    @pytest.mark.slow
    async def test_has_the_outcome_that_its_worker_tells_and_runs_once(self, url: str, database: int) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url, backend=at(url, database)), gate) as worker,
            doubtful(url, database) as producer,
        ):
            told = told_by(producer)
            with pytest.raises(NotReplicatedError):
                await producer.options(task_id="order-7").submit("echo", 7)
            assert (await final(worker, "order-7")).status is TaskStatus.SUCCESS
            assert await worker.options(task_id="order-7").submit("echo", 7) == "order-7"
            await final(worker, await worker.submit("echo", "last"))
            assert (await record_of(producer, "order-7")).status is TaskStatus.SUCCESS
            assert told[0] == "pending"
            assert "cancelled" not in told
        assert gate.begun == [7, "last"]

    @pytest.mark.slow
    async def test_can_be_cancelled_while_it_waits(self, url: str, database: int) -> None:
        async with doubtful(url, database) as producer:
            with pytest.raises(NotReplicatedError):
                await producer.options(task_id="late", countdown=3600).submit("echo", 1)
            assert (await record_of(producer, "late")).status is TaskStatus.PENDING
            with pytest.raises(NotReplicatedError):  # it is, and that is in doubt as well
                await producer.cancel_task("late")
            assert await counts_of(producer) == (0, 0, 0, 0)
            assert (await record_of(producer, "late")).status is TaskStatus.CANCELLED

    @pytest.mark.slow
    async def test_that_runs_a_task_anew_does_so_once(self, url: str, database: int) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url, backend=at(url, database)), gate) as worker,
            doubtful(url, database) as producer,
        ):
            first = await worker.submit("echo", 1)
            await final(worker, first)
            with pytest.raises(NotReplicatedError):
                await FlowrraManager(producer).retry_task(first)
            new = await FlowrraManager(worker).retry_task(first)
            assert (await final(worker, new)).is_success
            await final(worker, await worker.submit("echo", "last"))
        assert gate.begun == [1, 1, "last"]

    @pytest.mark.slow
    async def test_of_many_is_said_to_be(self, url: str, look: redis.Redis, database: int) -> None:
        async with doubtful(url, database) as producer:
            with pytest.raises(PartialSubmissionError) as caught:
                await producer.submit_many([("echo", (number,), {}) for number in range(3)])
            assert caught.value.queued == []
            in_queue = {task_id.decode() for task_id in look.hkeys(f"{QUEUE}:tasks")}  # type: ignore[union-attr]
            assert in_queue == set(caught.value.unsure)


async def test_what_is_queued_before_it_is_said_as_well(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = RedisBroker.submit

    async def lossy(self: RedisBroker, entries: Sequence[QueuedTask]) -> list[bool]:
        answer = await submit(self, entries)
        if '"args":[2]' in entries[0].text:
            error = ServerUnavailableError("the answer was lost")
            error.may_be_queued = True
            raise error
        return answer

    monkeypatch.setattr(RedisBroker, "submit", lossy)
    async with with_tasks(redis_app(url, backend=at(url, 1), consume=False)) as app:
        with pytest.raises(PartialSubmissionError) as caught:
            await app.submit_many([("echo", (number,), {}) for number in range(4)])
        records = [await record_of(app, task_id) for task_id in (*caught.value.queued, *caught.value.unsure)]
    assert [record.args for record in records] == [(0,), (1,), (2,)]
    assert {record.status for record in records} == {TaskStatus.PENDING}
    assert len(caught.value.unsure) == 1


async def test_one_that_its_caller_gave_up_is_left_pending(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, is_sent = RedisBroker.submit, asyncio.Event()

    async def slow(self: RedisBroker, entries: Sequence[QueuedTask]) -> list[bool]:
        answer = await submit(self, entries)
        is_sent.set()
        await asyncio.Event().wait()
        return answer

    monkeypatch.setattr(RedisBroker, "submit", slow)
    async with with_tasks(redis_app(url, backend=at(url, 1), consume=False)) as producer:
        told = told_by(producer)
        submitting = asyncio.create_task(producer.options(task_id="order-7").submit("echo", 7))
        await is_sent.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert (await record_of(producer, "order-7")).status is TaskStatus.PENDING
        assert told == ["pending"]
    monkeypatch.undo()
    async with with_tasks(redis_app(url, backend=at(url, 1))) as worker:
        assert (await final(worker, "order-7")).is_success


class TestNone:
    """Where it is certain that nothing was queued, that is said."""

    @pytest.mark.slow
    async def test_is_there_if_the_broker_was_never_reached(self, url: str) -> None:
        app = redis_app(f"redis://127.0.0.1:{free_port()}/0", backend=at(url, 1), consume=False)
        async with with_tasks(app) as producer:
            told = told_by(producer)
            with pytest.raises(BackendError):
                await producer.options(task_id="order-7").submit("echo", 7)
            record = await record_of(producer, "order-7")
            assert record.status is TaskStatus.CANCELLED
            assert str(record.error).startswith("not queued: ServerUnavailableError")
            assert told == ["pending", "cancelled"]
            with pytest.raises(BackendError) as caught:
                await producer.submit_many([("echo", (1,), {})])
            assert not isinstance(caught.value, PartialSubmissionError)

    async def test_is_there_if_the_broker_has_refused_it(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, backend=at(url, 1), consume=False)) as producer:
            look.set(f"{QUEUE}:tasks", "somebody's")
            with pytest.raises(BackendError):
                await producer.options(task_id="order-7").submit("echo", 7)
            assert (await record_of(producer, "order-7")).status is TaskStatus.CANCELLED
            look.delete(f"{QUEUE}:tasks")
            await producer.options(task_id="order-7").submit("echo", 7)
            assert (await record_of(producer, "order-7")).status is TaskStatus.PENDING
            assert await counts_of(producer) == (1, 0, 0, 0)

    async def test_is_there_if_many_are_refused(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            told = told_by(producer)
            look.set(f"{QUEUE}:tasks", "somebody's")
            with pytest.raises(RequestRefusedError):
                await producer.submit_many([("echo", (number,), {}) for number in range(3)])
            await until(lambda: told == ["pending"] * 3 + ["cancelled"] * 3)

    async def test_is_there_if_the_arguments_of_one_of_many_can_not_be_written(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            told = told_by(producer)
            with pytest.raises(SerializationError):
                await producer.submit_many([("echo", (1,), {}), ("echo", (object(),), {})])
            await until(lambda: told == ["pending"] * 2 + ["cancelled"] * 2)

    async def test_is_there_of_those_of_many_that_are_refused_after_others(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            told = told_by(producer)
            look.set("flowrra:status:pending:add", "somebody's")
            with pytest.raises(PartialSubmissionError) as caught:
                await producer.submit_many([(name, (1, 1), {}) for name in ["echo"] * 250 + ["add"] * 3])
            assert (len(caught.value.queued), caught.value.unsure) == (250, [])
            await until(lambda: told == ["pending"] * 253 + ["cancelled"] * 3)

    async def test_is_not_there_where_one_request_of_two_was_refused(self, url: str, look: redis.Redis) -> None:
        app = redis_app(url, consume=False)

        @app.task(name="one")
        async def one() -> None: ...

        @app.task(name="other", queue="other")
        async def other() -> None: ...

        look.set(f"{QUEUE}@other:tasks", "somebody's")
        async with app:
            with pytest.raises(PartialSubmissionError) as caught:
                await app.submit_many([("one", (), {}), ("other", (), {})])
            assert look.hkeys(f"{QUEUE}:tasks") == [caught.value.unsure[0].encode()]


async def test_what_another_process_has_submitted_meanwhile_is_not_replaced(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had looked, and found no record of that id."""
    gate = Gate()
    async with (
        with_tasks(redis_app(url, backend=at(url, 1)), gate) as worker,
        with_tasks(redis_app(url, backend=at(url, 1), consume=False)) as producer,
    ):
        get = producer.results.get

        async def get_late(task_id: str) -> Any:
            known = await get(task_id)
            monkeypatch.undo()
            await worker.options(task_id=task_id).submit("echo", 7)
            await final(worker, task_id)
            await until(lambda: not worker.executors["io"].source.held_ids())
            return known

        monkeypatch.setattr(producer.results, "get", get_late)
        assert await producer.options(task_id="order-7").submit("echo", 7) == "order-7"
        await final(worker, await worker.submit("echo", "last"))
        assert (await record_of(worker, "order-7")).is_success
    assert gate.begun == [7, "last"]


async def test_what_was_accepted_and_is_over_leaves_no_pending_record(url: str) -> None:
    """As a run of a schedule whose record has expired."""
    options = SubmitOptions(task_id="run-1", remember=60)
    async with with_tasks(redis_app(url, backend=at(url, 1))) as app:
        await app.submit_with("echo", (1,), {}, options)
        await final(app, "run-1")
        await until(lambda: not app.executors["io"].source.held_ids())
        assert await app.results.delete("run-1")
        await app.submit_with("echo", (1,), {}, options)
        assert await app.get_result("run-1") is None


@pytest.mark.parametrize(("may_have_ended", "is_added"), [(True, False), (False, True)])
async def test_an_id_whose_task_has_just_ended_is_known_to_who_may_have_queued_it(
    url: str, may_have_ended: bool, is_added: bool
) -> None:
    broker = RedisBroker(url)
    entry = QueuedTask("1", 0, 0.0, "text", None)
    await broker.submit([entry])
    await broker.take(1)
    await broker.settle([Outcome(Verb.COMPLETE, "1", status=TaskStatus.SUCCESS)])
    assert await broker.submit([entry._replace(may_have_ended=may_have_ended)]) == [is_added]
    await broker.close()
