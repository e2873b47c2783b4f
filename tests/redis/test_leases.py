"""What a worker holds, what becomes of it when the worker doesn't say, and what ends among the dead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from flowrra import Flowrra, Task, TaskStatus, codec, current_task
from flowrra.backends import InMemoryBackend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Delivery, Outcome, Renewal, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import RequestRefusedError
from flowrra.executors.sources.leased import LeasedSource
from flowrra.management import FlowrraManager
from flowrra.redis_client import MAX_BLOCK
from tests.core.apps import final, numbers_of, record_of, until
from tests.redis.apps import (
    QUEUE,
    Gate,
    counts_of,
    let_lapse,
    old_task,
    queue_of,
    redis_app,
    with_tasks,
)


@contextlib.asynccontextmanager
async def other_worker(url: str, lease: float = 20.0) -> AsyncIterator[RedisBroker]:
    """A worker that takes tasks, and does with them what the test says."""
    broker = RedisBroker(url, queue_key=QUEUE, lease=lease)
    try:
        yield broker
    finally:
        await broker.close()


async def take_one(broker: RedisBroker) -> Delivery:
    async with asyncio.timeout(5):
        while True:
            deliveries, _ = await broker.take(1)
            if deliveries:
                return deliveries[0]
            await asyncio.sleep(0.02)


async def take_over(look: redis.Redis, broker: RedisBroker, task_id: str) -> None:
    """Have another worker take a task, as if the one that holds it had not been heard of."""
    async with asyncio.timeout(10):
        while True:  # its worker may be quicker to renew its hold
            let_lapse(look)
            if task_id in {delivery.task_id for delivery in (await broker.take(1))[0]}:
                return


class TestRenewal:
    @pytest.mark.slow
    async def test_a_long_task_is_run_once(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, lease=1.0, workers=1), gate) as one:
            task_id = await one.submit("hold")
            await until(lambda: gate.begun)
            async with with_tasks(redis_app(url, lease=1.0), gate):
                await asyncio.sleep(2.2)
                assert await counts_of(one) == (0, 0, 1, 0)
                gate.opened.set()
                await final(one, task_id)

        assert gate.begun == [None]
        assert numbers_of(one, "hold")["redelivered"] == 0

    @pytest.mark.slow
    async def test_also_while_it_blocks_the_event_loop(self, url: str) -> None:
        runs: list[float] = []
        app = redis_app(url, lease=1.0)

        @app.task(name="block")
        async def block() -> str:
            runs.append(time.monotonic())
            time.sleep(2.2)
            return "done"

        async with app:
            task_id = await app.submit("block")
            async with other_worker(url, lease=1.0) as broker:
                # In another thread, as this loop is blocked.
                found = await asyncio.to_thread(asyncio.run, watch(url, 2.0))
                record = await final(app, task_id)
                assert (await broker.take(1))[0] == []

        assert found == 0
        assert (record.result, len(runs)) == ("done", 1)

    @pytest.mark.slow
    async def test_a_worker_that_lost_its_hold_does_not_begin(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, lease=1.0, workers=1), gate) as app:
            warm = await app.submit_many([("add", (1, 1), {})] * 300)
            await final(app, warm[-1])
            ids = await app.submit_many([("hold", (n,), {}) for n in range(2)])
            await until(lambda: gate.begun == [0])
            async with other_worker(url) as broker, asyncio.timeout(15):
                taken: set[str] = set()
                while taken != set(ids):  # the app's worker may be quicker to renew its holds
                    let_lapse(look)
                    taken = {delivery.task_id for delivery in (await broker.take(2))[0]}
                await asyncio.sleep(0.6)  # renewed every quarter of a second
                gate.opened.set()
                # What had begun is a success all the same; what had not is left to the other one.
                assert (await final(app, ids[0])).status is TaskStatus.SUCCESS
                assert gate.begun == [0]
                assert await counts_of(app) == (0, 0, 1, 0)
                assert await broker.settle([Outcome(Verb.RELEASE, each) for each in ids]) == [
                    Verdict.OVER,
                    Verdict.SETTLED,
                ]
                assert (await final(app, ids[1])).status is TaskStatus.SUCCESS

    async def test_one_that_comes_again_as_it_ends_has_run(
        self, url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its record tells what was before only of what this worker does not have."""
        gate, get = Gate(), RedisBackend.get

        async def slow(backend: RedisBackend, task_id: str) -> Any:
            gate.opened.set()
            await until(lambda: gate.ended)
            return await get(backend, task_id)

        async with with_tasks(redis_app(url, lease=20.0, workers=1), gate) as app:
            warm = await app.submit_many([("add", (1, 1), {})] * 300)
            await final(app, warm[-1])
            task_id = await app.submit("hold", 0)
            await until(lambda: gate.begun)
            monkeypatch.setattr(RedisBackend, "get", slow)
            let_lapse(look)
            look.lpush(f"{QUEUE}:wake", "1")
            await until(lambda: look.zcount(f"{QUEUE}:leases", 2, "+inf") > 0)
            gate.opened.set()
            await until(lambda: not look.exists(f"{QUEUE}:leases"))
            monkeypatch.undo()
            assert (await final(app, task_id)).status is TaskStatus.SUCCESS
        assert gate.begun == [0]

    async def test_a_worker_that_gets_its_own_task_again_goes_on_with_it(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, lease=20.0, workers=1), gate) as app:
            warm = await app.submit_many([("add", (1, 1), {})] * 300)
            await final(app, warm[-1])
            ids = await app.submit_many([("hold", (n,), {}) for n in range(2)])
            await until(lambda: gate.begun == [0])
            let_lapse(look)
            look.lpush(f"{QUEUE}:wake", "1")
            await until(lambda: look.zcount(f"{QUEUE}:leases", 2, "+inf") > 0)
            gate.opened.set()
            for task_id in ids:
                assert (await final(app, task_id)).status is TaskStatus.SUCCESS
            await until(lambda: not look.exists(f"{QUEUE}:leases"))

        assert gate.begun == [0, 1]

    async def test_a_worker_that_gets_its_task_again_after_another_one_goes_on_with_it(
        self, url: str, look: redis.Redis
    ) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, lease=1.0), gate) as app, other_worker(url) as other:
            source = app.executors["io"].source
            assert isinstance(source, LeasedSource)
            task_id = await app.submit("hold")
            await until(lambda: gate.begun)
            await take_over(look, other, task_id)
            await until(lambda: not source.held_ids())
            await other.settle([Outcome(Verb.RELEASE, task_id)])
            await until(lambda: source.held_ids() == [task_id])
            assert (len(gate.begun), app.executors["io"].busy_workers) == (1, 1)
            gate.opened.set()
            assert (await final(app, task_id)).is_success
            await until(lambda: not look.exists(f"{QUEUE}:leases"))
        assert len(gate.begun) == 1

    @pytest.mark.slow
    async def test_a_task_that_it_gets_again_while_it_asks_for_a_renewal_is_not_lost(
        self, url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate, is_told, is_back = Gate(), threading.Event(), threading.Event()
        renew, asked = RedisBroker.renew, []

        def renew_late(broker: RedisBroker, task_ids: Sequence[str], queue: str = "default") -> Renewal:
            answer = renew(broker, task_ids, queue)
            if broker.queue_key == QUEUE:
                asked.append(list(task_ids))
                if answer.lost and not is_told.is_set():
                    is_told.set()
                    assert is_back.wait(20)
            return answer

        monkeypatch.setattr(RedisBroker, "renew", renew_late)
        async with with_tasks(redis_app(url, lease=1.0), gate) as app, other_worker(url) as other:
            task_id = await app.submit("hold")
            await until(lambda: gate.begun)
            await take_over(look, other, task_id)
            await until(is_told.is_set)
            said = f"is held again executor=io id={task_id}"
            before = caplog.text.count(said)  # it may have been faster than the other one
            await other.settle([Outcome(Verb.RELEASE, task_id)])
            await until(lambda: caplog.text.count(said) > before)
            is_back.set()
            count = len(asked)
            await until(lambda: len(asked) >= count + 3)
            assert asked[-1] == [task_id]
            gate.opened.set()
            assert (await final(app, task_id)).is_success
        assert "lease lost" not in caplog.text

    @pytest.mark.slow
    async def test_what_is_retried_at_once_is_held_like_the_rest(self, url: str, look: redis.Redis) -> None:
        """It may come back before the worker hears that the server knows of the retry."""
        app, gate = redis_app(url, lease=1.0, workers=4), Gate()

        @app.task(name="again", max_retries=20, retry_delay=0.0)
        async def again() -> None:
            task = current_task()
            assert task is not None
            if task.attempt <= 20:
                raise ValueError("boom")
            gate.begun.append(task.id)
            await gate.opened.wait()

        async with app:
            ids = await app.submit_many([("again", (), {})] * 4)
            await until(lambda: len(gate.begun) == 4)
            await asyncio.sleep(1.5)
            assert await counts_of(app) == (0, 0, 4, 0)
            gate.opened.set()
            for task_id in ids:
                await final(app, task_id)
        assert sorted(gate.begun) == sorted(ids)
        assert numbers_of(app, "again")["redelivered"] == 0

    async def test_a_task_that_ends_meanwhile_is_not_missed(
        self, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate, ended, asked = Gate(), threading.Event(), threading.Event()
        renew, loop = RedisBroker.renew, asyncio.get_running_loop()

        def renew_late(broker: RedisBroker, task_ids: Sequence[str], queue: str = "default") -> Renewal:
            if task_ids:
                loop.call_soon_threadsafe(gate.opened.set)
                assert ended.wait(5)
            answer = renew(broker, task_ids, queue)
            if answer.missing:
                loop.call_soon_threadsafe(loop.call_soon, asked.set)
            return answer

        monkeypatch.setattr(RedisBroker, "renew", renew_late)
        async with with_tasks(redis_app(url, lease=1.0), gate) as app:
            await final(app, await app.submit("hold"))
            ended.set()
            await until(asked.is_set)
            await asyncio.sleep(0)
        assert "does not know" not in caplog.text

    async def test_a_task_that_the_server_has_lost_is_told_of_and_goes_on(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate()
        with redis.Redis.from_url(url) as server:
            async with with_tasks(redis_app(url, lease=1.0), gate) as app:
                task_id = await app.submit("hold")
                await until(lambda: gate.begun)
                server.flushdb()
                line = f"(lost writes?), they go on executor=io count=1 id={task_id}"
                await until(lambda: line in caplog.text)
                gate.opened.set()
                assert (await final(app, task_id)).is_success


async def watch(url: str, seconds: float) -> int:
    """How many tasks another worker gets in that time."""
    count, end = 0, time.monotonic() + seconds
    async with other_worker(url, lease=1.0) as broker:
        while time.monotonic() < end:
            # The first one has just been submitted, and is its worker's.
            await asyncio.sleep(0.1)
            count += len((await broker.take(1))[0])
    return count


async def test_who_takes_is_told_in_how_many_seconds_the_next_may_be_due(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app, other_worker(url, lease=9.0) as broker:
        assert (await broker.take(1))[1] is None
        for countdown, most in ((60, 60.0), (30, 30.0), (40, 30.0)):
            await app.options(countdown=countdown).submit("add", 1, 1)
            assert (await broker.take(1))[1] == pytest.approx(most, abs=5)
        await app.submit("add", 1, 1)
        assert (await broker.take(1))[1] == pytest.approx(9.0, abs=5)  # when the lease of that one may end


@pytest.mark.parametrize("how", ["recovered", "requeued"])
async def test_who_waits_is_woken_by_what_comes_back(url: str, how: str) -> None:
    async with other_worker(url) as idle, other_worker(url) as other:
        await other.push(Task("one", "add", (), {}))
        await take_one(other)
        if how == "requeued":
            await other.settle([Outcome(Verb.DEAD_LETTER, "one", text="as planned")])
        while await idle.wait(0.01) is not None:
            pass
        waiting = asyncio.create_task(idle.wait(MAX_BLOCK))
        if how == "requeued":
            assert await other.requeue_dead("one", None)
        else:
            assert await other.recover([]) == 1
        assert await waiting == "default"
        assert (await take_one(idle)).task_id == "one"


@pytest.mark.parametrize("priority", [math.inf, -math.inf, math.nan])
async def test_an_outcome_whose_priority_has_no_place_in_a_queue_is_refused(
    url: str, look: redis.Redis, priority: float
) -> None:
    async with other_worker(url) as broker:
        await broker.push(Task("one", "add", (), {}))
        await take_one(broker)
        with pytest.raises(RequestRefusedError, match="the priority of an outcome is out of range"):
            await broker.settle([Outcome(Verb.RETRY, "one", 60.0, priority=priority)])
        assert look.zrange(f"{QUEUE}:leases", 0, -1) == [b"one"]


class TestRedelivery:
    async def test_a_worker_that_is_not_heard_of_loses_its_task(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            task_id = await producer.submit("add", 1, 2)
        async with other_worker(url, lease=0.3) as dead:
            assert (await take_one(dead)).task_id == task_id
        # On an idle queue, nobody else submits anything.
        began = time.monotonic()
        async with with_tasks(redis_app(url)) as app:
            record = await final(app, task_id)
            assert time.monotonic() - began < MAX_BLOCK / 2

        assert record.result == 3
        assert numbers_of(app, "add")["redelivered"] == 1

    async def test_it_keeps_its_place_and_its_waiting_time(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = [await producer.submit("echo", n) for n in range(4)]
        async with other_worker(url) as dead, other_worker(url) as alive:
            await dead.take(2)
            let_lapse(look)
            deliveries, _ = await alive.take(9)

        assert [(each.task_id, each.deliveries) for each in deliveries] == list(zip(ids, (1, 1, 0, 0), strict=True))

    async def test_it_has_waited_since_its_lease_ended(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer, other_worker(url) as broker:
            await producer.submit("echo", 1)
            (first,), _ = await broker.take(1)
            assert 0 <= first.waited < 5
            let_lapse(look, at=(time.time() - 60) * 1e6)
            await broker.take(0)
            oldest = (await queue_of(producer))["oldest_pending_at"]
            (again,), _ = await broker.take(1)

        assert 59 < (datetime.now(UTC) - oldest).total_seconds() < 65
        assert 59 < again.waited < 65

    async def test_an_attempt_with_an_outcome_begins_the_count_anew(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer, other_worker(url) as broker:
            task_id = await producer.submit("echo", 1)
            await broker.take(1)
            let_lapse(look)
            (delivery,), _ = await broker.take(1)
            assert delivery.deliveries == 1
            assert delivery.task is not None
            text = codec.encode_task(delivery.task, delivery.submitted_at, delivery.call)
            await broker.settle([Outcome(Verb.RETRY, task_id, 0.0, text)])

            assert (await take_one(broker)).deliveries == 0

    async def test_after_too_many_it_is_dead(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False, max_deliveries=3)) as producer:
            task_id = await producer.submit("echo", 1, key="value")
            async with other_worker(url) as worker:
                for n in range(3):
                    assert (await take_one(worker)).deliveries == n
                    let_lapse(look)
            gate = Gate()
            async with with_tasks(redis_app(url, max_deliveries=3), gate) as app:
                record = await final(app, task_id)
                await until(lambda: look.zcard(f"{QUEUE}:dead"))
                manager = FlowrraManager(app)
                (dead,) = await manager.list_dead_tasks()

                assert (record.status, gate.begun) == (TaskStatus.FAILED, [])
                assert record.error is not None
                assert "given up after 3 deliveries" in record.error
                assert await counts_of(app) == (0, 0, 0, 1)
                assert abs(dead.pop("dead_since") - datetime.now(UTC)) < timedelta(seconds=5)
                assert dead == {
                    "executor": "io",
                    "task_id": task_id,
                    "task_name": "echo",
                    "reason": record.error,
                    "deliveries": 3,
                    "args": (1,),
                    "kwargs": {"key": "value"},
                    "queue": "default",
                }

                assert await manager.requeue_dead_task(task_id) is True
                await until(lambda: gate.begun)
                again = await final(app, task_id)
                assert (again.status, again.result) == (TaskStatus.SUCCESS, [[1], {"key": "value"}])
                assert await manager.requeue_dead_task(task_id) is False
                assert await manager.list_failed_tasks() == []
                assert await counts_of(app) == (0, 0, 0, 0)


class TestTheDead:
    async def test_are_not_requeued_beside_a_task_of_that_id(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app, other_worker(url) as worker:
            await app.options(task_id="mine").submit("echo", 1)
            await worker.take(1)
            await worker.settle([Outcome(Verb.DEAD_LETTER, "mine", text="a reason")])
            look.delete("flowrra:task:mine")  # its record has expired
            await app.options(task_id="mine").submit("echo", 2)

            assert await FlowrraManager(app).requeue_dead_task("mine") is False
            assert await counts_of(app) == (1, 0, 0, 1)
            (delivery,), _ = await worker.take(9)
            assert delivery.task is not None
            assert delivery.task.args == (2,)

    async def test_can_be_forgotten(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app, other_worker(url) as worker:
            ids = [await app.submit("echo", n) for n in range(3)]
            for task_id in ids:
                await worker.take(1)
                await worker.settle([Outcome(Verb.DEAD_LETTER, task_id, text="for a reason")])
            manager = FlowrraManager(app)

            assert [each["task_id"] for each in await manager.list_dead_tasks()] == ids[::-1]
            assert [each["task_id"] for each in await manager.list_dead_tasks(limit=1)] == ids[2:]
            assert await manager.list_dead_tasks(limit=0) == []
            assert await manager.delete_dead_task(ids[0]) is True
            assert await manager.delete_dead_task(ids[0]) is False
            assert len(await manager.list_dead_tasks()) == 2

    async def test_what_cannot_be_read(self, url: str, look: redis.Redis) -> None:
        entries = [
            b"\xff\xfe\x00",
            b"not JSON",
            b"[1, 2]",
            b"{}",
            b"null",
            b'{"id": 7, "name": "add"}',
            b'{"id": "x1", "name": ""}',
            b'{"id": "x2", "name": "add", "args": 3}',
            b'{"id": "x3", "name": "add", "priority": NaN}',
            b'{"id": "x4", "name": "add", "priority": Infinity}',
            b'{"id": "x5", "name": "add", "priority": 1e999}',
            b'{"id": "x6", "name": "add", "max_retries": "many"}',
            b'{"id": "x7", "name": "add", "priority": "high"}',
            b'{"id": "", "name": "add"}',
            b"[" * 5000,
        ]
        async with with_tasks(redis_app(url)) as app:
            look.rpush(QUEUE, *entries)
            good = await app.submit("add", 1, 2)
            assert (await final(app, good)).result == 3
            # None is lost, and none stays.
            await until(lambda: look.zcard(f"{QUEUE}:dead") == len(entries))
            assert not look.exists(QUEUE, f"{QUEUE}:leases")
            dead = await FlowrraManager(app).list_dead_tasks()
            assert len(dead) == len(entries)
            assert all(each["reason"] for each in dead)
            assert await counts_of(app) == (0, 0, 0, len(dead))
            # It goes on as if nothing had been.
            assert (await final(app, await app.submit("add", 2, 2))).result == 4
            assert await FlowrraManager(app).requeue_dead_task(dead[0]["task_id"]) is True
            await until(lambda: look.zcard(f"{QUEUE}:dead") == len(dead))

    async def test_what_somebody_wrote_into_an_entry(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = [await producer.submit("add", 1, 1) for _ in range(3)]
        look.hset(f"{QUEUE}:tasks", ids[0], "nonsense")
        look.hdel(f"{QUEUE}:tasks", ids[1])
        async with with_tasks(redis_app(url)) as app:
            assert (await final(app, ids[2])).result == 2
            await until(lambda: not look.exists(f"{QUEUE}:leases"))
            assert (await final(app, await app.submit("add", 2, 2))).result == 4


class TestTasksOfOldReleases:
    """What flowrra 0.1.8 left in its lists is run; it pushed on the left, and popped on the right."""

    async def test_are_drained_in_their_order(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        ids = [f"t{n}" for n in range(450)]
        for n, task_id in enumerate(ids):
            look.lpush(QUEUE, old_task(task_id, "echo", n))
        record = {"task_id": "t0", "status": "pending", "task_name": "echo", "submitted_at": "2025-01-02T03:04:05"}
        look.set("flowrra:task:t0", json.dumps({**record, "result": None, "error": None, "args": [0], "kwargs": {}}))
        async with with_tasks(redis_app(url, workers=1), gate) as app:
            await until(lambda: look.exists(f"flowrra:task:{ids[-1]}"))  # it had no record
            first = await final(app, "t0")
            assert (await final(app, ids[-1])).result == [[449], {}]

        assert gate.begun == list(range(450))
        assert first.submitted_at is not None
        assert first.submitted_at.year == 2025

    async def test_with_a_retry_behind_them(self, url: str, look: redis.Redis) -> None:
        app = redis_app(url)

        @app.task(name="attempts")
        async def attempts() -> int:
            task = current_task()
            assert task is not None
            return task.attempt

        look.lpush(QUEUE, old_task("t1", "attempts", current_retry=2, unknown_field=1))
        async with app:
            record = await app.results.wait_for("t1", 5)
        assert (record.result, record.retries) == (3, 2)
        assert numbers_of(app, "attempts")["redelivered"] == 0

    async def test_count_as_pending(self, url: str, look: redis.Redis) -> None:
        look.lpush(QUEUE, old_task("t1", "add", 1, 2))
        async with with_tasks(redis_app(url, consume=False)) as app:
            assert await counts_of(app) == (1, 0, 0, 0)


@pytest.mark.parametrize("lease", [0.0, -1.0, float("nan")])
def test_a_lease_must_be_positive(lease: float) -> None:
    with pytest.raises(ValueError, match="lease"):
        RedisBroker("redis://localhost", lease=lease)


async def test_results_in_memory_and_a_lost_worker(url: str) -> None:
    """Nobody but its own process knows such a result; the task is run all the same."""
    producer = with_tasks(redis_app(url, backend=InMemoryBackend(), consume=False))
    async with producer:
        task_id = await producer.submit("add", 1, 2)
    async with other_worker(url, lease=0.2) as dead:
        await take_one(dead)
    app: Flowrra = with_tasks(redis_app(url, backend=InMemoryBackend()))
    async with app:
        record = await app.executors["io"].wait_for_result(task_id, timeout=5)
    assert record.result == 3


async def test_results_in_memory_of_a_task_that_another_process_submitted_are_there_while_it_runs(url: str) -> None:
    async with with_tasks(redis_app(url, backend=InMemoryBackend(), consume=False)) as producer:
        task_id = await producer.submit("hold", 7)
    gate = Gate()
    async with with_tasks(redis_app(url, backend=InMemoryBackend()), gate) as app:
        await until(lambda: gate.begun)
        record = await record_of(app, task_id)
        assert (record.status, record.args) == ("running", (7,))
        gate.opened.set()
        assert (await final(app, task_id)).result == 7
