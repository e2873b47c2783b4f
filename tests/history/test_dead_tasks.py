"""A task that was given up is run anew, requeued or deleted, wherever its record lies: once, and never lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from flowrra import (
    BackendConfig,
    BackendError,
    ExecutorNotRunningError,
    Flowrra,
    TaskStatus,
    TaskTimeoutError,
)
from flowrra.backends import BaseResultBackend, InMemoryBackend
from flowrra.brokers.base import LeasingBroker, Outcome, Verb
from flowrra.events import event_bus
from flowrra.exceptions import ServerUnavailableError
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, final, memory_app, numbers_of, record_of, until
from tests.redis.apps import counts_of, redis_app, with_tasks
from tests.support.servers import ValkeyServer

MakeApp = Callable[..., Flowrra]


@pytest.fixture(params=["server", "partitions", "two servers", "two servers with partitions", "its own", "memory"])
def make_app(request: pytest.FixtureRequest, url: str, elsewhere: ValkeyServer) -> MakeApp:
    """Makes apps whose tasks wait on a server, and whose records lie there or elsewhere; they leave tasks to others,
    unless something else is said."""
    other = f"redis://127.0.0.1:{elsewhere.port}/0"
    with redis.Redis(port=elsewhere.port) as client:
        client.flushall()
    own = {"its own": RemoteBackend(), "memory": InMemoryBackend()}.get(request.param)
    backends: dict[str, BaseResultBackend | BackendConfig | str | None] = {
        "server": "",
        "partitions": BackendConfig(url=url, partitions=4),
        "two servers": other,
        "two servers with partitions": BackendConfig(url=other, partitions=4),
    }
    partitions = 4 if "partitions" in request.param else 1

    def make(*, consume: bool = False) -> Flowrra:
        backend = backends.get(request.param, own)
        return with_tasks(redis_app(url, backend=backend, consume=consume, partitions=partitions))

    return make


def broker_of(app: Flowrra) -> LeasingBroker:
    broker = app.executors["io"].broker
    assert isinstance(broker, LeasingBroker)
    return broker


async def dead_task(app: Flowrra, number: int = 1) -> str:
    """A task that was given up, and whose record says so."""
    task_id = await app.submit("add", number, 1)
    broker = broker_of(app)
    reason = "no worker was heard of any more"
    (delivery,), _ = await broker.take(10)
    record = await record_of(app, task_id)
    record.status, record.error, record.finished_at = TaskStatus.FAILED, reason, datetime.now(UTC)
    await app.results.store(task_id, record)
    await broker.settle([Outcome(Verb.DEAD_LETTER, delivery.task_id, text=reason)])
    return task_id


async def is_listed(app: Flowrra, task_id: str) -> bool:
    return task_id in [task["task_id"] for task in await FlowrraManager(app).list_dead_tasks()]


# ── requeued ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_requeued_task_is_pending_wherever_its_record_lies(make_app: MakeApp) -> None:
    async with make_app() as app:
        manager = FlowrraManager(app)
        one, other = [await dead_task(app, n) for n in range(2)]
        assert await manager.requeue_dead_task(one)
        assert await manager.requeue_dead_tasks() == {"done": 1, "left": 0}
        for task_id in (one, other):
            record = await record_of(app, task_id)
            assert (record.status, record.error, record.finished_at) == (TaskStatus.PENDING, None, None)
            with pytest.raises(TaskTimeoutError):
                await app.wait_for_result(task_id, timeout=0.05)
            with pytest.raises(ValueError, match="only one that has finished"):
                await manager.retry_task(task_id)
            assert await manager.cancel_task(task_id)
            assert (await record_of(app, task_id)).status is TaskStatus.CANCELLED
        assert await counts_of(app) == (0, 0, 0, 0)


async def test_a_requeued_task_runs_to_its_end_once(make_app: MakeApp) -> None:
    async with make_app() as producer:
        task_id = await dead_task(producer)
        assert await FlowrraManager(producer).requeue_dead_task(task_id)
        async with make_app(consume=True) as worker:
            assert (await final(producer, task_id)).result == 2
            assert numbers_of(worker, "add")["started"] == 1


async def test_subscribers_are_told_that_a_task_is_pending_again(make_app: MakeApp) -> None:
    told: list[str] = []

    async def note(event: dict[str, Any]) -> None:
        told.append(event["task"]["status"])

    async with make_app() as app:
        task_id = await dead_task(app)
        event_bus.subscribe(note)
        try:
            assert await FlowrraManager(app).requeue_dead_task(task_id)
            await until(lambda: told == ["pending"])
        finally:
            await event_bus.unsubscribe(note)


async def test_one_that_is_deleted_meanwhile_stays_failed(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_app() as app:
        manager, broker = FlowrraManager(app), broker_of(app)
        task_id, requeue = await dead_task(app), broker.requeue_dead

        async def delete_first(*args: Any) -> bool:
            assert await manager.delete_dead_task(task_id)
            return await requeue(*args)

        monkeypatch.setattr(broker, "requeue_dead", delete_first)
        assert await manager.requeue_dead_task(task_id) is False
        assert (await record_of(app, task_id)).status is TaskStatus.FAILED


async def test_a_task_whose_record_cannot_be_stored_stays_dead(url: str) -> None:
    backend = RemoteBackend()
    async with with_tasks(redis_app(url, backend=backend, consume=False)) as app:
        task_id = await dead_task(app)

        async def refuse(*_: object) -> None:
            raise OSError("away")

        backend.store = refuse  # type: ignore[method-assign]
        with pytest.raises(BackendError, match="stays dead"):
            await FlowrraManager(app).requeue_dead_task(task_id)
        assert await is_listed(app, task_id)


# ── run anew ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_task_is_run_anew_once_and_is_dead_no_more(make_app: MakeApp) -> None:
    async with make_app() as producer:
        task_id, manager = await dead_task(producer), FlowrraManager(producer)
        new = await manager.retry_task(task_id)
        assert not await is_listed(producer, task_id)
        assert await manager.requeue_dead_task(task_id) is False
        async with make_app(consume=True) as worker:
            assert (await final(producer, new)).retry_of == task_id
            assert numbers_of(worker, "add")["started"] == 1


async def test_a_refused_submission_leaves_it_dead(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> str:
        raise RuntimeError("no more")

    async with make_app() as app:
        manager = FlowrraManager(app)
        task_id = await dead_task(app)
        with monkeypatch.context() as patch:
            patch.setattr(app, "submit_with", full)
            with pytest.raises(RuntimeError, match="no more"):
                await manager.retry_task(task_id)
        await app.stop()
        with pytest.raises(ExecutorNotRunningError):
            await manager.retry_task(task_id)
        await app.start()
        app.registry.unregister("add")

        @app.task(name="add")
        async def add(a: int, b: int, c: int) -> int:
            return a + b + c

        with pytest.raises(TypeError, match="missing a required argument"):
            await manager.retry_task(task_id)
        assert await is_listed(app, task_id)
        assert await app.results.retried_as(task_id) is None
        assert await manager.requeue_dead_task(task_id)
        assert (await counts_of(app))[0] == 1


async def test_a_refused_submission_of_a_finished_task_leaves_no_trace() -> None:
    async with with_tasks(memory_app()) as app:
        manager = FlowrraManager(app)
        task_id = await app.submit("add", 1, 2)
        await final(app, task_id)
    with pytest.raises(ExecutorNotRunningError):
        await manager.retry_task(task_id)
    task = await manager.get_task(task_id)
    assert task is not None
    assert task["retried_as"] is None


async def test_a_submission_of_which_nothing_is_known_goes_on_when_it_is_asked_for_again(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app() as app:
        manager = FlowrraManager(app)
        task_id, submit = await dead_task(app), app.submit_with

        async def answer_is_lost(*args: Any) -> str:
            await submit(*args)
            raise ServerUnavailableError("it went away")

        monkeypatch.setattr(app, "submit_with", answer_is_lost)
        with pytest.raises(ServerUnavailableError):
            await manager.retry_task(task_id)
        assert await is_listed(app, task_id)
        assert await manager.requeue_dead_task(task_id) is False, "it would run twice"
        monkeypatch.setattr(app, "submit_with", submit)
        new = await manager.retry_task(task_id)
        assert (await record_of(app, new)).retry_of == task_id
        assert not await is_listed(app, task_id)
        assert (await counts_of(app))[0] == 1


@pytest.mark.parametrize("has_record", [True, False])
async def test_one_that_is_requeued_first_is_not_run_anew(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, *, has_record: bool
) -> None:
    async with make_app() as app:
        manager, broker = FlowrraManager(app), broker_of(app)
        task_id, claim = await dead_task(app), broker.claim_dead
        if not has_record:
            await forget_record(app, task_id)

        async def requeue_first(*args: Any) -> str | None:
            assert await manager.requeue_dead_task(task_id)
            return await claim(*args)

        with monkeypatch.context() as patch:
            patch.setattr(broker, "claim_dead", requeue_first)
            with pytest.raises(ValueError, match="requeued"):
                await manager.retry_task(task_id)
        assert await app.results.retried_as(task_id) is None
        with pytest.raises(ValueError, match=r"only one that has finished|not found"):
            await manager.retry_task(task_id)
        assert (await counts_of(app))[0] == 1


@pytest.mark.parametrize("has_record", [True, False])
async def test_one_that_is_being_run_anew_is_not_requeued(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, *, has_record: bool
) -> None:
    async with make_app() as app:
        manager = FlowrraManager(app)
        task_id, submit = await dead_task(app), app.submit_with
        if not has_record:
            await forget_record(app, task_id)

        async def requeue_first(*args: Any) -> str:
            assert await manager.requeue_dead_task(task_id) is False
            assert await manager.requeue_dead_tasks() == {"done": 0, "left": 1}
            return await submit(*args)

        monkeypatch.setattr(app, "submit_with", requeue_first)
        await manager.retry_task(task_id)
        assert (await counts_of(app))[0] == 1
        record = await app.get_result(task_id)
        assert (record is not None) is has_record
        assert record is None or record.status is TaskStatus.FAILED


async def test_one_that_is_deleted_or_dies_again_may_be_requeued_later(url: str) -> None:
    """What was claimed for one dead task doesn't hold for the next one of the same id."""
    async with with_tasks(redis_app(url, consume=False)) as app:
        broker = broker_of(app)
        for new_id in ("one", "two"):
            await app.options(task_id="nightly").submit("add", 1, 1)
            await broker.take(10)
            await broker.settle([Outcome(Verb.DEAD_LETTER, "nightly", text="a reason")])
            assert await broker.claim_dead("nightly", new_id) == await broker.claim_dead("nightly", "other") == new_id
            await app.results.delete("nightly")
        await broker.delete_dead("nightly")
        assert await broker.claim_dead("nightly", "one") is None
        await app.options(task_id="nightly").submit("add", 1, 1)
        await broker.take(10)
        await broker.settle([Outcome(Verb.DEAD_LETTER, "nightly", text="a reason")])
        await app.results.delete("nightly")
        assert await FlowrraManager(app).requeue_dead_task("nightly")


async def forget_record(app: Flowrra, task_id: str) -> None:
    results = app.results
    await (results._memory if isinstance(results, RemoteBackend) else results).delete(task_id)
