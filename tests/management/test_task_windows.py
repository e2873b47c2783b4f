"""What happened within the last minutes: right in simulated time, from a history whose size is bounded."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
import time
import tracemalloc
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrra import Flowrra
from flowrra.exceptions import TaskNotFoundError
from flowrra.management import FlowrraManager
from flowrra.management.analytics import quantile
from flowrra.task_history import LONG, SHORT
from flowrra.telemetry import TaskTelemetry
from tests.core.apps import in_another_thread, memory_app, until, without_a_loop
from tests.support.clocks import clock_environment

MINUTE, HOUR = 60.0, 3600.0


class Simulated:
    """An app that counts what a test says, at times that the test says."""

    def __init__(self) -> None:
        self.app = Flowrra()
        self.manager = FlowrraManager(self.app)
        self.history = self.app.task_history
        self.history.clock = lambda: self.now
        self.now = 1000.0

    def start(self) -> None:
        self.history.take()

    stop = start

    def name(self, task_name: str = "work") -> TaskTelemetry:
        return self.app.telemetry.register(task_name, "io")

    def succeed(self, times: int = 1, task_name: str = "work", ran: float = 0.01, waited: float = 0.01) -> None:
        for _ in range(times):
            self.name(task_name).count_start(waited)
            self.name(task_name).count_success(ran)

    def fail(self, times: int = 1, task_name: str = "work", *, for_good: bool = True) -> None:
        for _ in range(times):
            self.name(task_name).count_start(0.01)
            count = self.name(task_name).count_failed if for_good else self.name(task_name).count_retried
            count(0.01, "ValueError", timed_out=False)

    def pass_time(self, seconds: float) -> None:
        """As the watching thread sees it pass."""
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.history.take_if_due()

    def stats(self, window: float = 300, task_name: str = "work") -> Any:
        return without_a_loop(self.manager.get_task_stats(window))[task_name]

    def throughput(self, *args: Any) -> Any:
        return without_a_loop(self.manager.get_throughput(*args))


@pytest.fixture
def app() -> Simulated:
    return Simulated()


# ── what is counted in a window ─────────────────────────────────────────────────────────────────────────────────


def test_what_happened_in_the_window_is_told_and_nothing_before(app: Simulated) -> None:
    app.start()
    app.succeed(1000)
    app.pass_time(400)
    app.succeed(6, ran=0.003, waited=2.0)
    app.fail(2)
    app.fail(4, for_good=False)
    app.name().count_start(0.01)
    app.name().count_cancelled()
    app.pass_time(100)
    app.name().count_start(0.01)  # and it runs

    found = app.stats()
    assert {key: found[key] for key in ("started", "finished", "succeeded", "failed", "retried", "cancelled")} == {
        "started": 14,
        "finished": 13,
        "succeeded": 6,
        "failed": 2,
        "retried": 4,
        "cancelled": 1,
    }
    assert 300 <= found["window"] <= 310
    assert found["rate"] == 13 / found["window"]
    assert found["failure_ratio"] == 2 / 8
    assert found["run_duration"]["p50"] == 0.001 + (0.005 - 0.001) * 6 / 6
    assert found["queue_wait"]["p95"] == pytest.approx(1.0 + (5.0 - 1.0) * (14 * 0.95 - 8) / 6)
    assert app.stats(50)["finished"] == 0
    assert app.stats(3600)["finished"] == 1013


def test_nothing_happened(app: Simulated) -> None:
    app.name()
    app.start()
    app.pass_time(400)
    nothing = {"p50": None, "p95": None, "p99": None}
    assert app.stats() == {
        **dict.fromkeys(("started", "finished", "succeeded", "failed", "retried", "cancelled"), 0),
        "executor": "io",
        "window": 300,
        "rate": 0.0,
        "failure_ratio": None,
        "run_duration": nothing,
        "queue_wait": nothing,
    }


def test_a_young_app_covers_what_it_has_lived_and_one_that_never_ran_nothing(app: Simulated) -> None:
    app.name()
    assert (app.stats()["window"], app.stats()["rate"]) == (0.0, 0.0)
    app.start()
    app.succeed(10)
    app.pass_time(5)
    assert (app.stats()["window"], app.stats()["rate"]) == (5.0, 2.0)


def test_a_name_that_is_registered_in_the_window_is_told_of_the_whole_window(app: Simulated) -> None:
    app.succeed(5, "old")
    app.start()
    app.pass_time(400)
    app.succeed(7, "new")
    app.pass_time(100)
    assert (app.stats(300, "new")["finished"], app.stats(300, "old")["finished"]) == (7, 0)
    assert app.stats(300, "new")["window"] == app.stats(300, "old")["window"]


def test_over_a_stop_and_a_restart_the_window_stays_as_it_was_asked_for(app: Simulated) -> None:
    app.start()
    app.pass_time(1000)
    app.succeed(4)
    app.pass_time(1)
    app.stop()
    app.now += 1200
    app.start()
    app.succeed(3)
    app.pass_time(100)
    assert (app.stats(300)["finished"], app.stats(300)["window"]) == (3, 300)
    assert app.stats(3600)["finished"] == 7


def test_when_no_snapshot_could_be_taken_for_long_the_figures_say_what_they_cover(app: Simulated) -> None:
    """As when C code kept the interpreter to itself."""
    app.start()
    app.pass_time(1000)
    app.now += 200
    app.succeed(10)
    app.pass_time(5)
    assert 200 < app.stats(60)["window"] <= 215
    assert app.stats(60)["finished"] == 10


def test_other_bounds_and_a_fork_begin_anew(app: Simulated) -> None:
    app.name()
    app.start()
    without_a_loop(app.manager.set_histogram_bounds(run_duration=(1.0, 2.0)))
    app.succeed(4, ran=1.5)
    app.pass_time(100)
    assert app.stats()["run_duration"]["p50"] == 1.5
    app.app._state = "running"  # a fork of a stopped app has nothing to forget
    app.app.forked()
    app.name()
    assert app.stats()["window"] == 0.0
    app.start()
    app.succeed(1)
    app.pass_time(10)
    assert (app.stats()["finished"], app.stats()["window"]) == (1, 10)


@pytest.mark.parametrize("seed", range(5))
def test_any_window_tells_what_a_list_of_all_events_tells(seed: int) -> None:
    chance, app, events = Random(seed), Simulated(), []
    app.start()
    for _ in range(5000):
        if chance.random() < 0.6:
            events.append(app.now)
            app.succeed()
        app.pass_time(chance.choice([0.25, 1, 5]))
    for window in (1, 7.5, 60, 299, 300, 301, 600, 1800, 3600):
        found = app.stats(window)
        assert window <= found["window"] <= window + (10.5 if window <= 300 else 70), window
        assert found["finished"] == sum(at >= app.now - found["window"] for at in events), window


@pytest.mark.parametrize("window", [0, 0.99, 3601, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["get_task_stats", "get_slowest_tasks", "get_failing_tasks", "get_throughput"])
def test_a_window_out_of_range_is_refused(app: Simulated, method: str, window: float) -> None:
    with pytest.raises(ValueError, match=r"window must be at least 1 seconds and finite, at most 3600 seconds, not "):
        without_a_loop(getattr(app.manager, method)(window=window))


@pytest.mark.parametrize("window", ["300", True])
def test_a_window_that_is_no_number_is_refused(app: Simulated, window: Any) -> None:
    with pytest.raises(TypeError, match="window must be a number"):
        without_a_loop(app.manager.get_task_stats(window))


# ── quantiles ───────────────────────────────────────────────────────────────────────────────────────────────────


BOUNDS = (0.1, 0.5, 2.0, 10.0)


@pytest.mark.slow
@given(st.floats(0.01, 1), st.lists(st.floats(0.0001, 20), min_size=1))
def test_a_quantile_lies_in_the_bucket_of_the_observation_of_that_rank(share: float, seen: list[float]) -> None:
    counts = [0] * (len(BOUNDS) + 1)
    for each in seen:
        counts[bisect_left(BOUNDS, each)] += 1
    bucket = bisect_left(BOUNDS, sorted(seen)[math.ceil(share * len(seen)) - 1])
    found = quantile(share, BOUNDS, counts)
    assert found is not None
    if bucket == len(BOUNDS):
        assert found == BOUNDS[-1]
    else:
        assert (0.0, *BOUNDS)[bucket] <= found <= BOUNDS[bucket]


@given(st.floats(0.01, 1), st.lists(st.integers(0, 30), min_size=5, max_size=5).filter(any))
def test_a_share_of_the_observations_is_below_if_they_are_spread_evenly(share: float, counts: list[int]) -> None:
    """The least value of which that holds, searched for by halving."""
    buckets = list(zip(pairwise((0.0, *BOUNDS)), counts, strict=False))

    def below(value: float) -> float:
        return sum(count * min(1.0, max(0.0, (value - low) / (high - low))) for (low, high), count in buckets)

    low, high = 0.0, BOUNDS[-1]
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if below(middle) >= share * sum(counts) - 1e-9 else (middle, high)
    assert quantile(share, BOUNDS, counts) == pytest.approx(high, abs=1e-6)


def test_without_observations_there_is_none() -> None:
    assert quantile(0.5, BOUNDS, [0, 0, 0, 0, 0]) is None


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_over_a_week_the_history_grows_no_longer_than_in_an_hour(app: Simulated) -> None:
    app.start()
    for _ in range(7 * 24 * 360):
        app.succeed()
        app.now += 10
        app.history.take_if_due()
        assert len(app.history.snapshots()) <= SHORT + LONG
    assert app.stats(3600)["window"] <= 3660


@pytest.mark.slow
def test_with_200_names_that_never_rest_it_takes_as_much_memory_as_the_page_says(app: Simulated) -> None:
    chance = Random(1)
    for number in range(200):
        app.name(f"task_{number}")
    tracemalloc.start()
    try:
        app.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(400):
            for number in range(200):
                app.succeed(1, f"task_{number}", ran=chance.random() * 10, waited=chance.random())
            app.now += 10
            app.history.take_if_due()
        megabytes = (tracemalloc.get_traced_memory()[0] - before) / 1e6
    finally:
        tracemalloc.stop()
    print(f"{megabytes:.1f} MB")
    assert 5.5 < megabytes < 7.5


def test_names_whose_tasks_did_nothing_cost_no_further_tally(app: Simulated) -> None:
    for number in range(2000):
        app.succeed(1, f"task_{number}")
    app.name("idle")
    app.start()
    for _ in range(30):
        app.succeed(1, "task_0")
        app.pass_time(10)
    snapshots = app.history.snapshots()
    tallies = {id(tally) for snapshot in snapshots for tally in snapshot.tallies.values()}
    assert len(tallies) == 2000 + 30
    assert app.name("idle") not in snapshots[-1].tallies
    app.pass_time(100)
    assert len({id(snapshot.tallies) for snapshot in app.history.snapshots()[-10:]}) == 1


async def test_a_task_takes_no_part_in_it() -> None:
    app = memory_app()

    @app.task(name="work")
    async def work() -> None: ...

    async with app:
        begun = app.task_history.snapshots()
        await app.submit_many([("work", (), {})] * 200)
        await until(lambda: without_a_loop(FlowrraManager(app).get_task_stats(60))["work"]["succeeded"] == 200)
        assert app.task_history.snapshots() == begun


async def test_it_is_kept_and_told_while_the_loop_is_blocked() -> None:
    app = memory_app()
    manager = FlowrraManager(app)
    ahead = 0.0
    app.task_history.clock = lambda: time.monotonic() + ahead

    @app.task(name="work")
    async def work() -> None: ...

    @app.task(name="block")
    async def block() -> None:
        nonlocal ahead
        ahead = 20.0
        kept = len(app.task_history.snapshots())
        deadline = time.monotonic() + 5
        while len(app.task_history.snapshots()) == kept and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(len(app.task_history.snapshots()) - kept)

    seen: list[int] = []
    async with app:
        await app.wait_for_result(await app.submit(work))
        answers = in_another_thread(lambda: manager.get_task_stats(60.0))
        await app.wait_for_result(await app.submit(block))
        found = await answers
    assert seen == [1]
    assert found["work"]["succeeded"] == 1


async def test_an_app_that_stops_and_starts_again_keeps_its_history() -> None:
    app = memory_app()

    @app.task(name="work")
    async def work() -> None: ...

    for _ in range(2):
        async with app:
            await app.wait_for_result(await app.submit(work))
    found = (await FlowrraManager(app).get_task_stats(60))["work"]
    assert (found["succeeded"], len(app.task_history.snapshots())) == (2, 4)


def test_a_forked_child_has_none_of_its_parents() -> None:
    app = Simulated()
    app.app._state = "running"
    app.succeed(5)
    app.start()
    app.succeed(5)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        app.succeed(1)
        os.write(write, repr((app.stats()["finished"], app.history.snapshots())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000) == b"(1, ())"


CLOCK_PUT_FORWARD = """
    import asyncio, os
    from datetime import UTC, datetime
    from pathlib import Path

    from flowrra import Flowrra
    from flowrra.management import FlowrraManager
    from tests.support.clocks import put_ahead

    app = Flowrra()

    @app.task()
    async def work() -> None: ...

    async def main() -> None:
        async with app:
            await app.wait_for_result(await app.submit(work))
            before = datetime.now(UTC)
            put_ahead(Path(os.environ["CLOCK_OFFSET"]), 7200)
            await app.wait_for_result(await app.submit(work))
            found = (await FlowrraManager(app).get_task_stats(60))["work"]
            [point] = await FlowrraManager(app).get_throughput(60)
            is_late = (datetime.now(UTC) - before).total_seconds() > 7000
            print(is_late, found["finished"], found["window"] < 60, point["seconds"] < 60)

    asyncio.run(main())
"""


@pytest.mark.tools
def test_a_wall_clock_that_is_put_forward_changes_nothing(tmp_path: Path) -> None:
    environment, _ = clock_environment(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLOCK_PUT_FORWARD)],
        env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("True 2 True True\n", "")


# ── over time ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_throughput_of_the_last_hour_is_a_series_of_its_minutes(app: Simulated) -> None:
    app.start()
    for minute in range(180):
        app.succeed(6 * minute)
        app.fail(minute)
        app.fail(3, "other", for_good=False)
        app.pass_time(MINUTE)
    points = app.throughput()
    assert len(points) == 60
    assert all(60 <= point["seconds"] <= 70 for point in points)
    assert [round(point["failed"] * MINUTE) for point in points] == pytest.approx(list(range(120, 180)), abs=1)
    assert points[-1]["finished"] == pytest.approx((7 * 179 + 3) / MINUTE)
    assert app.throughput(HOUR, 60, "work")[-1]["finished"] == pytest.approx(7 * 179 / MINUTE)
    assert app.throughput(HOUR, 60, "other")[-1]["retried"] == pytest.approx(3 / MINUTE)


@pytest.mark.parametrize("seed", range(5))
def test_the_periods_follow_each_other_and_add_up_to_all_that_happened(seed: int) -> None:
    chance, app = Random(seed), Simulated()
    app.start()
    for _ in range(1000):
        app.succeed(chance.randint(0, 3), chance.choice(["one", "two"]))
        app.pass_time(chance.choice([0.25, 2, 2, 60]) * (chance.random() < 0.9))
    for window, most in ((3600, 60), (3600, 360), (300, 60), (61, 7), (5, 10), (1, 1)):
        before = datetime.now(UTC)
        points = app.throughput(window, most)
        assert 1 <= len(points) <= most
        for earlier, later in pairwise(points):
            assert (later["at"] - earlier["at"]).total_seconds() == pytest.approx(later["seconds"], abs=0.01)
        assert before <= points[-1]["at"] <= datetime.now(UTC)
        total = sum(point["finished"] * point["seconds"] for point in points)
        covered = sum(point["seconds"] for point in points)
        [same] = app.throughput(covered, 1) if 1 <= covered <= 3600 else [None]
        if same is not None and same["seconds"] == pytest.approx(covered):
            assert total == pytest.approx(same["finished"] * same["seconds"])


def test_a_young_app_has_fewer_points_and_one_that_never_ran_none(app: Simulated) -> None:
    assert app.throughput() == []
    app.start()
    app.succeed(5)
    app.pass_time(2)
    [point] = app.throughput()
    assert (point["seconds"], point["finished"]) == (2.0, 2.5)
    [of_its_name] = app.throughput(HOUR, 60, "work")
    assert (of_its_name["finished"], of_its_name["failed"], of_its_name["retried"]) == (2.5, 0.0, 0.0)
    assert datetime.now(UTC) - point["at"] < timedelta(seconds=10)


def test_an_unknown_name_and_too_many_points_are_refused(app: Simulated) -> None:
    with pytest.raises(TaskNotFoundError):
        app.throughput(60, 6, "unknown")
    for points in (0, 361):
        with pytest.raises(ValueError, match="points must be at least 1"):
            app.throughput(60, points)
    with pytest.raises(TypeError, match="points must be an integer"):
        app.throughput(60, 1.5)


# ── names by what hurts ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_slowest_and_the_most_failing_come_first(app: Simulated) -> None:
    app.succeed(100, "was slow", ran=500.0)
    app.fail(100, "was failing")
    app.start()
    app.pass_time(400)
    app.succeed(10, "quick", ran=0.002)
    app.succeed(10, "slow", ran=20.0)
    app.succeed(10, "middling", ran=0.4)
    app.fail(1, "some")
    app.fail(50, "often again", for_good=False)
    app.fail(5, "many")

    slowest = without_a_loop(app.manager.get_slowest_tasks(limit=2))
    assert [each["task_name"] for each in slowest] == ["slow", "middling"]
    assert {**slowest[0], "task_name": ""} == {**app.stats(300, "slow"), "task_name": ""}
    failing = without_a_loop(app.manager.get_failing_tasks())
    assert [each["task_name"] for each in failing] == ["many", "some", "often again"]
    assert [each["task_name"] for each in without_a_loop(app.manager.get_failing_tasks(limit=1))] == ["many"]
    assert without_a_loop(app.manager.get_failing_tasks(window=3600))[0]["task_name"] == "many"
    assert without_a_loop(app.manager.get_slowest_tasks(limit=0)) == []
    with pytest.raises(ValueError, match="limit"):
        without_a_loop(app.manager.get_slowest_tasks(limit=-1))
