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

from flowrra_exporter.app.loop import CallTimeout, LoopBlocked, LoopUnavailable
from flowrra_exporter.metrics.circuit_breaker import Breaker
from flowrra_exporter.metrics.collector import Collector, Incomplete
from flowrra_exporter.metrics.exemplars import Exemplars
from flowrra_exporter.metrics.exposition import Format, Renderer
from flowrra_exporter.metrics.pacing import yield_gil
from flowrra_exporter.metrics.samples import AnyFamily, Family
from flowrra_exporter.metrics.self_metrics import self_families

logger = logging.getLogger(__name__)

_EXPECTED_FAILURES = (LoopUnavailable, CallTimeout, Incomplete, TimeoutError)
# For how long after its start a collection is shared: what takes longer waits for a source that hangs, and the others'
# figures would be old.
_SHARED_SECONDS = 0.25
# How long a scrape waits for a source that has kept failing: it may well be away still.
_TRIAL_SECONDS = 0.5
_GZIP_WBITS = 31  # a gzip header and trailer around the deflate stream
_GZIP_LEVEL = 1  # scraped often, kept never


class Outcome(NamedTuple):
    """How a collector's run ended. ``error`` is empty on success; ``stalled`` if only the app's loop was in the way,
    ``hurried`` if only whoever asked waited for less than others."""

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


class Collection:
    """One run of every collector, started by its construction.

    Args:
        collectors: The collectors.
        refused: Those that aren't run this time, by name with the reason.
        trials: The names of those for which nobody waits long.
        finish: Makes a snapshot of outcomes.
        judge: Is told by name whether a source has failed.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        refused: Mapping[str, str],
        trials: Set[str],
        finish: Callable[[Sequence[Outcome]], Snapshot],
        judge: Callable[[str, bool], None],
    ) -> None:
        self._started = time.monotonic()
        self._trials = trials
        self._finish = finish
        self._judge = judge
        self._collectors = {collector.name: collector for collector in collectors}
        self._outcomes = {name: Outcome(name, reason, 0.0, ()) for name, reason in refused.items()}
        self._runs = {
            collector.name: asyncio.create_task(self._run(collector))
            for collector in collectors
            if collector.name not in refused
        }
        self._complete: Snapshot | None = None

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    @property
    def running(self) -> dict[str, asyncio.Task[None]]:
        """The collectors that have not ended yet."""
        return {name: run for name, run in self._runs.items() if not run.done()}

    @property
    def done(self) -> bool:
        """Whether every collector has ended."""
        return not self.running

    async def snapshot(self, timeout: float, hurried: bool = False) -> Snapshot:
        """What there is once all collectors have ended, or after ``timeout`` seconds. For trials nobody waits long.

        Args:
            timeout: In seconds.
            hurried: Whoever asks waits for less than others: who is late for that doesn't fail.
        """
        deadline = time.monotonic() + timeout
        relied_on = [run for name, run in self.running.items() if name not in self._trials]
        if relied_on:
            await asyncio.wait(relied_on, timeout=timeout)
        left = min(deadline - time.monotonic(), _TRIAL_SECONDS - self.age)
        if self.running:
            await asyncio.wait(self.running.values(), timeout=left)
        if self._complete is not None:
            return self._complete
        is_done = self.done
        snapshot = self._finish(
            [self._outcomes.get(name) or await self._late(name, hurried) for name in self._collectors]
        )
        if is_done:
            self._complete = snapshot
        return snapshot

    def cancel(self) -> None:
        """Ends the collectors that still run."""
        for run in self._runs.values():
            run.cancel()

    async def _late(self, name: str, hurried: bool) -> Outcome:
        so_far = await self._collectors[name].so_far()
        seconds = time.monotonic() - self._started
        return Outcome(name, "not ready in time for this scrape", seconds, so_far, hurried=hurried)

    async def _run(self, collector: Collector) -> None:
        families: Sequence[AnyFamily] = ()
        error = ""
        cause: BaseException | None = None
        try:
            families = await collector.collect()
        except Incomplete as incomplete:
            families, error, cause = incomplete.families, str(incomplete), incomplete.__cause__
        except _EXPECTED_FAILURES as failure:
            error, cause = str(failure) or type(failure).__name__, failure
        except Exception as failure:  # a source can fail in any way; it's reported by the outcome
            error = f"{type(failure).__name__}: {failure}"
            logger.debug("collector %s failed", collector.name, exc_info=True)
        # Of a loop that doesn't turn one hears at once, and as soon as it turns again, everything is to be there.
        if not isinstance(cause, LoopUnavailable) and not collector.keeps_sources_apart:
            self._judge(collector.name, bool(error))
        seconds = time.monotonic() - self._started
        stalled = isinstance(cause, LoopBlocked)
        self._outcomes[collector.name] = Outcome(collector.name, error, seconds, families, stalled)


class Collections:
    """Starts collections, at most one at a time, and logs when a source begins to fail or recovers.

    A collector that hangs is left behind by the next collection; one that keeps failing is left alone for a while.

    Args:
        mode: What flowrra_exporter_info says.
        collectors: Returns the collectors that there are at the moment.
        timeout: The most that a scrape waits for a collection, in seconds.
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
        self._hanging: dict[str, asyncio.Task[None]] = {}
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
        """A new collection, without the sources that the last one still waits for or that are left alone."""
        if last is not None:
            for name, run in last.running.items():
                if name in self._hanging:  # one that keeps its sources apart hangs a second time
                    self._hanging[name].cancel()
                self._hanging[name] = run
        self._hanging = {name: run for name, run in self._hanging.items() if not run.done()}
        collectors = self._collectors()
        apart = {collector.name for collector in collectors if collector.keeps_sources_apart}
        refused = dict.fromkeys(self._hanging.keys() - apart, "has not answered an earlier scrape yet")
        for name, breaker in self._breakers.items():
            reason = breaker.refusal
            if reason is not None:
                refused[name] = reason
        return Collection(
            collectors,
            refused,
            {name for name, breaker in self._breakers.items() if breaker.is_open},
            self._finish,
            self._judge,
        )

    def _judge(self, name: str, failed: bool) -> None:
        """Notes how a source fared, for its circuit breaker."""
        breaker = self._breakers.setdefault(name, Breaker())
        if failed:
            breaker.failed()
        else:
            breaker.succeeded()

    def close(self) -> None:
        """Ends what still runs."""
        for run in self._hanging.values():
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
            return  # the stall is logged once, not by each collector; and no client fills the log by its haste
        if outcome.error and name not in self._failing:
            self._failing[name] = outcome.error
            logger.warning("collector %s fails: %s", name, outcome.error)
        elif not outcome.error and self._failing.pop(name, None) is not None:
            logger.info("collector %s works again", name)
