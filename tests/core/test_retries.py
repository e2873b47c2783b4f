"""When an attempt fails: how often it is repeated, when, for which exceptions, and what the record says."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import flowrra
from flowrra import Flowrra, Reject, Task, TaskResult
from flowrra.events import event_bus
from flowrra.exceptions import SerializationError
from flowrra.executors.outcomes import retry_delay
from flowrra.management import FlowrraManager
from flowrra.ranges import MAX_BACKOFF, MAX_DELAY, MAX_RETRIES
from tests.core import cpu_tasks
from tests.core.apps import (
    RemoteBackend,
    assert_counts_add_up,
    cpu_app,
    final,
    memory_app,
    numbers_of,
    record_of,
    until,
)


async def run(app: Flowrra, task: Any, *args: Any) -> TaskResult:
    """Submit to a started app of its own and return the finished record."""
    async with app:
        return await final(app, await app.submit(task, *args))


def error_of(record: TaskResult) -> str:
    assert record.error is not None
    return record.error


class TestHowOften:
    @pytest.mark.parametrize("max_retries", [0, 1, 3])
    async def test_retries_are_extra_attempts(self, max_retries: int) -> None:
        app = memory_app()
        runs = 0

        @app.task(max_retries=max_retries, retry_delay=0)
        async def failing() -> None:
            nonlocal runs
            runs += 1
            raise ValueError("boom")

        record = await run(app, failing)

        assert runs == max_retries + 1
        assert (record.status, record.retries, record.error) == ("failed", max_retries, "ValueError: boom")
        numbers = numbers_of(app, "failing")
        assert (numbers["started"], numbers["retried"], numbers["failed"]) == (max_retries + 1, max_retries, 1)
        assert_counts_add_up(numbers, running=0)

    async def test_a_later_attempt_may_succeed(self) -> None:
        app = memory_app()
        runs = 0

        @app.task(max_retries=5, retry_delay=0)
        async def flaky() -> int:
            nonlocal runs
            runs += 1
            if runs < 3:
                raise ValueError("not yet")
            return runs

        record = await run(app, flaky)

        assert (record.status, record.result, record.retries, record.error) == ("success", 3, 2, None)

    async def test_the_attempt_number_is_known_inside(self) -> None:
        app = memory_app()
        attempts: list[int] = []

        @app.task(max_retries=2, retry_delay=0)
        async def failing() -> None:
            task = flowrra.current_task()
            assert task is not None
            attempts.append(task.attempt)
            raise ValueError

        await run(app, failing)

        assert attempts == [1, 2, 3]

    async def test_the_states_are_passed_in_order(self) -> None:
        app = memory_app()
        states: list[tuple[str, int]] = []

        async def watch(event: dict[str, Any]) -> None:
            states.append((event["task"]["status"], event["task"]["retries"]))

        @app.task(max_retries=1, retry_delay=0)
        async def failing() -> None:
            raise ValueError

        event_bus.subscribe(watch)
        try:
            await run(app, failing)
            await until(lambda: len(states) == 5)
        finally:
            await event_bus.unsubscribe(watch)

        assert [state for state, _ in states] == ["pending", "running", "retrying", "running", "failed"]
        assert states[-1] == ("failed", 1)


class TestWhen:
    async def test_the_record_is_retrying_while_it_waits_and_no_worker_is_held(self) -> None:
        app = memory_app(io_workers=1)

        @app.task(max_retries=1, retry_delay=60)
        async def failing(n: int) -> None:
            raise ValueError(n)

        @app.task()
        async def quick() -> str:
            return "done"

        await app.start()
        try:
            ids = [await app.submit(failing, n) for n in range(20)]
            await until(lambda: numbers_of(app, "failing")["retrying"] == 20)
            waiting = [await record_of(app, task_id) for task_id in ids]

            assert (await final(app, await app.submit(quick), within=2)).result == "done"
            assert {record.status for record in waiting} == {"retrying"}
            assert [record.args for record in waiting] == [(n,) for n in range(20)]
            assert all(record.submitted_at for record in waiting)
            assert all(record.finished_at is None for record in waiting)
            stats = await FlowrraManager(app).get_stats()
            assert stats["executors"]["io"]["busy"] == 0
        finally:
            await app.stop(wait=False)

    @pytest.mark.slow
    async def test_the_delay_is_constant_unless_asked_otherwise(self) -> None:
        gaps = await gaps_between_attempts(max_retries=4, retry_delay=0.2)

        assert all(gap >= 0.2 for gap in gaps)
        assert sum(gaps) < 0.2 * (1 + 2 + 4 + 8) / 2, f"{gaps} looks like doubling"

    @pytest.mark.slow
    async def test_backoff_multiplies_the_delay_each_time(self) -> None:
        gaps = await gaps_between_attempts(max_retries=3, retry_delay=0.1, backoff=3.0)

        assert [gap >= least for gap, least in zip(gaps, (0.1, 0.3, 0.9), strict=True)] == [True] * 3
        assert gaps[0] < gaps[2], f"{gaps}: the first delay is the plain one"

    @pytest.mark.slow
    async def test_jitter_spreads_the_delays_around_the_plain_one(self) -> None:
        app = memory_app(io_workers=30)
        starts: dict[int, list[float]] = {}

        @app.task(max_retries=1, retry_delay=0.4, jitter=0.5)
        async def failing(n: int) -> None:
            starts.setdefault(n, []).append(asyncio.get_running_loop().time())
            raise ValueError

        async with app:
            for task_id in [await app.submit(failing, n) for n in range(30)]:
                await final(app, task_id)

        gaps = [second - first for first, second in starts.values()]
        assert min(gaps) >= 0.2
        assert max(gaps) - min(gaps) > 0.05

    @pytest.mark.parametrize("backoff", [2, 10**9, 1e9], ids=repr)
    def test_the_delay_of_any_attempt_is_soon_computed(self, backoff: float) -> None:
        task = Task("id", "name", (), {}, retry_delay=1, backoff=backoff, current_retry=MAX_RETRIES)

        assert retry_delay(task) == 24 * 3600

    def test_jitter_is_as_much_more_as_less(self) -> None:
        task = Task("id", "name", (), {}, retry_delay=10, jitter=0.2)
        delays = [retry_delay(task) for _ in range(1000)]

        assert 8 <= min(delays) < 8.2
        assert 11.8 < max(delays) <= 12

    def test_no_delay_stays_none_however_often_it_is_multiplied(self) -> None:
        task = Task("id", "name", (), {}, retry_delay=0, backoff=MAX_BACKOFF, current_retry=MAX_RETRIES)

        assert retry_delay(task) == 0

    async def test_an_absurd_backoff_does_not_break_the_worker(self) -> None:
        app = memory_app(io_workers=1)

        @app.task(max_retries=MAX_RETRIES, retry_delay=MAX_DELAY, backoff=MAX_BACKOFF)
        async def failing() -> None:
            raise ValueError

        @app.task()
        async def quick() -> str:
            return "done"

        await app.start()
        try:
            await app.submit(failing)
            await until(lambda: numbers_of(app, "failing")["retried"] == 1)
            assert (await final(app, await app.submit(quick))).result == "done"
        finally:
            await app.stop(wait=False)


async def gaps_between_attempts(**options: Any) -> list[float]:
    """Seconds between the starts of the attempts of a task that always fails."""
    app = memory_app()
    starts: list[float] = []

    @app.task(**options)
    async def failing() -> None:
        starts.append(asyncio.get_running_loop().time())
        raise ValueError

    await run(app, failing)
    return [later - earlier for earlier, later in itertools.pairwise(starts)]


class TestForWhichExceptions:
    async def test_only_those_that_are_worth_it(self) -> None:
        app = memory_app()

        @app.task(max_retries=2, retry_delay=0, retry_on=(ConnectionError, KeyError))
        async def job(error: Exception) -> None:
            raise error

        async with app:
            kept = await final(app, await app.submit(job, ConnectionResetError("again")))
            key = await final(app, await app.submit(job, KeyError("again")))
            given_up = await final(app, await app.submit(job, ValueError("no use")))

        assert (kept.retries, key.retries, given_up.retries) == (2, 2, 0)
        assert {kept.status, key.status, given_up.status} == {"failed"}

    async def test_a_single_class(self) -> None:
        app = memory_app()

        @app.task(max_retries=1, retry_delay=0, retry_on=OSError)
        async def job(error: Exception) -> None:
            raise error

        async with app:
            assert (await final(app, await app.submit(job, OSError()))).retries == 1
            assert (await final(app, await app.submit(job, ValueError()))).retries == 0

    async def test_reject_fails_at_once(self) -> None:
        app = memory_app()
        runs = 0

        @app.task(max_retries=5, retry_delay=0)
        async def job() -> None:
            nonlocal runs
            runs += 1
            raise flowrra.Reject("no such customer")

        record = await run(app, job)

        assert runs == 1
        assert (record.status, record.retries) == ("failed", 0)
        assert error_of(record) == "Reject: no such customer"

    async def test_reject_fails_at_once_even_when_everything_is_worth_a_retry(self) -> None:
        app = memory_app()

        @app.task(max_retries=5, retry_delay=0, retry_on=BaseException)
        async def job() -> None:
            raise flowrra.Reject

        assert (await run(app, job)).retries == 0


class TestTimeLimit:
    async def test_an_attempt_that_takes_too_long_is_ended_and_repeated(self) -> None:
        app = memory_app(io_workers=1)
        cleaned_up: list[int] = []

        @app.task(max_retries=1, retry_delay=0, timeout=0.05)
        async def slow() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cleaned_up.append(1)

        record = await run(app, slow)

        assert (record.status, record.retries) == ("failed", 1)
        assert "TimeoutError" in error_of(record)
        assert "0.05" in error_of(record)
        assert cleaned_up == [1, 1]
        numbers = numbers_of(app, "slow")
        assert (numbers["timed_out"], numbers["retried"], numbers["failed"]) == (2, 1, 1)
        assert_counts_add_up(numbers, running=0)

    async def test_the_limit_is_for_each_attempt(self) -> None:
        app = memory_app()

        @app.task(max_retries=3, retry_delay=0, timeout=0.2)
        async def job() -> str:
            task = flowrra.current_task()
            assert task is not None
            await asyncio.sleep(0.1)
            if task.attempt < 4:
                raise ValueError
            return "done"

        assert (await run(app, job)).result == "done"

    async def test_a_submission_may_set_its_own(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def slow() -> None:
            await asyncio.sleep(60)

        async with app:
            record = await final(app, await app.options(timeout=0.05).submit(slow))

        assert record.status == "failed"
        assert numbers_of(app, "slow")["timed_out"] == 1

    async def test_a_quick_task_is_not_touched(self) -> None:
        app = memory_app()

        @app.task(timeout=30)
        async def quick() -> str:
            await asyncio.sleep(0)
            return "done"

        assert (await run(app, quick)).result == "done"
        assert numbers_of(app, "quick")["timed_out"] == 0

    async def test_a_timeout_that_the_task_raises_itself_is_not_one_of_these(self) -> None:
        app = memory_app()

        @app.task(max_retries=0, timeout=30)
        async def job() -> None:
            raise TimeoutError("the other side is slow")

        record = await run(app, job)

        assert error_of(record) == "TimeoutError: the other side is slow"
        assert numbers_of(app, "job")["timed_out"] == 0

    async def test_time_limits_can_be_kept_from_being_retried(self) -> None:
        app = memory_app()

        @app.task(max_retries=5, retry_delay=0, timeout=0.05, retry_on=ValueError)
        async def slow() -> None:
            await asyncio.sleep(60)

        assert (await run(app, slow)).retries == 0

    async def test_waiting_in_the_queue_does_not_count(self) -> None:
        app = memory_app(io_workers=1)

        @app.task(timeout=0.2, max_retries=0)
        async def job() -> str:
            await asyncio.sleep(0.1)
            return "done"

        async with app:
            ids = [await app.submit(job) for _ in range(4)]
            assert [(await final(app, task_id)).result for task_id in ids] == ["done"] * 4


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class StrIsNoText(Exception):
    def __str__(self) -> str:
        return 42  # type: ignore[return-value]


class TestWhatTheRecordSays:
    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ValueError("boom"), "ValueError: boom"),
            (KeyError("key"), "KeyError: 'key'"),
            (ValueError("first\nsecond"), "ValueError: first\nsecond"),
            (ValueError("käse 😀"), "ValueError: käse 😀"),
        ],
        ids=repr,
    )
    async def test_the_error_names_the_exception_and_gives_its_text(self, error: Exception, text: str) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def job() -> None:
            raise error

        assert error_of(await run(app, job)) == text

    @pytest.mark.parametrize(
        "error", [ValueError(), ValueError(""), StrRaises(), StrIsNoText()], ids=lambda e: type(e).__name__
    )
    async def test_an_exception_without_a_usable_text_is_still_named(self, error: Exception) -> None:
        app = memory_app(io_workers=1)

        @app.task(max_retries=1, retry_delay=0)
        async def job() -> None:
            raise error

        async with app:
            for _ in range(2):  # and the worker lives on
                record = await final(app, await app.submit(job))
                assert (record.status, record.retries) == ("failed", 1)
                assert error_of(record).startswith(type(error).__name__)

    async def test_a_text_that_cannot_be_encoded_can_still_be_printed_as_json(self) -> None:
        import json

        app = memory_app()

        @app.task(max_retries=0)
        async def job() -> None:
            raise ValueError("half a \ud83d face")

        record = await run(app, job)

        assert error_of(record).startswith("ValueError: half a ")
        json.dumps(record.to_dict)

    async def test_the_traceback_is_kept_and_bounded(self) -> None:
        app = memory_app()

        async def deep(levels: int) -> None:
            if levels:
                await deep(levels - 1)
            raise ValueError("at the bottom " + "x" * 1_000_000)

        @app.task(max_retries=0)
        async def job() -> None:
            await deep(50)

        record = await run(app, job)

        assert record.traceback is not None
        assert "in deep" in record.traceback
        assert "ValueError" in record.traceback
        assert len(record.traceback) < 100_000
        assert len(error_of(record)) < 100_000

    async def test_a_short_traceback_is_whole(self) -> None:
        app = memory_app()

        @app.task(max_retries=0)
        async def job() -> None:
            raise ValueError("boom")

        traceback = (await run(app, job)).traceback or ""
        assert traceback.count("Traceback (most recent call last)") == 1
        assert traceback.endswith("ValueError: boom\n")
        assert "…" not in traceback

    async def test_the_exceptions_are_counted_by_class(self) -> None:
        app = memory_app()
        errors: list[Exception] = [ValueError(), KeyError(), ValueError(), StrRaises()]

        @app.task(max_retries=3, retry_delay=0)
        async def job() -> None:
            raise errors.pop(0)

        await run(app, job)

        assert numbers_of(app, "job")["exceptions"] == {"ValueError": 2, "KeyError": 1, "StrRaises": 1}

    async def test_a_retry_that_can_not_be_recorded_is_none(self) -> None:
        class Refusing(RemoteBackend):
            async def store(self, task_id: str, result: TaskResult) -> None:
                if result.status == "retrying":
                    raise ValueError("too large")
                await super().store(task_id, result)

        app, runs = memory_app(backend=Refusing()), 0

        @app.task(max_retries=3, retry_delay=0)
        async def failing() -> None:
            nonlocal runs
            runs += 1
            raise KeyError("a")

        record = await run(app, failing)
        assert error_of(record) == "SerializationError: its record could not be stored: ValueError: too large"
        assert (runs, record.status, record.retries) == (1, "failed", 0)
        assert_counts_add_up(numbers_of(app, "failing"), running=0)

    async def test_a_success_after_failures_still_says_when_it_was_submitted(self) -> None:
        app = memory_app()
        runs = 0

        @app.task(max_retries=1, retry_delay=0)
        async def flaky(a: int, *, b: int) -> int:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise ValueError
            return a + b

        async with app:
            task_id = await app.submit(flaky, 1, b=2)
            submitted_at = (await record_of(app, task_id)).submitted_at
            record = await final(app, task_id)

        assert (record.args, record.kwargs, record.submitted_at) == ((1,), {"b": 2}, submitted_at)


class TestGroups:
    """An exception group counts by what is in it."""

    REJECTED = ExceptionGroup("all", [Reject("a"), ExceptionGroup("inner", [Reject("b"), SerializationError("c")])])
    MIXED = ExceptionGroup("some", [Reject("a"), ExceptionGroup("inner", [TypeError("b"), OSError("c")])])
    CANCELLED = BaseExceptionGroup("cancelled", [asyncio.CancelledError()])

    @pytest.mark.parametrize(
        ("error", "retry_on", "attempts"),
        [
            (REJECTED, Exception, 1),
            (REJECTED, ExceptionGroup, 1),
            (MIXED, Exception, 2),
            (MIXED, OSError, 2),
            (MIXED, (KeyError, TypeError), 2),
            (MIXED, ExceptionGroup, 2),
            (MIXED, KeyError, 1),
            (MIXED, Reject, 1),
            (CANCELLED, Exception, 2),
            (CANCELLED, OSError, 1),
            (BaseExceptionGroup("exit", [SystemExit(1)]), Exception, 1),
            (BaseExceptionGroup("exit", [SystemExit(1), ValueError()]), Exception, 2),
        ],
        ids=str,
    )
    async def test_it_is_retried_for_any_of_its_own_but_never_for_rejects(
        self, error: BaseException, retry_on: Any, attempts: int
    ) -> None:
        app = memory_app()

        @app.task(max_retries=1, retry_delay=0, retry_on=retry_on)
        async def failing() -> None:
            raise error

        record = await run(app, failing)

        assert record.status == "failed"
        assert record.retries + 1 == attempts

    async def test_one_from_a_task_group(self) -> None:
        app = memory_app()

        @app.task(max_retries=2, retry_delay=0)
        async def failing() -> None:
            async def reject() -> None:
                raise Reject("never again")

            async with asyncio.TaskGroup() as group:
                group.create_task(reject())

        assert (await run(app, failing)).retries == 0

    async def test_one_from_a_worker_process(self) -> None:
        app = cpu_app()
        app.task(cpu_bound=True, max_retries=2, retry_delay=0)(cpu_tasks.reject_in_a_group)
        async with app:
            record = await final(app, await app.submit(cpu_tasks.reject_in_a_group), within=20)

        assert record.retries == 0
        assert "never again" in str(record.traceback)

    async def test_one_of_any_depth_and_any_sharing_is_soon_judged(self) -> None:
        app = memory_app()
        error: Exception = Reject("at the bottom")
        for _ in range(200):
            error = ExceptionGroup("twice", [error, error])
        app_task = app.task(max_retries=1)

        @app_task
        async def failing() -> None:
            raise NamedGroup("outside", [error])

        class NamedGroup(ExceptionGroup[Exception]):
            """Prints nothing of what is in it, which would take for ever."""

            @property
            def exceptions(self) -> Any:  # type: ignore[override]
                return ()

        assert (await run(app, failing)).retries == 0
