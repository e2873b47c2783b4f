"""Collects the collectors of a prometheus_client registry, each by itself, in threads that nobody depends on.

One thread takes them one after the other, those first that answer at once: most do so in microseconds, since every
Counter is a collector. When one makes it wait, another thread goes on with the rest. So there is a thread for each
collector that hangs, and one more; one that hangs isn't started again, and where too many hang, those are no longer
started that have never answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from flowrra_exporter.app.target import describe
from flowrra_exporter.metrics.circuit_breaker import Breaker
from flowrra_exporter.metrics.foreign_families import Gathered, LeftOut, read_family
from flowrra_exporter.metrics.pacing import ThreadPacer

logger = logging.getLogger(__name__)

THREAD_NAME = "flowrra-exporter-registry"
# As many may hang before those are no longer started that have never answered.
MAX_HANGING = 16
# Of one collector. One that goes on is left at that: it might never end.
MAX_SERIES = 50_000
# How long a thread waits for one collector before another thread goes on with the rest.
_HELD_UP_SECONDS = 0.05
# How long is waited for a collector that has kept being late.
_TRIAL_SECONDS = 0.5


class _Abandoned(BaseException):
    """Raised in a run that nobody waits for any more. No ``except Exception`` of the collector's catches it."""


class Run:
    """One collection of one collector. Its thread writes it until ``done``; others only read it then."""

    def __init__(self, collector: Any) -> None:
        self.left_out = LeftOut()
        self.found = Gathered(self.left_out)
        self.error = ""
        self.seconds = 0.0
        self.done = threading.Event()
        self.abandoned = False
        self._collector = collector
        self._started: float | None = None
        self._series = 0

    @property
    def age(self) -> float:
        """Seconds since its start; 0 before."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def is_overdue(self, timeout: float) -> bool:
        """Whether it is still under way after so many seconds."""
        return not self.done.is_set() and self.age >= timeout

    def perform(self) -> None:
        """Collects. Whatever the collector does ends here."""
        self._started = time.monotonic()
        pacer = ThreadPacer()

        def pace() -> None:
            if self.abandoned:
                raise _Abandoned
            pacer()

        try:
            for family in self._collector.collect():
                pace()
                for found in read_family(family, self.left_out, pace):
                    self._series += len(found.family.samples)
                    self.found.add(found)
                self._series += 1  # for one that has none
                if self._series > MAX_SERIES:
                    self.error = f"it yields more than {MAX_SERIES} series or families; the rest is absent"
                    break
        except _Abandoned:
            self.error = "it went on yielding after its time was up"
        except BaseException as error:  # noqa: BLE001 - SystemExit and CancelledError, too, end this run alone
            self.error = f"it raised {_described(error)}"
        self.end()

    def end(self, error: str = "") -> None:
        """Ends it, with the reason if it was never started."""
        self.error = self.error or error
        self.seconds = self.age
        self.done.set()


def _described(error: BaseException) -> str:
    try:
        return describe(error)
    except Exception:  # noqa: BLE001 - its text may be what fails
        return type(error).__name__


class Source:
    """One registered collector, from scrape to scrape.

    Args:
        collector: The collector.
        names: The names that its registry keeps for it.
        label: Stands for it in metrics.
        title: Stands for it in messages.
    """

    def __init__(self, collector: Any, names: Sequence[str], label: str, title: str) -> None:
        self.collector = collector
        self.names = frozenset(names)
        self.label = label
        self.title = title
        self.breaker = Breaker()
        self.has_answered = False
        self.run: Run | None = None

    @property
    def doubts(self) -> int:
        """How much there is to doubt that it answers at once. The least doubtful are collected first."""
        if isinstance(self.collector, MetricWrapperBase):
            return 0
        if self.breaker.is_well:
            return 1 if self.has_answered else 2
        return 3


class Round:
    """One collection of these sources, within ``timeout`` seconds. A run that is still under way is joined."""

    def __init__(self, sources: Sequence[Source], timeout: float, hanging: int) -> None:
        self.sources = sources
        self._timeout = timeout
        self._held_up_after = min(_HELD_UP_SECONDS, timeout / (4 * max(1, len(sources))))
        self._todo: deque[Run] = deque()
        self._begun: list[Run] = []
        self._threads: list[threading.Thread] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._refused: dict[Source, str] = {}
        self._runs: dict[Source, Run] = {}
        for source in sorted(sources, key=lambda source: source.doubts):
            self._prepare(source, hanging)

    def _prepare(self, source: Source, hanging: int) -> None:
        refusal = source.breaker.refusal
        if source.run is not None and not source.run.done.is_set():
            self._runs[source] = source.run
        elif refusal is not None:
            self._refused[source] = f"it is {refusal}"
        elif hanging >= MAX_HANGING and not source.has_answered:
            self._refused[source] = f"it isn't asked while {hanging} collectors hang"
        else:
            run = source.run = self._runs[source] = Run(source.collector)
            self._todo.append(run)

    async def wait(self) -> None:
        """Waits until all have ended, or time is up; then judges those that have not."""
        until = time.monotonic() + self._timeout
        while (now := time.monotonic()) < until and any(map(self._is_awaited, self._runs)):
            if self._todo and self._all_are_held_up():
                self._start_thread()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(self._held_up_after, until - now))
        for run in self._unstarted():
            run.end("there was no time left for it")
        for source, run in self._runs.items():
            self._judge(source, run)

    def _is_awaited(self, source: Source) -> bool:
        run = self._runs[source]
        limit = min(_TRIAL_SECONDS, self._timeout) if source.breaker.is_open else self._timeout
        return not run.done.is_set() and run.age < limit

    def _unstarted(self) -> list[Run]:
        found = []
        while self._todo:
            try:
                found.append(self._todo.pop())
            except IndexError:  # a thread was faster
                break
        return found

    def _judge(self, source: Source, run: Run) -> None:
        if run.done.is_set():
            source.has_answered = source.has_answered or run.age > 0
            source.breaker.succeeded()
        else:
            run.abandoned = run.age >= self._timeout
            source.breaker.failed()

    def outcome(self, source: Source) -> tuple[Run | None, str]:
        """A source's run if it has ended, and what is wrong with it."""
        run = self._runs.get(source)
        if run is None:
            return None, self._refused[source]
        if run.done.is_set():
            return run, run.error
        return None, f"it has not answered for {run.age:.1f} s"

    def _all_are_held_up(self) -> bool:
        held_up = sum(run.is_overdue(self._held_up_after) for run in list(self._begun))
        return held_up >= sum(thread.is_alive() for thread in self._threads)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while self._todo:
            try:
                run = self._todo.popleft()
            except IndexError:  # another thread was faster
                break
            self._begun.append(run)
            run.perform()
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            logger.debug("the server has stopped; the registry's answer came too late")
