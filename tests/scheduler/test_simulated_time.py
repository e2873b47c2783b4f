"""Misfires, retries and daylight saving, by a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flowrra.registry import TaskRegistry
from flowrra.scheduler import Scheduler
from flowrra.scheduler.backends import SQLiteSchedulerBackend
from flowrra.scheduler.backends.sql_schema import SCHEDULES

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 5, 18, 12, tzinfo=UTC)


class Clock:
    """Stands still while the scheduler works, and is turned while it sleeps."""

    def __init__(self, at: datetime) -> None:
        self.at = at.timestamp()
        self._until = 0.0
        self._asleep = asyncio.Event()
        self._wake = asyncio.Event()

    def now(self) -> float:
        return self.at

    async def sleep(self, delay: float) -> None:
        self._until, self._wake = self.at + delay, asyncio.Event()
        self._asleep.set()
        await self._wake.wait()

    async def turn(self, to: float) -> None:
        """Turn it at once, as if the scheduler had been away."""
        await self._asleep.wait()
        self.at = max(self.at, to)
        if self._until <= self.at:
            self._asleep.clear()
            self._wake.set()
            await self._asleep.wait()

    def put_back(self, seconds: float) -> None:
        """Set it; what sleeps goes on sleeping for as long as it meant to."""
        self.at -= seconds
        self._until -= seconds

    async def run(self, span: timedelta) -> None:
        """Let it run, waking the scheduler whenever that wants to."""
        await self._asleep.wait()
        end = self.at + span.total_seconds()
        while self._until <= end:
            await self.turn(self._until)
        self.at = end


class World:
    """A scheduler in simulated time, and when it submitted what."""

    def __init__(self, path: Path, at: datetime) -> None:
        self.clock = Clock(at)
        self.submitted: list[datetime] = []
        self.refusing = False
        registry = TaskRegistry()

        @registry.task()
        async def note() -> None: ...

        store = SQLiteSchedulerBackend(str(path))
        self.scheduler = Scheduler(
            store, registry, check_interval=1e9, timezone=UTC, now=self.clock.now, sleep=self.clock.sleep
        )
        self.scheduler.set_submit_callback(self._submit)

    async def _submit(self, *_: Any) -> None:
        if self.refusing:
            raise ConnectionError("as planned")
        self.submitted.append(datetime.fromtimestamp(self.clock.at, UTC))

    async def away(self, span: timedelta) -> None:
        await self.clock.turn(self.clock.at + span.total_seconds())

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self.scheduler.run_stats()["runs"]["note"]
        return {result: count for result, count in found.items() if count}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "schedules.db", START)
    yield world
    await world.scheduler.stop()
    await world.scheduler.backend.close()


@pytest.mark.slow
async def test_an_interval_keeps_its_grid_for_hundreds_of_runs(world: World) -> None:
    await world.scheduler.schedule_interval("note", 0.7)
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=140))
    assert world.counts() == {"submitted": 200}
    late = [(at - START).total_seconds() - 0.7 * n for n, at in enumerate(world.submitted, 1)]
    assert max(map(abs, late)) < 0.001


async def test_what_came_due_while_away_is_one_run_and_the_rest_is_counted(world: World) -> None:
    await world.scheduler.schedule_interval("note", 60)
    await world.scheduler.start()
    await world.away(timedelta(minutes=10, seconds=30))
    assert world.counts() == {"submitted": 1, "collapsed": 9}
    await world.clock.run(timedelta(seconds=30))
    assert world.submitted[-1] - START == timedelta(minutes=11)  # on its grid again
    latest = (await world.scheduler.list_runs())[-1]
    assert (latest["due"], latest["lag"]) == (START + timedelta(minutes=10), 30)


async def test_a_schedule_that_comes_late_now_and_then_fills_no_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.scheduler.schedule_interval("note", 60)
    await world.scheduler.start()
    for _ in range(5):
        await world.away(timedelta(minutes=2))
        await world.clock.run(timedelta(minutes=1))
    assert world.counts() == {"submitted": 10, "collapsed": 5}
    assert [record.message for record in caplog.records] == ["due times were collapsed task=note times=1"]


async def test_each_run_that_was_missed_is_made_up_for_if_that_is_wanted(world: World) -> None:
    await world.scheduler.schedule_interval("note", 60, misfire="all")
    await world.scheduler.start()
    await world.away(timedelta(minutes=10, seconds=30))
    assert world.counts() == {"submitted": 10}
    runs = await world.scheduler.list_runs()
    assert [run["due"] - START for run in runs] == [timedelta(minutes=n) for n in range(10, 0, -1)]
    await world.clock.run(timedelta(minutes=1))
    assert world.counts() == {"submitted": 11}


@pytest.mark.parametrize("kind", ["cron", "interval"])
async def test_what_is_made_up_for_is_bounded_by_number_and_grace(world: World, kind: str) -> None:
    for name, grace in (("long", 86_400.0), ("short", 300.0)):
        options: Any = {"misfire": "all", "misfire_grace": grace, "task_id": name}
        if kind == "cron":
            await world.scheduler.schedule_cron("note", "* * * * *", (name,), **options)
        else:
            await world.scheduler.schedule_interval("note", 60, (name,), **options)
    await world.scheduler.start()
    await world.away(timedelta(minutes=150, seconds=30))
    found = {name: await world.scheduler.list_runs(name, 1000) for name in ("long", "short")}
    assert [run["result"] for run in found["long"]] == ["submitted"] * 100
    assert sorted(run["result"] for run in found["short"]) == ["missed"] * 95 + ["submitted"] * 5
    assert world.counts() == {"submitted": 105, "missed": 95, "collapsed": 100}


@pytest.mark.parametrize(("late", "counts"), [(59, {"submitted": 1}), (61, {"missed": 1})])
async def test_a_run_within_its_grace_happens_and_a_later_one_is_missed(
    world: World, late: int, counts: dict[str, int]
) -> None:
    await world.scheduler.schedule_cron("note", "0 13 * * *", misfire_grace=3600)
    await world.scheduler.start()
    await world.away(timedelta(hours=1, minutes=late))
    assert world.counts() == counts
    await world.clock.run(timedelta(days=1))
    assert world.submitted[-1] == START + timedelta(days=1, hours=1)


async def test_a_short_grace_skips_all_that_came_due_while_away(world: World) -> None:
    await world.scheduler.schedule_interval("note", 60, misfire_grace=1)
    await world.scheduler.start()
    await world.away(timedelta(minutes=10, seconds=30))
    assert world.counts() == {"missed": 1, "collapsed": 9}
    await world.clock.run(timedelta(seconds=30))
    assert world.submitted == [START + timedelta(minutes=11)]


async def test_a_submit_that_fails_is_tried_until_its_grace_ends_and_failed_once(world: World) -> None:
    await world.scheduler.schedule_once("note", START, misfire_grace=120)
    world.refusing = True
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=100))
    [run] = await world.scheduler.list_runs()
    assert (run["result"], world.counts()) == ("claimed", {})
    await world.clock.run(timedelta(minutes=5))
    [run] = await world.scheduler.list_runs()
    assert (run["result"], run["error"]) == ("failed", "ConnectionError: as planned")
    assert world.counts() == {"failed": 1}


@pytest.mark.slow
@pytest.mark.parametrize("outage", [timedelta(minutes=1), timedelta(minutes=30)])
async def test_a_broker_that_was_away_when_a_run_was_due_gets_it_soon_after_it_is_back(
    world: World, outage: timedelta
) -> None:
    await world.scheduler.schedule_once("note", START)
    world.refusing = True
    await world.scheduler.start()
    await world.clock.run(outage)
    world.refusing = False
    await world.clock.run(timedelta(seconds=10))
    assert world.counts() == {"submitted": 1}


@pytest.mark.slow
async def test_an_outage_is_logged_at_its_beginning_and_its_end_and_not_with_each_try(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    schedules = [
        await world.scheduler.schedule_once("note", START, [number], description=f"the {number}. note")
        for number in range(20)
    ]
    world.refusing = True
    await world.scheduler.start()
    await world.clock.run(timedelta(minutes=15))
    [begun] = caplog.messages
    assert begun.startswith("runs were not submitted times=1 error=")
    assert any(f"task=note schedule={schedule} description='the {n}" in begun for n, schedule in enumerate(schedules))
    world.refusing = False
    with caplog.at_level("INFO"):
        await world.clock.run(timedelta(seconds=10))
    [ended] = caplog.messages[1:]
    assert ended.startswith("over: runs were not submitted times=")


async def test_a_submit_that_fails_at_first_is_one_run(world: World) -> None:
    await world.scheduler.schedule_once("note", START)
    world.refusing = True
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=1))
    world.refusing = False
    await world.clock.run(timedelta(minutes=5))
    assert world.counts() == {"submitted": 1}


@pytest.mark.parametrize(
    ("day", "expression", "hours"),
    [
        ((2026, 3, 29), "30 2 * * *", ["03:00+0200"]),
        ((2026, 3, 29), "0 0-4 * * *", ["00:00+0100", "01:00+0100", "03:00+0200", "04:00+0200"]),
        ((2026, 10, 25), "30 2 * * *", ["02:30+0200"]),
        ((2026, 10, 25), "30 */2 * * *", ["00:30+0200", "02:30+0200", "02:30+0100", "04:30+0100"]),
    ],
)
async def test_a_day_on_which_clocks_change(
    tmp_path: Path, day: tuple[int, int, int], expression: str, hours: list[str]
) -> None:
    world = World(tmp_path / "s.db", datetime(*day, tzinfo=BERLIN) - timedelta(minutes=1))
    await world.scheduler.schedule_cron("note", expression, timezone="Europe/Berlin")
    await world.scheduler.start()
    await world.clock.run(timedelta(hours=6))
    await world.scheduler.stop()
    assert [at.astimezone(BERLIN).strftime("%H:%M%z") for at in world.submitted] == hours


async def test_a_schedule_that_0_1_8_wrote_meanwhile_without_a_due_time_runs_when_it_says(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await world.scheduler.schedule_once("note", START + timedelta(seconds=90))
    store = world.scheduler.backend
    assert isinstance(store, SQLiteSchedulerBackend)
    await store._write(SCHEDULES.update().values(due=None))
    await world.scheduler.start()
    await world.clock.run(timedelta(seconds=120))
    assert world.submitted == [START + timedelta(seconds=90)]
    assert caplog.text.count("schedule without a due time has one now task=note") == 1
