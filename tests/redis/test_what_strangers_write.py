"""What other programs write under our names: it is read one by one, within bounds, and costs itself alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from flowrra import Flowrra
from flowrra.backends import RedisBackend
from flowrra.backends.listing import TaskFilter
from flowrra.brokers import RedisBroker
from flowrra.brokers.base import Outcome, QueuedTask, Verb
from flowrra.codec import MAX_SIZE
from flowrra.exceptions import BackendError, RequestRefusedError
from flowrra.management import FlowrraManager
from flowrra.task import TaskResult, TaskStatus
from tests.redis.apps import QUEUE, counts_of, redis_app
from tests.redis.test_databases import at

GOOD_RECORD = {
    "task_id": "good",
    "status": "failed",
    "task_name": "shop.sell",
    "error": "no",
    "args": [1],
    "kwargs": {},
}
DEEP = "[" * 100_000 + "]" * 100_000

BAD_RECORDS: dict[str, bytes | list[str]] = {
    "no JSON": b"\x00\xff",
    "no object": b"[]",
    "no task": b"{}",
    "deep": b'{"task_id":"x","status":"failed","result":' + DEEP.encode() + b"}",
    "a huge number": b'{"task_id":"x","status":"failed","result":' + b"9" * 10_000 + b"}",
    "an id of no text": json.dumps({**GOOD_RECORD, "task_id": 5}).encode(),
    "a name of no text": json.dumps({**GOOD_RECORD, "task_name": []}).encode(),
    "arguments of no list": json.dumps({**GOOD_RECORD, "args": "abc"}).encode(),
    "named arguments of no dict": json.dumps({**GOOD_RECORD, "kwargs": 7}).encode(),
    "retries of no number": json.dumps({**GOOD_RECORD, "retries": "many"}).encode(),
    "an error of no text": json.dumps({**GOOD_RECORD, "error": {"a": 1}}).encode(),
    "another status": json.dumps({**GOOD_RECORD, "status": "odd"}).encode(),
    "no time": json.dumps({**GOOD_RECORD, "submitted_at": "yesterday"}).encode(),
    "a key of another type": ["a list"],
}
GOOD_WORKER: dict[str, Any] = {
    "id": "good",
    "host": "shop",
    "pid": 7,
    "started_at": "2026-01-01T00:00:00+00:00",
    "heartbeat_at": "2026-01-01T00:00:00+00:00",
    "version": "0.2.0",
    "executors": {"io": {"slots": 4, "busy": 1}},
    "draining": False,
}
BAD_WORKERS: dict[str, bytes | list[str]] = {
    "no JSON": b"\x00\xff",
    "no object": b"7",
    "deep": DEEP.encode(),
    "no time": json.dumps({**GOOD_WORKER, "started_at": 5}).encode(),
    "a time of no zone": json.dumps({**GOOD_WORKER, "heartbeat_at": "2026-01-01T00:00:00"}).encode(),
    "a time before all": json.dumps({**GOOD_WORKER, "started_at": "0001-01-01T00:00:00+23:59"}).encode(),
    "no heartbeat": json.dumps({**GOOD_WORKER, "heartbeat_at": None}).encode(),
    "no id": json.dumps({key: value for key, value in GOOD_WORKER.items() if key != "id"}).encode(),
    "an id of no text": json.dumps({**GOOD_WORKER, "id": ["x"]}).encode(),
    "a process that is none": json.dumps({**GOOD_WORKER, "pid": "<b>"}).encode(),
    "executors of no dict": json.dumps({**GOOD_WORKER, "executors": {"io": 7}}).encode(),
    "slots of no number": json.dumps({**GOOD_WORKER, "executors": {"io": {"slots": None, "busy": "x"}}}).encode(),
    "slots without end": json.dumps({**GOOD_WORKER, "executors": {"io": {"slots": 1, "busy": 10**400}}}).encode(),
    "slots of no finite number": b'{"executors": {"io": {"slots": NaN, "busy": Infinity}}, '
    + json.dumps({key: value for key, value in GOOD_WORKER.items() if key != "executors"}).encode()[1:],
    "too large": json.dumps({**GOOD_WORKER, "note": "x" * 1_000_000}).encode(),
    "a key of another type": ["a list"],
}
IDS = {"text": b"stranger", "no text": b"\xff\xfe", "an end": b"a\x00b\n"}


@pytest.fixture
async def manager(url: str) -> AsyncIterator[FlowrraManager]:
    app = Flowrra.from_urls(broker=url, backend=url)

    @app.task()
    async def work() -> None: ...

    async with app:
        manager = FlowrraManager(app)
        async with asyncio.timeout(10):
            while not await manager.list_workers():  # it announces itself from a thread of its own
                await asyncio.sleep(0.01)
        yield manager


async def workers(manager: FlowrraManager) -> tuple[list[str], list[str]]:
    """The ids of the workers of this process, and those of others."""
    ids = [each["id"] for each in await manager.list_workers()]
    return [each for each in ids if str(os.getpid()) in each], [each for each in ids if str(os.getpid()) not in each]


def put(look: redis.Redis, key: bytes, value: bytes | list[str]) -> None:
    if isinstance(value, list):
        look.rpush(key, *value)
    else:
        look.set(key, value)


@pytest.mark.slow
@pytest.mark.parametrize("task_id", IDS.values(), ids=IDS)
@pytest.mark.parametrize("record", BAD_RECORDS.values(), ids=BAD_RECORDS)
async def test_a_record_that_cannot_be_read_costs_itself_alone(
    look: redis.Redis,
    url: str,
    record: bytes | list[str],
    task_id: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = RedisBackend(url)
    put(look, b"flowrra:task:" + task_id, record)
    put(look, b"flowrra:task:good", json.dumps(GOOD_RECORD).encode())
    look.zadd("flowrra:status:failed", {task_id: 2, "good": 1})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [each.task_id for each in await backend.list_by_status(TaskStatus.FAILED)] == ["good"]
    assert [message.startswith("record not readable, left out") for message in caplog.messages] == [True]
    assert backend.unreadable.count == 3
    await backend.close()


async def test_a_record_that_is_too_large_is_not_even_fetched(look: redis.Redis, url: str) -> None:
    backend = RedisBackend(url)
    look.setrange("flowrra:task:large", MAX_SIZE + 1, b"x")
    put(look, b"flowrra:task:good", json.dumps(GOOD_RECORD).encode())
    look.zadd("flowrra:status:failed", {"large": 2, "good": 1})
    before = look.info("stats")["total_net_output_bytes"]  # type: ignore[index]
    assert [each.task_id for each in await backend.list_by_status(TaskStatus.FAILED)] == ["good"]
    assert look.info("stats")["total_net_output_bytes"] - before < 1_000_000  # type: ignore[index]
    await backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("worker_id", IDS.values(), ids=IDS)
@pytest.mark.parametrize("worker", BAD_WORKERS.values(), ids=BAD_WORKERS)
async def test_a_worker_that_cannot_be_read_costs_itself_alone(
    look: redis.Redis, manager: FlowrraManager, worker: bytes | list[str], worker_id: bytes
) -> None:
    put(look, b"flowrra:worker:" + worker_id, worker)
    put(look, b"flowrra:worker:good", json.dumps(GOOD_WORKER).encode())
    look.zadd("flowrra:workers", {worker_id: time.time() + 2, "good": time.time()})
    own, others = await workers(manager)
    assert (len(own), others) == (1, ["good"])
    assert (await manager.get_runtime_stats())["broker_errors"]["list"] == 1


async def test_workers_without_end_are_read_up_to_a_bound(look: redis.Redis, manager: FlowrraManager) -> None:
    put(look, b"flowrra:worker:good", json.dumps(GOOD_WORKER).encode())
    look.zadd("flowrra:workers", {"good": time.time(), **dict.fromkeys(map(str, range(20_000)), time.time() - 9)})
    own, others = await workers(manager)
    assert (len(own), others) == (1, ["good"])


BAD_DEAD: dict[str, bytes] = {
    "nothing": b"",
    "no entry": b"reason\nno entry",
    "no number": b"reason\n0|x|y|z|{}",
}


@pytest.mark.parametrize("entry", BAD_DEAD.values(), ids=BAD_DEAD)
async def test_a_dead_task_that_cannot_be_read_costs_itself_alone(
    look: redis.Redis, manager: FlowrraManager, entry: bytes
) -> None:
    queue = "flowrra:queue:io"
    for task_id, text in ((b"\xff", entry), (b"good", b"reason\n0|3|0|0|{}")):
        look.hset(f"{queue}:dead:tasks", task_id, text)  # type: ignore[arg-type]
        look.zadd(f"{queue}:dead", {task_id: 1})
    dead = await manager.list_dead_tasks()
    assert "good" in [each["task_id"] for each in dead]
    (good,) = [each for each in dead if each["task_id"] == "good"]
    assert (good["reason"], good["deliveries"], good["args"]) == ("reason", 3, None)


@pytest.mark.parametrize("score", [float("inf"), float("-inf"), 1e300, -1e300])
async def test_a_moment_that_is_none_costs_itself_alone(
    look: redis.Redis, manager: FlowrraManager, score: float
) -> None:
    queue = "flowrra:queue:io"
    for task_id, moment in (("odd", score), ("good", 1)):
        look.hset(f"{queue}:dead:tasks", task_id, b"reason\n0|3|0|0|{}")  # type: ignore[arg-type]
        look.zadd(f"{queue}:dead", {task_id: moment})
    look.zadd(f"{queue}:since", {"odd": score})
    look.zadd(f"{queue}:delayed", {"odd": score})
    assert [each["task_id"] for each in await manager.list_dead_tasks()] == ["good"]
    assert (await manager.get_queue_stats())["io"]["dead"] == 2


@pytest.mark.slow
async def test_a_dead_task_that_is_too_large_is_told_of_and_not_fetched(
    look: redis.Redis, manager: FlowrraManager
) -> None:
    queue = "flowrra:queue:io"
    look.hset(f"{queue}:dead:tasks", "large", b"reason\n0|3|0|0|" + b"x" * (MAX_SIZE + 1))  # type: ignore[arg-type]
    look.zadd(f"{queue}:dead", {"large": 1})
    before = look.info("stats")["total_net_output_bytes"]  # type: ignore[index]
    (dead,) = await manager.list_dead_tasks()
    assert (dead["task_id"], dead["reason"], dead["args"]) == ("large", "it is too large to be read", None)
    assert look.info("stats")["total_net_output_bytes"] - before < 1_000_000  # type: ignore[index]


async def test_what_a_full_server_refuses_is_no_unreadable_record(url: str, look: redis.Redis) -> None:
    backend = RedisBackend(url.replace("redis://", "redis://nobody:wrong@"))
    with pytest.raises(BackendError):
        await backend.list_by_status(TaskStatus.FAILED)
    assert backend.unreadable.count == 0
    await backend.close()


# An id that JSON and Lua read differently, and one that is another task's.
@pytest.mark.parametrize("named", [r"\udcff", r"\ud800", "another"])
async def test_an_entry_whose_id_is_not_the_one_it_is_queued_under_is_put_aside(
    url: str, manager: FlowrraManager, named: str
) -> None:
    """What were done under the one would never be settled under the other, and be delivered for ever."""
    payload = f'{{"id":"{named}","name":"work"}}'
    broker = RedisBroker(url, queue_key="flowrra:queue:io")
    ids = (b"\xff\xfe".decode(errors="surrogateescape"), "b")
    await broker.submit([QueuedTask(task_id, 0, 0.0, payload, None) for task_id in ids])
    await broker.close()
    async with asyncio.timeout(20):
        while (figures := (await manager.get_queue_stats())["io"])["dead"] < 2:
            await asyncio.sleep(0.02)
    assert (figures["pending"], figures["in_flight"]) == (0, 0)
    assert all("it is queued as" in each["reason"] for each in await manager.list_dead_tasks())


async def test_dead_tasks_whose_ids_are_no_text_are_requeued_and_deleted_as_others(
    manager: FlowrraManager, url: str, look: redis.Redis
) -> None:
    broker = RedisBroker(url, queue_key="flowrra:queue:io")
    await manager.pause_queue()
    ids = [data.decode(errors="surrogateescape") for data in (b"\xff\xfe", b"\xfd")]
    burials = [Outcome(Verb.DEAD_LETTER, each, text="as planned") for each in ids]
    await broker.submit([QueuedTask(each, 0, 0.0, "text", None) for each in ids])
    await broker.settle(burials)
    await broker.close()
    found = [each["task_id"] for each in await manager.list_dead_tasks()]
    assert sorted(found) == sorted(ids)
    assert await manager.requeue_dead_task(found[0]) is True
    assert await manager.delete_dead_task(found[1]) is True
    assert await manager.list_dead_tasks() == []
    assert look.hlen("flowrra:queue:io:tasks") == 1


@pytest.mark.parametrize("task_id", ["\ud800", "a\ud800b"])
async def test_what_can_be_no_id_is_refused_by_name_and_costs_no_other(
    manager: FlowrraManager, url: str, task_id: str
) -> None:
    app = manager.app
    for request in (
        app.get_result(task_id),
        app.cancel_task(task_id),
        app.wait_for_result(task_id, timeout=1),
        manager.requeue_dead_task(task_id),
        manager.delete_dead_task(task_id),
    ):
        with pytest.raises(BackendError):
            await request
    backend = RedisBackend(url)
    answers = await asyncio.gather(backend.get(task_id), backend.get("good"), return_exceptions=True)
    assert [type(each) for each in answers] == [RequestRefusedError, type(None)], "those that are read together"
    with pytest.raises(RequestRefusedError, match="can't be the id of a task"):
        await backend.store(task_id, TaskResult(task_id, TaskStatus.PENDING, "work"))
    await backend.close()


async def test_an_id_of_no_text_comes_and_goes_unchanged(look: redis.Redis, url: str) -> None:
    task_id = b"\xff\xfe".decode(errors="surrogateescape")
    backend = RedisBackend(url)
    waiting = asyncio.create_task(backend.wait_for(task_id, timeout=10))
    await asyncio.sleep(0)
    await backend.store(task_id, TaskResult(task_id, TaskStatus.SUCCESS, "work", result=3))
    assert (await waiting).result == 3
    assert look.exists(b"flowrra:task:\xff\xfe")
    assert await backend.clear() == 1
    await backend.close()


async def test_a_name_of_no_text_is_counted_and_listed(look: redis.Redis, url: str) -> None:
    name, place = b"\xff\xfe".decode(errors="surrogateescape"), {"good": 1.0}
    look.set("flowrra:task:good", json.dumps({**GOOD_RECORD, "task_name": name}))
    look.zadd("flowrra:status:failed", place)
    look.zadd(b"flowrra:status:failed:\xff\xfe", place)
    look.sadd("flowrra:listed", b"failed \xff\xfe", b"unheard-of \xff")
    backend = RedisBackend(url)
    assert await backend.count() == {(TaskStatus.FAILED, name): 1}
    found = await backend.find(TaskFilter(TaskStatus.FAILED, name), 10)
    assert [record.task_id for record in found.records] == ["good"]
    await backend.close()


@pytest.mark.parametrize("seconds", [10**400, float("inf"), float("nan"), 1e308, 0, -1])
def test_no_length_of_time_is_taken_that_the_server_could_not_hold(seconds: float) -> None:
    for make in (
        lambda: RedisBackend("redis://host", ttl=seconds),
        lambda: RedisBroker("redis://host", lease=seconds),
        lambda: RedisBroker("redis://host", unknown_ttl=seconds),
    ):
        with pytest.raises(ValueError, match="must be positive"):
            make()


async def _refused_and_mended(app: Flowrra, look: redis.Redis, key: str, queue: str = "default") -> None:
    look.set(key, "somebody's")
    with pytest.raises(RequestRefusedError):
        await app.options(task_id="order-7", queue=queue).submit("work", 7)
    look.delete(key)


@pytest.mark.parametrize("database", [0, 1])
@pytest.mark.parametrize("part", ["tasks", "ready", "since", "wake", "delayed", "place"])
async def test_a_submission_that_is_refused_for_the_keys_of_its_queue_has_no_effect(
    look: redis.Redis, url: str, part: str, database: int
) -> None:
    async with _producer(url, database) as app:
        await _refused_and_mended(app, look, f"{QUEUE}:{part}")
        assert not look.exists(f"{QUEUE}:tasks")
        await app.options(task_id="order-7").submit("work", 7)
        assert (await app.executors["io"].source.figures()).pending == 1


@pytest.mark.parametrize("key", ["status:pending", "status:pending:work", "listed", "queue:io:queues"])
async def test_a_submission_that_is_refused_for_other_keys_has_no_effect(look: redis.Redis, url: str, key: str) -> None:
    async with _producer(url, 0) as app:
        await _refused_and_mended(app, look, f"flowrra:{key}", "mail")
        assert await app.get_result("order-7") is None
        await app.options(task_id="order-7", queue="mail").submit("work", 7)
        assert (await app.executors["io"].source.figures_by_queue())["mail"].pending == 1


@pytest.mark.slow
@pytest.mark.parametrize("database", [0, 1])
async def test_tasks_that_are_submitted_beside_refused_ones_are_queued_once(
    look: redis.Redis, url: str, database: int
) -> None:
    look.set(f"{QUEUE}@mail:tasks", "somebody's")
    async with _producer(url, database) as app:
        submitting = [app.options(queue="mail" if n % 50 == 49 else None).submit("work", n) for n in range(500)]
        answers = await asyncio.gather(*submitting, return_exceptions=True)
        assert [type(answer) for answer in answers].count(RequestRefusedError) == 10
        assert int(look.get(f"{QUEUE}:place") or 0) == 490  # type: ignore[arg-type]
        assert (await app.executors["io"].source.figures()).pending == 490


@pytest.mark.parametrize("part", ["ready", "since"])
@pytest.mark.parametrize("step", ["take", "cancel", "recover", "requeue_dead"])
async def test_a_step_that_is_refused_loses_no_task(look: redis.Redis, url: str, part: str, step: str) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    text = '{"id":"1","name":"work","args":[],"kwargs":{}}'
    await broker.submit([QueuedTask("1", 0, 0.0, text, None)])
    if step in ("recover", "requeue_dead"):
        await broker.take(1)
    if step == "requeue_dead":
        await broker.settle([Outcome(Verb.DEAD_LETTER, "1", text="a reason")])
    steps = {
        "take": lambda: broker.take(1),
        "cancel": lambda: broker.cancel(TaskResult("1", TaskStatus.CANCELLED, "work")),
        "recover": lambda: broker.recover([]),
        "requeue_dead": lambda: broker.requeue_dead("1", None),
    }
    with _kept_aside(look, f"{QUEUE}:{part}"), pytest.raises(RequestRefusedError):
        await steps[step]()
    if step != "take":
        await steps[step]()
    waiting = [delivery.task_id for delivery in (await broker.take(1))[0]]
    assert waiting == ([] if step == "cancel" else ["1"])
    assert bool(look.exists(f"{QUEUE}:tasks")) is (step != "cancel")
    await broker.close()


@pytest.mark.parametrize("place", ["somebody's", "-5", "1e3", "99999999999999999"])
@pytest.mark.parametrize("step", ["take", "take over", "requeue_dead"])
async def test_without_a_counter_of_places_no_task_leaves_the_place_that_it_has(
    look: redis.Redis, url: str, place: str, step: str
) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    text = '{"id":"1","name":"work","args":[],"kwargs":{}}'
    if step == "take":
        await broker.submit([QueuedTask("1", 0, 60.0, text, None)])
        look.zadd(f"{QUEUE}:delayed", {"1": 1})
    elif step == "take over":
        look.lpush(QUEUE, text)  # as flowrra 0.1.8 queues it
    else:
        await broker.submit([QueuedTask("1", 0, 0.0, text, None)])
        await broker.take(1)
        await broker.settle([Outcome(Verb.DEAD_LETTER, "1", text="a reason")])
    look.set(f"{QUEUE}:place", place)
    for _ in range(2):
        with pytest.raises(RequestRefusedError, match=r"not an integer|the counter of places is out of range"):
            await (broker.requeue_dead("1", None) if step == "requeue_dead" else broker.take(1))
    look.delete(f"{QUEUE}:place")
    assert step != "requeue_dead" or await broker.requeue_dead("1", None)
    assert [delivery.task_id for delivery in (await broker.take(1))[0]] == ["1"]
    await broker.close()


@pytest.mark.parametrize("part", ["unknown", "unknown:names", "unknown:of:work", "unknown:since"])
@pytest.mark.parametrize("step", ["take", "cancel"])
async def test_a_task_that_waits_for_a_worker_is_not_lost_for_what_somebody_else_wrote(
    look: redis.Redis, url: str, part: str, step: str
) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    text = '{"id":"1","name":"work","args":[],"kwargs":{}}'
    await broker.submit([QueuedTask("1", 0, 0.0, text, None)])
    [delivery], _ = await broker.take(1)
    await broker.settle([Outcome(Verb.NACK, "1", text="work", delivery=delivery.number)])
    await asyncio.to_thread(broker.announce, None, ["work"], 60.0)
    with _kept_aside(look, f"{QUEUE}:{part}"), contextlib.suppress(RequestRefusedError):
        if step == "take":
            await broker.take(1)
        else:
            await broker.cancel(TaskResult("1", TaskStatus.CANCELLED, "work"))
    assert [delivery.task_id for delivery in (await broker.take(1))[0]] == ["1"]
    await broker.close()


async def test_a_moment_that_is_none_keeps_no_worker_from_looking_after_unknown_tasks(
    look: redis.Redis, url: str
) -> None:
    broker = RedisBroker(url, queue_key=QUEUE, unknown_ttl=0.001)
    text = '{"id":"1","name":"work","args":[],"kwargs":{}}'
    await broker.submit([QueuedTask("1", 0, 0.0, text, None)])
    [delivery], _ = await broker.take(1)
    await broker.settle([Outcome(Verb.NACK, "1", text="work", delivery=delivery.number)])
    look.hset(f"{QUEUE}:unknown:since", "work", "somebody's")
    overdue: list[str] = []
    async with asyncio.timeout(5):
        while not overdue:
            overdue = (await asyncio.to_thread(broker.announce, None, ["other"], 60.0)).overdue
    assert overdue == ["work"]
    await broker.close()


@pytest.mark.parametrize("entry", ["somebody's", "a reason\nsomebody's", "a reason\nx|0|0|0|{}"])
async def test_a_dead_task_of_somebody_elses_making_is_not_lost_as_it_is_requeued(
    look: redis.Redis, url: str, entry: str
) -> None:
    broker = RedisBroker(url, queue_key=QUEUE)
    look.zadd(f"{QUEUE}:dead", {"1": 1})
    look.hset(f"{QUEUE}:dead:tasks", "1", entry)
    with pytest.raises(RequestRefusedError, match="not of the expected form"):
        await broker.requeue_dead("1", None)
    assert look.zcard(f"{QUEUE}:dead") == look.hlen(f"{QUEUE}:dead:tasks") == 1
    assert await broker.delete_dead("1")
    await broker.close()


@pytest.mark.parametrize("key", ["dead", "status:failed", "status:failed:work"])
async def test_a_dead_task_stays_one_if_it_can_not_be_requeued(look: redis.Redis, url: str, key: str) -> None:
    async with _producer(url, 0) as app:
        task = await app.options(task_id="order-7").submit("work", 7)
        broker, record = app.executors["io"].source.broker, await app.get_result(task)
        await broker.take(1)
        await broker.settle([Outcome(Verb.DEAD_LETTER, task, text="a reason")])
        name = f"{QUEUE}:dead" if key == "dead" else f"flowrra:{key}"
        with _kept_aside(look, name), pytest.raises(RequestRefusedError):
            await broker.requeue_dead(task, record)
        assert await broker.requeue_dead(task, record)
        assert [delivery.task_id for delivery in (await broker.take(1))[0]] == [task]


@pytest.mark.parametrize("key", ["changes", "changes:number"])
async def test_no_task_is_held_up_by_what_stands_where_changes_are_told(look: redis.Redis, url: str, key: str) -> None:
    app = redis_app(url)

    @app.task(name="work")
    async def work() -> int:
        return 7

    async with app:
        await app.results.latest_change()
        look.delete(f"flowrra:{key}")
        look.set(f"flowrra:{key}", "somebody's")
        assert (await app.wait_for_result(await app.submit(work))).result == 7
        assert app.executors["io"].source.errors["settle"] == 0
        with pytest.raises(RequestRefusedError):  # who watches is told
            await app.results.latest_change()


@pytest.mark.parametrize("fields", [{"number": "many"}, {"a": "b"}, {"number": "-1", "task": "{}"}])
async def test_what_another_program_adds_to_the_changes_is_left_out(
    look: redis.Redis, url: str, fields: dict[str, str]
) -> None:
    async with _producer(url, 0) as app:
        backend = app.results
        assert isinstance(backend, RedisBackend)
        first = await backend.latest_change()
        for number in range(2):
            await app.options(task_id=f"order-{number}").submit("work", number)
            look.xadd("flowrra:changes", fields)
        async with asyncio.timeout(5), contextlib.aclosing(backend.watch(first)) as changes:
            seen = [await anext(changes) for _ in range(2)]
        assert [change.record and change.record.task_id for change in seen] == ["order-0", "order-1"]
        latest = await backend.latest_change()
        await app.options(task_id="order-2").submit("work", 2)
        async with asyncio.timeout(5), contextlib.aclosing(backend.watch(latest)) as changes:
            change = await anext(changes)
        assert change.record is not None
        assert change.record.task_id == "order-2"


LISTS = (
    *("status:success", "status:success:work", "status:failed", "status:failed:fail", "status:cancelled"),
    *("status:cancelled:work", "status:running", "status:retrying"),
    *("finished", f"finished:{86_400_000}", "finished:ttls"),
)


@pytest.mark.parametrize(
    ("database", "key"),
    [
        *((database, key) for database in (0, 1) for key in LISTS),
        # Without these, a submission to a broker that keeps the records is refused.
        *((1, key) for key in ("status:pending", "status:pending:work", "listed")),
    ],
)
async def test_an_outcome_is_told_whatever_stands_in_place_of_a_list(
    look: redis.Redis, url: str, database: int, key: str
) -> None:
    app = redis_app(url, backend=at(url, database))

    @app.task(name="work")
    async def work() -> int:
        return 7

    @app.task(name="fail", max_retries=0)
    async def fail() -> None:
        raise ValueError("no")

    with redis.Redis.from_url(at(url, database)) as there:
        put(there, f"flowrra:{key}".encode(), b"somebody's")
    async with app:
        source = app.executors["io"].source
        worked, failed = await app.submit(work), await app.submit(fail)
        assert (await app.wait_for_result(worked)).result == 7
        assert (await app.wait_for_result(failed)).error == "ValueError: no"
        await source.told()
        names = f"{QUEUE}:names:{source.broker._token}"
        async with asyncio.timeout(10):
            while not look.exists(names):  # it is announced from a thread of its own
                await asyncio.sleep(0.01)
        assert source.errors["settle"] == app.executors["io"].backend_errors["store"] == 0
        assert await app.cancel_task(await app.options(countdown=60).submit(work))
        assert await counts_of(app) == (0, 0, 0, 0)


@pytest.mark.parametrize("key", ["status:running:work-0", "status:success:work-0"])
async def test_what_stands_in_place_of_one_names_list_costs_no_other_name_of_a_batch(
    look: redis.Redis, url: str, key: str
) -> None:
    names = [f"work-{number}" for number in range(6)]
    backend = RedisBackend(url, ttl=60)
    for status in (TaskStatus.RUNNING, TaskStatus.SUCCESS):
        if status is TaskStatus.SUCCESS or "running" not in key:
            look.delete(f"flowrra:{key}")
            put(look, f"flowrra:{key}".encode(), b"somebody's")
        await asyncio.gather(*(backend.store(name, TaskResult(name, status, name)) for name in names))
    look.delete(f"flowrra:{key}")
    counts = await backend.count()
    assert {name: counts.get((TaskStatus.RUNNING, name), 0) for name in names[1:]} == dict.fromkeys(names[1:], 0)
    assert {name: counts.get((TaskStatus.SUCCESS, name), 0) for name in names[1:]} == dict.fromkeys(names[1:], 1)
    assert (look.zcard("flowrra:status:running"), look.zcard("flowrra:status:success")) == (0, 6)
    assert look.llen("flowrra:finished:60000") == 6
    await backend.close()


@contextlib.contextmanager
def _kept_aside(look: redis.Redis, key: str) -> Iterator[None]:
    """Another program's text in place of a key, for a while."""
    is_there = look.exists(key)
    if is_there:
        look.rename(key, "aside")
    look.set(key, "somebody's")
    yield
    look.delete(key)
    if is_there:
        look.rename("aside", key)


def _producer(url: str, database: int) -> Flowrra:
    app = redis_app(url, backend=at(url, database), consume=False)

    @app.task(name="work")
    async def work(number: int) -> None: ...

    return app
