"""Collections in simulated time: who waits for what and how long, who is left alone, what is logged and kept."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from flowrra_exporter.app.loop import CallTimeout, LoopBlocked, LoopEnded
from flowrra_exporter.metrics import catalog, collection
from flowrra_exporter.metrics.circuit_breaker import PAUSE, Breaker
from flowrra_exporter.metrics.collection import Collections, Snapshot
from flowrra_exporter.metrics.collector import Collector, Incomplete
from flowrra_exporter.metrics.exposition import Format
from flowrra_exporter.metrics.samples import AnyFamily, Family

from tests.exporter.simulated_time import Scenario, SimulatedLoop, now, run_in

Simulate = Callable[[Scenario], Any]

FAMILIES = [Family(catalog.APP_RUNNING, [((), 1)])]
HANG = object()


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    loop = SimulatedLoop()
    monkeypatch.setattr(collection, "time", SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(collection, "Breaker", lambda: Breaker(loop.time))
    return lambda scenario: run_in(loop, scenario)


class Source(Collector):
    """A collector that does what it is told: takes so many seconds, then answers, raises, or hangs."""

    name = ""

    def __init__(
        self, name: str, answer: Any = FAMILIES, seconds: float = 0.0, apart: bool = False, so_far: Any = ()
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.keeps_sources_apart = apart  # type: ignore[misc]
        self.answer = answer
        self.seconds = seconds
        self.known = so_far
        self.calls = 0
        self.cancelled = 0

    async def collect(self) -> Sequence[AnyFamily]:
        self.calls += 1
        try:
            if self.answer is HANG:
                await asyncio.Event().wait()
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, BaseException):
            raise self.answer
        found: Sequence[AnyFamily] = self.answer
        return found

    async def so_far(self) -> Sequence[AnyFamily]:
        found: Sequence[AnyFamily] = self.known
        return found


def collections_of(*sources: Collector, timeout: float = 5.0, **others: Any) -> Collections:
    return Collections("library", lambda: sources, timeout, **others)


def points(snapshot: Snapshot, metric: catalog.Metric) -> dict[Any, Any]:
    (family,) = (each for each in snapshot.families if isinstance(each, Family) and each.metric is metric)
    return {labels[0] if labels else "": value for labels, value in family.points}


def success(snapshot: Snapshot) -> dict[str, int]:
    return points(snapshot, catalog.COLLECTOR_SUCCESS)


def durations(snapshot: Snapshot) -> dict[str, float]:
    return points(snapshot, catalog.COLLECTOR_DURATION)


def has_figures(snapshot: Snapshot) -> bool:
    return any(isinstance(family, Family) and family.metric is catalog.APP_RUNNING for family in snapshot.families)


# Who waits, and how long.


def test_a_scrape_waits_for_all_and_takes_as_long_as_the_slowest(simulate: Simulate) -> None:
    async def scenario() -> None:
        started = now()
        snapshot = await collections_of(Source("quick"), Source("slow", seconds=3.0)).snapshot()
        assert now() - started == 3.0
        assert success(snapshot) == {"quick": 1, "slow": 1}
        assert durations(snapshot) == {"quick": 0.0, "slow": 3.0}

    simulate(scenario)


@pytest.mark.parametrize(("asked", "waited"), [(None, 5.0), (2.0, 2.0), (60.0, 5.0)])
def test_a_scrapers_deadline_shortens_the_wait_and_never_lengthens_it(
    simulate: Simulate, asked: float | None, waited: float
) -> None:
    async def scenario() -> None:
        collections, started = collections_of(Source("quick"), Source("hanging", HANG)), now()
        snapshot = await collections.snapshot(asked)
        assert now() - started == waited
        assert success(snapshot) == {"quick": 1, "hanging": 0}
        assert durations(snapshot)["hanging"] == waited
        collections.close()

    simulate(scenario)


def test_what_a_late_source_has_by_then_is_served(simulate: Simulate) -> None:
    async def scenario() -> None:
        collections = collections_of(Source("late", HANG, so_far=FAMILIES))
        snapshot = await collections.snapshot(1.0)
        assert has_figures(snapshot)
        assert success(snapshot) == {"late": 0}
        collections.close()

    simulate(scenario)


def test_a_collection_is_shared_for_a_quarter_of_a_second(simulate: Simulate) -> None:
    async def scenario() -> None:
        slow = Source("slow", seconds=3.0)
        collections = collections_of(slow, Source("other", seconds=3.0))
        first = asyncio.create_task(collections.snapshot())
        await asyncio.sleep(0.25)
        second = asyncio.create_task(collections.snapshot())
        await asyncio.sleep(0.01)
        assert slow.calls == 1
        third = asyncio.create_task(collections.snapshot(1.0))
        snapshots = await asyncio.gather(first, second, third)
        assert snapshots[0] is snapshots[1], "it's rendered once for both"
        assert success(snapshots[0]) == {"slow": 1, "other": 1}
        assert success(snapshots[2]) == {"slow": 0, "other": 0}, "another collection, which asks nobody twice"
        assert durations(snapshots[2]) == {"slow": pytest.approx(1.26), "other": pytest.approx(1.26)}
        assert slow.calls == 1

    simulate(scenario)


def test_a_slow_source_is_waited_for_by_each_scrape_and_asked_once(simulate: Simulate) -> None:
    """Of two scrapers, or while somebody looks at the console, and as long as that goes on."""

    async def scenario() -> None:
        slow, quick = Source("slow", seconds=0.4), Source("quick")
        collections = collections_of(slow, quick)
        for rounds in range(1, 4):
            first = asyncio.create_task(collections.snapshot())
            await asyncio.sleep(0.3)
            second = await collections.snapshot(2.0)
            for snapshot in (await first, second):
                assert success(snapshot) == {"slow": 1, "quick": 1}
                assert durations(snapshot)["slow"] == pytest.approx(0.4)
            assert (slow.calls, quick.calls) == (rounds, 2 * rounds), "the others' figures are of this moment"

    simulate(scenario)


def test_scrapes_one_after_another_wait_together_for_a_source_that_hangs_as_long_as_one(simulate: Simulate) -> None:
    async def scenario() -> None:
        collections, started = collections_of(Source("hanging", HANG), timeout=5.0), now()
        for seconds in (2.0, 4.0, 5.0, 5.0, 5.0):
            await collections.snapshot(2.0)
            assert now() - started == seconds
        collections.close()

    simulate(scenario)


def test_a_scrape_that_joins_a_trial_waits_no_longer_for_it_than_the_first(simulate: Simulate) -> None:
    async def scenario() -> None:
        failing = Source("failing", RuntimeError("no"))
        collections = collections_of(failing)
        for _ in range(3):
            await collections.snapshot()
        await asyncio.sleep(PAUSE)
        failing.answer, started = HANG, now()
        first = asyncio.create_task(collections.snapshot())
        await asyncio.sleep(0.3)
        await collections.snapshot()
        await first
        assert now() - started == pytest.approx(0.5)
        assert failing.calls == 4
        collections.close()

    simulate(scenario)


def test_no_scrape_ends_the_run_for_which_another_waits(simulate: Simulate) -> None:
    """Though the collector is run anew for each, as one is that keeps its sources apart."""

    async def scenario() -> None:
        apart = Source("apart", seconds=2.0, apart=True)
        collections = collections_of(apart)
        scrapes = []
        for _ in range(4):
            scrapes.append(asyncio.create_task(collections.snapshot()))
            await asyncio.sleep(0.3)
        assert [success(snapshot) for snapshot in await asyncio.gather(*scrapes)] == [{"apart": 1}] * 4
        assert (apart.calls, apart.cancelled) == (4, 0)

    simulate(scenario)


def test_one_that_is_over_is_not_shared(simulate: Simulate) -> None:
    async def scenario() -> None:
        quick = Source("quick")
        collections = collections_of(quick)
        first = await collections.snapshot()
        assert (await collections.snapshot()) is not first
        assert quick.calls == 2

    simulate(scenario)


def test_who_could_not_wait_takes_nothing_from_who_can(simulate: Simulate) -> None:
    async def scenario() -> None:
        collections = collections_of(Source("slow", seconds=0.2))
        patient = asyncio.create_task(collections.snapshot())
        hasty = await collections.snapshot(0.1)
        assert (has_figures(hasty), has_figures(await patient)) == (False, True)

    simulate(scenario)


# Who is left alone.


def test_a_source_that_hangs_is_asked_again_once_it_has_answered(simulate: Simulate) -> None:
    async def scenario() -> None:
        slow, quick = Source("slow", seconds=8.0), Source("quick")
        collections, started = collections_of(slow, quick, timeout=1.0), now()
        for _ in range(5):
            assert success(await collections.snapshot()) == {"slow": 0, "quick": 1}
        assert now() - started == 1.0, "it costs one deadline"
        assert (slow.calls, quick.calls) == (1, 5)
        await asyncio.sleep(8.0)
        slow.seconds = 0.5
        assert success(await collections.snapshot()) == {"slow": 1, "quick": 1}
        assert slow.calls == 2

    simulate(scenario)


def test_one_that_keeps_its_sources_apart_is_collected_anew_though_it_hangs(simulate: Simulate) -> None:
    async def scenario() -> None:
        apart = Source("apart", HANG, apart=True)
        collections = collections_of(apart, timeout=1.0)
        for calls in (1, 2, 3):
            await collections.snapshot()
            assert apart.calls == calls
        await asyncio.sleep(0)
        assert apart.cancelled == 1  # whom nobody waits for any more
        collections.close()

    simulate(scenario)


def test_a_source_that_keeps_failing_is_left_alone_then_tried_for_half_a_second(simulate: Simulate) -> None:
    async def scenario() -> None:
        failing, slow = Source("failing", RuntimeError("no"), seconds=1.0), Source("slow", seconds=0.7)
        collections = collections_of(failing, slow)
        for _ in range(3):
            started = now()
            assert success(await collections.snapshot()) == {"failing": 0, "slow": 1}
            assert now() - started == 1.0, "it's relied on"
        snapshot = await collections.snapshot()
        assert (failing.calls, durations(snapshot)["failing"]) == (3, 0.0), "it's left alone"

        await asyncio.sleep(PAUSE)
        started = now()
        trial = await collections.snapshot()
        assert failing.calls == 4
        assert now() - started == pytest.approx(0.7), "as long as the other takes"
        assert durations(trial)["failing"] == pytest.approx(0.7)

        await asyncio.sleep(PAUSE + 1.0)
        slow.seconds, started = 0.0, now()
        await collections.snapshot()
        assert now() - started == 0.5, "nobody waits longer for a trial"
        await asyncio.sleep(PAUSE + 1.0)
        started = now()
        await collections.snapshot(0.2)
        assert now() - started == pytest.approx(0.2)

        await asyncio.sleep(PAUSE + 1.0)
        failing.answer, failing.seconds = FAMILIES, 0.4
        assert success(await collections.snapshot()) == {"failing": 1, "slow": 1}
        calls, failing.seconds = failing.calls, 0.9
        assert success(await collections.snapshot()) == {"failing": 1, "slow": 1}
        assert failing.calls == calls + 1, "one success is enough to be relied on"
        failing.answer = RuntimeError("once")
        for _ in range(2):
            await collections.snapshot()
        assert failing.calls == calls + 3, "and to be asked again after a failure"

    simulate(scenario)


def failed_call() -> Incomplete:
    error = Incomplete("part", [])
    error.__cause__ = CallTimeout("late")
    return error


def stalled_call() -> Incomplete:
    error = Incomplete("part", [])
    error.__cause__ = LoopBlocked(2.0)
    return error


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (CallTimeout("late"), 3),
        (TimeoutError(), 3),
        (ValueError("nonsense"), 3),
        (failed_call(), 3),
        (stalled_call(), 6),
        (LoopBlocked(2.0), 6),
        (LoopEnded(), 6),
    ],
)
def test_a_loop_that_does_not_turn_is_no_fault_of_the_source(simulate: Simulate, error: Exception, asked: int) -> None:
    async def scenario() -> None:
        source = Source("source", error)
        collections = collections_of(source)
        for _ in range(6):
            assert success(await collections.snapshot()) == {"source": 0}
        assert source.calls == asked

    simulate(scenario)


def test_one_that_keeps_its_sources_apart_is_never_left_alone(simulate: Simulate) -> None:
    async def scenario() -> None:
        apart = Source("apart", Incomplete("one of them failed", [*FAMILIES]), apart=True)
        collections = collections_of(apart)
        for _ in range(6):
            snapshot = await collections.snapshot()
            assert success(snapshot) == {"apart": 0}
            assert has_figures(snapshot)
        assert apart.calls == 6

    simulate(scenario)


def test_a_collector_that_is_gone_leaves_nothing_behind(simulate: Simulate) -> None:
    async def scenario() -> None:
        sources = [Source("hanging", HANG), Source("failing", RuntimeError()), Source("well")]
        collections = Collections("library", lambda: sources, 1.0)
        for _ in range(4):
            await collections.snapshot()
        del sources[:2]
        assert success(await collections.snapshot()) == {"well": 1}
        collections.close()

    simulate(scenario)


def test_closing_ends_what_runs_now_and_what_hangs_from_before(simulate: Simulate) -> None:
    async def scenario() -> None:
        before, current = Source("before", HANG), Source("now", seconds=100.0)
        collections = collections_of(before, current, timeout=1.0)
        await collections.snapshot()
        await asyncio.sleep(100.0)
        under_way = asyncio.create_task(collections.snapshot())
        await asyncio.sleep(0.1)
        collections.close()
        assert success(await under_way) == {"before": 0, "now": 0}
        assert (before.cancelled, current.cancelled) == (1, 1)
        Collections("library", tuple, 1.0).close()

    simulate(scenario)


# What a snapshot holds.


def test_a_snapshot_holds_what_is_said_of_the_collection_and_by_whoever_serves_it(simulate: Simulate) -> None:
    async def scenario() -> None:
        one, other = Source("one"), Source("other", [])
        one.dropped, other.dropped = 3, 4
        own = Family(catalog.WEB_CONFIG_IN_ORDER, [((), 1)])
        snapshot = await collections_of(one, other, own_families=lambda: [own]).snapshot()
        assert own in snapshot.families
        assert points(snapshot, catalog.EXPORTER_SERIES_DROPPED) == {"": 7}
        (info,) = (f for f in snapshot.families if isinstance(f, Family) and f.metric is catalog.EXPORTER_INFO)
        assert info.points[0][0][1] == "library"
        plain = await snapshot.body(Format.TEXT, gzip=False)
        assert plain.count(b"\nflowrra_app_running 1\n") == 1

    simulate(scenario)


def test_each_form_is_rendered_once_in_slices_and_belongs_to_nobody(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        rendered: list[Format] = []
        rests = 0

        class Renderer:
            def render(self, families: Sequence[AnyFamily], format: Format) -> Iterator[bytes]:
                rendered.append(format)
                for number in range(5):
                    yield f"{number} {'x' * 1000}\n".encode()

        async def count_rest() -> None:
            nonlocal rests
            rests += 1
            await asyncio.sleep(0.1)

        monkeypatch.setattr(collection, "yield_gil", count_rest)
        snapshot = Snapshot([], Renderer())  # type: ignore[arg-type]
        gone = asyncio.create_task(snapshot.body(Format.TEXT, gzip=False))
        await asyncio.sleep(0.2)
        gone.cancel()
        plain, again, packed = await asyncio.gather(
            snapshot.body(Format.TEXT, gzip=False),
            snapshot.body(Format.TEXT, gzip=False),
            snapshot.body(Format.TEXT, gzip=True),
        )
        await snapshot.body(Format.OPENMETRICS, gzip=False)
        assert rendered == [Format.TEXT, Format.TEXT, Format.OPENMETRICS]
        assert rests == 15
        assert plain is again
        assert plain == b"".join(f"{number} {'x' * 1000}\n".encode() for number in range(5))
        assert gzip.decompress(packed) == plain
        assert len(packed) < len(plain) / 10

    simulate(scenario)


# What is logged.


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_source_that_fails_is_logged_when_that_begins_and_when_it_ends(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = Source("source", ValueError("nonsense"))
        collections = collections_of(source)
        for _ in range(3):
            await collections.snapshot()
        await asyncio.sleep(PAUSE)
        source.answer = FAMILIES
        for _ in range(3):
            await collections.snapshot()
        source.answer = TimeoutError()
        await collections.snapshot()

    caplog.set_level(logging.INFO, "flowrra_exporter")
    simulate(scenario)
    assert said(caplog) == [
        ("WARNING", "collector source fails: ValueError: nonsense"),
        ("INFO", "collector source works again"),
        ("WARNING", "collector source fails: TimeoutError"),
    ]


@pytest.mark.parametrize("stalled", [LoopBlocked(2.0), stalled_call()])
def test_a_stall_of_the_apps_loop_is_not_logged_here_and_ends_no_failure(
    simulate: Simulate, caplog: pytest.LogCaptureFixture, stalled: Exception
) -> None:
    async def scenario() -> None:
        source = Source("source", CallTimeout("late"))
        collections = collections_of(source)
        for answer in (CallTimeout("late"), stalled, CallTimeout("later"), FAMILIES, stalled, FAMILIES):
            source.answer = answer
            await collections.snapshot()

    caplog.set_level(logging.INFO, "flowrra_exporter")
    simulate(scenario)
    assert said(caplog) == [
        ("WARNING", "collector source fails: late"),
        ("INFO", "collector source works again"),
    ]


def test_where_the_unexpected_was_raised_is_told_at_debug_level(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flowrra_exporter")
    simulate(lambda: collections_of(Source("source", ValueError("nonsense"))).snapshot())
    assert "in collect" in caplog.text
    assert "ValueError: nonsense" in caplog.text


def test_a_client_in_a_hurry_makes_nobody_fail_in_the_log(simulate: Simulate, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        collections = collections_of(Source("slow", seconds=1.0))
        for _ in range(3):
            assert success(await collections.snapshot(0.001)) == {"slow": 0}
            await asyncio.sleep(2.0)
            assert success(await collections.snapshot()) == {"slow": 1}

    caplog.set_level(logging.INFO, "flowrra_exporter")
    simulate(scenario)
    assert said(caplog) == []


def test_a_reason_is_said_for_who_is_late_and_for_who_is_not_asked(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        collections = collections_of(Source("late", HANG), timeout=1.0)
        await collections.snapshot()
        collections.close()
        named = Collections("library", lambda: [hanging], 1.0)
        hanging.known = FAMILIES
        await named.snapshot(0.5)  # who asks waits for less than others, so nothing is said of that
        await asyncio.sleep(0.5)
        await named.snapshot()
        named.close()

    hanging = Source("hanging", HANG)
    simulate(scenario)
    assert [message for _, message in said(caplog)] == [
        "collector late fails: not ready in time for this scrape",
        "collector hanging fails: has not answered an earlier scrape yet",
    ]
