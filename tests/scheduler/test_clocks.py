"""Schedulers go by one clock: the store's, the broker's, or the host's where there is neither."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

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
async def test_an_interval_goes_on_after_the_clock_was_put_back_an_hour(tmp_path: Path, restarts: bool) -> None:
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
    await world.scheduler.stop()


async def test_an_interval_that_is_meant_to_begin_later_does(url: str) -> None:
    store: SqlSchedulerBackend = new_store(url)
    later = datetime.now() + timedelta(days=1)  # noqa: DTZ005
    await store.create(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=later))
    assert await store.catch_up_with_clock(round(time.time() * 1e6)) == 0
    assert await store.next_due() == micros(later)
    await store.close()
