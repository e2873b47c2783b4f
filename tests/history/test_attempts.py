"""Every attempt of a task is on its record: who ran it, when, how it ended and what it failed with."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from flowrra import Flowrra, Reject, TaskStatus
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from flowrra.task import MAX_ATTEMPTS, MAX_KEPT_ERROR, MAX_KEPT_TRACEBACK, Attempt, AttemptEnd, TaskResult
from tests.core.apps import comes_true, final, memory_app, numbers_of, until
from tests.core.cpu_tasks import fail as cpu_fail
from tests.history.conftest import Place
from tests.redis.apps import Gate, redis_app, with_tasks
from tests.redis_faults.conftest import LEASE, Spawn
from tests.redis_faults.worker import make_app


def with_flaky(app: Flowrra, failures: int, **options: object) -> Flowrra:
    """With a task ``flaky`` that succeeds after so many failures."""
    tries = iter(range(1, 1000))

    @app.task(name="flaky", retry_delay=0.001, **options)  # type: ignore[call-overload, untyped-decorator]
    async def flaky() -> int:
        number = next(tries)
        if number <= failures:
            raise ConnectionError(f"try {number}")
        return number

    return app


async def test_a_retried_task_tells_of_each(place: Place) -> None:
    before = datetime.now(UTC)
    async with with_flaky(place(), 2, max_retries=5) as app:
        task_id = await app.submit("flaky")
        await final(app, task_id)
        found = await FlowrraManager(app).get_task(task_id)

    assert found is not None
    assert (found["status"], found["result"], found["retries"], found["worker"]) == ("success", 3, 2, app.id)
    first, second, third = found["attempts"]
    assert [each["number"] for each in found["attempts"]] == [1, 2, 3]
    assert [each["outcome"] for each in found["attempts"]] == ["failed", "failed", "success"]
    assert {each["worker"] for each in found["attempts"]} == {app.id}
    assert [each["error"] for each in found["attempts"]] == ["ConnectionError: try 1", "ConnectionError: try 2", None]
    assert "raise ConnectionError" in (first["traceback"] or "")
    assert third["traceback"] is None
    moments = [each[key] for each in (first, second, third) for key in ("started_at", "finished_at")]
    assert all(moment is not None and moment.tzinfo is not None for moment in moments)
    assert [before, *moments] == sorted([before, *moments])
    assert (found["started_at"], found["finished_at"]) == (third["started_at"], third["finished_at"])


async def test_one_that_fails_for_good_ends_with_its_failure(place: Place) -> None:
    async with with_flaky(place(), 9, max_retries=1) as app:
        task_id = await app.submit("flaky")
        await final(app, task_id)
        found = await FlowrraManager(app).get_task(task_id)

    assert found is not None
    assert [each["error"] for each in found["attempts"]] == ["ConnectionError: try 1", "ConnectionError: try 2"]
    assert [each["outcome"] for each in found["attempts"]] == ["failed", "failed"]
    assert (found["error"], found["traceback"]) == (found["attempts"][1]["error"], found["attempts"][1]["traceback"])


async def test_before_the_first_there_is_none_and_while_one_runs_it_has_no_outcome(place: Place) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app:
        manager = FlowrraManager(app)
        delayed = await app.options(countdown=3600).submit("hold")
        found = await manager.get_task(delayed)
        assert found is not None
        assert (found["attempts"], found["worker"], found["started_at"]) == ([], None, None)

        running = await app.submit("hold")
        async with asyncio.timeout(10):
            while (found := await manager.get_task(running)) is None or found["status"] != "running":
                await asyncio.sleep(0.005)
        (attempt,) = found["attempts"]
        assert (attempt["number"], attempt["worker"], attempt["outcome"]) == (1, app.id, None)
        assert attempt["started_at"] is not None
        assert attempt["finished_at"] is None

        assert await manager.cancel_task(running)
        found = await manager.get_task(running)
        assert found is not None
        assert [each["outcome"] for each in found["attempts"]] == ["cancelled"]
        assert await manager.cancel_task(delayed)
        found = await manager.get_task(delayed)
        assert found is not None
        assert (found["status"], found["attempts"]) == ("cancelled", [])
        assert await manager.get_task("unknown") is None


async def test_of_many_the_last_ten_are_kept_in_bounds(place: Place) -> None:
    app = place()

    @app.task(name="verbose", max_retries=14, retry_delay=0.001)
    async def verbose() -> None:
        raise ValueError("x" * 100_000)

    async with app:
        task_id = await app.submit("verbose")
        record = await final(app, task_id, within=30)
        found = await FlowrraManager(app).get_task(task_id)

    assert found is not None
    assert [each["number"] for each in found["attempts"]] == list(range(6, 16))
    assert found["attempts_begun"] == 15
    assert len(record.attempts) == MAX_ATTEMPTS - 1
    for attempt in record.attempts:
        assert len(attempt.error or "") <= MAX_KEPT_ERROR + 1
        assert len(attempt.traceback or "") <= MAX_KEPT_TRACEBACK


async def test_a_retry_that_is_refused_is_the_last_attempt(place: Place) -> None:
    app = place()
    tries = iter(("again", "no"))

    @app.task(name="picky", max_retries=5, retry_delay=0.001)
    async def picky() -> None:
        if next(tries) == "no":
            raise Reject("never")
        raise ValueError("once")

    async with app:
        task_id = await app.submit("picky")
        await final(app, task_id)
        found = await FlowrraManager(app).get_task(task_id)

    assert found is not None
    assert [(each["outcome"], each["error"]) for each in found["attempts"]] == [
        ("failed", "ValueError: once"),
        ("failed", "Reject: never"),
    ]


async def test_of_a_cpu_bound_task_has_the_traceback_of_its_process(url: str) -> None:
    app = redis_app(url)
    app.task(name="cpu_fail", cpu_bound=True, max_retries=1, retry_delay=0.001)(cpu_fail)
    async with app:
        task_id = await app.submit("cpu_fail", "our own")
        await final(app, task_id)
        found = await FlowrraManager(app).get_task(task_id)

    assert found is not None
    assert [each["outcome"] for each in found["attempts"]] == ["failed", "failed"]
    assert all("cpu_tasks.py" in (each["traceback"] or "") for each in found["attempts"])


async def test_one_that_a_stopping_worker_gives_back_is_released(url: str) -> None:
    gate = Gate()
    first = with_tasks(redis_app(url), gate)
    async with first:
        task_id = await first.submit("hold")
        await until(lambda: numbers_of(first, "hold")["running"] == 1)
        await first.stop(wait=False)
        await first.start()  # for the context manager, and another worker's sake
        gate.opened.set()
        await final(first, task_id)
        found = await FlowrraManager(first).get_task(task_id)

    assert found is not None
    assert [(each["number"], each["outcome"]) for each in found["attempts"]] == [(1, "released"), (2, "success")]
    assert found["attempts_begun"] == 2
    assert found["retries"] == 0


@pytest.mark.slow
async def test_one_whose_worker_was_killed_is_lost(url: str, spawn: Spawn) -> None:
    killed = spawn(url)
    async with make_app(url, LEASE, consume=False) as app:
        task_id = await app.submit("note", 1, 30.0)
        manager = FlowrraManager(app)
        async with asyncio.timeout(10):
            while (found := await manager.get_task(task_id)) is None or found["status"] != "running":
                await asyncio.sleep(0.01)
        lost_worker = found["worker"]
        killed.kill()
        spawn(url)
        async with asyncio.timeout(20):
            while (found := await manager.get_task(task_id)) is None or len(found["attempts"]) < 2:
                await asyncio.sleep(0.05)

    first, second = found["attempts"]
    assert (first["number"], first["outcome"], first["worker"], first["finished_at"]) == (1, "lost", lost_worker, None)
    assert first["started_at"] is not None
    assert second["number"] == found["attempts_begun"] == 2
    assert second["worker"] not in (None, lost_worker)


def test_a_record_is_the_same_after_its_journey_as_a_dict() -> None:
    attempt = Attempt(3, "host-1", datetime.now(UTC), None, AttemptEnd.LOST, "E: x", "Traceback")
    record = TaskResult("t1", TaskStatus.FAILED, "work", worker="host-2", attempts=(attempt,), retry_of="t0")

    assert TaskResult.from_dict(record.to_dict) == record
    assert record.copy() == record
    assert TaskResult("t1", TaskStatus.FAILED).to_dict.keys().isdisjoint({"worker", "attempts", "retry_of"})


@pytest.mark.parametrize("how", ["cancelled", "purged"])
async def test_what_ends_a_task_that_waits_for_its_next_attempt_is_no_attempt(place: Place, how: str) -> None:
    app = place()

    @app.task(name="broken", max_retries=1, retry_delay=3600)
    async def broken() -> None:
        raise ConnectionError("away")

    async with app:
        manager = FlowrraManager(app)
        task_id = await app.submit("broken")
        await comes_true(lambda: is_retrying(manager, task_id))
        if how == "cancelled":
            assert await manager.cancel_task(task_id)
        else:
            assert await manager.purge_queue() == {"done": 1, "left": 0}
        found = await manager.get_task(task_id)
        assert found is not None
        assert found["status"] == "cancelled"
        assert [(each["number"], each["outcome"]) for each in found["attempts"]] == [(1, "failed")]
        assert numbers_of(app, "broken")["started"] == 1
        assert (found["attempts_begun"], found["error"]) == (1, "cancelled before its next attempt: by request")
        assert found["attempt_finished_at"] == found["attempts"][0]["finished_at"]


async def test_one_that_waits_for_its_next_attempt_has_begun_one_which_has_ended(place: Place) -> None:
    app = place()

    @app.task(name="broken", max_retries=1, retry_delay=3600)
    async def broken() -> None:
        raise ConnectionError("away")

    async with app:
        manager = FlowrraManager(app)
        delayed = await app.options(countdown=3600).submit("broken")
        waiting = await app.submit("broken")
        await comes_true(lambda: is_retrying(manager, waiting))
        listed = {task["task_id"]: task for task in (await manager.list_tasks())["tasks"]}
        found = await manager.get_task(waiting)
        assert found is not None
        assert await manager.cancel_task(delayed)
        never_begun = await manager.get_task(delayed)
    assert (listed[delayed]["attempts_begun"], listed[delayed]["attempt_finished_at"]) == (0, None)
    assert listed[waiting]["attempts_begun"] == found["attempts_begun"] == 1
    assert listed[waiting]["attempt_finished_at"] == found["attempts"][0]["finished_at"] is not None
    assert never_begun is not None
    assert (never_begun["attempts_begun"], never_begun["error"]) == (0, "cancelled before it ran: by request")


async def is_retrying(manager: FlowrraManager, task_id: str) -> bool:
    found = await manager.get_task(task_id)
    return found is not None and found["status"] == "retrying"


async def test_what_ends_a_task_that_waits_for_its_next_attempt_at_a_stop_is_no_attempt() -> None:
    app = memory_app()

    @app.task(name="flaky", max_retries=1, retry_delay=3600)
    async def flaky() -> None:
        raise ConnectionError("away")

    async with app:
        task_id = await app.submit("flaky")
        await comes_true(lambda: is_retrying(FlowrraManager(app), task_id))
        await app.stop(wait=False)
    found = await FlowrraManager(app).get_task(task_id)
    assert found is not None
    assert found["status"] == "cancelled"
    assert [(each["number"], each["outcome"]) for each in found["attempts"]] == [(1, "failed")]


async def test_a_task_that_is_given_up_after_its_last_worker_was_lost_has_no_attempt_more() -> None:
    backend = InMemoryBackend()
    record = TaskResult("lost", TaskStatus.RUNNING, "work", started_at=datetime.now(UTC))
    record.end_attempt(AttemptEnd.LOST, None)
    record.status, record.error = TaskStatus.FAILED, "given up after 5 deliveries"
    await backend.store("lost", record)
    found = await FlowrraManager(memory_app(backend=backend)).get_task("lost")
    assert found is not None
    assert [(each["number"], each["outcome"]) for each in found["attempts"]] == [(1, "lost")]
    assert (found["attempts_begun"], found["attempt_finished_at"]) == (1, None)


def test_a_record_of_flowrra_0_1_8_that_has_no_attempts_tells_how_many_there_were() -> None:
    now = datetime.now(UTC)
    assert TaskResult("t1", TaskStatus.FAILED, retries=2, started_at=now, finished_at=now).attempts_begun == 3
    assert TaskResult("t1", TaskStatus.RETRYING, retries=2, started_at=now).attempts_begun == 2
    assert TaskResult("t1", TaskStatus.PENDING).attempts_begun == 0
