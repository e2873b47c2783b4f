"""Waiting tasks on a server: in what order they run, when, where, and what says so."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

import pytest
import redis

from flowrra import BrokerConfig, Config, ExecutorConfig, Flowrra, Task, TaskStatus, codec
from flowrra.backends import InMemoryBackend
from flowrra.brokers.base import Outcome, QueuedTask, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from flowrra.redis_client import MAX_BLOCK
from tests.core.apps import RemoteBackend, final, numbers_of, record_of, until
from tests.redis.apps import QUEUE, Gate, calls_of, counts_of, leftovers, queue_of, redis_app, with_tasks

DRAINS = 5


async def test_a_task_runs_and_its_result_is_known(url: str) -> None:
    async with with_tasks(redis_app(url)) as app:
        task_id = await app.submit("add", 1, 2)
        record = await final(app, task_id)
        assert app.executors["io"].worker_restarts == 0

    assert (record.status, record.result, record.args) == (TaskStatus.SUCCESS, 3, (1, 2))
    assert record.submitted_at is not None
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.submitted_at <= record.started_at <= record.finished_at
    assert numbers_of(app, "add")["succeeded"] == 1


async def test_nothing_is_left_when_all_has_ended(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url, ttl=60)) as app:
        ids = [await app.submit("add", n, n) for n in range(20)]
        ids += await app.submit_many([("add", (n, n), {}) for n in range(20)])
        ids += [await app.options(countdown=0.05).submit("add", 1, 1), await app.submit("fail")]
        for task_id in ids:
            await final(app, task_id)
        await until(lambda: not look.exists(f"{QUEUE}:leases"))

    assert leftovers(look) == {
        "flowrra:status:success",
        "flowrra:status:success:add",
        "flowrra:status:failed",
        "flowrra:status:failed:fail",
        "flowrra:listed",
        "flowrra:finished:60000",
        "flowrra:finished:ttls",
    }


async def test_who_waits_to_pop_a_task_does_not_ask_for_it_all_along(url: str, look: redis.Redis) -> None:
    broker = RedisBroker(url)
    look.config_resetstat()
    assert await broker.pop(0.2) is None
    assert sum(calls_of(look).get(command, 0) for command in ("eval", "evalsha")) < 10
    await broker.close()


class TestOrder:
    async def test_lower_priorities_run_first_and_equal_ones_as_they_came(self, url: str) -> None:
        gate = Gate()
        producer = with_tasks(redis_app(url, consume=False))
        async with producer:
            ids = []
            for n, priority in enumerate([5, 0, -3, 5, 0, -3, 5, 0, -3]):
                ids.append(await producer.submit("echo", (priority, n), priority=priority))
            async with with_tasks(redis_app(url, workers=1), gate) as worker:
                for task_id in ids:
                    await final(worker, task_id)

        order = [(priority, n) for priority, first in ((-3, 2), (0, 1), (5, 0)) for n in (first, first + 3, first + 6)]
        assert [tuple(each) for each in gate.begun] == order

    async def test_many_at_once_keep_their_order(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = await producer.submit_many([("echo", (n,), {}) for n in range(600)])
            async with with_tasks(redis_app(url, workers=1), gate) as worker:
                await final(worker, ids[-1])

        assert gate.begun == list(range(600))

    async def test_a_task_that_is_given_back_keeps_its_place(self, url: str) -> None:
        broker = RedisBroker(url, queue_key=QUEUE)
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = [await producer.submit("echo", n) for n in range(3)]
        first, _ = await broker.take(1)
        await broker.settle([Outcome(Verb.RELEASE, first[0].task_id)])
        again, _ = await broker.take(3)
        await broker.close()

        assert [delivery.task_id for delivery in again] == ids
        assert [delivery.deliveries for delivery in again] == [0, 0, 0]

    async def test_a_priority_is_any_number(self, url: str) -> None:
        class Urgency(IntEnum):
            LOW = 7
            HIGH = -7

        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer:
            chosen: list[Any] = [Urgency.LOW, 1, 0.5, Urgency.HIGH, -1e300]
            ids = [await producer.submit("echo", n, priority=each) for n, each in enumerate(chosen)]
            async with with_tasks(redis_app(url, workers=1), gate) as worker:
                for task_id in ids:
                    await final(worker, task_id)

        assert gate.begun == [4, 3, 2, 1, 0]

    @pytest.mark.slow
    async def test_any_number_of_tasks_is_queued_and_settled_by_one_call(self, url: str) -> None:
        broker = RedisBroker(url, queue_key=QUEUE)
        entries = [
            QueuedTask(
                f"t{n}",
                0,
                0.0,
                codec.encode_task(Task(f"t{n}", "add", (), {}), None, codec.encode_call((), {}, "add")),
                None,
            )
            for n in range(9000)
        ]
        assert await broker.submit(entries) == [True] * 9000
        deliveries, _ = await broker.take(9000)
        done = [Outcome(Verb.COMPLETE, entry.task_id, status=TaskStatus.SUCCESS) for entry in entries]
        assert await broker.settle(done) == [Verdict.SETTLED] * 9000
        assert (await broker.figures()).pending == 0
        await broker.close()

        assert [each.task_id for each in deliveries] == [f"t{n}" for n in range(250)]

    async def test_an_id_that_waits_is_not_queued_again(self, url: str) -> None:
        """Also where the records are elsewhere."""
        broker = RedisBroker(url, queue_key=QUEUE)
        first, second = (QueuedTask("mine", n, 0.0, f"text {n}", None) for n in range(2))
        assert await broker.submit([first]) == [True]
        assert await broker.submit([second, second]) == [False, False]
        (delivery,), _ = await broker.take(9)
        await broker.close()

        assert delivery.task_id == "mine"


class TestDelays:
    async def test_a_countdown_is_kept_by_the_server(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            task_id = await producer.options(countdown=0.4).submit("add", 1, 1)
            assert await counts_of(producer) == (0, 1, 0, 0)
        async with with_tasks(redis_app(url)) as worker:
            record = await final(worker, task_id)

        assert record.started_at is not None
        assert record.submitted_at is not None
        waited = (record.started_at - record.submitted_at).total_seconds()
        assert waited >= 0.4
        # A deliberate delay is no waiting.
        assert numbers_of(worker, "add")["queue_wait"]["sum"] < waited - 0.4 / 2

    async def test_an_eta(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            eta = datetime.now(UTC) + timedelta(seconds=0.3)
            record = await final(app, await app.options(eta=eta).submit("add", 1, 1))

        assert record.started_at is not None
        assert eta <= record.started_at < eta + timedelta(seconds=MAX_BLOCK / 2)

    async def test_it_has_waited_since_it_was_due(self, url: str, look: redis.Redis) -> None:
        broker = RedisBroker(url, queue_key=QUEUE)
        async with with_tasks(redis_app(url, consume=False)) as producer:
            task_id = await producer.options(countdown=3600).submit("add", 1, 1)
            look.zadd(f"{QUEUE}:delayed", {task_id: (time.time() - 60) * 1e6})
            await broker.take(0)
            oldest = (await queue_of(producer))["oldest_pending_at"]
            (delivery,), _ = await broker.take(1)
        await broker.close()

        assert 59 < (datetime.now(UTC) - oldest).total_seconds() < 65
        assert 59 < delivery.waited < 65

    async def test_an_idle_worker_is_woken_for_an_earlier_one(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            await app.options(countdown=3600).submit("add", 1, 1)
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await final(app, await app.options(countdown=0.2).submit("add", 1, 1))

            assert time.monotonic() - began < MAX_BLOCK / 2

    @pytest.mark.slow
    async def test_a_retry_waits_on_the_server_and_outlives_its_process(self, url: str) -> None:
        attempts: list[int] = []

        def app() -> Flowrra:
            app = redis_app(url)

            @app.task(name="flaky", max_retries=2, retry_delay=0.5)
            async def flaky() -> str:
                attempts.append(1)
                if len(attempts) == 1:
                    raise ValueError("boom")
                return "done"

            return app

        async with app() as first:
            task_id = await first.submit("flaky")
            while (await counts_of(first))[1] == 0:
                await asyncio.sleep(0.01)
            record = await record_of(first, task_id)
            assert (record.status, record.retries, record.error) == (TaskStatus.RETRYING, 1, "ValueError: boom")
            await first.stop(timeout=0)
            assert (await record_of(first, task_id)).status is TaskStatus.RETRYING
        async with app() as second:
            record = await final(second, task_id)

        assert (record.status, record.result, record.retries, len(attempts)) == (TaskStatus.SUCCESS, "done", 1, 2)


class TestTaskId:
    async def test_a_known_id_is_not_submitted_again(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url), gate) as app:
            for _ in range(3):
                assert await app.options(task_id="mine").submit("hold", 1) == "mine"
            await until(lambda: gate.begun)
            assert await app.options(task_id="mine").submit("hold", 2) == "mine"
            gate.opened.set()
            await final(app, "mine")
            # Its record lives on.
            assert await app.options(task_id="mine").submit("hold", 3) == "mine"
            assert (await record_of(app, "mine")).args == (1,)
            assert await counts_of(app) == (0, 0, 0, 0)

        assert gate.begun == [1]
        assert numbers_of(app, "hold")["submitted"] == 1

    @pytest.mark.parametrize("backend", [InMemoryBackend, RemoteBackend])
    async def test_with_results_elsewhere(self, url: str, backend: Any) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, backend=backend()), gate) as app:
            await asyncio.gather(*(app.options(task_id="mine").submit("echo", n) for n in range(5)))
            record = await final(app, "mine")
            await app.options(task_id="mine").submit("echo", 9)
            await asyncio.sleep(0.1)

            assert (await record_of(app, "mine")).result == record.result
        assert len(gate.begun) == 1


class TestApart:
    async def test_io_and_cpu_tasks(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False), cpu=True) as app:
            await app.submit("add", 1, 1)
            await app.submit("pid")
            await app.submit("pid")

            assert (await counts_of(app, "io"))[0] == 1
            assert (await counts_of(app, "cpu"))[0] == 2

    async def test_namespaces_on_one_database(self, url: str, look: redis.Redis) -> None:
        shop = with_tasks(redis_app(url, namespace="shop"))
        blog = with_tasks(redis_app(url, namespace="blog", consume=False))
        async with blog, shop:
            theirs = await blog.submit("add", 1, 1)
            ours = await shop.submit("add", 2, 2)
            await final(shop, ours)

            assert await counts_of(blog) == (1, 0, 0, 0)
            assert await shop.get_result(theirs) is None
            assert await blog.get_result(ours) is None
            assert await FlowrraManager(blog).list_workers() == []
            assert len(await FlowrraManager(shop).list_workers()) == 1
            assert (await queue_of(shop))["namespace"] == "shop"
        assert {name.decode().partition(":")[0] for name in look.scan_iter()} == {"shop", "blog"}

    async def test_a_queue_of_that_name(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, queue_key="mine", consume=False), cpu=True) as app:
            await app.submit("add", 1, 1)
            await app.submit("pid")

        assert look.zcard("mine:io:ready") == look.zcard("mine:cpu:ready") == 1

    async def test_the_environment_says_it_all(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "BROKER_URL": url,
            "BROKER_NAMESPACE": "shop",
            "BROKER_LEASE": "7.5",
            "BROKER_MAX_DELIVERIES": "9",
            "BACKEND_URL": url,
            "BACKEND_NAMESPACE": "shop",
            "EXECUTOR_CONSUME": "no",
        }.items():
            monkeypatch.setenv(f"FLOWRRA_{name}", value)
        async with with_tasks(Flowrra(Config.from_env())) as app:
            task_id = await app.submit("add", 1, 1)
            figures = await queue_of(app)
            broker = app.executors["io"].broker

            assert (figures["namespace"], figures["pending"], figures["shared"]) == ("shop", 1, True)
            assert (await record_of(app, task_id)).status is TaskStatus.PENDING
        assert isinstance(broker, RedisBroker)
        assert (broker.lease, broker.max_deliveries) == (7.5, 9)

    async def test_a_broker_instance_serves_both_kinds(self, url: str) -> None:
        broker = RedisBroker(url, namespace="shop", queue_key="shop:queue", lease=3)
        app = with_tasks(Flowrra(Config(broker=broker, backend=InMemoryBackend())), cpu=True)

        assert [each.broker.queue_key for each in app.executors.values()] == ["shop:queue:io", "shop:queue:cpu"]  # type: ignore[union-attr]
        assert [each.broker.lease for each in app.executors.values()] == [3, 3]  # type: ignore[union-attr]


class TestResultsElsewhere:
    async def test_on_another_database_the_result_is_there_first(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, backend=url[:-1] + "1")) as app:
            record = await final(app, await app.submit("add", 1, 2))
            await until(lambda: not look.exists(f"{QUEUE}:leases"))

        assert record.result == 3
        assert not list(look.scan_iter("flowrra:task:*"))

    async def test_in_memory(self, url: str) -> None:
        async with with_tasks(redis_app(url, backend=InMemoryBackend())) as app:
            task_id = await app.submit("add", 1, 2)
            record = await final(app, task_id)
            assert record.result == 3
            assert await app.cancel_task(task_id) is False

    async def test_in_a_users_own_backend(self, url: str) -> None:
        backend = RemoteBackend()
        async with with_tasks(redis_app(url, backend=backend)) as app:
            task_id = await app.submit("add", 1, 2)
            assert (await final(app, task_id)).result == 3
            failed = await app.submit("fail")
            assert (await final(app, failed)).status is TaskStatus.FAILED

        assert backend.stored[task_id][0] == "pending"
        assert backend.stored[task_id][-1] == "success"


class TestPrefetch:
    @pytest.mark.slow
    async def test_slow_tasks_are_not_hoarded(self, url: str) -> None:
        """A worker that was fast a moment ago takes ahead; what it can't begin goes to whoever is idle."""
        one, two = Gate(), Gate()
        async with with_tasks(redis_app(url, workers=2), one) as first:
            quick = await first.submit_many([("add", (1, 1), {})] * 500)
            await final(first, quick[-1])
            await first.submit_many([("hold", (n,), {}) for n in range(6)])
            async with with_tasks(redis_app(url, workers=4), two):
                await until(lambda: len(one.begun) + len(two.begun) == 6)
                assert (len(one.begun), len(two.begun)) == (2, 4)
                assert await counts_of(first) == (0, 0, 6, 0)
                one.opened.set()
                two.opened.set()

    async def test_what_runs_has_its_turns_while_many_others_are_taken_in(self, url: str) -> None:
        app, held, gate = redis_app(url, workers=300), set[int](), asyncio.Event()

        @app.task(name="look")
        async def look() -> None:
            while not gate.is_set():
                held.add(len(app.executors["io"].source.held_ids()))  # type: ignore[attr-defined]
                await asyncio.sleep(0)

        @app.task(name="hold")
        async def hold() -> None:
            await gate.wait()

        async with app:
            await app.submit(look)
            await until(lambda: held)
            ids = await app.submit_many([(hold, (), {})] * 200)
            await until(lambda: max(held) == 201)
            gate.set()
            for task_id in ids:
                await final(app, task_id)
        assert any(1 < count < 201 for count in held)

    async def test_two_workers_share_what_there_is(self, url: str) -> None:
        one, two = Gate(), Gate()
        one.opened.set()
        two.opened.set()
        async with with_tasks(redis_app(url, workers=1), one) as first, with_tasks(redis_app(url, workers=1), two):
            ids = await first.submit_many([("hold", (n,), {}) for n in range(300)])
            for task_id in ids:
                await final(first, task_id)

        assert sorted(one.begun + two.begun) == list(range(300))


class TestFigures:
    async def test_are_exact(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, workers=2), gate) as app:
            before = datetime.now(UTC)
            ids = [await app.submit("hold", n) for n in range(2)]
            await until(lambda: len(gate.begun) == 2)
            ids += [await app.submit("hold", n, priority=-n) for n in range(2, 7)]
            await app.options(countdown=60).submit("hold", 9)
            await asyncio.sleep(0.05)
            figures = await queue_of(app)

            assert [figures[name] for name in ("pending", "delayed", "in_flight", "dead")] == [5, 1, 2, 0]
            oldest = figures["oldest_pending_at"]
            third = await record_of(app, ids[2])
            assert third.submitted_at is not None
            assert before <= third.submitted_at <= oldest + timedelta(seconds=0.01)
            assert abs(oldest - third.submitted_at) < timedelta(seconds=0.05)
            assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 5
            gate.opened.set()
            for task_id in ids:
                await final(app, task_id)
            figures = await queue_of(app)
            assert (figures["pending"], figures["in_flight"], figures["oldest_pending_at"]) == (0, 0, None)

    async def test_cost_the_same_however_many_there_are(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            await app.submit_many([("echo", (n,), {}) for n in range(3000)])
            await counts_of(app)
            look.config_resetstat()
            await counts_of(app)
            calls = calls_of(look)

        assert sum(calls.values()) <= 15, calls
        assert not {"hgetall", "keys", "scan", "hkeys", "smembers"} & set(calls)


class TestPace:
    @pytest.mark.slow
    async def test_an_idle_worker_sends_nearly_nothing(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            await final(app, await app.submit("add", 1, 1))
            await asyncio.sleep(0.1)
            look.config_resetstat()
            await asyncio.sleep(1.5)
            calls = calls_of(look)

        assert sum(calls.values()) <= 30, calls  # two looks for other workers at most, of ten commands in a script each

    @pytest.mark.slow
    async def test_many_small_tasks_share_round_trips(self, url: str, look: redis.Redis) -> None:
        calls: Counter[str] = Counter()
        # How many share one depends on whether worker and server happen to keep step: so on the mean of several drains.
        async with with_tasks(redis_app(url, consume=False)) as producer:
            for _ in range(DRAINS):
                ids = await producer.submit_many([("add", (n, n), {}) for n in range(2000)])
                look.config_resetstat()
                async with with_tasks(redis_app(url, workers=16)) as worker:
                    await until(lambda: not look.exists(f"{QUEUE}:tasks"), within=30)
                    calls.update(calls_of(look))
                    assert (await final(worker, ids[-1])).result == 2 * 1999

        assert calls["evalsha"] < 0.2 * 2000 * DRAINS, calls
        assert calls["eval"] < 10 * DRAINS, calls

    @pytest.mark.slow
    async def test_a_new_task_starts_at_once(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer, with_tasks(redis_app(url)):
            waits = []
            for _ in range(20):
                await asyncio.sleep(0.02)
                began = time.perf_counter()
                await final(producer, await producer.submit("add", 1, 1))
                waits.append(time.perf_counter() - began)

        # Not one of them waited for the end of a wait that an idle worker was in.
        assert sum(waits) < MAX_BLOCK / 2, waits


async def test_a_worker_with_its_own_queue_size_takes_no_more_than_it_may(url: str) -> None:
    config = Config(broker=BrokerConfig(url=url), executor=ExecutorConfig(io_workers=1, max_queue_size=1))
    async with with_tasks(Flowrra(config)) as app:
        ids = [await app.submit("add", n, n) for n in range(50)]
        assert [(await final(app, task_id)).result for task_id in ids] == [2 * n for n in range(50)]


@pytest.mark.slow
async def test_an_app_stops_at_once_whenever_that_is(url: str) -> None:
    """The driver may lose a cancellation that comes while it connects."""
    for pause in range(20):
        app = with_tasks(redis_app(url))
        await app.start()
        await final(app, await app.submit("add", 1, 1))
        for _ in range(pause):
            await asyncio.sleep(0)
        began = time.monotonic()
        await app.stop()
        assert time.monotonic() - began < MAX_BLOCK / 2
