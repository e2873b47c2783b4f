"""Pauses that the broker keeps for all workers, and orders that reach one of them through it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from flowrra import Flowrra, TaskStatus
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.sources import fetcher, heartbeat
from flowrra.management import FlowrraManager
from tests.core.apps import comes_true, final, in_another_thread, numbers_of, record_of, until
from tests.redis.apps import QUEUE, Gate, calls_of, leftovers, queue_of, redis_app, with_tasks


def steers(app: Flowrra) -> FlowrraManager:
    return FlowrraManager(app)


class TestPauseOfAQueue:
    async def test_nothing_is_given_out_and_all_runs_after_it(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer, with_tasks(redis_app(url), gate) as worker:
            assert await steers(producer).pause_queue() is True
            ids = [await producer.submit("echo", n) for n in range(50)]
            await asyncio.sleep(0.1)
            assert gate.begun == []
            queue = await queue_of(worker)
            assert (queue["pending"], queue["paused"]) == (50, True)
            assert (await steers(worker).health_check())["healthy"] is True
            assert await steers(worker).resume_queue() is True
            async with asyncio.timeout(3):
                for each in ids:
                    await final(producer, each)
            assert (await queue_of(producer))["paused"] is False
        assert sorted(gate.begun) == list(range(50))

    async def test_what_was_taken_ahead_goes_back(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer, with_tasks(redis_app(url), gate) as worker:
            await producer.submit_many([("echo", (n,), {}) for n in range(2000)])
            await until(lambda: len(gate.begun) > 100)
            await steers(producer).pause_queue()
            # It is told at once; what it had, it gives back.
            await comes_true(lambda: is_nothing_held(producer))  # nothing is on its way to it either
            await comes_true(lambda: is_idle(worker))
            begun = len(gate.begun)
            await asyncio.sleep(0.2)
            assert len(gate.begun) == begun
            await steers(producer).resume_queue()
            await until(lambda: len(gate.begun) == 2000)
        assert sorted(gate.begun) == list(range(2000))
        assert numbers_of(worker, "echo")["redelivered"] == 0

    async def test_what_runs_goes_on(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, workers=1), gate) as app:
            first, second = [await app.submit("hold", n) for n in range(2)]
            await until(lambda: gate.begun)
            await steers(app).pause_queue()
            gate.opened.set()
            assert (await final(app, first)).is_success
            await asyncio.sleep(0.1)
            assert gate.begun == [0]
            await steers(app).resume_queue()
            await final(app, second)

    async def test_a_worker_that_starts_meanwhile_heeds_it(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer:
            await steers(producer).pause_queue()
            waiting = await producer.submit("echo", 1)
            async with with_tasks(redis_app(url), gate):
                await asyncio.sleep(0.1)
                assert gate.begun == []
                await steers(producer).resume_queue()
                await final(producer, waiting, within=3)

    async def test_an_observer_is_told_all_that_is_paused(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app, with_tasks(redis_app(url, consume=False)) as other:
            for queue in ("mail", "default", "sms"):
                await steers(app).pause_queue(queue)
            await steers(app).resume_queue("sms")
            await steers(app).pause_task("ünknown")
            assert (await steers(other).get_stats())["paused"] == {"queues": ["default", "mail"], "tasks": ["ünknown"]}

    async def test_one_of_several(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, queues=("mail", "default")), gate) as app:
            await steers(app).pause_queue("mail")
            waiting = await app.options(queue="mail").submit("echo", "mail")
            await final(app, await app.submit("echo", "default"))
            found = {each["queue"]: each["paused"] for each in await steers(app).list_queues()}
            assert (gate.begun, found) == (["default"], {"default": False, "mail": True})
            await steers(app).resume_queue("mail")
            await final(app, waiting, within=3)

    async def test_delayed_ones_fall_due_and_wait(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url), gate) as app:
            await steers(app).pause_queue()
            waiting = await app.options(countdown=0.05).submit("echo", 1)
            await comes_true(lambda: is_pending(app, 1))
            assert gate.begun == []
            await steers(app).resume_queue()
            await final(app, waiting, within=3)

    @pytest.mark.slow
    async def test_an_idle_worker_of_it_sends_nearly_nothing(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer, with_tasks(redis_app(url)):
            await steers(producer).pause_queue()
            await producer.submit_many([("echo", (n,), {}) for n in range(100)])
            await asyncio.sleep(0.1)
            look.config_resetstat()
            await asyncio.sleep(1.5)
            calls = calls_of(look)
        assert sum(calls.values()) <= 30, calls

    async def test_twice_changes_nothing_and_leaves_nothing(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            manager = steers(app)
            assert [await manager.pause_queue(), await manager.pause_queue()] == [True, False]
            assert [await manager.resume_queue(), await manager.resume_queue()] == [True, False]
        assert leftovers(look) == set()

    async def test_from_another_thread_while_the_apps_loop_is_not_asked(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            assert await in_another_thread(steers(app).pause_queue) is True
            assert await in_another_thread(steers(app).resume_queue) is True

    async def test_is_found_out_by_one_that_was_not_told(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeat, "HEARTBEAT", 0.2)
        monkeypatch.setattr(fetcher, "STALE_AFTER", 60.0)  # nothing goes back for another reason
        gate = Gate()
        async with with_tasks(redis_app(url, workers=1), gate) as app:
            source: Any = app.executors["io"].source
            source._room.estimate._rate = 1000.0
            ids = await app.submit_many([("hold", (n,), {}) for n in range(2)])
            await until(lambda: app.executors["io"].pending_count() == 1)
            await source._listening.stop()
            await steers(app).pause_queue()
            await until(lambda: app.executors["io"].pending_count() == 0)
            gate.opened.set()
            await final(app, ids[0])
            await asyncio.sleep(0.1)
            assert gate.begun == [0]
            await steers(app).resume_queue()
            await final(app, ids[1])


async def is_idle(app: Flowrra) -> bool:
    executor = app.executors["io"]
    return executor.pending_count() == 0 and executor.busy_workers == 0


async def is_nothing_held(app: Flowrra) -> bool:
    return (await queue_of(app))["in_flight"] == 0


async def is_pending(app: Flowrra, count: int) -> bool:
    return (await queue_of(app))["pending"] == count


class TestPauseOfATask:
    async def test_others_go_on_in_all_queues(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url, consume=False)) as producer,
            with_tasks(redis_app(url, queues=("mail", "default")), gate) as worker,
        ):
            assert await steers(producer).pause_task("echo") is True
            ids = [await producer.options(queue=queue).submit("echo", queue) for queue in ("mail", "default")]
            assert (await final(producer, await producer.submit("add", 1, 2))).result == 3
            await comes_true(lambda: is_nothing_held(producer))
            assert gate.begun == []
            found = {
                each["queue"]: (each["pending"], each["unknown"], each["in_flight"])
                for each in await steers(producer).list_queues()
            }
            assert found == {"default": (1, 0, 0), "mail": (1, 0, 0)}
            assert (await steers(worker).health_check())["healthy"] is True
            assert await steers(producer).resume_task("echo") is True
            async with asyncio.timeout(3):
                for each in ids:
                    await final(producer, each)
        assert sorted(gate.begun) == ["default", "mail"]
        assert {name for name in leftovers(look) if ":queue" in name} == {f"{QUEUE}:queues"}

    async def test_its_tasks_count_once_while_workers_set_them_aside(self, url: str) -> None:
        """However often one looks: what goes from one place to another meanwhile is in one of them."""
        worker, observer = RedisBroker(url, queue_key=QUEUE), RedisBroker(url, queue_key=QUEUE)
        async with with_tasks(redis_app(url, consume=False)) as producer:
            await producer.submit_many([("echo", (n,), {}) for n in range(300)])
            await steers(producer).pause_task("echo")

        async def set_aside() -> None:
            while taken := (await worker.take(1))[0]:
                [task] = taken
                await worker.settle([Outcome(Verb.NACK, task.task_id, text="echo", delivery=task.number)])

        setting = asyncio.create_task(set_aside())
        seen: set[tuple[int, int | None]] = set()
        while not setting.done():
            figures = await observer.figures()
            seen.add((figures.pending + (figures.in_flight or 0), figures.unknown))
        await setting
        assert seen == {(300, 0)}
        assert (await observer.figures()).paused_tasks == 300
        for broker in (worker, observer):
            await broker.close()

    async def test_a_worker_that_starts_meanwhile_heeds_it(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = [await producer.submit("echo", n) for n in range(20)]
            await steers(producer).pause_task("echo")
            async with with_tasks(redis_app(url), gate):
                assert (await final(producer, await producer.submit("add", 1, 2))).result == 3
                assert gate.begun == []
                await steers(producer).resume_task("echo")
                for each in ids:
                    await final(producer, each, within=3)
        assert sorted(gate.begun) == list(range(20))

    @pytest.mark.slow
    async def test_they_are_not_given_up_though_no_worker_knows_them(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(heartbeat, "HEARTBEAT", 0.1)
        async with with_tasks(redis_app(url, consume=False)) as producer:
            await steers(producer).pause_task("echo")
            waiting = await producer.submit("echo", 1)
            other = redis_app(url, unknown_ttl=0.2)
            other.task(name="add")(lambda_task)
            async with other:
                await asyncio.sleep(1.0)
                assert (await record_of(producer, waiting)).status is TaskStatus.PENDING
            await steers(producer).resume_task("echo")
            async with with_tasks(redis_app(url)):
                assert (await final(producer, waiting)).is_success

    async def test_one_that_waits_is_cancelled(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            await steers(app).pause_task("echo")
            waiting = await app.submit("echo", 1)
            await until(lambda: look.hlen(f"{QUEUE}:unknown"))
            assert await app.cancel_task(waiting) is True
        assert not look.exists(f"{QUEUE}:tasks", f"{QUEUE}:unknown", f"{QUEUE}:unknown:of:echo")

    @pytest.mark.parametrize("name", ["names", "since", "of", "of:x", "tâche 1"])
    async def test_whatever_the_name(self, url: str, look: redis.Redis, name: str) -> None:
        app = redis_app(url)
        app.task(name=name)(lambda_task)
        async with app:
            await steers(app).pause_task(name)
            waiting = await app.submit(name)
            await until(lambda: look.hlen(f"{QUEUE}:unknown"))
            await steers(app).resume_task(name)
            assert (await final(app, waiting, within=3)).is_success

    @pytest.mark.slow
    async def test_workers_do_not_hand_them_round(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer, with_tasks(redis_app(url)):
            await steers(producer).pause_task("echo")
            await producer.submit_many([("echo", (n,), {}) for n in range(100)])
            await until(lambda: look.hlen(f"{QUEUE}:unknown") == 100)
            await asyncio.sleep(0.1)
            look.config_resetstat()
            await asyncio.sleep(1.5)
            calls = calls_of(look)
        assert sum(calls.values()) <= 30, calls


async def lambda_task(*_: Any) -> None: ...


class TestResize:
    async def test_of_another_process_by_its_id(self, url: str) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url, consume=False)) as observer,
            with_tasks(redis_app(url, workers=2), gate) as worker,
        ):
            await comes_true(lambda: knows(observer, worker))
            ids = [await observer.submit("hold", n) for n in range(20)]
            await until(lambda: len(gate.begun) == 2)
            assert await steers(observer).resize_workers("io", 12, worker.id) == 1
            await until(lambda: len(gate.begun) == 12)
            assert worker.executors["io"].workers == 12
            gate.opened.set()
            for each in ids:
                await final(observer, each)

    async def test_of_all(self, url: str) -> None:
        async with (
            with_tasks(redis_app(url, consume=False)) as observer,
            with_tasks(redis_app(url)) as one,
            with_tasks(redis_app(url)) as other,
        ):
            await comes_true(lambda: knows(observer, one, other))
            assert await steers(observer).resize_workers("io", 9, "all") == 2
            await until(lambda: {one.executors["io"].workers, other.executors["io"].workers} == {9})

    async def test_is_told_to_others_with_the_next_heartbeat(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeat, "HEARTBEAT", 0.2)
        async with with_tasks(redis_app(url)) as app:
            await steers(app).resize_workers("io", 9)
            await comes_true(lambda: slots_are(app, 9))

    async def test_of_nobody_is_an_error(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as observer:
            with pytest.raises(ValueError, match="takes no tasks"):
                await steers(observer).resize_workers("io", 9)
            with pytest.raises(ValueError, match="takes no tasks"):
                await steers(observer).drain_worker()
            with pytest.raises(ValueError, match="No worker that lives has the id 'gone'"):
                await steers(observer).resize_workers("io", 9, "gone")
            assert await steers(observer).resize_workers("io", 9, "all") == 0

    async def test_the_last_order_counts_however_often_it_is_told_to_look(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            await until(lambda: look.pubsub_numsub(f"{QUEUE}:requested:0")[0][1])  # type: ignore[index]
            for last in range(10, 20):
                for slots in (1, 2, 3, last):
                    look.rpush(f"{QUEUE}:orders:{app.id}", f'{{"slots": {slots}}}')
                    for _ in range(5):
                        look.publish(f"{QUEUE}:requested:0", "")
                    await asyncio.sleep(0.0005)  # it begins to look, and more comes
                await until(lambda last=last: app.executors["io"].workers == last)  # type: ignore[misc]
                await asyncio.sleep(0.02)
                assert app.executors["io"].workers == last

    async def test_what_strangers_order_is_ignored(
        self, url: str, look: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with with_tasks(redis_app(url)) as app:
            key = f"{QUEUE}:orders:{app.id}"
            look.rpush(
                key, b"\xff", "[", "[1]", '{"slots": "many"}', '{"slots": -1}', '{"draining": 5}', '{"slots": 5}'
            )
            look.publish(f"{QUEUE}:requested:0", "")
            await until(lambda: app.executors["io"].workers == 5)
            assert not look.exists(key)
        assert caplog.text.count("order not understood") == 2


async def knows(observer: Flowrra, *workers: Flowrra) -> bool:
    return {each["id"] for each in await steers(observer).list_workers()} >= {each.id for each in workers}


async def slots_are(app: Flowrra, slots: int) -> bool:
    # None is listed before its first heartbeat.
    return [each["executors"]["io"]["slots"] for each in await steers(app).list_workers()] == [slots]


class TestDrain:
    async def test_the_others_run_what_it_had_taken_ahead(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeat, "HEARTBEAT", 0.2)
        gate, other = Gate(), Gate()
        async with (
            with_tasks(redis_app(url, consume=False)) as observer,
            with_tasks(redis_app(url, workers=1), gate) as worker,
        ):
            await comes_true(lambda: knows(observer, worker))
            held = await observer.submit("hold", 0)
            await until(lambda: gate.begun)
            assert await steers(observer).drain_worker(worker.id) is True
            await until(lambda: worker.executors["io"].is_draining)
            ids = [await observer.submit("echo", n) for n in range(20)]
            async with with_tasks(redis_app(url), other):
                for each in ids:
                    await final(observer, each, within=3)
            await comes_true(lambda: says_it_drains(observer, worker, True))
            assert await steers(observer).drain_worker(worker.id) is False
            assert (await steers(worker).health_check())["healthy"] is True
            gate.opened.set()
            await final(observer, held)
            late = await observer.submit("echo", "late")
            await asyncio.sleep(0.1)
            assert await steers(observer).resume_worker(worker.id) is True
            await final(observer, late, within=3)
        assert gate.begun == [0, "late"]
        assert len(other.begun) == 20

    async def test_one_that_is_resumed_before_it_has_told_that_it_drains_takes_tasks_again(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as observer, with_tasks(redis_app(url)) as worker:
            await comes_true(lambda: knows(observer, worker))
            await steers(observer).drain_worker(worker.id)
            await until(lambda: worker.executors["io"].is_draining)
            await steers(observer).resume_worker(worker.id)
            await until(lambda: not worker.executors["io"].is_draining)

    @pytest.mark.slow
    async def test_of_this_process(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, workers=1), gate) as app:
            await app.submit_many([("echo", (n,), {}) for n in range(3000)])
            await until(lambda: len(gate.begun) > 100)
            await steers(app).drain_worker()
            assert app.executors["io"].pending_count() == 0
            await comes_true(lambda: is_nothing_held(app))
            begun = len(gate.begun)
            await asyncio.sleep(0.2)
            assert len(gate.begun) == begun
            assert (await queue_of(app))["pending"] == 3000 - begun
            await steers(app).resume_worker()
            await until(lambda: len(gate.begun) == 3000)
        assert sorted(gate.begun) == list(range(3000))


async def says_it_drains(observer: Flowrra, worker: Flowrra, is_draining: bool) -> bool:
    found = {each["id"]: each["draining"] for each in await steers(observer).list_workers()}
    return found.get(worker.id) is is_draining
