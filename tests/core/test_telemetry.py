"""The task counters: plain numbers that add up at any moment, readable from any thread, bounded by the registry."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowrra.management import FlowrraManager
from flowrra.telemetry import QUEUE_WAIT_BOUNDS, RUN_DURATION_BOUNDS, TaskTelemetry
from tests.core import cpu_tasks
from tests.core.apps import (
    BACKENDS,
    OUTCOMES,
    assert_counts_add_up,
    cpu_app,
    final,
    memory_app,
    numbers_of,
    until,
    without_a_loop,
)

COUNTERS = [
    "submitted",
    "started",
    "succeeded",
    "failed",
    "retried",
    "cancelled",
    "released",
    "timed_out",
    "redelivered",
    "cancelled_before_start",
    "running",
    "retrying",
]


def observations(histogram: dict[str, Any]) -> int:
    return sum(histogram["counts"])


class TestShape:
    async def test_every_registered_task_is_there_from_the_start_at_zero(self) -> None:
        app = memory_app()

        @app.task(name="mail.send")
        async def send() -> None: ...

        for moment in ("before", "running", "after"):
            if moment == "running":
                await app.start()
            elif moment == "after":
                await app.stop()
            numbers = await FlowrraManager(app).get_task_stats()
            assert list(numbers) == ["mail.send"]
            assert {name: numbers["mail.send"][name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0)

    async def test_nothing_more_and_nothing_less(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None: ...

        numbers = numbers_of(app, "job")

        assert set(numbers) == {
            *COUNTERS, "executor", "oldest_running_at", "exceptions", "run_duration", "queue_wait",
        }  # fmt: skip
        assert numbers["executor"] == "io"
        assert numbers["oldest_running_at"] is None
        assert numbers["exceptions"] == {}
        assert set(numbers["run_duration"]) == {"success", "error"}

    async def test_histograms_have_fixed_ascending_bounds_and_one_bucket_above_them(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None: ...

        numbers = numbers_of(app, "job")
        durations = numbers["run_duration"]

        for histogram, bounds in ((durations["success"], 14), (durations["error"], 14), (numbers["queue_wait"], 10)):
            assert set(histogram) == {"bounds", "counts", "sum"}
            assert len(histogram["bounds"]) == bounds
            assert len(histogram["counts"]) == bounds + 1
            assert list(histogram["bounds"]) == sorted(set(histogram["bounds"]))
            assert max(histogram["bounds"]) < float("inf")
            assert (sum(histogram["counts"]), histogram["sum"]) == (0, 0.0)
        assert durations["success"]["bounds"] == durations["error"]["bounds"]
        assert durations["success"]["bounds"][0] <= 0.005
        assert durations["success"]["bounds"][-1] == 3600

    async def test_what_was_read_does_not_change_afterwards(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def failing() -> None:
            raise ValueError

        async with app:
            before = numbers_of(app, "failing")
            await final(app, await app.submit(failing))

        assert (before["started"], before["exceptions"], observations(before["run_duration"]["error"])) == (0, {}, 0)


class TestMeaning:
    async def test_a_success(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None:
            await asyncio.sleep(0.03)

        async with app:
            for _ in range(3):
                await final(app, await app.submit(job))

        numbers = numbers_of(app, "job")
        assert (numbers["submitted"], numbers["started"], numbers["succeeded"]) == (3, 3, 3)
        success = numbers["run_duration"]["success"]
        assert observations(success) == 3
        assert 0.09 <= success["sum"] < 3
        below = sum(count for bound, count in zip(success["bounds"], success["counts"], strict=False) if bound < 0.03)
        assert below == 0, "a run of 30 ms is in no bucket below that"
        assert observations(numbers["run_duration"]["error"]) == 0
        assert observations(numbers["queue_wait"]) == 3

    async def test_a_failure_after_retries(self) -> None:
        app = memory_app()

        @app.task(max_retries=2, retry_delay=0)
        async def failing() -> None:
            raise ValueError

        async with app:
            await final(app, await app.submit(failing))

        numbers = numbers_of(app, "failing")
        assert (numbers["submitted"], numbers["started"], numbers["retried"], numbers["failed"]) == (1, 3, 2, 1)
        assert observations(numbers["run_duration"]["error"]) == 3
        assert observations(numbers["run_duration"]["success"]) == 0
        assert observations(numbers["queue_wait"]) == 3

    async def test_running_and_since_when(self) -> None:
        app = memory_app(io_workers=2)
        gate = asyncio.Event()

        @app.task()
        async def job() -> None:
            await gate.wait()

        async with app:
            before = datetime.now(UTC)
            first = await app.submit(job)
            await until(lambda: numbers_of(app, "job")["running"] == 1)
            started = numbers_of(app, "job")["oldest_running_at"]
            await asyncio.sleep(0.05)
            await app.submit(job)
            await until(lambda: numbers_of(app, "job")["running"] == 2)
            oldest = numbers_of(app, "job")["oldest_running_at"]
            gate.set()
            await final(app, first)

        assert started.utcoffset() == timedelta(0)
        assert before - timedelta(milliseconds=50) <= started <= datetime.now(UTC)
        assert abs(oldest - started) < timedelta(milliseconds=20), "the older of the two is the one that is told"
        assert numbers_of(app, "job")["oldest_running_at"] is None

    @pytest.mark.slow
    async def test_waiting_is_measured_from_the_time_at_which_a_task_is_due(self) -> None:
        app = memory_app()

        @app.task(max_retries=1, retry_delay=0.3)
        async def flaky() -> None:
            raise ValueError

        async with app:
            began = time.monotonic()
            await final(app, await app.options(countdown=0.3).submit(flaky))
            took = time.monotonic() - began

        waits = numbers_of(app, "flaky")["queue_wait"]
        assert observations(waits) == 2
        assert 0 <= waits["sum"] < took - 0.3, "a deliberate delay is not waiting"

    async def test_waiting_behind_a_busy_worker_is_measured(self) -> None:
        app = memory_app(io_workers=1)

        @app.task()
        async def job() -> None:
            await asyncio.sleep(0.05)

        async with app:
            for _ in range(3):
                await app.submit(job)

        assert numbers_of(app, "job")["queue_wait"]["sum"] >= 0.05 + 0.10

    async def test_they_outlive_a_stop(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None: ...

        for _ in range(2):
            async with app:
                await app.submit(job)

        assert numbers_of(app, "job")["succeeded"] == 2

    async def test_two_tasks_are_counted_apart(self) -> None:
        app = memory_app()

        @app.task()
        async def one() -> None: ...

        @app.task(max_retries=0)
        async def two() -> None:
            raise ValueError

        async with app:
            await app.submit(one)
            await app.submit(two)

        assert (numbers_of(app, "one")["succeeded"], numbers_of(app, "one")["failed"]) == (1, 0)
        assert (numbers_of(app, "two")["succeeded"], numbers_of(app, "two")["failed"]) == (0, 1)

    async def test_exception_classes_without_end_do_not_cost_memory_without_end(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def inventive(n: int) -> None:
            raise type(f"Error{n}" + "x" * 10_000, (Exception,), {})

        async with app:
            for n in range(300):
                await app.submit(inventive, n)

        exceptions = numbers_of(app, "inventive")["exceptions"]
        assert sum(exceptions.values()) == 300
        assert len(exceptions) <= 100
        assert max(map(len, exceptions)) <= 200

    async def test_exception_names_can_always_be_written_as_utf8(self) -> None:
        class Renaming(type):
            @property
            def __name__(cls) -> str:  # type: ignore[override]
                return "Half\ud83dFace"

        class Odd(Exception, metaclass=Renaming): ...

        assert "\ud83d" in Odd.__name__
        app = memory_app()

        @app.task(max_retries=0)
        async def odd() -> None:
            raise Odd

        async with app:
            await app.submit(odd)

        (name,) = numbers_of(app, "odd")["exceptions"]
        assert name.encode() == b"Odd"


async def test_a_name_that_becomes_a_task_of_the_other_kind_is_counted_there() -> None:
    app = cpu_app()

    @app.task(name="echo")
    async def echo() -> None: ...

    async with app:
        await final(app, await app.submit("echo"))
        app.registry.unregister("echo")
        app.task(name="echo", cpu_bound=True)(cpu_tasks.echo)

        numbers = numbers_of(app, "echo")
        assert (numbers["executor"], numbers["succeeded"]) == ("cpu", 1)
        # What an executor has begun never becomes less.
        assert [app.telemetry.started_by(kind) for kind in ("io", "cpu")] == [1, 0]


def test_the_numbers_need_no_event_loop_at_all() -> None:
    app = memory_app()

    @app.task()
    async def job() -> None: ...

    manager = FlowrraManager(app)
    assert without_a_loop(manager.get_task_stats())["job"]["started"] == 0
    without_a_loop(manager.get_runtime_stats())


async def test_the_numbers_can_be_read_while_the_loop_is_blocked() -> None:
    app = memory_app()
    blocked, read = threading.Event(), threading.Event()
    seen: list[dict[str, Any]] = []

    @app.task()
    async def blocking() -> None:
        blocked.set()
        read.wait(timeout=5)

    def reader() -> None:
        blocked.wait(timeout=5)
        seen.append(numbers_of(app, "blocking"))
        read.set()

    thread = threading.Thread(target=reader)
    thread.start()
    async with app:
        await final(app, await app.submit(blocking))
    thread.join(timeout=5)

    assert (seen[0]["running"], seen[0]["succeeded"]) == (1, 0)
    assert seen[0]["oldest_running_at"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(2))
async def test_at_any_moment_of_a_random_load_the_numbers_add_up(seed: int, backend: str) -> None:
    """Another thread reads all the time, while tasks succeed, fail, time out, are cancelled and are cut off."""
    chance = random.Random(seed)
    slots = 5
    app = memory_app(io_workers=slots, max_queue_size=50, backend=BACKENDS[backend]())
    manager = FlowrraManager(app)

    @app.task(max_retries=2, retry_delay=0.001, timeout=0.02)
    async def job(turns: int, ending: str) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if ending == "fails":
            raise ValueError
        if ending == "hangs":
            await asyncio.sleep(60)

    stop_reading = threading.Event()
    mistakes: list[str] = []
    readings = 0

    def read_all_the_time() -> None:
        nonlocal readings
        last = dict.fromkeys(COUNTERS, 0)
        while not stop_reading.is_set():
            numbers = without_a_loop(manager.get_task_stats())["job"]
            readings += 1
            if numbers["started"] != sum(numbers[outcome] for outcome in OUTCOMES) + numbers["running"]:
                mistakes.append(f"doesn't add up: {numbers}")
            if not 0 <= numbers["running"] <= slots:
                mistakes.append(f"running {numbers['running']} in {slots} slots")
            if numbers["retrying"] < 0:
                mistakes.append(f"retrying {numbers['retrying']}")
            for counter in set(COUNTERS) - {"running", "retrying"}:
                if numbers[counter] < last[counter]:
                    mistakes.append(f"{counter} went back from {last[counter]} to {numbers[counter]}")
            last = numbers

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    try:
        await app.start()
        ids = []
        for _ in range(400):
            ending = chance.choices(["returns", "fails", "hangs"], [6, 3, 1])[0]
            ids.append(await app.submit(job, chance.randint(0, 3), ending))
            if chance.random() < 0.2:
                await manager.cancel_task(chance.choice(ids))
        await app.stop(timeout=0.05)
    finally:
        stop_reading.set()
        await asyncio.to_thread(reader.join)

    assert mistakes == []
    assert readings > 100
    numbers = numbers_of(app, "job")
    assert_counts_add_up(numbers, running=0)
    assert numbers["retrying"] == 0
    assert numbers["submitted"] == 400
    assert sum(numbers[each] for each in ("succeeded", "failed", "cancelled", "cancelled_before_start")) == 400
    assert numbers["timed_out"] <= numbers["failed"] + numbers["retried"]
    assert numbers["timed_out"] > 0
    assert sum(numbers["exceptions"].values()) == numbers["failed"] + numbers["retried"]
    assert observations(numbers["run_duration"]["success"]) == numbers["succeeded"]
    assert observations(numbers["run_duration"]["error"]) >= numbers["failed"] + numbers["retried"]
    assert observations(numbers["queue_wait"]) == numbers["started"]


@pytest.fixture
def threads_take_turns_quickly() -> Iterator[None]:
    """Interrupt threads far more often than usual, so that what can be seen between two steps is."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("threads_take_turns_quickly")
def test_another_thread_sees_a_failed_attempt_in_all_its_numbers_or_in_none() -> None:
    telemetry, over = TaskTelemetry("io", RUN_DURATION_BOUNDS, QUEUE_WAIT_BOUNDS), threading.Event()

    def fail_and_fail() -> None:
        while not over.is_set():
            telemetry.count_start(0.1)
            telemetry.count_retried(0.2, "ValueError", timed_out=True)

    app = threading.Thread(target=fail_and_fail)
    app.start()
    try:
        for _ in range(3000):
            seen = telemetry.snapshot()
            assert sum(seen["run_duration"]["error"]["counts"]) == seen["retried"] == seen["timed_out"]
            assert seen["running"] in (0, 1)
            assert telemetry.activity_since(None).succeeded == 0
    finally:
        over.set()
        app.join()


async def test_the_memory_for_numbers_is_bounded_by_the_registry() -> None:
    app = memory_app(io_workers=10)

    @app.task()
    async def job(n: int) -> None: ...

    def size() -> int:
        numbers = without_a_loop(FlowrraManager(app).get_task_stats())
        return len(numbers) + sum(len(each) for each in itertools.chain.from_iterable(
            (one, one["exceptions"], one["queue_wait"]["counts"]) for one in numbers.values()
        ))  # fmt: skip

    async with app:
        await final(app, await app.submit(job, 0))
        before = size()
        for n in range(2000):
            await app.submit(job, n)

    assert size() == before


class TestRuntime:
    async def test_the_shape(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None: ...

        async with app:
            numbers = await FlowrraManager(app).get_runtime_stats()

        assert set(numbers) == {
            "stopping", "last_stall",
            "loop_lag", "stalls", "blocking", "worker_restarts", "broker_errors", "backend_errors",
            "watchers", "subscriber_dropped", "subscriber_errors", "stuck", "abandoned_at_stop", "heartbeat_at",
        }  # fmt: skip
        assert numbers["worker_restarts"] == {"io": 0}
        assert numbers["broker_errors"] == numbers["backend_errors"] == {}
        assert (numbers["stalls"], numbers["subscriber_dropped"], numbers["subscriber_errors"]) == (0, 0, 0)
        assert numbers["blocking"] is None
        lag = numbers["loop_lag"]
        assert len(lag["counts"]) == len(lag["bounds"]) + 1

    async def test_only_executors_that_exist_have_worker_restarts(self) -> None:
        async with memory_app() as app:
            assert (await FlowrraManager(app).get_runtime_stats())["worker_restarts"] == {}

    async def test_the_lag_of_the_loop_is_observed(self) -> None:
        app = memory_app()
        manager = FlowrraManager(app)

        @app.task()
        async def job() -> None: ...

        async with app:
            await until(lambda: observations(without_a_loop(manager.get_runtime_stats())["loop_lag"]) > 0)

    @pytest.mark.slow
    async def test_a_task_that_blocks_the_loop_is_named_while_it_does_and_counted_afterwards(self) -> None:
        app = memory_app()
        manager = FlowrraManager(app)
        seen: list[dict[str, Any]] = []
        done = threading.Event()

        @app.task(name="report.blocks")
        async def blocks() -> None:
            import time

            deadline = time.monotonic() + 5
            while not done.is_set() and time.monotonic() < deadline:
                time.sleep(0.01)

        def watch() -> None:
            import time

            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                blocking = without_a_loop(manager.get_runtime_stats())["blocking"]
                if blocking is not None and blocking["seconds"] > 1.2:
                    seen.append(blocking)
                    break
                time.sleep(0.01)
            done.set()

        async with app:
            watcher = threading.Thread(target=watch)
            watcher.start()
            task_id = await app.submit(blocks)
            await final(app, task_id, within=10)
            await asyncio.to_thread(watcher.join)
            await until(lambda: without_a_loop(manager.get_runtime_stats())["stalls"] == 1)
            after = await manager.get_runtime_stats()

        assert seen, "nobody said that the loop was blocked"
        assert seen[0]["task"] == {"id": task_id, "name": "report.blocks"}
        assert "blocks" in seen[0]["stack"]
        assert after["blocking"] is None
        assert after["loop_lag"]["sum"] >= 1.0


class TestBounds:
    async def test_the_histograms_count_in_the_buckets_that_were_asked_for(self) -> None:
        app = memory_app()

        @app.task()
        async def job() -> None:
            await asyncio.sleep(0.02)

        manager = FlowrraManager(app)
        await manager.set_histogram_bounds(run_duration=(0.01, 5.0), queue_wait=(2.0,), loop_lag=(0.5, 1.0))
        async with app:
            await app.wait_for_result(await app.submit(job), timeout=5)
            stats = (await manager.get_task_stats())["job"]
            lag = (await manager.get_runtime_stats())["loop_lag"]
            with pytest.raises(RuntimeError, match="before"):
                await manager.set_histogram_bounds(run_duration=(1.0,))

        assert stats["run_duration"]["success"]["bounds"] == (0.01, 5.0)
        assert stats["run_duration"]["success"]["counts"] == (0, 1, 0)
        assert stats["queue_wait"]["counts"] == (1, 0)
        assert lag["bounds"] == (0.5, 1.0)

    @pytest.mark.parametrize("bounds", [(), (0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1.0, float("inf")), (float("nan"),)])
    async def test_bounds_that_make_no_sense_are_refused(self, bounds: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="bounds"):
            await FlowrraManager(memory_app()).set_histogram_bounds(run_duration=bounds)

    @pytest.mark.parametrize("refused", ["queue_wait", "loop_lag"])
    async def test_a_call_that_is_refused_changes_nothing(self, refused: str) -> None:
        app = memory_app()
        with pytest.raises(ValueError, match="bounds"):
            await FlowrraManager(app).set_histogram_bounds(run_duration=(1.0, 2.0), **{refused: (3.0, 1.0)})
        later = app.telemetry.register("registered later", "io")
        assert (later.run_bounds, later.wait_bounds) == (RUN_DURATION_BOUNDS, QUEUE_WAIT_BOUNDS)
