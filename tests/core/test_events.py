"""Events: every change of a task, in order, to everybody who asked, at nobody else's expense."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrra.events import EventBus, event_bus
from flowrra.management import FlowrraManager
from tests.core.apps import final, memory_app, numbers_of, until

Event = dict[str, Any]


# What a subscriber may fail with: neither what ends a program nor what ends an asyncio task is more than a failure.
ERRORS = [ValueError("boom"), SystemExit(3), asyncio.CancelledError("boom")]


class Listener:
    """Remembers every event it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [event["task"] for event in self.events if event["task"]["task_id"] == task_id]

    def states(self, task_id: str) -> list[str]:
        return [task["status"] for task in self.of(task_id)]


@pytest.fixture
def subscribe() -> Iterator[Callable[[Any], Any]]:
    """Subscribe to the bus of all apps for the length of a test."""
    subscribed = []

    def add(subscriber: Any) -> Any:
        event_bus.subscribe(subscriber)
        subscribed.append(subscriber)
        return subscriber

    yield add
    for subscriber in subscribed:
        asyncio.run(event_bus.unsubscribe(subscriber))


class Meeting:
    """A subscriber that lets another thread do something in the middle of a change of the bus that it is on."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = threading.Thread(target=meanwhile)

    def __call__(self, event: Event) -> None: ...

    def __eq__(self, other: object) -> bool:
        if self._meanwhile.ident is None:
            self._meanwhile.start()
            self._meanwhile.join(0.5)  # it may have to wait for this change
        return self is other

    __hash__ = object.__hash__

    def join(self) -> None:
        self._meanwhile.join()


class TestBus:
    async def test_who_is_subscribed_by_one_thread_stays_so_while_another_one_takes_somebody_off(self) -> None:
        bus, leaving, coming = EventBus(), Listener(), Listener()
        meeting = Meeting(lambda: bus.subscribe(coming))
        bus.subscribers = (meeting, leaving)
        await bus.unsubscribe(leaving)
        meeting.join()
        assert bus.subscribers == (meeting, coming)

    async def test_emit_reaches_all_and_returns_when_all_are_done(self) -> None:
        bus = EventBus()
        done: list[str] = []

        async def slow(event: Event) -> None:
            await asyncio.sleep(0.02)
            done.append("slow " + event["type"])

        async def quick(event: Event) -> None:
            done.append("quick " + event["type"])

        bus.subscribe(slow)
        await bus.async_subscribe(quick)
        await bus.emit({"type": "x"})

        assert done == ["quick x", "slow x"]

    async def test_the_subscribers_run_at_once(self) -> None:
        bus = EventBus()
        together = asyncio.Barrier(3)

        def meeting() -> Callable[[Event], Any]:
            async def meet(event: Event) -> None:
                await together.wait()

            return meet

        for _ in range(3):
            bus.subscribe(meeting())

        async with asyncio.timeout(5):
            await bus.emit({"type": "x"})

    @pytest.mark.parametrize("error", ERRORS, ids=repr)
    async def test_one_that_fails_is_logged_and_isolated(
        self, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = EventBus()
        listener = Listener()

        async def failing(event: Event) -> None:
            raise error

        bus.subscribe(failing)
        bus.subscribe(listener)
        await bus.emit({"type": "x"})

        assert listener.events == [{"type": "x"}]
        assert any(record.levelno >= logging.ERROR and record.exc_info for record in caplog.records)

    async def test_who_waits_for_them_can_be_cancelled(self) -> None:
        bus, called = EventBus(), asyncio.Event()

        async def slow(event: Event) -> None:
            called.set()
            await asyncio.Event().wait()

        bus.subscribe(slow)
        emitting = asyncio.create_task(bus.emit({"type": "x"}))
        await called.wait()
        emitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await emitting

    async def test_unsubscribing_ends_it_and_strangers_are_ignored(self) -> None:
        bus = EventBus()
        listener = Listener()
        bus.subscribe(listener)
        await bus.unsubscribe(Listener())
        await bus.emit({"type": "x"})
        await bus.unsubscribe(listener)
        await bus.emit({"type": "y"})

        assert [event["type"] for event in listener.events] == ["x"]

    async def test_a_subscriber_may_unsubscribe_itself_while_it_is_called(self) -> None:
        bus = EventBus()
        calls = 0

        async def once(event: Event) -> None:
            nonlocal calls
            calls += 1
            await bus.unsubscribe(once)

        bus.subscribe(once)
        await bus.emit({"type": "x"})
        await bus.emit({"type": "x"})

        assert calls == 1

    async def test_nobody_is_fine(self) -> None:
        await EventBus().emit({"type": "x"})


class TestOfAnApp:
    async def test_every_change_is_told_in_order_with_the_whole_record(self, subscribe: Any) -> None:
        app = memory_app()
        listener = subscribe(Listener())
        runs = 0

        @app.task(max_retries=1, retry_delay=0)
        async def flaky(a: int, *, b: int) -> int:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise ValueError("boom")
            return a + b

        async with app:
            task_id = await app.submit(flaky, 1, b=2)
            record = await final(app, task_id)
            await until(lambda: len(listener.of(task_id)) == 5)

        assert {event["type"] for event in listener.events} == {"task.update"}
        assert listener.states(task_id) == ["pending", "running", "retrying", "running", "success"]
        for task in listener.of(task_id):
            assert (task["task_name"], tuple(task["args"]), task["kwargs"]) == ("flaky", (1,), {"b": 2})
            assert task["submitted_at"] is not None
        assert listener.of(task_id)[-1] == record.to_dict

    @pytest.mark.parametrize("error", [ValueError("boom")])
    async def test_a_failure_comes_with_its_error(self, subscribe: Any, error: Exception) -> None:
        app = memory_app()
        listener = subscribe(Listener())

        @app.task(max_retries=0)
        async def failing() -> None:
            raise error

        async with app:
            task_id = await app.submit(failing)
            await until(lambda: len(listener.of(task_id)) == 3)

        assert listener.states(task_id) == ["pending", "running", "failed"]
        assert listener.of(task_id)[-1]["error"] == "ValueError: boom"

    async def test_a_cancellation_is_told_as_well(self, subscribe: Any) -> None:
        app = memory_app()
        listener = subscribe(Listener())

        @app.task()
        async def job() -> None: ...

        async with app:
            task_id = await app.options(countdown=60).submit(job)
            await FlowrraManager(app).cancel_task(task_id)
            await until(lambda: len(listener.of(task_id)) == 2)

        assert listener.states(task_id) == ["pending", "cancelled"]

    async def test_the_order_of_each_task_holds_under_load(self, subscribe: Any) -> None:
        app = memory_app(io_workers=8)
        listener = subscribe(Listener())

        @app.task(max_retries=1, retry_delay=0)
        async def job(fails: bool) -> None:
            await asyncio.sleep(0)
            if fails:
                raise ValueError

        async with app:
            ids = {await app.submit(job, n % 3 == 0): n % 3 == 0 for n in range(300)}
            for task_id in ids:
                await final(app, task_id)
            await until(lambda: len(listener.events) == 200 * 3 + 100 * 5)

        for task_id, fails in ids.items():
            retry = ["retrying", "running", "failed"] if fails else ["success"]
            assert listener.states(task_id) == ["pending", "running", *retry]

    async def test_an_event_tells_the_state_of_its_moment_even_when_it_comes_late(self, subscribe: Any) -> None:
        app = memory_app()
        gate = asyncio.Event()
        states: list[str] = []

        @subscribe
        async def late(event: Event) -> None:
            await gate.wait()
            states.append(event["task"]["status"])

        @app.task()
        async def job() -> None: ...

        async with app:
            await final(app, await app.submit(job))
            gate.set()
            await until(lambda: len(states) == 3)

        assert states == ["pending", "running", "success"]

    async def test_the_last_events_arrive_before_the_app_has_stopped(self, subscribe: Any) -> None:
        app = memory_app()
        listener = subscribe(Listener())

        @app.task()
        async def job() -> None: ...

        async with app:
            ids = [await app.submit(job) for _ in range(100)]

        assert [listener.states(task_id)[-1] for task_id in ids] == ["success"] * 100


class TestIsolation:
    async def test_a_slow_subscriber_slows_neither_submissions_nor_tasks(self, subscribe: Any) -> None:
        app = memory_app(io_workers=1)
        gate = asyncio.Event()

        @subscribe
        async def stuck(event: Event) -> None:
            await gate.wait()

        @app.task(max_retries=1, retry_delay=0)
        async def job(n: int) -> int:
            return n

        await app.start()
        try:
            async with asyncio.timeout(5):
                ids = [await app.submit(job, n) for n in range(100)]
                assert [(await final(app, task_id)).result for task_id in ids] == list(range(100))
        finally:
            gate.set()
            await app.stop()

    async def test_a_slow_subscriber_does_not_delay_the_others(self, subscribe: Any) -> None:
        app = memory_app()
        gate = asyncio.Event()

        @subscribe
        async def stuck(event: Event) -> None:
            await gate.wait()

        listener = subscribe(Listener())

        @app.task()
        async def job() -> None: ...

        await app.start()
        try:
            task_id = await app.submit(job)
            await until(lambda: len(listener.of(task_id)) == 3)
        finally:
            gate.set()
            await app.stop()

    async def test_a_plain_function_that_blocks_does_not_block_the_loop(self, subscribe: Any) -> None:
        app = memory_app()
        release = threading.Event()
        calls: list[str] = []

        @subscribe
        def blocking(event: Event) -> None:
            release.wait(timeout=10)
            calls.append(event["task"]["status"])

        @app.task()
        async def job() -> None: ...

        await app.start()
        try:
            started = time.monotonic()
            task_id = await app.submit(job)
            await final(app, task_id)
            assert time.monotonic() - started < 2
            release.set()
            await until(lambda: len(calls) == 3)
        finally:
            release.set()
            await app.stop()

        assert calls == ["pending", "running", "success"]

    @pytest.mark.parametrize("in_a_thread", [False, True], ids=["async", "plain"])
    @pytest.mark.parametrize("error", ERRORS, ids=repr)
    async def test_a_failing_subscriber_is_counted_logged_and_goes_on_getting_events(
        self, error: BaseException, in_a_thread: bool, subscribe: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = memory_app()
        calls = 0

        def failing(event: Event) -> None:
            nonlocal calls
            calls += 1
            raise error

        async def failing_on_the_loop(event: Event) -> None:
            failing(event)

        subscribe(failing if in_a_thread else failing_on_the_loop)

        @app.task()
        async def job() -> str:
            return "done"

        async with app:
            assert (await final(app, await app.submit(job))).result == "done"
            await until(lambda: calls == 3)
            numbers = await FlowrraManager(app).get_runtime_stats()

        assert numbers["subscriber_errors"] == 3
        assert any(record.levelno >= logging.ERROR and record.exc_info for record in caplog.records)

    @pytest.mark.slow
    async def test_what_a_subscriber_is_too_slow_for_is_bounded_and_counted(self, subscribe: Any) -> None:
        app = memory_app(io_workers=50, max_queue_size=10_000)
        manager = FlowrraManager(app)
        gate = asyncio.Event()
        kept: list[Event] = []

        @subscribe
        async def stuck(event: Event) -> None:
            await gate.wait()
            kept.append(event)

        @app.task()
        async def job() -> None: ...

        await app.start()
        try:
            for _ in range(10):
                await app.submit_many((job, (), {}) for _ in range(2000))
                if (await manager.get_runtime_stats())["subscriber_dropped"] > 100:
                    break
            await until(lambda: numbers_of(app, "job")["succeeded"] == numbers_of(app, "job")["submitted"])
            dropped = (await manager.get_runtime_stats())["subscriber_dropped"]
            assert dropped > 0, "nothing bounds what waits for a subscriber that is stuck"
            gate.set()
            await until(lambda: len(kept) + dropped == 3 * numbers_of(app, "job")["submitted"])
        finally:
            gate.set()
            await app.stop()

    async def test_a_subscriber_that_cancels_its_own_asyncio_task_loses_nothing_more(self, subscribe: Any) -> None:
        app = memory_app()
        calls: list[str] = []

        @subscribe
        async def odd(event: Event) -> None:
            calls.append(event["task"]["task_id"])
            if len(calls) == 1:
                raise asyncio.CancelledError

        @app.task()
        async def job() -> None: ...

        async with app:
            await final(app, await app.submit(job))
            second = await app.submit(job)
            await until(lambda: calls.count(second) == 3)

    async def test_nobody_is_told_what_happened_before_or_after(self) -> None:
        app = memory_app()
        listener = Listener()

        @app.task()
        async def job() -> None: ...

        async with app:
            await final(app, await app.submit(job))
            event_bus.subscribe(listener)
            during = await app.submit(job)
            await until(lambda: len(listener.events) == 3)
            await event_bus.unsubscribe(listener)
            await final(app, await app.submit(job))

        assert {event["task"]["task_id"] for event in listener.events} == {during}

    async def test_a_subscriber_may_submit_tasks(self, subscribe: Any) -> None:
        app = memory_app(io_workers=1)
        followed: list[str] = []

        @app.task()
        async def first() -> None: ...

        @app.task()
        async def second() -> None: ...

        @subscribe
        async def follow_up(event: Event) -> None:
            if event["task"]["task_name"] == "first" and event["task"]["status"] == "success":
                followed.append(await app.submit(second))

        async with app:
            await app.submit(first)
            await until(lambda: followed)
            assert (await final(app, followed[0])).status == "success"

    async def test_what_a_slow_subscriber_did_not_get_before_the_stop_is_counted_and_logged(
        self, subscribe: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flowrra.events.FLUSH_TIMEOUT", 0.05)
        app = memory_app()
        listener, begun = subscribe(Listener()), []

        @subscribe
        async def stuck(event: Event) -> None:
            begun.append(event)
            await asyncio.Event().wait()

        @app.task()
        async def job() -> None: ...

        async with app:
            for task_id in [await app.submit(job) for _ in range(5)]:
                await final(app, task_id)

        assert (len(listener.events), len(begun)) == (15, 1)
        assert (await FlowrraManager(app).get_runtime_stats())["subscriber_dropped"] == 14
        (line,) = [line for line in caplog.messages if "dropped at the stop" in line]
        assert "stuck" in line
        assert "dropped=14" in line

    async def test_what_nobody_wants_any_more_is_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flowrra.events.FLUSH_TIMEOUT", 0.05)
        app = memory_app()

        async def stuck(event: Event) -> None:
            await asyncio.Event().wait()

        @app.task()
        async def job() -> None: ...

        event_bus.subscribe(stuck)
        async with app:
            await final(app, await app.submit(job))
            await event_bus.unsubscribe(stuck)

        assert app.events.dropped == 0

    def test_what_was_left_on_a_loop_that_is_gone_is_counted(self, subscribe: Any) -> None:
        app = memory_app()

        @subscribe
        async def stuck(event: Event) -> None:
            await asyncio.Event().wait()

        @app.task()
        async def job() -> None: ...

        async def leave() -> None:
            await app.start()
            await final(app, await app.submit(job))

        async def stop() -> None:
            await app.stop()
            async with app:
                await app.submit(job)

        asyncio.run(leave())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowrra.events.FLUSH_TIMEOUT", 0.05)
            asyncio.run(stop())

        assert app.events.dropped == 2 + 2

    async def test_each_says_whose_it_is(self, subscribe: Any) -> None:
        apps = [memory_app(), memory_app()]
        listener = subscribe(Listener())

        async def shared() -> None: ...

        owners = {}
        async with apps[0], apps[1]:
            for app in apps:
                app.task()(shared)
                owners[await app.submit("shared")] = app.id
            await until(lambda: len(listener.events) == 6)

        assert {event["task"]["task_id"]: event["app"] for event in listener.events} == owners
        assert len(set(owners.values())) == 2

    async def test_two_apps_on_one_bus_each_tell_their_own(self, subscribe: Any) -> None:
        first, second = memory_app(), memory_app()
        listener = subscribe(Listener())

        async def shared() -> None: ...

        first.task()(shared)
        second.task()(shared)
        async with first, second:
            ids = [await first.submit(shared), await second.submit(shared)]
            await until(lambda: len(listener.events) == 6)

        for task_id in ids:
            assert listener.states(task_id) == ["pending", "running", "success"]
