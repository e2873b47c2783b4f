"""Schedulers go by one clock: the store's, the broker's, or the host's where there is neither."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flowrra import Flowrra
from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from flowrra.scheduler.clock import SharedClock
from flowrra.scheduler.local_time import LOCAL, local, micros
from flowrra.scheduler.models import ScheduledTask, ScheduleType
from tests.scheduler.processes import program
from tests.scheduler.test_simulated_time import START, World
from tests.scheduler.test_stores import new_store
from tests.support.clocks import clock_environment, put_ahead
from tests.support.servers import ValkeyServer

AHEAD = 600.0


@pytest.fixture
def broker(request: pytest.FixtureRequest, url: str) -> Iterator[str]:
    """A broker, for a store that has no clock of its own; "" beside others."""
    if not url.startswith("sqlite"):
        yield ""
        return
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def once(name: str, at: datetime) -> ScheduledTask:
    return ScheduledTask(name, "note", ScheduleType.ONE_TIME, at.isoformat(), (name,), next_run_at=at)


@pytest.mark.slow
@pytest.mark.tools
@pytest.mark.parametrize("ahead", [AHEAD, -AHEAD])
async def test_a_host_whose_clock_is_off_runs_nothing_early_or_late_takes_nothing_over_and_says_so_once(
    url: str, broker: str, tmp_path: Path, ahead: float
) -> None:
    environment, offset = clock_environment(tmp_path)
    store = new_store(url)
    await store.create(once("taken", local(micros(datetime.now()) - 1_000_000)))  # noqa: DTZ005
    assert len((await store.claim(round(time.time() * 1e6), LOCAL, "another", 10)).runs) == 1
    put_ahead(offset, ahead)
    async with program(url, broker, environment=environment) as other, asyncio.timeout(20):
        due = time.time() + 2.0
        due_on_monotonic = time.monotonic() + 2.0
        await store.create(once("soon", datetime.fromtimestamp(due)))  # noqa: DTZ006
        name, at = await other.next_run()
        assert name == "soon"
        assert -0.05 < at - due_on_monotonic < 1.5
        log = await other.kill()
    assert log.count("this host's clock is 600.") + log.count("this host's clock is 599.") == 1
    assert ("ahead of" if ahead > 0 else "behind") in log
    await store.close()


async def test_a_stores_clock_is_its_servers(url: str) -> None:
    store = new_store(url)
    before = time.time()
    now = await store.clock()
    if url.startswith("sqlite"):
        assert now is None
    else:
        assert now is not None
        assert before - 0.001 <= now <= time.time() + 0.001  # the servers are on this host, and cut microseconds
    await store.close()


class Clocks:
    """A host's clock, and one that is shared."""

    def __init__(self, shared: float | None) -> None:
        self.own, self.shared = 1_000.0, shared
        self.clock = SharedClock(lambda: self.own, self._ask)

    async def _ask(self) -> float | None:
        if self.shared == 0.0:
            raise ConnectionError("as planned")
        return self.shared


async def test_the_warning_of_a_clock_that_is_off_comes_again_after_it_was_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.scheduler.clock.LOOK_EVERY", 0.0)
    clocks = Clocks(1_000.0)
    with caplog.at_level("INFO"):
        for own in (1_000.5, 1_003.0, 1_004.0, 1_000.2, 990.0):
            clocks.own = own
            await clocks.clock.look()
    assert [message.split(" by")[0][:36] for message in caplog.messages] == [
        "this host's clock is 3.0 s ahead of ",
        "this host's clock agrees with the st",
        "this host's clock is 10.0 s behind t",
    ]


async def test_a_shared_clock_that_does_not_answer_leaves_the_time_as_it_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.scheduler.clock.LOOK_EVERY", 0.0)
    clocks = Clocks(5_000.0)
    await clocks.clock.look()
    clocks.shared, clocks.own = 0.0, 9_000.0
    await clocks.clock.look()
    await clocks.clock.look()
    assert 5_000.0 <= clocks.clock.now() < 7_000.0  # not the host's time
    assert sum("can't be read" in message for message in caplog.messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True])
async def test_an_interval_goes_on_after_the_clock_was_put_back_an_hour(
    tmp_path: Path, restarts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "s.db", START)
    world.scheduler.check_interval = 60
    await world.scheduler.schedule_interval("note", 60)
    await world.scheduler.start()
    await world.clock.run(timedelta(minutes=70))
    if restarts:
        await world.scheduler.stop()
        world = World(tmp_path / "s.db", START + timedelta(minutes=10))
        world.scheduler.check_interval = 60
        await world.scheduler.start()
    else:
        world.clock.put_back(3600)
        world.submitted.clear()
    await world.clock.run(timedelta(minutes=6))
    # It is noticed after a check interval at the most, and the first run is an interval later.
    assert len(world.submitted) in (4, 5, 6)
    assert caplog.text.count("the clock was put back: schedules that waited for its time are due anew schedules=1") == 1
    await world.scheduler.stop()


@pytest.mark.slow
async def test_a_cron_expression_does_not_wait_for_a_time_of_a_clock_that_was_years_ahead(tmp_path: Path) -> None:
    world = World(tmp_path / "s.db", START)
    world.scheduler.check_interval = 60
    await world.scheduler.schedule_cron("note", "30 * * * *")
    await world.scheduler.start()
    await world.clock.run(timedelta(hours=2))
    await world.away(timedelta(days=700))
    await world.clock.run(timedelta(hours=1))
    world.clock.put_back(700 * 86_400)
    world.submitted.clear()
    await world.clock.run(timedelta(hours=2))
    assert [at.strftime("%H:%M") for at in world.submitted] == ["15:30", "16:30"]
    await world.scheduler.stop()


@pytest.mark.slow
async def test_a_cron_expression_is_run_once_for_the_hour_that_a_clock_shows_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "s.db", START)
    world.scheduler.check_interval = 60
    await world.scheduler.schedule_cron("note", "*/10 * * * *")
    await world.scheduler.start()
    await world.clock.run(timedelta(minutes=65))
    world.clock.put_back(3600)
    world.submitted.clear()
    await world.clock.run(timedelta(minutes=80))
    assert [at.strftime("%H:%M") for at in world.submitted] == ["13:10", "13:20"]
    assert "are left out" not in caplog.text
    await world.scheduler.stop()


async def test_an_interval_that_is_meant_to_begin_later_does(url: str) -> None:
    store: SqlSchedulerBackend = new_store(url)
    later = datetime.now() + timedelta(days=1)  # noqa: DTZ005
    await store.create(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=later))
    assert await store.catch_up_with_clock(round(time.time() * 1e6)) == 0
    assert await store.next_due() == micros(later)
    await store.close()


class Asked:
    """A shared clock whose answers take their time, beside a monotonic clock that only this turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *takes: float) -> None:
        self.monotonic, self.own, self.shared = 100.0, 1_000.0, 5_000.0
        self.takes, self.count = list(takes), 0
        monkeypatch.setattr("flowrra.scheduler.clock.time.monotonic", lambda: self.monotonic)
        self.clock = SharedClock(lambda: self.own, self._ask)

    async def _ask(self) -> float:
        self.count += 1
        self.pass_by(self.takes.pop(0) if self.takes else 0.0)
        return self.shared

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.own += seconds
        self.shared += seconds


async def test_a_shared_clock_is_looked_at_each_half_minute_and_goes_on_by_the_monotonic_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(monkeypatch)
    await asked.clock.look()
    assert (asked.clock.now(), asked.count) == (5_000.0, 1)
    asked.pass_by(29.9)
    await asked.clock.look()
    assert (asked.clock.now(), asked.clock.micros(), asked.count) == (5_029.9, 5_029_900_000, 1)
    asked.pass_by(0.1)
    await asked.clock.look()
    assert asked.count == 2
    asked.own += 1.5  # the host's clock is set: it is looked at once
    await asked.clock.look()
    await asked.clock.look()
    assert asked.count == 3


@pytest.mark.parametrize(("takes", "count"), [((0.01,), 1), ((0.03, 0.5), 2), ((3.0, 0.01), 2), ((3.0, 3.0, 3.0), 2)])
async def test_an_answer_that_took_long_is_asked_for_once_more_and_counts_from_its_end(
    monkeypatch: pytest.MonkeyPatch, takes: tuple[float, ...], count: int
) -> None:
    asked = Asked(monkeypatch, *takes)
    await asked.clock.look()
    assert asked.count == count
    assert asked.clock.now() == pytest.approx(asked.shared)


@pytest.mark.parametrize(("by", "was_put_back"), [(0.9, False), (1.1, True), (-1.1, False)])
async def test_a_clock_that_is_put_back_by_more_than_a_second_is_noticed(
    monkeypatch: pytest.MonkeyPatch, by: float, was_put_back: bool
) -> None:
    asked = Asked(monkeypatch)
    await asked.clock.look()
    assert asked.clock.was_put_back, "nobody looked before"
    asked.clock.was_put_back = False
    asked.shared -= by
    asked.pass_by(30.0)
    await asked.clock.look()
    assert asked.clock.was_put_back is was_put_back
    assert asked.clock.now() == pytest.approx(asked.shared)


@pytest.mark.parametrize(("by", "was_put_back"), [(0.9, False), (1.1, True), (-1.1, False)])
async def test_so_is_a_hosts_clock_where_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, by: float, was_put_back: bool
) -> None:
    asked = Asked(monkeypatch)

    async def no_clock() -> None: ...

    clock = SharedClock(lambda: asked.own, no_clock)
    await clock.look()
    clock.was_put_back = False
    asked.own -= by
    await clock.look()
    assert clock.was_put_back is was_put_back
    assert clock.now() == asked.own


async def test_nothing_is_said_of_a_clock_that_agrees_from_the_start_and_once_of_one_that_never_answered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.scheduler.clock.LOOK_EVERY", 0.0)
    caplog.set_level("INFO")
    agrees, silent = Clocks(1_000.0), Clocks(0.0)
    await agrees.clock.look()
    assert caplog.messages == []
    for _ in range(3):
        await silent.clock.look()
    assert len(caplog.messages) == 1
    assert silent.clock.now() == 1_000.0
    silent.shared = 1_000.0
    await silent.clock.look()
    silent.shared = 0.0
    await silent.clock.look()
    assert len(caplog.messages) == 2, "it was well in between"


@pytest.mark.parametrize("call", ["stats", "trigger", "schedule", "enable"])
async def test_a_scheduler_that_does_not_run_goes_by_the_stores_clock_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    app = Flowrra()
    scheduler = app.create_scheduler(str(tmp_path / "s.db"))

    @app.task()
    async def note() -> None: ...

    ahead = datetime.now() + timedelta(hours=2)  # noqa: DTZ005

    async def clock() -> float:
        return ahead.timestamp()

    monkeypatch.setattr(scheduler.backend, "clock", clock)
    in_an_hour = ahead - timedelta(hours=1)
    await scheduler.backend.create(
        ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=in_an_hour, enabled=call != "enable")
    )
    if call == "stats":
        assert (await scheduler.stats())["overdue_schedules"] == 1
    elif call == "trigger":
        async with app:
            run = await scheduler.trigger("a")
        assert int(run.partition("@")[2]) >= micros(ahead)
    else:
        if call == "schedule":
            await scheduler.schedule_interval("note", 61, task_id="a", replace=True)
        else:
            await scheduler.enable_task("a")
        task = await scheduler.get_scheduled_task("a")
        assert task is not None
        assert task.next_run_at is not None
        assert task.next_run_at > ahead
    await scheduler.backend.close()
