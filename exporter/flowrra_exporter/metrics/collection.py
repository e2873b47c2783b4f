"""A collection: one run of every collector, shared by the scrapes that arrive while it runs.

Each collector runs on its own: one that fails or hangs costs its own metrics and nothing else. Each scrape
waits for the collection up to its own deadline, and takes what is there by then.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from typing import NamedTuple

from flowrra_exporter.app.loop import CallTimeout, LoopBlocked, LoopEnded, LoopUnavailable
from flowrra_exporter.metrics.circuit_breaker import Breaker
from flowrra_exporter.metrics.collector import Collector, Incomplete
from flowrra_exporter.metrics.exemplars import Exemplars
from flowrra_exporter.metrics.exposition import Format, Renderer
from flowrra_exporter.metrics.pacing import yield_gil
from flowrra_exporter.metrics.samples import AnyFamily, Family
from flowrra_exporter.metrics.self_metrics import self_families

logger = logging.getLogger(__name__)

_EXPECTED_FAILURES = (LoopUnavailable, CallTimeout, Incomplete, TimeoutError)
# For how long after its start a collection is shared: what takes longer waits for a source that is slow, and the
# others' figures would be old. The next collection joins the slow one's run, and asks the others anew.
_SHARED_SECONDS = 0.25
_HANGS = "has not answered an earlier scrape yet"
# How long a scrape waits for a source that has kept failing: it may well be away still.
_TRIAL_SECONDS = 0.5
_GZIP_WBITS = 31  # a gzip header and trailer around the deflate stream
_GZIP_LEVEL = 1  # scraped often, kept never


class Outcome(NamedTuple):
    """How a collector's run ended. ``error`` is empty on success; ``stalled`` if only the app's loop was in the way, or
    is over; ``hurried`` if only whoever asked waited for less than others."""

    collector: str
    error: str
    seconds: float
    families: Sequence[AnyFamily]
    stalled: bool = False
    hurried: bool = False


class Snapshot:
    """The families of a collection at one moment, and their texts, each rendered once for all who want it."""

    def __init__(self, families: Sequence[AnyFamily], renderer: Renderer) -> None:
        self.families = families
        self._renderer = renderer
        self._bodies: dict[tuple[Format, bool], asyncio.Task[bytes]] = {}

    async def body(self, format: Format, gzip: bool) -> bytes:
        """The exposition in this format, compressed or not."""
        task = self._bodies.get((format, gzip))
        if task is None:
            task = self._bodies[format, gzip] = asyncio.create_task(self._render(format, gzip))
        return await asyncio.shield(task)  # a client that goes away doesn't take it from the others

    async def _render(self, format: Format, gzip: bool) -> bytes:
        slices = self._slices(format)
        if not gzip:
            return b"".join([slice async for slice in slices])
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
        compressed = [compressor.compress(slice) async for slice in slices]
        return b"".join([*compressed, compressor.flush()])

    async def _slices(self, format: Format) -> AsyncIterator[bytes]:
        for slice in self._renderer.render(self.families, format):
            yield slice
            await yield_gil()


class Run:
    """One run of a collector, started by its construction. Collections that begin while it is under way share it.

    Args:
        collector: The collector.
        judge: Is told by name whether the source has failed.
    """

    def __init__(self, collector: Collector, judge: Callable[[str, bool], None]) -> None:
        self.outcome: Outcome | None = None
        self._started = time.monotonic()
        self._collector = collector
        self._judge = judge
        self._task = asyncio.create_task(self._perform())

    @property
    def name(self) -> str:
        """The collector's name."""
        return self._collector.name

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def done(self) -> bool:
        """Whether the collector has ended."""
        return self._task.done()

    async def wait(self, timeout: float) -> None:
        """Waits until it has ended, or ``timeout`` seconds."""
        if not self.done and timeout > 0:
            await asyncio.wait((self._task,), timeout=timeout)

    async def late(self, hurried: bool) -> Outcome:
        """How it stands, for a scrape that can't wait any longer."""
        so_far = await self._collector.so_far()
        return Outcome(self.name, "not ready in time for this scrape", self.age, so_far, hurried=hurried)

    def cancel(self) -> None:
        """Ends it."""
        self._task.cancel()

    async def _perform(self) -> None:
        families: Sequence[AnyFamily] = ()
        error = ""
        cause: BaseException | None = None
        try:
            families = await self._collector.collect()
        except Incomplete as incomplete:
            families, error, cause = incomplete.families, str(incomplete), incomplete.__cause__
        except _EXPECTED_FAILURES as failure:
            error, cause = str(failure) or type(failure).__name__, failure
        except Exception as failure:  # a source can fail in any way; it's reported by the outcome
            error = f"{type(failure).__name__}: {failure}"
            logger.debug("collector %s failed", self.name, exc_info=True)
        # Of a loop that doesn't turn one hears at once, and as soon as it turns again, everything is to be there.
        if not isinstance(cause, LoopUnavailable) and not self._collector.keeps_sources_apart:
            self._judge(self.name, bool(error))
        self.outcome = Outcome(self.name, error, self.age, families, isinstance(cause, LoopBlocked | LoopEnded))


class Collection:
    """One run of every collector, which has begun.

    Args:
        runs: The runs, those that an earlier collection has begun among them.
        refused: The collectors that aren't run this time, by name with the reason.
        trials: The names of those for which nobody waits long.
        timeout: The most that anybody waits for a run, in seconds since its start.
        finish: Makes a snapshot of outcomes.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        refused: Mapping[str, str],
        trials: Set[str],
        timeout: float,
        finish: Callable[[Sequence[Outcome]], Snapshot],
    ) -> None:
        self._started = time.monotonic()
        self._runs = runs
        self._refused = [Outcome(name, reason, 0.0, ()) for name, reason in refused.items()]
        self._trials = trials
        self._timeout = timeout
        self._finish = finish
        self._complete: Snapshot | None = None

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def running(self) -> list[Run]:
        """The runs that have not ended yet."""
        return [run for run in self._runs if not run.done]

    @property
    def done(self) -> bool:
        """Whether every run has ended."""
        return not self.running

    async def snapshot(self, timeout: float, hurried: bool = False) -> Snapshot:
        """What there is once all runs have ended, or after ``timeout`` seconds. For trials nobody waits long.

        Args:
            timeout: In seconds.
            hurried: Whoever asks waits for less than others: who is late for that doesn't fail.
        """
        deadline = time.monotonic() + timeout
        for run in self._runs:
            most = _TRIAL_SECONDS if run.name in self._trials else self._timeout
            await run.wait(min(deadline - time.monotonic(), most - run.age))
        if self._complete is not None:
            return self._complete
        is_done = self.done
        outcomes = [run.outcome or await run.late(hurried) for run in self._runs]
        snapshot = self._finish([*outcomes, *self._refused])
        if is_done:
            self._complete = snapshot
        return snapshot

    def cancel(self) -> None:
        """Ends the runs that are under way."""
        for run in self._runs:
            run.cancel()


class Collections:
    """Starts collections, at most one at a time, and logs when a source begins to fail or recovers.

    A run that is under way is joined by the next collection, up to the most that anybody waits for it: two scrapers get
    what a slow source says, and one that hangs costs them together no more than it costs one. After that the collector
    is left behind until it answers; one that keeps failing is left alone for a while.

    Args:
        mode: What flowrra_exporter_info says.
        collectors: Returns the collectors that there are at the moment.
        timeout: The most that a scrape waits for a run, in seconds since its start.
        exemplars: Returns what tracing has kept.
        own_families: Returns the families about what serves the collections.
    """

    def __init__(
        self,
        mode: str,
        collectors: Callable[[], Sequence[Collector]],
        timeout: float,
        exemplars: Callable[[], Exemplars | None] = lambda: None,
        own_families: Callable[[], Sequence[Family]] = lambda: (),
    ) -> None:
        self._mode = mode
        self._collectors = collectors
        self._timeout = timeout
        self._own_families = own_families
        self._renderer = Renderer(exemplars)
        self._current: Collection | None = None
        self._left_behind: list[Run] = []  # by collections that are no longer the current one
        self._breakers: dict[str, Breaker] = {}
        self._failing: dict[str, str] = {}

    async def snapshot(self, timeout: float | None = None) -> Snapshot:
        """A snapshot of the collection under way, or of a new one.

        Args:
            timeout: Shortens the wait, in seconds; it can't lengthen it.
        """
        current = self._current
        if current is None or current.done or current.age > _SHARED_SECONDS:
            current = self._current = self._start(current)
        if timeout is None or timeout >= self._timeout:
            return await current.snapshot(self._timeout)
        return await current.snapshot(timeout, hurried=True)

    def _start(self, last: Collection | None) -> Collection:
        """A new collection, without the sources that hang or that are left alone."""
        collectors = self._collectors()
        apart = {collector.name for collector in collectors if collector.keeps_sources_apart}
        self._leave_behind([] if last is None else last.running, apart)
        under_way = {run.name: run for run in self._left_behind if run.name not in apart}
        refused = {name: breaker.refusal for name, breaker in self._breakers.items()}
        refused |= {name: _HANGS for name, run in under_way.items() if run.age >= self._timeout}
        reasons = {name: reason for name, reason in refused.items() if reason is not None}
        return Collection(
            [under_way.get(each.name) or Run(each, self._judge) for each in collectors if each.name not in reasons],
            {each.name: reasons[each.name] for each in collectors if each.name in reasons},
            {name for name, breaker in self._breakers.items() if breaker.is_open},
            self._timeout,
            self._finish,
        )

    def _leave_behind(self, running: Sequence[Run], apart: Set[str]) -> None:
        """Keeps the runs of the last collection in mind until they have ended, and ends those that hang since an
        earlier one though their collector was run anew."""
        for run in self._left_behind:
            if run.name in apart and run.age >= self._timeout:
                run.cancel()
        known = [run for run in self._left_behind if run.name not in apart or run.age < self._timeout]
        self._left_behind = [run for run in dict.fromkeys([*known, *running]) if not run.done]

    def _judge(self, name: str, failed: bool) -> None:
        """Notes how a source fared, for its circuit breaker."""
        breaker = self._breakers.setdefault(name, Breaker())
        if failed:
            breaker.failed()
        else:
            breaker.succeeded()

    def close(self) -> None:
        """Ends what still runs."""
        for run in self._left_behind:
            run.cancel()
        if self._current is not None:
            self._current.cancel()

    def _finish(self, outcomes: Sequence[Outcome]) -> Snapshot:
        families = [family for outcome in outcomes for family in outcome.families]
        results = [(outcome.collector, not outcome.error, outcome.seconds) for outcome in outcomes]
        for outcome in outcomes:
            self._log(outcome)
        dropped = sum(collector.dropped for collector in self._collectors())
        families.extend(self._own_families())
        families.extend(self_families(self._mode, results, families, dropped))
        return Snapshot(families, self._renderer)

    def _log(self, outcome: Outcome) -> None:
        name = outcome.collector
        if outcome.stalled or outcome.hurried:
            return  # a stall, or the end, is logged once, not by each collector; and no client fills the log by haste
        if outcome.error and name not in self._failing:
            self._failing[name] = outcome.error
            logger.warning("collector %s fails: %s", name, outcome.error)
        elif not outcome.error and self._failing.pop(name, None) is not None:
            logger.info("collector %s works again", name)
