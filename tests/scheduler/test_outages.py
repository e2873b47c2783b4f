"""A store that fails for a while: what is due is submitted once, the health says why, and is well again afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from tests.core.apps import until
from tests.scheduler.test_simulated_time import START, World


class Store:
    """Makes operations of a store fail, and counts their calls."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self._backend = world.scheduler.backend
        self._monkeypatch = monkeypatch
        self.calls = 0

    def fail(self, operation: str, *, then: bool = False) -> None:
        """From now on that operation raises; ``then``: after it has done what it should."""
        real = getattr(self._backend, operation)

        async def failing(*args: Any, **kwargs: Any) -> None:
            self.calls += 1
            if then:
                await real(*args, **kwargs)
            raise ConnectionError("as planned")

        self._monkeypatch.setattr(self._backend, operation, failing)

    def count(self, operation: str) -> None:
        """From now on count the calls of that operation."""
        real = getattr(self._backend, operation)

        async def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return await real(*args, **kwargs)

        self._monkeypatch.setattr(self._backend, operation, counting)

    def repair(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "schedules.db", START)
    yield world
    await world.scheduler.stop()
    await world.scheduler.backend.close()


@pytest.fixture
def store(world: World, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(world, monkeypatch)


def errors_of(world: World) -> dict[str, int]:
    return world.scheduler.run_stats()["store_errors"]


@pytest.mark.parametrize("operation", ["claim", "next_due", "count_by_task", "list_broken", "catch_up_with_clock"])
async def test_a_store_that_can_not_be_read_is_asked_each_second_and_well_afterwards(
    world: World, store: Store, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await world.scheduler.schedule_once("note", START + timedelta(seconds=1))
    store.fail(operation)
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=5))
    assert world.scheduler.store_error == "ConnectionError: as planned"
    assert errors_of(world) == {"claim": 6, "settle": 0}
    assert store.calls == 6
    [begun] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "schedules could not be read or claimed" in begun.getMessage()
    assert begun.exc_info is not None
    store.repair()
    await world.clock.run(timedelta(seconds=1))
    [ended] = [message for message in caplog.messages if message.startswith("over: schedules could not be read")]
    assert "times=6" in ended
    assert world.scheduler.store_error is None
    assert world.counts() == {"submitted": 1}
    await world.clock.run(timedelta(minutes=10))
    assert errors_of(world) == {"claim": 6, "settle": 0}


@pytest.mark.parametrize("then", [False, True])
async def test_what_could_not_be_recorded_is_recorded_a_second_later_and_not_submitted_again(
    world: World, store: Store, then: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await world.scheduler.schedule_once("note", START)
    store.fail("settle", then=then)
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=2))
    assert world.scheduler.store_error == "ConnectionError: as planned"
    assert errors_of(world)["settle"] >= 3
    assert "runs could not be settled" in caplog.text
    store.repair()
    await world.clock.run(timedelta(seconds=1))
    assert world.scheduler.store_error is None
    [run] = await world.scheduler.list_runs()
    assert (run["result"], run["attempts"], len(world.submitted)) == ("submitted", 1, 1)
    assert world.counts() == {"submitted": 1}


async def refuse(world: World, condition: str) -> None:
    """From now on the store refuses what would make such a row of a run."""
    store = world.scheduler.backend
    assert isinstance(store, SqlSchedulerBackend)
    what = f"BEFORE UPDATE ON schedule_runs WHEN {condition} BEGIN SELECT RAISE(ABORT, 'as planned'); END"
    await store._write(sa.text(f"CREATE TRIGGER refusal {what}"))


async def test_rows_that_the_store_refuses_hold_up_no_others_and_are_recorded_once_it_takes_them(
    world: World,
) -> None:
    names = [*(f"bad{number}" for number in range(7)), "good", "better"]
    for late, name in enumerate(reversed(names)):
        await world.scheduler.schedule_once("note", START - timedelta(seconds=late), [name], task_id=name)
    await refuse(world, "NEW.id LIKE 'bad%'")
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=3))

    async def results() -> dict[str, str]:
        return {run["schedule_id"]: run["result"] for run in await world.scheduler.list_runs()}

    bad = dict.fromkeys(names[:7], "claimed")
    assert await results() == {**bad, "good": "submitted", "better": "submitted"}
    assert "as planned" in str(world.scheduler.store_error)
    await world.scheduler.backend._write(sa.text("DROP TRIGGER refusal"))  # type: ignore[attr-defined]
    await world.clock.run(timedelta(seconds=1))
    assert await results() == dict.fromkeys(names, "submitted")
    assert (world.scheduler.store_error, len(world.submitted)) == (None, len(names))


async def test_an_error_in_letters_that_the_column_has_not_is_recorded_in_ascii(world: World) -> None:
    async def submit(*_: Any) -> None:
        raise ConnectionError("für 5 €")

    world.scheduler.set_submit_callback(submit)
    await world.scheduler.schedule_once("note", START)
    await world.scheduler.list_runs()
    await refuse(world, "NEW.error GLOB '*[^ -~]*'")
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=1))
    [run] = await world.scheduler.list_runs()
    assert run["error"] == r"ConnectionError: f\xfcr 5 \u20ac"
    assert world.scheduler.store_error is None


async def test_a_run_that_was_triggered_and_not_recorded_is_counted_and_unhealthy_until_the_next_turn(
    world: World, store: Store
) -> None:
    schedule = await world.scheduler.schedule_cron("note", "@yearly")
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=1))
    store.fail("settle")
    assert await world.scheduler.trigger(schedule)
    assert errors_of(world) == {"claim": 0, "settle": 1}
    assert world.scheduler.store_error == "ConnectionError: as planned"
    assert world.counts() == {"submitted": 1}
    store.repair()
    await world.scheduler.schedule_cron("note", "@monthly")  # wakes it
    await until(lambda: world.scheduler.store_error is None)
    [run] = await world.scheduler.list_runs()
    assert (run["result"], run["attempts"], world.counts()) == ("submitted", 1, {"submitted": 1})


async def test_a_run_that_was_triggered_has_failed_if_its_caller_gives_up_and_is_not_tried_again(world: World) -> None:
    begun, calls = asyncio.Event(), 0

    async def submit(*_: Any) -> None:
        nonlocal calls
        calls += 1
        begun.set()
        await asyncio.Event().wait()

    world.scheduler.set_submit_callback(submit)
    schedule = await world.scheduler.schedule_cron("note", "@yearly")
    await world.scheduler.start()
    triggering = asyncio.create_task(world.scheduler.trigger(schedule))
    await asyncio.wait_for(begun.wait(), 10)
    triggering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await triggering
    await world.clock.run(timedelta(minutes=2))
    [run] = await world.scheduler.list_runs()
    assert (run["result"], run["error"]) == ("failed", "CancelledError: it was given up before it was queued")
    assert (calls, world.counts()) == (1, {"failed": 1})


async def test_an_error_without_text_is_that_of_the_trigger(world: World) -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def submit(*_: Any) -> None:
        raise Speechless

    world.scheduler.set_submit_callback(submit)
    with pytest.raises(Speechless):
        await world.scheduler.trigger(await world.scheduler.schedule_cron("note", "@yearly"))
    [run] = await world.scheduler.list_runs()
    assert run["result"] == "failed"


async def test_a_stop_goes_on_though_the_store_can_neither_record_nor_be_closed(
    world: World, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await world.scheduler.schedule_once("note", START)
    store.fail("settle")
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=1))
    store.fail("close")
    await world.scheduler.stop()
    assert not world.scheduler.is_running
    assert "schedule store could not be closed" in caplog.text
    store.repair()
    [run] = await world.scheduler.list_runs()
    assert run["result"] == "claimed"
    # It knows nothing of that run after a restart, as any other scheduler, and takes it over after its lease.
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=20))
    assert len(world.submitted) == 1
    await world.clock.run(timedelta(seconds=20))
    [run] = await world.scheduler.list_runs()
    assert (run["result"], run["attempts"], len(world.submitted)) == ("submitted", 2, 2)


async def test_schedules_are_looked_over_at_the_start_and_not_with_each_turn(world: World, store: Store) -> None:
    await world.scheduler.schedule_interval("note", 1)
    store.count("count_by_task")
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=20))
    assert world.counts() == {"submitted": 20}
    assert store.calls == 1


async def test_a_broken_schedule_holds_up_nothing_when_schedules_are_looked_over(world: World) -> None:
    schedule = await world.scheduler.schedule_interval("note", 60)
    task = await world.scheduler.get_scheduled_task(schedule)
    assert task is not None
    task.id, task.schedule, task.broken, task.next_run_at = "bad", "often", "as planned", None
    await world.scheduler.backend.create(task)
    await world.scheduler.start()
    await world.clock.run(timedelta(minutes=1))
    assert (world.scheduler.store_error, world.counts()) == (None, {"submitted": 1})
    assert (await world.scheduler.stats())["broken_schedules"] == 1


async def test_a_scheduler_has_a_new_name_after_a_fork_and_after_a_restart(world: World) -> None:
    schedule = await world.scheduler.schedule_cron("note", "@yearly")

    async def owner() -> str:
        run = await world.scheduler.trigger(schedule)
        world.clock.at += 1
        return next(str(row["owner"]) for row in await world.scheduler.backend.list_runs(None, 10) if row["id"] == run)

    first, again = await owner(), await owner()
    assert first == again
    world.scheduler.forked()
    forked = await owner()
    await world.scheduler.start()
    assert len({first, forked, await owner()}) == 3


@pytest.mark.parametrize(("ends", "result"), [(True, "submitted"), (False, "claimed")])
async def test_a_stop_lets_a_submission_end_and_records_it_and_cancels_one_that_takes_long(
    world: World, monkeypatch: pytest.MonkeyPatch, ends: bool, result: str
) -> None:
    monkeypatch.setattr("flowrra.scheduler.dispatcher.FINISH_TIMEOUT", 20.0 if ends else 0.2)
    begun, may_end, cancelled = asyncio.Event(), asyncio.Event(), False

    async def submit(*_: Any) -> None:
        nonlocal cancelled
        begun.set()
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    world.scheduler.set_submit_callback(submit)
    await world.scheduler.schedule_once("note", START)
    await world.scheduler.start()
    await asyncio.wait_for(begun.wait(), 10)
    stopping = asyncio.create_task(world.scheduler.stop())
    await until(lambda: not world.scheduler.is_running)
    if ends:
        may_end.set()
    await stopping
    [run] = await world.scheduler.list_runs()
    assert (run["result"], cancelled) == (result, not ends)
    assert (run["error"] is None) is ends


async def test_a_loop_that_does_not_end_is_cancelled_and_the_store_closed(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.scheduler.scheduler.STOP_TIMEOUT", 0.2)
    hangs = asyncio.Event()

    async def hang(*_: Any) -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.scheduler.backend, "claim", hang)
    await world.scheduler.schedule_once("note", START)
    await world.scheduler.start()
    await asyncio.wait_for(hangs.wait(), 10)
    store.count("close")
    await asyncio.wait_for(world.scheduler.stop(), 10)
    assert store.calls == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("flowrra-scheduler")]


async def test_a_loop_is_expected_to_turn_45_seconds_after_it_meant_to(world: World) -> None:
    assert world.scheduler.expected_at is None
    before = time.monotonic()
    await world.scheduler.schedule_once("note", START + timedelta(seconds=60))
    await world.scheduler.start()
    assert world.scheduler.expected_at is not None
    assert before + 45 <= world.scheduler.expected_at <= time.monotonic() + 45
    await world.clock.run(timedelta(seconds=1))
    assert before + 105 <= world.scheduler.expected_at <= time.monotonic() + 105
