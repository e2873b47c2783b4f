"""Tasks are cancelled, run anew and cleared away, singly and many at a time, and each comes to exactly one end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
import redis

from flowrra import ExecutorNotRunningError, Flowrra, TaskNotFoundError, TaskResult, TaskStatus
from flowrra.backends.listing import Place, place_of
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import ResultNotFoundError
from flowrra.management import FlowrraManager, control
from tests.core.apps import final, memory_app, numbers_of, record_of, until
from tests.history.conftest import Place as AppPlace
from tests.redis.apps import Gate, counts_of, old_task, redis_app, with_tasks
from tests.redis_faults.conftest import LEASE, Spawn
from tests.redis_faults.worker import RUNS, make_app


def with_fickle(app: Flowrra) -> Flowrra:
    """With a task ``fickle`` that fails the first time, and then gives back what it got."""
    runs = iter(range(1000))

    @app.task(name="fickle", max_retries=0)
    async def fickle(*args: object, **kwargs: object) -> object:
        if next(runs) == 0:
            raise ConnectionError("away")
        return [list(args), kwargs]

    return app


# ── run anew ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_failed_task_is_run_anew_and_both_name_each_other(place: AppPlace) -> None:
    async with with_fickle(place()) as app:
        manager = FlowrraManager(app)
        old = await app.submit("fickle", 1, [2, 3], key="value")
        assert (await final(app, old)).status is TaskStatus.FAILED
        new = await manager.retry_task(old)
        record = await final(app, new)
        assert (record.status, record.result) == (TaskStatus.SUCCESS, [[1, [2, 3]], {"key": "value"}])

        before, after = await manager.get_task(old), await manager.get_task(new)
        assert before is not None
        assert after is not None
        assert (before["status"], before["retried_as"], before["retry_of"]) == ("failed", new, None)
        assert (after["status"], after["retried_as"], after["retry_of"]) == ("success", None, old)
        assert await manager.retry_task(old) == new
        again = await manager.retry_task(new)  # also one that succeeded
        assert (await final(app, again)).retry_of == new
        assert numbers_of(app, "fickle")["submitted"] == 3


@pytest.mark.slow
async def test_asked_for_twice_at_once_there_is_one_new_run(place: AppPlace) -> None:
    async with with_fickle(place()) as app:
        manager = FlowrraManager(app)
        old = await app.submit("fickle")
        await final(app, old)
        ids = await asyncio.gather(*(manager.retry_task(old) for _ in range(20)))
        assert len(set(ids)) == 1
        await final(app, ids[0])
        assert len((await manager.list_tasks(name="fickle"))["tasks"]) == 2
        numbers = numbers_of(app, "fickle")
        assert (numbers["started"], numbers["succeeded"]) == (2, 1)


@pytest.mark.slow
async def test_two_processes_that_run_a_dead_task_anew_at_once_make_one_new_run(url: str, look: redis.Redis) -> None:
    async with (
        with_tasks(redis_app(url, consume=False)) as one,
        with_tasks(redis_app(url, consume=False)) as other,
    ):
        for dead in [await dead_task(one, url, n) for n in range(20)]:
            ids = await asyncio.gather(
                *(FlowrraManager(app).retry_task(dead) for app in (one, other) for _ in range(3)),
                return_exceptions=True,
            )
            (new,) = set(ids)
            assert isinstance(new, str)
        assert look.hlen("flowrra:queue:io:dead:tasks") == 0
        assert (await counts_of(one))[0] == 20
        async with with_tasks(redis_app(url)) as worker:
            await until(lambda: numbers_of(worker, "add")["succeeded"] == 20)


@pytest.mark.slow
async def test_a_dead_task_is_run_anew_or_requeued_and_never_both(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        manager = FlowrraManager(app)
        runs = 0
        for n in range(60):
            dead = await dead_task(app, url, n)
            before = (await counts_of(app))[0]
            retried, requeued = await asyncio.gather(
                manager.retry_task(dead), manager.requeue_dead_task(dead), return_exceptions=True
            )
            assert (await counts_of(app))[0] == before + 1
            assert isinstance(retried, str) is not requeued, (retried, requeued)
            if not isinstance(retried, str):
                assert "requeued" in str(retried) or "only one that has finished" in str(retried)
            runs += isinstance(retried, str)
            assert (await manager.purge_queue())["left"] == 0
        assert 0 < runs <= 60


async def dead_task(app: Flowrra, url: str, number: int) -> str:
    """A task that was given up."""
    task_id = await app.submit("add", number, 1)
    broker = RedisBroker(url, queue_key="flowrra:queue:io")
    broker.keeps_records_of(app.results)
    await broker.take(10)
    await broker.settle([Outcome(Verb.DEAD_LETTER, task_id, text="no worker was heard of any more")])
    await broker.close()
    return task_id


async def test_a_dead_task_whose_record_has_gone_is_run_anew_from_what_was_put_aside(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        manager = FlowrraManager(app)
        dead = await dead_task(app, url, 7)
        await app.results.delete(dead)
        new = await manager.retry_task(dead)
        assert await manager.list_dead_tasks() == []
        async with with_tasks(redis_app(url)) as worker:
            assert (await final(worker, new)).result == 8


async def test_another_task_of_the_same_id_is_run_anew_as_well(place: AppPlace) -> None:
    app = place()

    @app.task(name="flaw", max_retries=0)
    async def flaw() -> None:
        raise ValueError("boom")

    async with app:
        manager, new = FlowrraManager(app), set()
        for _ in range(2):
            await app.options(task_id="nightly").submit("flaw")
            await final(app, "nightly")
            new.add(await manager.retry_task("nightly"))
            await app.results.delete("nightly")
        assert len(new) == 2
        await asyncio.gather(*(final(app, each) for each in new))
        assert numbers_of(app, "flaw")["started"] == 4


async def test_whether_a_task_was_run_anew_is_known_as_long_as_its_record(url: str, look: redis.Redis) -> None:
    async with with_fickle(redis_app(url)) as app:
        old = await app.submit("fickle")
        await final(app, old)
        look.pexpire(f"flowrra:task:{old}", 300)
        await FlowrraManager(app).retry_task(old)
        assert 0 < look.pttl(f"flowrra:retried:{old}") <= 300  # type: ignore[operator]


async def test_what_can_not_be_run_anew_says_why(place: AppPlace) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app:
        manager = FlowrraManager(app)
        with pytest.raises(ResultNotFoundError):
            await manager.retry_task("unknown")
        held = await app.submit("hold")
        with pytest.raises(ValueError, match="only one that has finished"):
            await manager.retry_task(held)
        gate.opened.set()
        await final(app, held)
        failed = await app.submit("fail")
        await final(app, failed)
        app.registry.unregister("fail")
        with pytest.raises(TaskNotFoundError):
            await manager.retry_task(failed)
        assert await app.results.retried_as(failed) is None
    with pytest.raises(ExecutorNotRunningError):
        await manager.retry_task(held)


# ── cancelled ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_tasks_that_are_meant_are_cancelled_and_no_others(place: AppPlace) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app:
        manager = FlowrraManager(app)
        running = [await app.submit("hold", n) for n in range(4)]
        async with asyncio.timeout(10):
            while (await manager.count_tasks())["running"] < 4:
                await asyncio.sleep(0.005)
        waiting = [await app.submit("hold", n) for n in range(5)]
        delayed = [await app.options(countdown=3600).submit("add", n, n) for n in range(3)]

        assert await manager.cancel_tasks(name="nobody's") == {"done": 0, "left": 0}
        assert await manager.cancel_tasks(name="add", limit=2) == {"done": 2, "left": 1}
        assert await manager.cancel_tasks(name="hold", status="pending") == {"done": 5, "left": 0}
        assert await manager.cancel_tasks(name="hold") == {"done": 4, "left": 0}
        assert await manager.cancel_tasks() == {"done": 1, "left": 0}
        statuses = {(await record_of(app, task_id)).status for task_id in (*running, *waiting, *delayed)}
        assert statuses == {TaskStatus.CANCELLED}
        for nonsense in ("success", "done"):
            with pytest.raises(ValueError, match=r"(?i)status"):
                await manager.cancel_tasks(status=nonsense)
        with pytest.raises(ValueError, match="limit"):
            await manager.cancel_tasks(limit=0)


async def test_while_one_of_many_is_cancelled_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    count, turns, placed = 5000, 0, 0

    def counted(record: TaskResult) -> Place:
        nonlocal placed
        placed += 1
        return place_of(record)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with with_tasks(memory_app()) as app:
        for n in range(count):
            await app.options(countdown=3600).submit("add", n, n)
        monkeypatch.setattr("flowrra.backends.memory.place_of", counted)
        turning = asyncio.create_task(turn())
        assert await FlowrraManager(app).cancel_tasks(limit=1) == {"done": 1, "left": count - 1}
        turning.cancel()
    assert turns >= count / 100
    assert placed < 5 * count


async def test_one_that_would_not_end_is_left(place: AppPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.executors.workers.CANCEL_GRACE", 0.05)
    monkeypatch.setattr("flowrra.executors.sources.leased.CANCEL_GRACE", 0.05)
    monkeypatch.setattr("flowrra.executors.sources.leased.CANCEL_REPEAT", 0.05)
    app, begun, release = place(), asyncio.Event(), asyncio.Event()

    @app.task(name="stubborn")
    async def stubborn() -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with app:
        task_id = await app.submit("stubborn")
        await begun.wait()
        async with asyncio.timeout(10):
            while (await record_of(app, task_id)).status is not TaskStatus.RUNNING:
                await asyncio.sleep(0.005)
        assert await FlowrraManager(app).cancel_tasks() == {"done": 0, "left": 1}
        release.set()
        await final(app, task_id)


@pytest.mark.slow
@pytest.mark.parametrize("count", [10_000])
async def test_cancelling_while_tasks_complete_leaves_each_with_one_end_in_memory(count: int) -> None:
    app = memory_app(io_workers=50, max_queue_size=count)
    ended: Counter[str] = Counter()

    @app.task(name="brief")
    async def brief(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    async with app:
        chance = random.Random(20261129)
        ids = [await app.submit("brief", chance.randrange(4)) for _ in range(count)]
        answers = await asyncio.gather(*(app.cancel_task(task_id) for task_id in chance.sample(ids, count)))
        for task_id in ids:
            ended[(await final(app, task_id, within=30)).status.value] += 1
        numbers = numbers_of(app, "brief")
    assert ended["cancelled"] == sum(answers) == numbers["cancelled"] + numbers["cancelled_before_start"]
    assert ended["success"] == numbers["succeeded"] == count - sum(answers)


@pytest.mark.slow
async def test_cancelling_while_two_processes_complete_tasks_leaves_each_with_one_end(
    url: str, look: redis.Redis, spawn: Spawn
) -> None:
    count = 10_000
    chance = random.Random(20261129)
    async with make_app(url, LEASE, consume=False) as app:
        ids = await app.submit_many([("note", (n, chance.choice([0.0, 0.001, 0.003])), {}) for n in range(count)])
        for _ in range(2):
            spawn(url)
        async with asyncio.timeout(30):
            while look.hlen(RUNS) < count / 20:
                await asyncio.sleep(0.01)
        cancelled: set[str] = set()
        waiting = ids.copy()
        chance.shuffle(waiting)
        while waiting:
            some, waiting = waiting[:200], waiting[200:]
            answers = await asyncio.gather(*map(app.cancel_task, some))
            cancelled.update(task_id for task_id, answer in zip(some, answers, strict=True) if answer)
        ends = {task_id: (await final(app, task_id, within=60)).status for task_id in ids}
        assert {task_id for task_id, end in ends.items() if end is TaskStatus.CANCELLED} == cancelled
        assert set(ends.values()) == {TaskStatus.CANCELLED, TaskStatus.SUCCESS}
        assert await counts_of(app) == (0, 0, 0, 0)
        counts = await FlowrraManager(app).count_tasks()
        assert (counts["cancelled"], counts["success"]) == (len(cancelled), count - len(cancelled))
    runs = [int(each) for each in look.hvals(RUNS)]  # type: ignore[union-attr]
    assert max(runs) == 1


async def test_no_more_are_looked_at_than_is_said_however_few_are_meant(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MOST_LOOKED_AT", 2000)
    async with with_tasks(redis_app(url, consume=False)) as app:
        manager = FlowrraManager(app)
        old = await app.options(queue="mail", countdown=3600).submit("echo")
        await app.submit_many([("echo", (n,), {}) for n in range(2500)])
        new = await app.options(queue="mail", countdown=3600).submit("echo")
        assert await manager.cancel_tasks(queue="mail") == {"done": 1, "left": 0}
        assert (await record_of(app, new)).status is TaskStatus.CANCELLED
        assert (await record_of(app, old)).status is TaskStatus.PENDING


# ── dead ones ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_dead_tasks_are_listed_requeued_and_deleted_by_filter(url: str) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        manager = FlowrraManager(app)
        ids = [await dead_task(app, url, n) for n in range(6)]
        assert [task["task_id"] for task in await manager.list_dead_tasks(2, name="add")] == ids[:-3:-1]
        assert await manager.list_dead_tasks(name="echo") == []
        assert await manager.get_dead_task(ids[0]) == (await manager.list_dead_tasks())[-1]
        assert await manager.get_dead_task("another") is None
        assert await manager.list_dead_tasks(reason="cosmic rays") == []
        assert await manager.delete_dead_tasks(name="add", reason="not heard", limit=2) == {"done": 0, "left": 0}
        assert await manager.delete_dead_tasks(name="add", reason="was heard of", limit=2) == {"done": 2, "left": 4}
        assert await manager.requeue_dead_tasks(limit=3) == {"done": 3, "left": 1}
        assert [(await record_of(app, each)).status.value for each in ids[1:4]] == ["pending"] * 3
        assert await manager.requeue_dead_tasks() == {"done": 1, "left": 0}
        assert await counts_of(app) == (4, 0, 0, 0)
        async with with_tasks(redis_app(url)) as worker:
            await until(lambda: numbers_of(worker, "add")["succeeded"] == 4)


# ── purged ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_what_waits_in_a_queue_is_purged_and_what_runs_goes_on(place: AppPlace) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app:
        manager = FlowrraManager(app)
        running = [await app.submit("hold", n) for n in range(4)]
        await until(lambda: len(gate.begun) == 4)
        await manager.pause_queue()  # a worker takes some ahead, and puts them back
        waiting = [await app.submit("hold", n) for n in range(120)]
        delayed = [await app.options(countdown=3600).submit("add", n, n) for n in range(5)]
        elsewhere = await app.options(queue="mail", countdown=3600).submit("add", 1, 1)

        assert await manager.purge_queue(name="nobody's") == {"done": 0, "left": 0}
        assert await manager.purge_queue(name="add", limit=2) == {"done": 2, "left": 3}
        assert await manager.purge_queue(limit=50) == {"done": 50, "left": 73}
        assert await manager.purge_queue() == {"done": 73, "left": 0}
        assert {(await record_of(app, each)).status for each in (*waiting, *delayed)} == {TaskStatus.CANCELLED}
        assert (await record_of(app, elsewhere)).status is TaskStatus.PENDING
        assert await manager.purge_queue("mail") == {"done": 1, "left": 0}
        gate.opened.set()
        assert {(await final(app, each)).status for each in running} == {TaskStatus.SUCCESS}
        with pytest.raises(ValueError, match="limit"):
            await manager.purge_queue(limit=0)
        with pytest.raises(ValueError, match="queue"):
            await manager.purge_queue("no queue's name")


@pytest.mark.slow
async def test_no_more_tasks_are_purged_than_wanted(place: AppPlace) -> None:
    async with with_tasks(place()) as app:
        for n in range(420):
            await app.options(countdown=3600).submit("add", n, n)
        assert await FlowrraManager(app).purge_queue(limit=330) == {"done": 330, "left": 90}


async def test_a_task_of_a_strange_name_and_id_is_purged_by_its_name(url: str) -> None:
    app = redis_app(url, consume=False)
    names = ['say "name":"other"', "päckchen: 7\n", "plain"]
    for name in names:

        @app.task(name=name)
        async def nothing() -> None:
            """Nothing."""

    async with app:
        manager = FlowrraManager(app)
        for n, name in enumerate(names):
            await app.options(task_id=f'"name":"plain" {n}').submit(name)
        for name in names:
            assert await manager.purge_queue(name=name) == {"done": 1, "left": 0}


async def test_a_task_is_purged_by_its_own_name_whatever_its_headers_and_arguments_hold(place: AppPlace) -> None:
    async with with_tasks(place()) as app:
        manager = FlowrraManager(app)
        later = app.options(countdown=3600)
        meant = [
            await later.submit("add", 1, 1),
            await app.options(countdown=3600, task_id="x" * 5000).submit("add", 1, 1),
        ]
        others = [
            await later.submit("echo", {"name": "add"}),
            await later.submit("echo", customer={"id": "1", "name": "add", "amount": 5}),
            await app.options(countdown=3600, headers={"name": "add"}).submit("echo"),
            await app.options(countdown=3600, task_id='"name":"add",').submit("echo"),
            await app.options(countdown=3600, task_id='1","name":"add","').submit("echo"),
        ]
        assert await manager.purge_queue(name="add") == {"done": 2, "left": 0}
        assert {(await record_of(app, each)).status for each in meant} == {TaskStatus.CANCELLED}
        assert {(await record_of(app, each)).status for each in others} == {TaskStatus.PENDING}
        assert await manager.purge_queue(name="echo") == {"done": len(others), "left": 0}


async def test_a_task_that_flowrra_0_1_8_queued_is_purged_by_its_name(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url, consume=False)) as app:
        look.lpush("flowrra:queue:io", old_task("old", "add", {"name": "echo"}))
        broker = RedisBroker(url, queue_key="flowrra:queue:io")
        await broker.take(0)
        await broker.close()
        manager = FlowrraManager(app)
        assert await manager.purge_queue(name="echo") == {"done": 0, "left": 0}
        assert await manager.purge_queue(name="add") == {"done": 1, "left": 0}
