"""Queues by name on a server: their keys, who takes from which and in which order, what becomes of tasks in each."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis

from flowrra import Flowrra, TaskStatus
from flowrra.brokers.base import MAX_BATCH, MAX_BATCH_BYTES, Cancellation, Outcome, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from flowrra.task import TaskResult
from tests.core.apps import final, record_of, until
from tests.redis.apps import QUEUE, Gate, calls_of, leftovers, old_task, redis_app, with_tasks

MAIL = f"{QUEUE}@mail"


async def queues_of(app: Flowrra) -> dict[str, dict[str, Any]]:
    """What the Management API says of each queue, by name."""
    return {each["queue"]: {**each} for each in await FlowrraManager(app).list_queues()}


async def submitted(url: str, *queues: str) -> list[str]:
    """The ids of tasks that note the queue that they were submitted to."""
    async with with_tasks(redis_app(url, consume=False)) as producer:
        return [await producer.options(queue=queue).submit("echo", queue) for queue in queues]


class TestKeys:
    async def test_the_default_queue_has_those_that_it_had(self, url: str, look: redis.Redis) -> None:
        await submitted(url, "default")
        names = {key.decode() for key in look.scan_iter()}  # type: ignore[union-attr]
        assert {name for name in names if name.startswith("flowrra:queue")} == {
            f"{QUEUE}:{part}" for part in ("place", "ready", "since", "tasks", "wake")
        }

    async def test_one_with_a_name_has_its_own_and_is_registered_once(self, url: str, look: redis.Redis) -> None:
        await submitted(url, "mail", "mail", "mail", "sms")
        names = {key.decode() for key in look.scan_iter("flowrra:queue*")}  # type: ignore[union-attr]
        parts = ("place", "ready", "since", "tasks", "wake")
        assert names == {f"{QUEUE}@{name}:{part}" for name in ("mail", "sms") for part in parts} | {f"{QUEUE}:queues"}
        assert look.zrange(f"{QUEUE}:queues", 0, -1) == [b"mail", b"sms"]
        assert look.zcard(f"{MAIL}:ready") == 3

    async def test_they_are_below_the_configured_key(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, queue_key="jobs"), gate) as app:
            await FlowrraManager(app).pause_queue("mail")
            await app.options(queue="mail").submit("echo", 1)
            assert look.zcard("jobs:io@mail:ready") == 1
            assert set(await queues_of(app)) == {"default", "mail"}

    async def test_what_strangers_register_is_no_queue(self, url: str, look: redis.Redis) -> None:
        look.zadd(f"{QUEUE}:queues", dict.fromkeys(("mail", "a b", "x" * 65, "default", b"\xff"), 0))
        async with with_tasks(redis_app(url, consume=False)) as app:
            assert list(await queues_of(app)) == ["default", "mail"]

    @pytest.mark.slow
    async def test_of_more_than_can_be_shown_they_are_always_the_same(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            await app.options(queue="mail").submit("echo", 1)
            look.zadd(f"{QUEUE}:queues", {f"q{number:04}": 0 for number in range(2000)})
            shown = list(await queues_of(app))
            assert shown == ["default", "mail", *(f"q{number:04}" for number in range(999))]

            # Of so many queues a busy machine may not tell within the half second that get_stats waits.
            tasks = (await FlowrraManager(app).get_stats())["tasks"]
            assert "pending_error" in tasks or tasks["pending"] == 1
            assert await app.executors["io"].source.size() == 1

    async def test_nothing_stays_behind_but_their_names(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, queues=("mail", "default"))) as app:
            for each in [await app.options(queue=queue).submit("echo", 1) for queue in ("mail", "default")]:
                await final(app, each)
        left = leftovers(look)
        assert {name for name in left if ":queue" in name} == {f"{QUEUE}:queues"}


class TestWhoTakes:
    async def test_a_worker_takes_from_its_own_queues_alone(self, url: str) -> None:
        gates = Gate(), Gate()
        async with (
            with_tasks(redis_app(url, consume=False)) as producer,
            with_tasks(redis_app(url, queues=("mail",)), gates[0]),
            with_tasks(redis_app(url, queues=("default", "sms")), gates[1]),
        ):
            ids = [
                await producer.options(queue=queue).submit("echo", queue) for queue in ["mail", "sms", "default"] * 10
            ]
            for each in ids:
                await final(producer, each)
        assert Counter(gates[0].begun) == {"mail": 10}
        assert Counter(gates[1].begun) == {"sms": 10, "default": 10}

    async def test_each_process_tells_from_which_queues_it_takes(self, url: str) -> None:
        async def told(app: Flowrra) -> Any:
            return (await FlowrraManager(app).get_stats())["executors"]["io"]["queues"]

        async with (
            with_tasks(redis_app(url, consume=False)) as producer,
            with_tasks(redis_app(url, queues=("sms", "mail"))) as chosen,
            with_tasks(redis_app(url)) as usual,
        ):
            assert [await told(producer), await told(chosen), await told(usual)] == [[], ["sms", "mail"], ["default"]]

    async def test_what_nobody_takes_waits_and_is_counted(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            waiting = await app.options(queue="elsewhere").submit("echo", 1)
            await final(app, await app.submit("echo", 2))
            found = await queues_of(app)
            assert (found["elsewhere"]["pending"], found["default"]["pending"]) == (1, 0)
            assert (await FlowrraManager(app).get_stats())["tasks"]["pending"] == 1
            assert (await record_of(app, waiting)).status is TaskStatus.PENDING
            async with with_tasks(redis_app(url, queues=("elsewhere",))):
                assert (await final(app, waiting)).queue == "elsewhere"

    async def test_without_configuration_it_takes_from_those_that_its_tasks_name(self, url: str) -> None:
        app = redis_app(url)

        @app.task(queue="mail")
        async def send() -> str:
            return "sent"

        async with app:
            record = await final(app, await app.submit(send))
            assert (record.result, record.queue) == ("sent", "mail")

            @app.task(queue="late")
            async def late() -> str:
                return "late"

            assert (await final(app, await app.submit(late), within=20)).queue == "late"

    async def test_an_observer_finds_all(self, url: str) -> None:
        await submitted(url, "mail", "sms")
        async with with_tasks(redis_app(url, consume=False)) as observer:
            assert list(await queues_of(observer)) == ["default", "mail", "sms"]

    async def test_what_0_1_8_left_is_the_default_ones(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        look.lpush(QUEUE, old_task("old-1", "echo", "old"))
        async with with_tasks(redis_app(url, queues=("mail", "default")), gate) as app:
            await until(lambda: look.exists("flowrra:task:old-1"))  # it had no record
            assert (await final(app, "old-1")).queue == "default"
        assert gate.begun == ["old"]


class TestOrder:
    async def ran(self, url: str, queues: Any, *tasks: str) -> list[str]:
        """The queues of tasks in the order in which one slot ran them; they last, so that few are taken ahead."""
        app, ran = redis_app(url, queues=queues, workers=1), []

        @app.task(name="echo")
        async def echo(queue: str) -> None:
            ran.append(queue)
            await asyncio.sleep(0.002)

        ids = await submitted(url, *tasks)
        async with app:
            for each in ids:
                await final(app, each)
        return ran

    async def test_the_preferred_one_first(self, url: str) -> None:
        ran = await self.ran(url, ("mail", "default"), *["default", "mail", "default", "mail"] * 20)
        assert ran == ["mail"] * 40 + ["default"] * 40

    @pytest.mark.slow
    @pytest.mark.parametrize(("slots", "size"), [(2 * MAX_BATCH, 1), (4, MAX_BATCH_BYTES // 3)], ids=["many", "large"])
    async def test_the_preferred_one_also_where_it_has_more_than_one_request_brings(
        self, url: str, slots: int, size: int
    ) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, consume=False)) as producer:
            for queue in "default", "mail":
                hold = producer.options(queue=queue)
                await asyncio.gather(*(hold.submit("hold", queue.ljust(size)) for _ in range(slots)))
        async with with_tasks(redis_app(url, workers=slots, queues=("mail", "default")), gate):
            await until(lambda: len(gate.begun) == slots)
            gate.opened.set()
        assert {each.strip() for each in gate.begun[:slots]} == {"mail"}

    @pytest.mark.slow
    async def test_by_their_shares_while_all_have_work(self, url: str) -> None:
        ran = await self.ran(url, {"mail": 3, "default": 1}, *["mail"] * 150, *["default"] * 150)
        assert 80 <= Counter(ran[:120])["mail"] <= 100, Counter(ran[:120])

    @pytest.mark.slow
    async def test_none_starves_however_small_its_share(self, url: str) -> None:
        ran = await self.ran(url, {"mail": 1000, "default": 1}, *["mail"] * 200, "default")
        assert ran.index("default") < 20

    @pytest.mark.slow
    @pytest.mark.parametrize("queues", [("mail", "default"), {"mail": 1, "default": 1}])
    async def test_a_task_of_any_queue_starts_at_once_on_an_idle_worker(self, url: str, queues: Any) -> None:
        async with (
            with_tasks(redis_app(url, consume=False)) as producer,
            with_tasks(redis_app(url, queues=queues)),
            asyncio.timeout(3),
        ):
            for queue in ["mail", "default"] * 20:
                await final(producer, await producer.options(queue=queue).submit("echo", 1))

    async def test_what_a_worker_is_told_and_has_no_room_for_is_passed_on(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, queues=("mail", "default"))) as app:
            await FlowrraManager(app).drain_worker()  # the test does its taking
            ids = [await app.options(queue=queue).submit("echo", 1) for queue in ("mail", "default")]
            look.delete(f"{QUEUE}:wake", f"{MAIL}:wake")  # this worker has been told
            source: Any = app.executors["io"].source
            taken, _ = await source._fetcher._take_round(1, "default")
            assert taken == 1
            assert look.exists(f"{QUEUE}:wake")
            assert not look.exists(f"{MAIL}:wake")
            await FlowrraManager(app).resume_worker()
            for each in ids:
                await final(app, each)


class TestInEachQueue:
    """All that can become of a task."""

    async def test_many_at_once_keep_their_places_in_the_answer(self, url: str, look: redis.Redis) -> None:
        app = redis_app(url, consume=False)
        for queue in ("default", "mail", "sms"):

            @app.task(name=queue, queue=queue)
            async def work(n: int) -> None: ...

        async with app:
            names = ["default", "mail", "sms"] * 100
            ids = await app.submit_many([(name, (n,), {}) for n, name in enumerate(names)])
            assert [(await record_of(app, each)).task_name for each in ids] == names
        assert [look.hlen(f"{key}:tasks") for key in (QUEUE, MAIL, f"{QUEUE}@sms")] == [100, 100, 100]

    async def test_an_id_of_the_callers_own_is_queued_once(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            for _ in range(2):
                assert await app.options(queue="mail", task_id="t1").submit("echo", 1) == "t1"
        assert look.hlen(f"{MAIL}:tasks") == 1

    @pytest.mark.slow
    async def test_delays_and_retries(self, url: str) -> None:
        app, attempts = redis_app(url), []

        @app.task(queue="mail", max_retries=2, retry_delay=0.02)
        async def fail() -> None:
            attempts.append((await queues_of(app))["mail"]["in_flight"])
            raise ValueError

        async with app:
            later = await app.options(countdown=0.5).submit(fail)
            assert (await queues_of(app))["mail"]["delayed"] == 1
            record = await final(app, later)
            assert (record.status, record.queue, attempts) == (TaskStatus.FAILED, "mail", [1, 1, 1])
            (failed,) = await FlowrraManager(app).list_failed_tasks()
            assert failed["queue"] == "mail"

    @pytest.mark.parametrize("countdown", [None, 3600])
    async def test_a_waiting_one_is_cancelled(self, url: str, look: redis.Redis, countdown: float | None) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            task_id = await app.options(queue="mail", countdown=countdown).submit("echo", 1)
            assert await app.cancel_task(task_id) is True
            assert await app.cancel_task(task_id) is False
        assert not look.exists(f"{MAIL}:tasks")

    async def test_a_running_one_is_cancelled(self, url: str) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url, consume=False)) as producer,
            with_tasks(redis_app(url, queues=("mail",)), gate),
        ):
            task_id = await producer.options(queue="mail").submit("hold", 1)
            await until(lambda: gate.begun)
            async with asyncio.timeout(3):
                assert await producer.cancel_task(task_id) is True

    async def test_one_without_a_record_is_found_all_the_same(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            task_id = await app.options(queue="mail").submit("echo", 1)
            look.delete(f"flowrra:task:{task_id}")
            assert await app.cancel_task(task_id) is True

    async def test_dead_ones_are_listed_requeued_and_deleted(self, url: str, look: redis.Redis) -> None:
        ids = await submitted(url, "mail", "mail", "default")
        broker = RedisBroker(url, queue_key=QUEUE)
        for queue in ("mail", "default"):
            deliveries, _ = await broker.take(10, queue=queue)
            await broker.settle(
                [Outcome(Verb.DEAD_LETTER, each.task_id, text="why", queue=queue) for each in deliveries]
            )
        await broker.close()
        async with with_tasks(redis_app(url, consume=False)) as app:
            manager = FlowrraManager(app)
            dead = {each["task_id"]: each["queue"] for each in await manager.list_dead_tasks()}
            assert dead == dict(zip(ids, ("mail", "mail", "default"), strict=True))
            assert await manager.requeue_dead_task(ids[0]) is True
            assert await manager.delete_dead_task(ids[1]) is True
            found = await queues_of(app)
            assert (found["mail"]["pending"], found["mail"]["dead"], found["default"]["dead"]) == (1, 0, 1)

    async def test_one_that_is_run_anew_stays_in_its_queue(self, url: str) -> None:
        async with with_tasks(redis_app(url, queues=("mail",))) as app:
            manager = FlowrraManager(app)
            first = await app.options(queue="mail").submit("echo", 1)
            await final(app, first)
            again = await manager.retry_task(first)
            assert (await final(app, again)).queue == "mail"
            listed = await manager.list_tasks(queue="mail")
            assert {task["task_id"] for task in listed["tasks"]} == {first, again}
            assert (await manager.list_tasks(queue="default"))["tasks"] == []

    async def test_dead_ones_are_deleted_where_they_are(self, url: str, look: redis.Redis) -> None:
        ids = await submitted(url, "mail", "mail", "default")
        broker = RedisBroker(url, queue_key=QUEUE)
        for queue in ("mail", "default"):
            deliveries, _ = await broker.take(10, queue=queue)
            await broker.settle(
                [Outcome(Verb.DEAD_LETTER, each.task_id, text="why", queue=queue) for each in deliveries]
            )
        await broker.close()
        look.zadd(f"{QUEUE}:queues", {f"empty-{number}": 0 for number in range(50)})
        async with with_tasks(redis_app(url, consume=False)) as app:
            look.config_resetstat()
            assert await FlowrraManager(app).delete_dead_tasks() == {"done": len(ids), "left": 0}
            assert calls_of(look)["zrem"] == len(ids), "no other queue is asked"

    async def test_a_name_that_a_worker_does_not_know_waits_for_one_that_does(self, url: str) -> None:
        old, new = redis_app(url, queues=("mail",)), redis_app(url, queues=("mail",))

        @old.task(name="old")
        async def known() -> None: ...

        @new.task(name="new")
        async def work() -> str:
            return "new"

        async with old:
            async with new:
                pass
            producer = redis_app(url, consume=False)
            producer.task(name="new")(work)
            async with producer:
                task_id = await producer.options(queue="mail").submit("new")
                async with asyncio.timeout(5):
                    while (await queues_of(producer))["mail"]["unknown"] == 0:
                        await asyncio.sleep(0.01)
                async with new:
                    assert (await final(producer, task_id)).result == "new"

    async def test_one_of_a_worker_that_is_gone_runs_again(self, url: str, look: redis.Redis) -> None:
        (task_id,) = await submitted(url, "mail")
        broker = RedisBroker(url, queue_key=QUEUE)
        assert len((await broker.take(1, queue="mail"))[0]) == 1
        await broker.close()
        holder = look.hget(f"{MAIL}:holders", task_id)
        look.hset(f"{MAIL}:holders", task_id, b"?" + holder)  # type: ignore[operator]
        look.zadd(f"{MAIL}:leases", {task_id: 1})
        gate = Gate()
        async with with_tasks(redis_app(url, queues=("mail",)), gate) as app:
            assert (await final(app, task_id)).is_success
        assert gate.begun == ["mail"]

    @pytest.mark.slow
    async def test_leases_are_renewed(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, queues=("mail",), lease=1.0), gate) as app:
            task_id = await app.options(queue="mail").submit("hold", 1)
            await until(lambda: gate.begun)
            await FlowrraManager(app).drain_worker()  # it doesn't take the task anew
            await asyncio.sleep(1.3)
            holder = look.hget(f"{MAIL}:holders", task_id)
            assert isinstance(holder, bytes)
            assert not holder.startswith(b"?")
            assert (look.zscore(f"{MAIL}:leases", task_id) or 0.0) > 1e6 * look.time()[0]  # type: ignore[index, operator]
            gate.opened.set()
            await final(app, task_id)


class TestFaults:
    @pytest.mark.slow
    async def test_a_queue_that_cannot_be_read_costs_itself_alone(self, url: str, look: redis.Redis) -> None:
        look.set(f"{QUEUE}@broken:ready", "no sorted set")
        gate = Gate()
        async with with_tasks(redis_app(url, queues=("broken", "mail")), gate) as app:
            for n in range(20):
                await final(app, await app.options(queue="mail").submit("echo", n))
            assert app.executors["io"].broker_errors["take"] > 0
        assert gate.begun == list(range(20))

    async def test_the_tasks_of_a_lost_answer_are_given_back(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from flowrra.exceptions import ServerUnavailableError

        lost: list[int] = []
        take = RedisBroker.take

        async def lose_one(self: RedisBroker, limit: int, *args: Any, **options: Any) -> Any:
            answer = await take(self, limit, *args, **options)
            if answer[0] and not lost:
                lost.append(len(answer[0]))
                raise ServerUnavailableError("lost")
            return answer

        ids = await submitted(url, *["mail"] * 5)
        monkeypatch.setattr(RedisBroker, "take", lose_one)
        async with with_tasks(redis_app(url, queues=("default", "mail"))) as app, asyncio.timeout(8):
            assert {(await final(app, each)).status for each in ids} == {TaskStatus.SUCCESS}
        assert lost

    async def test_outcomes_of_several_queues_are_answered_in_their_order(self, url: str) -> None:
        await submitted(url, "mail", "default", "mail")
        broker = RedisBroker(url, queue_key=QUEUE)
        mail, _ = await broker.take(2, queue="mail")
        (other,), _ = await broker.take(1)
        outcomes = [
            Outcome(Verb.RELEASE, mail[0].task_id, queue="mail"),
            Outcome(Verb.RELEASE, "unknown"),
            Outcome(Verb.RELEASE, other.task_id),
            Outcome(Verb.RELEASE, "unknown", queue="mail"),
            Outcome(Verb.RELEASE, mail[1].task_id, queue="mail"),
        ]
        settled, lost = Verdict.SETTLED, Verdict.LOST
        assert await broker.settle(outcomes) == [settled, lost, settled, lost, settled]
        await broker.close()

    async def test_a_record_names_no_queue_that_cannot_be(self, url: str, look: redis.Redis) -> None:
        look.set("flowrra:task:t1", b'{"task_id":"t1","status":"pending","queue":"a:b"}')
        async with with_tasks(redis_app(url, consume=False)) as app:
            with pytest.raises(Exception, match="can't be read"):
                await app.get_result("t1")

    async def test_cancelling_in_a_queue_that_does_not_exist_is_unknown(self, url: str) -> None:
        broker = RedisBroker(url, queue_key=QUEUE)
        record = TaskResult("t1", TaskStatus.CANCELLED, queue="nowhere")
        assert await broker.cancel(record) is Cancellation.UNKNOWN
        await broker.close()
