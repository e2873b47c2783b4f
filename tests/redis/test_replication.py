"""`min_replicas`: a submission is accepted, an outcome settled, and what operators ask done, when so many replicas have
it; else it is said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import Config
from flowrra.brokers.base import Cancellation, Outcome, QueuedTask, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import NotReplicatedError, PartialSubmissionError
from flowrra.task import CANCELLED, SUCCESS, TaskResult
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, with_tasks
from tests.support.servers import ValkeyServer

# Seconds that replicas have in the tests.
SOON = 0.2


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """A primary and a replica that follows it."""
    with ValkeyServer(config={"repl-diskless-sync-delay": 0}) as primary:
        follows = {"replicaof": f"127.0.0.1 {primary.port}"}
        with ValkeyServer(config=follows) as replica, redis.Redis(port=primary.port) as look:
            look.set("any", "thing")
            assert look.wait(1, 10_000) == 1
            yield primary, replica


@pytest.fixture
def look(pair: tuple[ValkeyServer, ValkeyServer]) -> Iterator[redis.Redis]:
    with redis.Redis(port=pair[0].port) as client:
        client.flushall()
        yield client


@pytest.fixture
def url(pair: tuple[ValkeyServer, ValkeyServer], look: redis.Redis) -> str:
    return f"redis://127.0.0.1:{pair[0].port}/0"


@pytest.fixture
def replica(pair: tuple[ValkeyServer, ValkeyServer]) -> Iterator[ValkeyServer]:
    yield pair[1]
    pair[1].resume()


def entry(task_id: str) -> QueuedTask:
    return QueuedTask(task_id, 0, 0.0, "text", None)


async def submit(url: str, **options: Any) -> list[bool]:
    broker = RedisBroker(url, replication_timeout=SOON, **options)
    try:
        return await broker.submit([entry("1")])
    finally:
        await broker.close()


def waits(look: redis.Redis) -> int:
    """How often the server was asked to wait for replicas."""
    stats: Any = look.info("commandstats")
    return int(stats.get("cmdstat_wait", {}).get("calls", 0))


class TestASubmission:
    @pytest.mark.slow
    @pytest.mark.parametrize("connections", [1, 50])
    async def test_is_accepted_when_replicas_have_it(self, url: str, replica: ValkeyServer, connections: int) -> None:
        assert await submit(url, min_replicas=1, max_connections=connections) == [True]

    @pytest.mark.slow
    async def test_that_they_have_not_is_an_error_that_says_so(self, url: str, replica: ValkeyServer) -> None:
        replica.freeze()
        started = time.monotonic()
        with pytest.raises(
            NotReplicatedError, match=r"it is written, and 0 of 1 replicas have confirmed that within 0\.2"
        ):
            await submit(url, min_replicas=1)
        # The request is tried again for 2 s, as all are.
        assert time.monotonic() - started < 5

    async def test_waits_for_none_unless_it_is_told_to(
        self, url: str, look: redis.Redis, replica: ValkeyServer
    ) -> None:
        replica.freeze()
        before = waits(look)
        assert await submit(url) == [True]
        assert waits(look) == before

    @pytest.mark.slow
    async def test_wants_as_many_as_are_said(self, url: str, replica: ValkeyServer) -> None:
        with pytest.raises(NotReplicatedError, match="1 of 2 replicas"):
            await submit(url, min_replicas=2)

    @pytest.mark.slow
    async def test_that_is_repeated_is_one_task_and_is_waited_for_again(
        self, url: str, look: redis.Redis, replica: ValkeyServer
    ) -> None:
        replica.freeze()
        for _ in range(2):  # the second writes no task, and must not be taken for replicated because of that
            with pytest.raises(NotReplicatedError):
                await submit(url, min_replicas=1)
        replica.resume()
        assert await submit(url, min_replicas=1) == [False]
        assert look.hlen("flowrra:queue:tasks") == 1

    @pytest.mark.slow
    async def test_while_another_is_under_way_is_waited_for_as_well(self, url: str, replica: ValkeyServer) -> None:
        broker = RedisBroker(url, min_replicas=1, replication_timeout=SOON)
        replica.freeze()
        answers = await asyncio.gather(
            *(broker.submit([entry(str(number))]) for number in range(3)), return_exceptions=True
        )
        await broker.close()
        assert [type(answer) for answer in answers] == [NotReplicatedError] * 3


class TestAnApp:
    async def test_runs_tasks_as_ever(self, url: str, replica: ValkeyServer) -> None:
        async with with_tasks(redis_app(url, min_replicas=1)) as app:
            ids = await asyncio.gather(*(app.submit("add", number, 1) for number in range(50)))
            assert [(await final(app, task_id)).result for task_id in ids] == list(range(1, 51))

    @pytest.mark.slow
    async def test_has_many_tasks_in_doubt_when_their_replicas_are_silent(
        self, url: str, replica: ValkeyServer
    ) -> None:
        async with with_tasks(redis_app(url, min_replicas=1, replication_timeout=SOON, consume=False)) as app:
            replica.freeze()
            with pytest.raises(PartialSubmissionError) as caught:
                await app.submit_many(("add", (number, 1), {}) for number in range(3))
            assert (caught.value.queued, len(caught.value.unsure)) == ([], 3)

    @pytest.mark.slow
    async def test_tells_an_outcome_until_replicas_have_it(
        self, url: str, replica: ValkeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, min_replicas=1, replication_timeout=SOON), gate) as app:
            task_id = await app.submit("hold", 1)
            await until(lambda: bool(gate.begun))
            replica.freeze()
            gate.opened.set()
            await until(lambda: app.executors["io"].broker_errors["settle"] > 1)
            [line] = [message for message in caplog.messages if message.startswith("outcomes not told")]
            assert "0 of 1 replicas have confirmed" in line
            replica.resume()
            assert (await final(app, task_id)).status == "success"
            await until(lambda: not app.executors["io"].source.held_ids())
            assert gate.begun == [1]


@pytest.mark.slow
async def test_an_outcome_that_is_told_again_is_waited_for_again(url: str, replica: ValkeyServer) -> None:
    broker = RedisBroker(url, min_replicas=1, replication_timeout=SOON)
    await broker.submit([entry("1")])
    await broker.take(1)
    done = Outcome(Verb.COMPLETE, "1", status=SUCCESS)
    replica.freeze()
    for _ in range(2):  # the second finds the task settled, and writes nothing of it
        with pytest.raises(NotReplicatedError):
            await broker.settle([done])
        await broker.server.close()  # the next connection has written nothing yet
    replica.resume()
    assert await broker.settle([done]) != [Verdict.SETTLED]
    await broker.close()


class TestWhatOperatorsAsk:
    """It is answered when replicas have it, so that no failover undoes what was told as done."""

    @pytest.mark.slow
    async def test_a_cancellation_is_done_when_replicas_have_it(
        self, url: str, look: redis.Redis, replica: ValkeyServer
    ) -> None:
        async with with_tasks(redis_app(url, min_replicas=1, replication_timeout=SOON, consume=False)) as app:
            first, second = await app.submit("add", 1, 1), await app.submit("add", 2, 2)
            assert await app.cancel_task(first) is True
            replica.freeze()
            with pytest.raises(NotReplicatedError):
                await app.cancel_task(second)
            assert (await final(app, second)).status == "cancelled", "it is cancelled where it was asked for"
            assert look.hlen("flowrra:queue:io:tasks") == 0

    @pytest.mark.slow
    async def test_the_record_of_a_cancellation_is_kept_elsewhere_as_well(
        self, url: str, replica: ValkeyServer
    ) -> None:
        options = {"min_replicas": 1, "replication_timeout": SOON, "consume": False, "backend": f"{url[:-1]}1"}
        async with with_tasks(redis_app(url, **options)) as app:
            task_id = await app.submit("add", 1, 1)
            replica.freeze()
            with pytest.raises(NotReplicatedError):
                await app.cancel_task(task_id)
            assert (await final(app, task_id)).status == "cancelled"

    async def test_what_does_nothing_waits_for_nobody(self, url: str, look: redis.Redis, replica: ValkeyServer) -> None:
        broker = RedisBroker(url, min_replicas=1, replication_timeout=SOON)
        replica.freeze()
        before = waits(look)
        assert await broker.cancel(TaskResult("none", CANCELLED)) is Cancellation.UNKNOWN
        assert await broker.requeue_dead("none", None) is False
        assert await broker.delete_dead("none") is False
        assert waits(look) == before
        await broker.close()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "ask",
        [
            lambda broker: broker.pause_queue("default", True),
            lambda broker: broker.pause_name("add", True),
            lambda broker: broker.requeue_dead("1", None),
            lambda broker: broker.claim_dead("1", "2"),
            lambda broker: broker.release_dead("1", "2"),
            lambda broker: broker.delete_dead("1"),
        ],
    )
    async def test_what_changes_something_waits_for_them(
        self, url: str, replica: ValkeyServer, ask: Callable[[RedisBroker], Awaitable[Any]]
    ) -> None:
        broker = RedisBroker(url, min_replicas=1, replication_timeout=SOON)
        await broker.submit([entry("1")])
        await broker.take(1)
        await broker.settle([Outcome(Verb.DEAD_LETTER, "1", text="as planned")])
        replica.freeze()
        with pytest.raises(NotReplicatedError):
            await ask(broker)
        await broker.close()


async def test_a_server_that_waits_for_nobody_is_no_refusal_of_the_task(
    pair: tuple[ValkeyServer, ValkeyServer], look: redis.Redis
) -> None:
    """A user may not be allowed to wait: what was written is written, and that is said."""
    look.execute_command("ACL", "SETUSER", "no-wait", "on", ">secret", "~*", "&*", "+@all", "-wait")
    with pytest.raises(Exception, match="could not queue tasks: NoPermissionError") as caught:
        await submit(f"redis://no-wait:secret@127.0.0.1:{pair[0].port}/0", min_replicas=1)
    assert type(caught.value).__name__ == "ServerUnavailableError"


@pytest.mark.parametrize(
    "wrong", [{"min_replicas": -1}, {"replication_timeout": 0}, {"replication_timeout": float("nan")}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RedisBroker("redis://host", **wrong)


def test_the_environment_says_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWRRA_BROKER_URL", "redis://host")
    monkeypatch.setenv("FLOWRRA_BROKER_MIN_REPLICAS", "2")
    monkeypatch.setenv("FLOWRRA_BROKER_REPLICATION_TIMEOUT", "0.5")
    broker = Config.from_env().create_broker(":io")
    assert isinstance(broker, RedisBroker)
    assert (broker.min_replicas, broker.replication_timeout) == (2, 0.5)
