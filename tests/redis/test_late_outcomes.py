"""What a worker says of a task that it was given and does not hold any more: the first success counts, whoever tells
it; that it was silent for a while is no death; and what the server has forgotten, a live worker has not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from flowrra import TaskResult, TaskStatus, codec, current_task
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Delivery, Outcome, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.sources.leased import LeasedSource
from flowrra.management import FlowrraManager
from tests.core.apps import RemoteBackend, final, numbers_of, record_of, until
from tests.redis.apps import QUEUE, Gate, counts_of, let_lapse, redis_app, with_tasks
from tests.support.servers import ValkeyServer


def record(task_id: str, status: TaskStatus) -> codec.EncodedRecord:
    return codec.encode_record(TaskResult(task_id, status, "echo", submitted_at=datetime.now(UTC)))


class Workers:
    """Two workers that do with their tasks what the test says, and a producer."""

    def __init__(self, url: str) -> None:
        self.results = RedisBackend(url)
        self.one, self.other = (RedisBroker(url, queue_key=QUEUE) for _ in range(2))
        for broker in (self.one, self.other):
            assert broker.keeps_records_of(self.results)

    async def close(self) -> None:
        for each in (self.one, self.other, self.results):
            await each.close()


@pytest.fixture
async def workers(url: str) -> AsyncIterator[Workers]:
    found = Workers(url)
    yield found
    await found.close()


async def lapsed_task(url: str, workers: Workers, look: redis.Redis, *, is_held: bool) -> Delivery:
    """A task that the first worker had, and that the other one has by now, if it ``is_held``."""
    async with with_tasks(redis_app(url, consume=False)) as producer:
        await producer.submit("echo", 1)
    (delivery,), _ = await workers.one.take(1)
    let_lapse(look)
    deliveries, _ = await workers.other.take(1 if is_held else 0)
    assert len(deliveries) == is_held
    return delivery


class TestTheFirstSuccess:
    @pytest.mark.parametrize("is_held", [True, False])
    async def test_counts_though_the_hold_has_lapsed(
        self, url: str, look: redis.Redis, workers: Workers, is_held: bool
    ) -> None:
        task_id = (await lapsed_task(url, workers, look, is_held=is_held)).task_id
        success = Outcome(Verb.COMPLETE, task_id, record=record(task_id, TaskStatus.SUCCESS))
        failure = Outcome(Verb.COMPLETE, task_id, record=record(task_id, TaskStatus.FAILED))

        assert await workers.one.settle([success]) == [Verdict.SETTLED]
        assert not look.exists(f"{QUEUE}:tasks", f"{QUEUE}:leases", f"{QUEUE}:holders", f"{QUEUE}:ready")
        # What the other one says, be it a success, comes second.
        assert await workers.other.settle([failure]) == [Verdict.OVER]
        again = Outcome(Verb.RETRY, task_id, 0.0, "text")
        assert await workers.other.settle([again]) == [Verdict.OVER]
        assert (await workers.results.get(task_id)).status is TaskStatus.SUCCESS  # type: ignore[union-attr]
        renewal = await asyncio.to_thread(workers.other.renew, [task_id])
        assert renewal.lost == [task_id]
        await asyncio.to_thread(workers.other.withdraw, None)

    async def test_counts_while_the_task_waits_for_its_next_attempt(
        self, url: str, look: redis.Redis, workers: Workers
    ) -> None:
        delivery = await lapsed_task(url, workers, look, is_held=True)
        assert delivery.task is not None
        text = codec.encode_task(delivery.task, delivery.submitted_at, delivery.call)
        await workers.other.settle([Outcome(Verb.RETRY, delivery.task_id, 60.0, text)])
        success = Outcome(Verb.COMPLETE, delivery.task_id, record=record(delivery.task_id, TaskStatus.SUCCESS))
        assert await workers.one.settle([success]) == [Verdict.SETTLED]
        assert not look.exists(f"{QUEUE}:tasks", f"{QUEUE}:delayed")

    async def test_brings_a_task_back_that_was_given_up(self, url: str, look: redis.Redis, workers: Workers) -> None:
        delivery = await lapsed_task(url, workers, look, is_held=True)
        failed = record(delivery.task_id, TaskStatus.FAILED)
        await workers.other.settle(
            [Outcome(Verb.DEAD_LETTER, delivery.task_id, text="its workers died", record=failed)]
        )
        success = Outcome(Verb.COMPLETE, delivery.task_id, record=record(delivery.task_id, TaskStatus.SUCCESS))
        assert await workers.one.settle([success]) == [Verdict.SETTLED]
        assert not look.exists(f"{QUEUE}:dead", f"{QUEUE}:dead:tasks")
        assert [each.task_id for each in await workers.results.list_by_status(TaskStatus.SUCCESS)] == [delivery.task_id]
        assert await workers.results.list_by_status(TaskStatus.FAILED) == []

    @pytest.mark.slow
    async def test_in_an_app_whose_worker_held_the_interpreter_lock(self, url: str, tmp_path: Path) -> None:
        """All threads of its process stood, the one that renews leases with them."""
        program = tmp_path / "stalls.py"
        program.write_text(
            "import asyncio, ctypes, sys\n"
            "from tests.redis.apps import redis_app\n"
            "app = redis_app(sys.argv[1], lease=1.0, max_deliveries=1)\n"
            "@app.task(name='stall')\n"
            "async def stall():\n"
            "    print('stalls', flush=True)\n"
            "    ctypes.PyDLL(None).sleep(3)\n"  # a call that keeps the lock
            "    return 'from the one that stood'\n"
            "async def main():\n"
            "    async with app:\n"
            "        await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), url, stdout=subprocess.PIPE, env={"PYTHONPATH": "."}
        )
        gate = Gate()
        app = redis_app(url, lease=1.0, max_deliveries=2)

        @app.task(name="stall")
        async def stall() -> str:
            gate.begun.append(1)
            await gate.opened.wait()
            return "from the other one"

        try:
            producer = redis_app(url, consume=False)
            producer.task(name="stall")(lambda_task)
            async with producer:
                task_id = await producer.submit("stall")
                assert process.stdout is not None
                await process.stdout.readline()
                async with app:
                    await until(lambda: gate.begun, within=10)
                    outcome = await final(app, task_id, within=10)
                    assert outcome.result == "from the one that stood"
                    gate.opened.set()
                    await until(lambda: numbers_of(app, "stall")["running"] == 0)
                    await asyncio.sleep(0.2)
                    assert (await record_of(app, task_id)).result == "from the one that stood"
                    assert await FlowrraManager(app).list_dead_tasks() == []
        finally:
            process.kill()
            await process.wait()


async def lambda_task() -> None:
    """Only its name is submitted."""


class TestSilence:
    async def test_deliveries_that_ended_in_an_outcome_do_not_count(
        self, url: str, look: redis.Redis, workers: Workers
    ) -> None:
        """Each worker is cut off, loses the task to the other one, and then says how it went."""
        delivery = await lapsed_task(url, workers, look, is_held=True)
        assert delivery.task is not None
        text = codec.encode_task(delivery.task, delivery.submitted_at, delivery.call)
        late, holder = workers.one, workers.other
        for n in range(6):
            again = Outcome(Verb.RETRY, delivery.task_id, 0.0, text + " " * n)
            failed = Outcome(Verb.COMPLETE, delivery.task_id, record=record(delivery.task_id, TaskStatus.FAILED))
            assert await late.settle([again if n % 2 else failed]) == [Verdict.LATE]
            let_lapse(look)
            (found,), _ = await late.take(1)
            assert found.deliveries <= 1
            late, holder = holder, late

    async def test_a_worker_that_never_heard_of_a_task_did_not_die(
        self, url: str, look: redis.Redis, workers: Workers
    ) -> None:
        """The answer that gave it the task was lost; it lives, and renews what it knows of."""
        async with with_tasks(redis_app(url, consume=False)) as producer:
            await producer.submit("echo", 1)
        await workers.one.take(1)
        let_lapse(look)
        await asyncio.to_thread(workers.one.renew, [])
        (delivery,), _ = await workers.other.take(1)
        assert delivery.deliveries == 0
        await asyncio.to_thread(workers.one.withdraw, None)

    async def test_the_tasks_of_a_lost_answer_are_back_at_once(
        self, url: str, look: redis.Redis, workers: Workers
    ) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            ids = [await producer.submit("echo", n) for n in range(5)]
        heard = [each.task_id for each in (await workers.one.take(2))[0]]
        await workers.one.take(2)  # nobody hears of these
        others = [each.task_id for each in (await workers.other.take(1))[0]]
        assert (heard, others) == (ids[:2], ids[4:])
        assert await workers.one.recover(heard) == 2
        assert [(each.task_id, each.deliveries) for each in (await workers.other.take(9))[0]] == [
            (ids[2], 0),
            (ids[3], 0),
        ]


@pytest.fixture
def forgetful() -> Iterator[tuple[str, redis.Redis]]:
    """A server of the test's own."""
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        yield f"redis://127.0.0.1:{server.port}/0", client


class TestAServerThatHasForgotten:
    """As after a failover to a replica that lacked the last writes."""

    async def test_what_live_workers_know_is_kept(
        self, forgetful: tuple[str, redis.Redis], caplog: pytest.LogCaptureFixture
    ) -> None:
        url, look = forgetful
        gate = Gate()
        app = with_tasks(redis_app(url, lease=1.0, workers=2), gate)
        attempts: list[int] = []

        @app.task(name="again", max_retries=2, retry_delay=0.0)
        async def again() -> str:
            task = current_task()
            assert task is not None
            attempts.append(task.attempt)
            if task.attempt == 1:
                await gate.opened.wait()
            if task.attempt < 3:
                raise ValueError("boom")
            return "third time"

        async with app:
            warm = await app.submit_many([("add", (1, 1), {})] * 300)
            await final(app, warm[-1])
            ids = await app.submit_many([("hold", (0,), {}), ("again", (), {}), ("hold", (2,), {})])
            await until(lambda: len(gate.begun) + len(attempts) == 2)
            look.flushall()
            await until(lambda: "does not know" in caplog.text)
            gate.opened.set()
            # By who waits for records that needn't be there yet: they were lost, and come back with the outcomes.
            executor = app.executors["io"]
            results = [(await executor.wait_for_result(task_id, timeout=5)).result for task_id in ids]
            assert await counts_of(app) == (0, 0, 0, 0)

        assert results == [0, "third time", 2]
        assert attempts == [1, 2, 3]
        assert "another worker" not in caplog.text

    async def test_what_a_stopping_worker_gives_back_is_queued_anew(self, forgetful: tuple[str, redis.Redis]) -> None:
        url, look = forgetful
        gate = Gate()
        app = with_tasks(redis_app(url, workers=2), gate)
        await app.start()
        ids = [await app.submit("hold", n) for n in range(2)]
        await until(lambda: len(gate.begun) == 2)
        look.flushall()
        await app.stop(wait=False)
        gate.opened.set()
        async with with_tasks(redis_app(url), gate) as other:
            for n, task_id in enumerate(ids):
                record = await other.executors["io"].wait_for_result(task_id, timeout=5)
                assert record.result == n

    async def test_with_results_elsewhere(self, forgetful: tuple[str, redis.Redis]) -> None:
        url, look = forgetful
        gate, backend = Gate(), RemoteBackend()
        async with with_tasks(redis_app(url, backend=backend), gate) as app:
            task_id = await app.submit("hold", 7)
            await until(lambda: gate.begun)
            look.flushall()
            gate.opened.set()
            assert (await final(app, task_id)).result == 7

    @pytest.mark.slow
    async def test_restarted_without_its_data(self, caplog: pytest.LogCaptureFixture) -> None:
        gate = Gate()
        with ValkeyServer() as server:
            port, url = server.port, f"redis://127.0.0.1:{server.port}/0"
            app = with_tasks(redis_app(url, lease=1.0), gate)
            await app.start()
            ids = [await app.submit("hold", n) for n in range(3)]
            await until(lambda: len(gate.begun) == 3)
            waits = [asyncio.create_task(final(app, task_id, within=15)) for task_id in ids]
            await asyncio.sleep(0.1)
        with ValkeyServer(port=port):
            gate.opened.set()
            try:
                assert [(await wait).result for wait in waits] == [0, 1, 2]
            finally:
                await app.stop()
        assert "another worker" not in caplog.text


class TestALostAnswer:
    @pytest.mark.parametrize("has_records", [True, False])
    async def test_the_same_is_known_when_it_is_said_again(
        self, url: str, look: redis.Redis, caplog: pytest.LogCaptureFixture, has_records: bool
    ) -> None:
        async with with_tasks(redis_app(url, consume=False)) as producer:
            await producer.submit_many([("echo", (n,), {}) for n in range(5)])
        workers = Workers(url)
        broker = workers.one if has_records else RedisBroker(url, queue_key=QUEUE)
        first, *rest = (await broker.take(5))[0]
        assert first.task is not None
        text = codec.encode_task(first.task, first.submitted_at, first.call)
        ids = [first.task_id, *(each.task_id for each in rest)]

        def kept(task_id: str, status: TaskStatus) -> codec.EncodedRecord | None:
            return record(task_id, status) if has_records else None

        outcomes = [
            Outcome(Verb.RETRY, ids[0], 60.0, text, kept(ids[0], TaskStatus.RETRYING)),
            Outcome(Verb.RELEASE, ids[1]),
            Outcome(Verb.NACK, ids[2], text="echo"),
            Outcome(Verb.DEAD_LETTER, ids[3], text="a reason", record=kept(ids[3], TaskStatus.FAILED)),
            Outcome(Verb.COMPLETE, ids[4], record=kept(ids[4], TaskStatus.SUCCESS), status=TaskStatus.SUCCESS),
        ]
        assert set(await broker.settle(outcomes)) == {Verdict.SETTLED}
        before = {key: look.dump(key) for key in look.keys(f"{QUEUE}:*") if not key.endswith(b":place")}  # type: ignore[union-attr]
        verdicts = await broker.settle(outcomes)
        assert not set(verdicts) & {Verdict.LATE}
        assert before == {key: look.dump(key) for key in look.keys(f"{QUEUE}:*") if not key.endswith(b":place")}  # type: ignore[union-attr]
        await broker.close()
        await workers.close()


@pytest.mark.slow
async def test_a_late_failure_on_another_server_does_not_replace_a_success(url: str, look: redis.Redis) -> None:
    gate, backend = Gate(), RemoteBackend()
    app = with_tasks(redis_app(url, backend=backend, lease=20.0, workers=1))

    @app.task(name="late", max_retries=0)
    async def late() -> None:
        gate.begun.append(1)
        await gate.opened.wait()
        raise ValueError("boom")

    async with app:
        task_id = await app.submit("late")
        await until(lambda: gate.begun)
        other = RedisBroker(url, queue_key=QUEUE)
        let_lapse(look)
        ((found,), _) = await other.take(1)
        assert found.task_id == task_id
        # The worker hears at its next renewal that the task is another one's by now.
        await backend.store(task_id, TaskResult(task_id, TaskStatus.SUCCESS, "late", result="the other's"))
        assert await other.settle([Outcome(Verb.COMPLETE, task_id, status=TaskStatus.SUCCESS)]) == [Verdict.SETTLED]
        source = app.executors["io"].source
        assert isinstance(source, LeasedSource)
        await until(lambda: task_id not in source.held_ids(), within=10)
        gate.opened.set()
        await until(lambda: numbers_of(app, "late")["running"] == 0)
        await other.close()
        assert (await record_of(app, task_id)).result == "the other's"


async def test_a_late_success_on_another_server_does_not_undo_a_cancellation(url: str, look: redis.Redis) -> None:
    gate, backend = Gate(), RemoteBackend()
    app, other = with_tasks(redis_app(url, backend=backend, lease=1.0), gate), RedisBroker(url, queue_key=QUEUE)
    async with app:
        source = app.executors["io"].source
        assert isinstance(source, LeasedSource)
        task_id = await app.submit("hold")
        await until(lambda: gate.begun)
        # Its hold has lapsed, and it waits for another worker.
        await other.pause_queue("default", True)
        async with asyncio.timeout(10):
            while source.held_ids():
                let_lapse(look)
                await other.take(0)
                await asyncio.sleep(0.05)
        assert await app.cancel_task(task_id) is True
        assert (await final(app, task_id)).status is TaskStatus.CANCELLED
        gate.opened.set()
        await until(lambda: numbers_of(app, "hold")["running"] == 0)
        assert (await record_of(app, task_id)).status is TaskStatus.CANCELLED
    await other.close()
