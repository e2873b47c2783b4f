"""A request whose answer is lost is made again, and is one request: what it did, it has done once, and it is answered
as if nothing had been lost. An outcome that is told again is that of its own delivery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as LostConnectionError

from flowrra import Flowrra, TaskStatus, codec, redis_client
from flowrra.brokers import redis as broker_module
from flowrra.brokers.base import Cancellation, Outcome, QueuedTask, Requests, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.sources.settler import Settler
from flowrra.management import FlowrraManager
from flowrra.redis_script import Script
from flowrra.task import Task, TaskResult
from tests.core.apps import final, record_of, until
from tests.redis.apps import QUEUE, Gate, redis_app, with_tasks
from tests.redis.test_databases import at

Meanwhile = Callable[[], Awaitable[Any]]


class Losses:
    """Loses answers of scripts that the server has run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[Script] = Counter()
        self._meanwhile: dict[Script, Meanwhile | None] = {}
        self._run = redis_client.run_script
        monkeypatch.setattr(redis_client, "run_script", self._lossy)

    def lose(self, script: Script, meanwhile: Meanwhile | None = None) -> None:
        """Lose the next answer of a script, once that has happened which may take its time."""
        self._meanwhile[script] = meanwhile

    async def _lossy(self, send: Any, script: Script, *args: Any) -> Any:
        answer = await self._run(send, script, *args)
        if script not in self._meanwhile:
            return answer
        self.count[script] += 1
        if (meanwhile := self._meanwhile.pop(script)) is not None:
            await meanwhile()
        raise LostConnectionError("the answer was lost")


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    return Losses(monkeypatch)


@pytest.fixture
async def broker(url: str) -> AsyncIterator[RedisBroker]:
    """A worker of whose tasks there are no records here."""
    found = RedisBroker(url, queue_key=QUEUE)
    yield found
    await found.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[RedisBroker]:
    """Another worker."""
    found = RedisBroker(url, queue_key=QUEUE)
    yield found
    await found.close()


def entry(task_id: str) -> QueuedTask:
    text = codec.encode_task(Task(task_id, "work", (), {}), None, codec.encode_call((), {}, "work"))
    return QueuedTask(task_id, 0, 0.0, text, None)


def record(task_id: str) -> TaskResult:
    return TaskResult(task_id, TaskStatus.CANCELLED, "work")


DONE = Outcome(Verb.COMPLETE, "1", status=TaskStatus.SUCCESS)


class TestASubmission:
    async def test_runs_nothing_again_that_has_ended_meanwhile(self, url: str, losses: Losses) -> None:
        """Results are kept apart, so that nothing at the broker is left of a task that has ended."""
        gate, results = Gate(), at(url, 1)
        producer = with_tasks(redis_app(url, backend=results, consume=False))
        async with with_tasks(redis_app(url, backend=results), gate) as worker, producer:

            async def has_ended() -> None:
                await final(worker, "order-7")
                await until(lambda: not worker.executors["io"].source.held_ids())

            losses.lose(broker_module._SUBMIT, has_ended)
            assert await producer.options(task_id="order-7").submit("echo", 7) == "order-7"
            await final(worker, await producer.submit("echo", "last"))
            assert gate.begun == [7, "last"]
            assert (await record_of(producer, "order-7")).status is TaskStatus.SUCCESS
        assert losses.count[broker_module._SUBMIT] == 1

    async def test_is_answered_as_the_first_time(self, broker: RedisBroker, losses: Losses) -> None:
        await broker.submit([entry("known")])
        losses.lose(broker_module._SUBMIT)
        assert await broker.submit([entry("new"), entry("known"), entry("other")]) == [True, False, True]
        assert (await broker.figures()).pending == 3

    async def test_of_the_same_id_is_another_one_if_it_is_another_request(self, broker: RedisBroker) -> None:
        for _ in range(
            3
        ):  # such as after its record was deleted: nobody would run it, and its record would stay pending
            assert await broker.submit([entry("1")]) == [True]
            await broker.take(1)
            assert await broker.settle([DONE]) == [Verdict.SETTLED]

    async def test_costs_nothing_more_where_records_are_kept_in_the_same_step(
        self, url: str, look: redis.Redis
    ) -> None:
        async with with_tasks(redis_app(url)) as app:
            await final(app, await app.submit("echo", 1))
            await until(lambda: not app.executors["io"].source.held_ids())
            assert not [key for key in look.scan_iter(f"{QUEUE}:*") if b":answer:" in key or b":ended:" in key]

    async def test_is_known_only_for_a_while(self, broker: RedisBroker, look: redis.Redis) -> None:
        await broker.submit([entry("1")])
        await broker.take(1)
        await broker.settle([DONE])
        kept = [key for key in look.scan_iter(f"{QUEUE}:*") if b":answer:" in key or b":ended:" in key]
        assert len(kept) == 2
        assert all(0 < look.pttl(key) <= 60_000 for key in kept)


class TestACancellation:
    @pytest.mark.parametrize("database", [0, 1])
    async def test_of_a_task_that_waits(self, url: str, losses: Losses, database: int) -> None:
        async with with_tasks(redis_app(url, backend=at(url, database), consume=False)) as app:
            task_id = await app.submit("echo", 1)
            losses.lose(broker_module._CANCEL)
            assert await app.cancel_task(task_id) is True
            assert (await final(app, task_id)).status is TaskStatus.CANCELLED
            assert await app.cancel_task(task_id) is False
        assert losses.count[broker_module._CANCEL] == 1

    async def test_of_one_that_runs_is_waited_for(self, url: str, losses: Losses) -> None:
        gate = Gate()
        async with (
            with_tasks(redis_app(url), gate) as worker,
            with_tasks(redis_app(url, consume=False)) as producer,
        ):
            task_id = await producer.submit("hold", 1)
            await until(lambda: gate.begun)
            losses.lose(broker_module._CANCEL)
            assert await producer.cancel_task(task_id) is True
            assert (await record_of(worker, task_id)).status is TaskStatus.CANCELLED

    async def test_says_of_others_what_it_says_of_them(self, broker: RedisBroker, losses: Losses) -> None:
        await broker.submit([entry("1")])
        await broker.take(1)
        for expected in (Cancellation.RUNNING, Cancellation.ASKED):
            losses.lose(broker_module._CANCEL)
            assert await broker.cancel(record("1")) is expected
        losses.lose(broker_module._CANCEL)
        assert await broker.cancel(record("nobody's")) is Cancellation.UNKNOWN


@pytest.mark.parametrize("subject", ["queue", "name"])
async def test_a_pause_or_its_end_is_said_to_have_changed_what_it_has(
    broker: RedisBroker, losses: Losses, subject: str
) -> None:
    pause, which = (broker.pause_queue, "mail") if subject == "queue" else (broker.pause_name, "work")
    for is_paused in (True, False):
        for expected in (True, False):
            losses.lose(broker_module._PAUSE)
            assert await pause(which, is_paused) is expected
    assert losses.count[broker_module._PAUSE] == 4


async def test_a_dead_task_that_was_requeued_is_said_to_have_been(broker: RedisBroker, losses: Losses) -> None:
    await broker.submit([entry("1")])
    await broker.take(1)
    await broker.settle([Outcome(Verb.DEAD_LETTER, "1", text="a reason")])
    for expected in (True, False):
        losses.lose(broker_module._REQUEUE)
        assert await broker.requeue_dead("1", None) is expected
    assert (await broker.figures()).pending == 1


async def test_orders_that_came_while_others_were_taken_are_obeyed(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.order("worker", {"first": 1})
    client = broker.server.client()
    trim = client.ltrim

    async def lossy(*args: Any) -> None:
        await trim(*args)
        monkeypatch.undo()
        await broker.order("worker", {"second": 2})
        raise LostConnectionError("the answer was lost")

    monkeypatch.setattr(client, "ltrim", lossy)
    assert await broker.requests("worker", []) == Requests(frozenset(), frozenset(), [{"first": 1}])
    assert (await broker.requests("worker", [])).orders == [{"second": 2}]
    assert (await broker.requests("worker", [])).orders == []


class TestAnOutcomeToldAgain:
    @pytest.mark.parametrize("verb", [Verb.RETRY, Verb.RELEASE, Verb.NACK])
    async def test_runs_nothing_again_that_another_worker_has_ended(
        self, broker: RedisBroker, other: RedisBroker, verb: Verb
    ) -> None:
        await broker.submit([entry("1")])
        await broker.take(1)
        told = Outcome(verb, "1", text="work" if verb is Verb.NACK else entry("1").text)
        assert await broker.settle([told]) == [Verdict.SETTLED]
        await asyncio.to_thread(other.announce, None, ["work"], 60.0)
        assert len((await other.take(1))[0]) == 1
        assert await other.settle([DONE]) == [Verdict.SETTLED]

        assert await broker.settle([told]) == [Verdict.OVER]
        assert await other.settle([DONE]) == [Verdict.KNOWN]
        assert (await other.take(1))[0] == []
        await asyncio.to_thread(other.withdraw, None)

    async def test_runs_nothing_again_that_was_cancelled(self, broker: RedisBroker, other: RedisBroker) -> None:
        await broker.submit([entry("1")])
        await broker.take(1)
        retry = Outcome(Verb.RETRY, "1", 60.0, entry("1").text)
        await broker.settle([retry])
        assert await other.cancel(record("1")) is Cancellation.CANCELLED
        assert await broker.settle([retry]) == [Verdict.OVER]
        assert (await broker.figures()).delayed == 0

    @pytest.mark.parametrize("database", [0, 1])
    async def test_leaves_the_next_attempt_of_the_same_worker_alone(
        self, url: str, look: redis.Redis, losses: Losses, database: int
    ) -> None:
        gate, app = Gate(), redis_app(url, backend=at(url, database), lease=60.0)
        _add_retried(app, gate)
        async with app:
            source, manager = app.executors["io"].source, FlowrraManager(app)

            async def has_begun_again() -> None:
                await until(lambda: len(gate.begun) == 2)
                await manager.pause_queue()  # what is let go, this worker takes no more

            losses.lose(broker_module._SETTLE, has_begun_again)
            task_id = await app.submit("retried")
            await until(lambda: source.errors["settle"] == 1 and source.error is None)
            assert look.hkeys(f"{QUEUE}:holders") == [task_id.encode()]
            assert source.held_ids() == [task_id]
            await manager.resume_queue()
            gate.opened.set()
            outcome = await final(app, task_id)
            assert (outcome.status, outcome.retries, gate.begun) == (TaskStatus.SUCCESS, 1, [1, 2])
            await until(lambda: not app.executors["io"].source.held_ids())
        assert not look.exists(f"{QUEUE}:tasks", f"{QUEUE}:holders", f"{QUEUE}:delayed")


def _add_retried(app: Flowrra, gate: Gate) -> None:
    """With a task ``retried`` that fails first, and then waits for the gate."""

    @app.task(name="retried", max_retries=3, retry_delay=0.0)
    async def retried() -> None:
        gate.begun.append(len(gate.begun) + 1)
        if len(gate.begun) == 1:
            raise ConnectionError("away")
        await gate.opened.wait()


class Told:
    """What a settler has told, in which a task comes anew just when its outcome waits to be told again."""

    def __init__(self, broker: RedisBroker, *after: Outcome) -> None:
        self.ids: list[str] = []
        self.errors: list[BaseException | None] = []
        self.settler = Settler(broker, "io", self.ids.extend, lambda _: None, lambda *_: None, self._failed)
        self._after = after

    def _failed(self, error: BaseException | None) -> None:
        self.errors.append(error)
        if error is not None:
            self.settler.forget("1")
            for outcome in self._after:
                self.settler.add(outcome)


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.RELEASE, Verb.NACK])
async def test_what_waits_to_be_told_again_is_forgotten_when_its_task_comes_anew(
    broker: RedisBroker, losses: Losses, verb: Verb
) -> None:
    """The take was under way when the answer was lost."""
    await broker.submit([entry("1"), entry("2")])
    await broker.take(2)
    told = Told(broker, DONE)
    losses.lose(broker_module._SETTLE)
    told.settler.add(Outcome(verb, "1", 0.0, "work" if verb is Verb.NACK else entry("1").text))
    told.settler.add(Outcome(Verb.RELEASE, "2"))
    await told.settler.flush(10)
    assert told.ids == ["2", "1"]


async def test_a_settler_whose_last_outcome_is_forgotten_fails_no_more(broker: RedisBroker, losses: Losses) -> None:
    """While it does, nothing is taken."""
    told = Told(broker)
    losses.lose(broker_module._SETTLE)
    told.settler.add(Outcome(Verb.RELEASE, "1"))
    await told.settler.flush(10)
    assert (told.ids, told.settler.is_failing, told.errors[-1]) == ([], False, None)
