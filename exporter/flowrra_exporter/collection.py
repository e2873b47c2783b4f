"""A collection: one run of every collector, shared by the scrapes that arrive while it runs.

Each collector runs on its own: one that fails or hangs costs its own metrics and nothing else. Each scrape
waits for the collection up to its own deadline, and takes what is there by then.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from flowrra_exporter.app_loop import CallTimeout, LoopUnavailable
from flowrra_exporter.collectors.base import Collector, Incomplete
from flowrra_exporter.collectors.exporter import self_families
from flowrra_exporter.pacing import rest
from flowrra_exporter.prometheus import Format, Renderer
from flowrra_exporter.samples import AnyFamily

logger = logging.getLogger(__name__)

_EXPECTED_FAILURES = (LoopUnavailable, CallTimeout, Incomplete, TimeoutError)
_GZIP_WBITS = 31  # a gzip header and trailer around the deflate stream
_GZIP_LEVEL = 1  # scraped often, kept never


class Outcome(NamedTuple):
    """How a collector's run ended. `error` is empty on success."""

    collector: str
    error: str
    seconds: float
    families: Sequence[AnyFamily]


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
            await rest()


class Collection:
    """One run of every collector, started by its construction."""

    def __init__(self, collectors: Sequence[Collector], finish: Callable[[Sequence[Outcome]], Snapshot]) -> None:
        self._started = time.monotonic()
        self._finish = finish
        self._collectors = {collector.name: collector for collector in collectors}
        self._outcomes: dict[str, Outcome] = {}
        self._runs = {asyncio.create_task(self._run(collector)) for collector in collectors}
        self._complete: Snapshot | None = None

    @property
    def done(self) -> bool:
        """Whether every collector has ended."""
        return all(run.done() for run in self._runs)

    async def snapshot(self, timeout: float) -> Snapshot:
        """What there is once all collectors have ended, or after `timeout` seconds."""
        if self._runs:
            await asyncio.wait(self._runs, timeout=timeout)
        if self._complete is not None:
            return self._complete
        snapshot = self._finish([self._outcomes.get(name) or self._late(name) for name in self._collectors])
        if self.done:
            self._complete = snapshot
        return snapshot

    def cancel(self) -> None:
        """Ends the collectors that still run."""
        for run in self._runs:
            run.cancel()

    def _late(self, name: str) -> Outcome:
        return Outcome(name, "not ready in time for this scrape", time.monotonic() - self._started, ())

    async def _run(self, collector: Collector) -> None:
        families: Sequence[AnyFamily] = ()
        error = ""
        try:
            families = await collector.collect()
        except Incomplete as incomplete:
            families, error = incomplete.families, str(incomplete)
        except _EXPECTED_FAILURES as failure:
            error = str(failure) or type(failure).__name__
        except Exception as failure:  # a source can fail in any way; it's reported by the outcome
            error = f"{type(failure).__name__}: {failure}"
            logger.debug("collector %s failed", collector.name, exc_info=True)
        seconds = time.monotonic() - self._started
        self._outcomes[collector.name] = Outcome(collector.name, error, seconds, families)


class Collections:
    """Starts collections, at most one at a time, and logs when a source begins to fail or recovers.

    `collectors` returns those there are at the moment; `dropped` the number of time series that they left
    out.
    """

    def __init__(
        self,
        mode: str,
        collectors: Callable[[], Sequence[Collector]],
        dropped: Callable[[], int],
        timeout: float,
    ) -> None:
        self._mode = mode
        self._collectors = collectors
        self._dropped = dropped
        self._timeout = timeout
        self._renderer = Renderer()
        self._current: Collection | None = None
        self._failing: dict[str, str] = {}

    async def snapshot(self, timeout: float | None = None) -> Snapshot:
        """A snapshot of the collection under way, or of a new one;

        `timeout` (seconds) can only shorten the wait.
        """
        if self._current is None or self._current.done:
            self._current = Collection(self._collectors(), self._finish)
        return await self._current.snapshot(self._timeout if timeout is None else min(timeout, self._timeout))

    def close(self) -> None:
        """Ends what still runs."""
        if self._current is not None:
            self._current.cancel()

    def _finish(self, outcomes: Sequence[Outcome]) -> Snapshot:
        families = [family for outcome in outcomes for family in outcome.families]
        results = [(outcome.collector, not outcome.error, outcome.seconds) for outcome in outcomes]
        for outcome in outcomes:
            self._log(outcome)
        families.extend(self_families(self._mode, results, families, self._dropped()))
        return Snapshot(families, self._renderer)

    def _log(self, outcome: Outcome) -> None:
        name = outcome.collector
        if outcome.error and name not in self._failing:
            self._failing[name] = outcome.error
            logger.warning("collector %s fails: %s", name, outcome.error)
        elif not outcome.error and self._failing.pop(name, None) is not None:
            logger.info("collector %s works again", name)
