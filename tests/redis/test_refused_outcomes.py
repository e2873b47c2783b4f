"""A request that the server refuses is not an outage: the bad part is found and put aside, and holds up no other."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrra import TaskResult, TaskStatus, codec, current_task
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Outcome, QueuedTask, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import BackendError, RequestRefusedError, ServerUnavailableError
from flowrra.executors.sources.settler import Settler
from flowrra.management import FlowrraManager
from flowrra.task import AttemptEnd, Task
from tests.core.apps import final, numbers_of, record_of, until
from tests.redis.apps import QUEUE, let_lapse, queue_of, redis_app, with_tasks

NO_ARGUMENTS = codec.encode_call((), {}, "work")


def entry(task_id: str, priority: float = 0, delay: float = 0.0) -> QueuedTask:
    task = Task(task_id, "work", (), {})
    return QueuedTask(task_id, priority, delay, codec.encode_task(task, None, NO_ARGUMENTS), None)


class Told:
    """What a settler has said, of outcomes that are told to a real server."""

    def __init__(self, url: str) -> None:
        self.broker = RedisBroker(url, queue_key=QUEUE)
        self.ids: list[str] = []
        self.refused: list[str] = []
        self.errors: list[BaseException] = []
        self.settler = Settler(self.broker, "io", self.ids.extend, lambda outcome: None, self._refused, self._failed)

    def _refused(self, outcome: Outcome, error: Exception) -> None:
        self.refused.append(outcome.task_id)

    def _failed(self, error: BaseException | None) -> None:
        if error is not None:
            self.errors.append(error)

    async def held(self, count: int) -> list[str]:
        ids = [f"t{n}" for n in range(count)]
        await self.broker.submit([entry(task_id) for task_id in ids])
        await self.broker.take(count)
        return ids


BAD_DELAYS = [-5.0, -1e-6 - 1, 1e300, 1e12]


@pytest.mark.parametrize("delay", BAD_DELAYS)
async def test_a_bad_outcome_is_put_aside_and_the_others_are_told(url: str, look: redis.Redis, delay: float) -> None:
    told = Told(url)
    ids = await told.held(120)
    for task_id in ids:
        bad = task_id in ("t7", "t50", "t51")
        text = entry(task_id).text
        told.settler.add(Outcome(Verb.RETRY, task_id, delay if bad else 0.0, text))
    await told.settler.flush(10)

    assert sorted(told.ids) == sorted(ids)
    assert told.refused == ["t7", "t50", "t51"]
    assert len(told.errors) == 3
    assert not told.settler.is_failing
    assert {each.decode() for each in look.zrange(f"{QUEUE}:dead", 0, -1)} == {"t7", "t50", "t51"}  # type: ignore[union-attr]
    assert not look.exists(f"{QUEUE}:leases")
    assert (await told.broker.figures()).delayed + (await told.broker.figures()).pending == 117
    await told.broker.close()


@pytest.mark.parametrize("word", ["OOM", "BUSY", "MOVED", "READONLY", "LOADING"])
async def test_an_id_or_name_with_a_reason_of_the_servers_own_in_it_is_none(url: str, word: str) -> None:
    told = Told(url)
    task_id, name = f"ROOM-{word}-1", f"{word} report"
    await told.broker.submit([entry(task_id), entry("other")])
    await told.broker.take(2)
    retrying = codec.encode_record(TaskResult(task_id, TaskStatus.RETRYING, name))
    bad = Outcome(Verb.RETRY, task_id, -5.0, entry(task_id).text, retrying)
    with pytest.raises(RequestRefusedError):
        await told.broker.settle([bad])
    with pytest.raises(RequestRefusedError):
        await told.broker.submit([entry(f"{word}-2", delay=-5.0)])
    told.settler.add(bad)
    told.settler.add(Outcome(Verb.COMPLETE, "other", status=TaskStatus.SUCCESS))
    await told.settler.flush(10)
    assert (told.refused, sorted(told.ids)) == ([task_id], sorted([task_id, "other"]))
    await told.broker.close()


@pytest.mark.slow
async def test_a_task_that_was_submitted_before_1970_runs(url: str, look: redis.Redis) -> None:
    """By a clock that is wrong, or another program: the lists order it as the oldest."""
    moment = datetime(1960, 1, 1, tzinfo=UTC)
    text = codec.encode_task(Task("old", "echo", (), {}), moment, codec.encode_call((), {}, "echo"))
    async with with_tasks(redis_app(url)) as app:
        broker = RedisBroker(url, queue_key=QUEUE)
        await broker.submit([QueuedTask("old", 0, 0.0, text, None)])
        await broker.close()
        # A broker of its own knows no records: the task has one from its first attempt on.
        await until(lambda: look.exists("flowrra:task:old") == 1)
        record = await final(app, "old", within=10)
        assert (record.status, record.submitted_at) == (TaskStatus.SUCCESS, moment)
        assert look.zscore("flowrra:status:success", "old") == 0


async def test_an_outcome_that_the_driver_cannot_send(url: str, look: redis.Redis) -> None:
    told = Told(url)
    ids = await told.held(20)
    for task_id in ids:
        text: Any = object() if task_id == "t3" else entry(task_id).text
        told.settler.add(Outcome(Verb.RETRY, task_id, 60.0, text))
    await told.settler.flush(10)
    assert told.refused == ["t3"]
    assert (await told.broker.figures()).delayed == 19
    await told.broker.close()


async def test_a_server_that_refuses_everything_is_waited_for(url: str, look: redis.Redis) -> None:
    """A key of the queue has the wrong type: no outcome is to blame, and none is given up."""
    told = Told(url)
    ids = await told.held(30)
    look.rename(f"{QUEUE}:holders", "kept")
    look.set(f"{QUEUE}:holders", "of the wrong type")
    for task_id in ids:
        told.settler.add(Outcome(Verb.COMPLETE, task_id, status=TaskStatus.SUCCESS))
    await until(lambda: len(told.errors) >= 3)
    assert told.settler.is_failing
    assert (told.ids, told.refused) == ([], [])
    look.rename("kept", f"{QUEUE}:holders")
    await told.settler.flush(10)
    assert sorted(told.ids) == sorted(ids)
    assert not look.exists(f"{QUEUE}:tasks")
    await told.broker.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retry_delay", -5),
        ("retry_delay", float("inf")),
        ("retry_delay", float("nan")),
        ("retry_delay", "soon"),
        ("retry_delay", 10**400),
        ("max_retries", -1),
        ("max_retries", 2.5),
        ("max_retries", True),
        ("current_retry", -1),
        ("priority", [1]),
        ("priority", float("nan")),
        ("priority", float("-inf")),
        ("priority", 10**400),
        ("timeout", -1),
        ("timeout", {}),
        ("backoff", float("inf")),
        ("jitter", 1.5),
        ("jitter", -0.1),
        ("headers", {"a": 1}),
        ("headers", ["a"]),
        ("submitted_at", "yesterday"),
        ("submitted_at", 7),
        ("args", {"a": 1}),
        ("kwargs", [1]),
        ("name", 7),
    ],
)
async def test_a_queued_task_that_says_impossible_things_is_put_aside(
    url: str, look: redis.Redis, field: str, value: Any
) -> None:
    fields = {"id": "bad", "name": "fail", "args": [], "kwargs": {}, "max_retries": 1, field: value}
    async with with_tasks(redis_app(url, consume=False)) as producer:
        await producer.options(task_id="bad").submit("fail")
        await producer.submit("fail")
        look.hset(f"{QUEUE}:tasks", "bad", f"0|0|{1:016}|1|{json.dumps(fields)}")
    async with with_tasks(redis_app(url)) as app:
        good = [await app.submit("add", n, 1) for n in range(20)]
        for n, task_id in enumerate(good):
            assert (await final(app, task_id)).result == n + 1
        await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
        (dead,) = await FlowrraManager(app).list_dead_tasks()
        assert dead["task_id"] == "bad"
        assert not look.exists(f"{QUEUE}:leases")


def spoil(look: redis.Redis, task_id: str) -> None:
    """Make of a queued task's arguments what can't be read."""
    entry = look.hget(f"{QUEUE}:tasks", task_id)
    assert isinstance(entry, bytes)
    look.hset(f"{QUEUE}:tasks", task_id, entry.replace(b'"2026-01-02"', b'"card 4111 1111"'))


@pytest.mark.parametrize("database", [0, 1], ids=["results together", "results elsewhere"])
async def test_a_task_whose_entry_cannot_be_read_is_failed_with_the_reason(
    url: str, look: redis.Redis, database: int
) -> None:
    backend = url[:-1] + str(database)
    async with with_tasks(redis_app(url, backend=backend, consume=False)) as producer:
        task_id = await producer.submit("echo", date(2026, 1, 2))
        spoil(look, task_id)
        async with with_tasks(redis_app(url, backend=backend)) as app:
            record = await final(producer, task_id)
            await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
            (dead,) = await FlowrraManager(app).list_dead_tasks()
    assert record.status is TaskStatus.FAILED
    assert record.finished_at is not None
    assert (record.task_name, record.attempts) == ("echo", ())
    # It says which part it is, and nothing of what that holds: who sees it may not see arguments.
    assert record.error == dead["reason"] == "what was queued can't be read: its args can't be read: ValueError"


async def test_so_is_one_whose_worker_died(url: str, look: redis.Redis) -> None:
    results, worker = RedisBackend(url), RedisBroker(url, queue_key=QUEUE)
    assert worker.keeps_records_of(results)
    async with with_tasks(redis_app(url, consume=False)) as producer:
        task_id = await producer.submit("echo", date(2026, 1, 2))
        await worker.take(1)
        running = TaskResult(task_id, TaskStatus.RUNNING, "echo", submitted_at=datetime.now(UTC), worker="the dead one")
        await worker.settle([Outcome(Verb.RUNNING, task_id, record=codec.encode_record(running))])
        spoil(look, task_id)
        let_lapse(look)
        async with with_tasks(redis_app(url)):
            record = await final(producer, task_id)
    assert record.status is TaskStatus.FAILED
    assert [(each.outcome, each.worker) for each in record.attempts] == [(AttemptEnd.LOST, "the dead one")]
    await worker.close()
    await results.close()


async def test_not_so_one_in_another_queue_whose_id_somebody_else_has_used(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        look.lpush(f"{QUEUE}@mail", json.dumps({"id": task_id, "name": 7}))
        async with with_tasks(redis_app(url, queues=["mail"])):
            await until(lambda: look.zcard(f"{QUEUE}@mail:dead") == 1)
            assert (await record_of(producer, task_id)).status is TaskStatus.PENDING


async def test_so_is_one_that_its_worker_cannot_take_in(
    url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_tasks(redis_app(url))

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(app.telemetry, "register", fail)
    async with with_tasks(redis_app(url, consume=False)) as producer:
        task_id = await producer.submit("echo")
        async with app:
            record = await final(producer, task_id)
            await until(lambda: look.zcard(f"{QUEUE}:dead") == 1)
    assert (record.status, record.error) == (TaskStatus.FAILED, "it could not be delivered: RuntimeError")


PRIORITIES = (
    st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**320), 10**320) | st.just([1]) | st.text()
)


@pytest.mark.slow
def test_a_bad_entry_fails_by_itself(url: str) -> None:
    """Those that are queued by the same request are queued."""

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(priority=PRIORITIES)
    def check(priority: Any) -> None:
        async def run() -> None:
            app = with_tasks(redis_app(url, consume=False))
            async with app:
                calls = [app.submit("add", n, 1) for n in range(20)]
                outcomes = await asyncio.gather(
                    *calls[:10], app.submit("add", 0, 0, priority=priority), *calls[10:], return_exceptions=True
                )
                good = [each for n, each in enumerate(outcomes) if n != 10]
                assert all(isinstance(each, str) for each in good), outcomes
                if isinstance(outcomes[10], BaseException):
                    assert isinstance(outcomes[10], TypeError | ValueError | OverflowError | BackendError)
                pending = (await queue_of(app))["pending"]
                assert pending == len([each for each in outcomes if isinstance(each, str)])

        with redis.Redis.from_url(url) as client:
            client.flushall()
        asyncio.run(run())

    check()


async def test_a_refusal_is_told_from_an_outage(url: str, look: redis.Redis) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    with pytest.raises(RequestRefusedError):
        await broker.settle([Outcome(Verb.RETRY, "t", -5.0, "text")])
    look.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(ServerUnavailableError):
            await broker.settle([Outcome(Verb.COMPLETE, "t")])
    finally:
        look.execute_command("REPLICAOF", "NO", "ONE")
    await broker.close()


async def test_a_record_that_is_refused_costs_no_other(url: str) -> None:
    results = RedisBackend(url)
    now = datetime.now(UTC)
    records = [TaskResult(f"t{n}", TaskStatus.SUCCESS, "work", result=n, submitted_at=now) for n in range(20)]
    records[5].result = object()
    outcomes = await asyncio.gather(*(results.store(each.task_id, each) for each in records), return_exceptions=True)
    assert [n for n, each in enumerate(outcomes) if each is not None] == [5]
    assert isinstance(outcomes[5], BackendError)
    assert len(await results.list_by_status(TaskStatus.SUCCESS)) == 19
    await results.close()


async def test_what_an_attempt_does_to_its_own_task_changes_no_outcome(url: str) -> None:
    """It sees a copy."""
    app = with_tasks(redis_app(url))

    @app.task(name="never", max_retries=1, retry_delay=0.01)
    async def never() -> None:
        task = current_task()
        assert task is not None
        task.backoff = 1e305
        task.max_retries = 100
        raise ValueError("boom")

    async with app:
        record = await final(app, await app.submit("never"))
        assert str(record.error) == "ValueError: boom"
        assert record.retries == 1
        assert numbers_of(app, "never")["failed"] == 1
