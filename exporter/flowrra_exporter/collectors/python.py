"""prometheus_client's default registry: the user's own metrics, and those of the process, the GC and Python.

A user's collector can do anything, also hang: the registry is collected in a thread of its own with a
deadline, and while that thread is still at it, no second one is started.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY, CollectorRegistry

from flowrra_exporter.catalog import RESERVED_NAMES
from flowrra_exporter.collectors.base import Collector, Incomplete
from flowrra_exporter.prometheus import valid_name
from flowrra_exporter.samples import ForeignFamily

logger = logging.getLogger(__name__)

_OF_THE_PROCESS = ("process_", "python_")


class PythonCollector(Collector):
    """process_*, python_*, and whatever else the app registered.

    `timeout` is in seconds. Where a name is one of ours, or taken by another of theirs, the family is left
    out and that is logged once; `dropped` is the number of time series that this cost in the last collection. With
    `own_only` the families that the app registered are left out: an app that doesn't run here counts nothing here.
    """

    name = "python"

    def __init__(self, timeout: float, registry: CollectorRegistry = REGISTRY, own_only: bool = False) -> None:
        self.dropped = 0
        self._own_only = own_only
        self._timeout = timeout
        self._registry = registry
        self._run: _Run | None = None
        self._clashes: set[str] = set()

    async def collect(self) -> Sequence[ForeignFamily]:
        if self._run is not None and not self._run.finished.is_set():
            raise TimeoutError(f"a registered collector has been hanging for {self._run.age:.1f} s")
        run = self._run = _Run(self._registry)
        problem = await self._wait(run)
        found = [family for family in run.families if not self._own_only or family.name.startswith(_OF_THE_PROCESS)]
        families = self._without_clashes(found)
        if problem is not None:
            raise Incomplete(problem, list(families))
        return families

    async def _wait(self, run: _Run) -> str | None:
        """Waits for the run, and says what is wrong with it."""
        done = asyncio.Event()
        run.start(asyncio.get_running_loop(), done)
        try:
            async with asyncio.timeout(self._timeout):
                await done.wait()
        except TimeoutError:
            return f"a registered collector did not answer within {self._timeout:g} s"
        return None if run.error is None else f"a registered collector raised {run.error!r:.300}"

    def _without_clashes(self, families: Iterable[ForeignFamily]) -> list[ForeignFamily]:
        taken = set(RESERVED_NAMES)
        kept: list[ForeignFamily] = []
        self.dropped = 0
        for family in families:
            names = {valid_name(name) for name in (family.name, *(sample.name for sample in family.samples))}
            if taken.isdisjoint(names):
                taken |= names
                kept.append(family)
            else:
                self.dropped += len(family.samples)
                self._log_clash(family.name)
        return kept

    def _log_clash(self, name: str) -> None:
        if name not in self._clashes:
            self._clashes.add(name)
            logger.warning("the registered metric %r is left out of the scrapes: its name is taken", name)


class _Run:
    """One collection of the registry, in a daemon thread:

    One that hangs must not keep the process from ending.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.families: list[ForeignFamily] = []
        self.error: Exception | None = None
        self.finished = threading.Event()
        self._registry = registry
        self._started = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def start(self, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        arguments = (loop, done)
        threading.Thread(target=self._collect, args=arguments, name="flowrra-exporter-registry", daemon=True).start()

    def _collect(self, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        try:
            for family in self._registry.collect():
                self.families.append(family)
        except Exception as error:  # noqa: BLE001  # reported by the collector
            self.error = error
        self.finished.set()
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            logger.debug("the server has stopped; the registry's answer came too late")
