"""A prometheus_client collector, for a program that serves its own /metrics already.

async with app, FlowrraCollector(app):
    ...  # the program's own registry now holds the app's families too
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, Self

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management
from flowrra_exporter.app.target import manager_of
from flowrra_exporter.fork_guard import ForkGuard
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.metrics.collectors import collectors_for
from flowrra_exporter.metrics.exposition import format_number
from flowrra_exporter.metrics.samples import AnyFamily, Distribution, Family, series_of
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.server import ServerThread

# What a busy machine may take beyond the deadline of the sources.
_SPARE_SECONDS = 5.0


_taking = threading.Lock()
_in_registry: weakref.WeakKeyDictionary[CollectorRegistry, FlowrraCollector] = weakref.WeakKeyDictionary()


class FlowrraCollector(Collector):
    """The families of an app in a registry, from ``async with`` on the app's loop until its end.

    Sources are asked from a thread of its own, under the deadlines of the settings. Let the registry be collected in a
    thread other than the app's: on the app's own loop, what needs the loop is absent. In a prefork server, enter it
    after the fork: ``collect`` raises RuntimeError in a process that inherited it. A registry has one such collector at
    a time: ``async with`` raises RuntimeError for a second.

    Args:
        app: The app.
        registry: The registry.
        settings: The exporter's settings.
    """

    def __init__(self, app: Any, registry: CollectorRegistry = REGISTRY, settings: Settings | None = None) -> None:
        self._app = app
        self._registry = registry
        self._settings = settings or Settings()
        self._fork_guard = ForkGuard("FlowrraCollector")
        self._thread: ServerThread | None = None
        self._collections: Collections | None = None
        self._app_loop: AppLoop | None = None

    async def __aenter__(self) -> Self:
        manager = manager_of(self._app)  # may raise: before there is a thread to end
        self._take_registry()
        try:
            self._start(manager)
        except BaseException:
            _in_registry.pop(self._registry, None)
            raise
        return self

    def _start(self, manager: Any) -> None:
        settings, thread = self._settings, ServerThread([], [])
        thread.start()
        app_loop = AppLoop(asyncio.get_running_loop(), threading.current_thread(), thread.loop, settings.loop_deadline)
        management = Management(manager, app_loop, settings.collect_timeout)
        collectors = [each for each in collectors_for(management, settings.max_series) if settings.collects(each.name)]
        self._collections = Collections("library", lambda: collectors, settings.collect_timeout)
        self._thread, self._app_loop = thread, app_loop
        self._fork_guard.arm()
        self._registry.register(self)

    def _take_registry(self) -> None:
        with _taking:
            other = _in_registry.setdefault(self._registry, self)
            if other is self and self._thread is None:
                return
        raise RuntimeError(
            "this registry has a FlowrraCollector already, and every series would be there twice; expected one for "
            "each registry, such as FlowrraCollector(app, CollectorRegistry()), or the end of the other's `async with`"
        )

    async def __aexit__(self, *_exception: object) -> None:
        with contextlib.suppress(KeyError):  # the program has emptied its registry, as tests do
            self._registry.unregister(self)
        _in_registry.pop(self._registry, None)
        if self._thread is not None and self._collections is not None:
            self._thread.run_soon(self._collections.close)
            await asyncio.to_thread(self._thread.stop)
        self._thread = self._collections = self._app_loop = None
        self._fork_guard.disarm()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering doesn't collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The families as of now.

        Raises:
            RuntimeError: Outside of ``async with``, and after a fork.
        """
        thread, collections, app_loop = self._thread, self._collections, self._app_loop
        if thread is None or collections is None or app_loop is None:
            raise RuntimeError("FlowrraCollector is not running; expected `async with FlowrraCollector(app)`")
        self._fork_guard.check()
        on_its_loop = threading.current_thread() is app_loop.thread
        with app_loop.waiting() if on_its_loop else contextlib.nullcontext():
            waiting = asyncio.run_coroutine_threadsafe(collections.snapshot(), thread.loop)
            snapshot = waiting.result(self._settings.collect_timeout + _SPARE_SECONDS)
        return [metric_of(family) for family in snapshot.families if series_of(family)]


def metric_of(family: AnyFamily) -> Metric:
    """A family as prometheus_client knows it."""
    if not isinstance(family, Family):
        return family
    ours = family.metric
    metric = Metric(ours.family_name, ours.help, ours.type, ours.unit)
    for values, value in family.points:
        labels = dict(zip(ours.labels, map(_encodable, values), strict=True))
        if isinstance(value, Distribution):
            metric.samples.extend(_histogram(ours.name, labels, value))
        else:
            metric.samples.append(Sample(ours.name, labels, value))
    return metric


def _histogram(name: str, labels: dict[str, str], value: Distribution) -> Iterator[Sample]:
    counts = list(accumulate(value.counts))
    for bound, count in zip((*value.bounds, math.inf), counts, strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": format_number(float(bound))}, count)
    yield Sample(f"{name}_count", labels, counts[-1])
    yield Sample(f"{name}_sum", labels, value.sum)


def _encodable(value: str) -> str:
    """A lone surrogate can't be encoded as UTF-8; it becomes its escape, as in our own exposition."""
    return value.encode("utf-8", "backslashreplace").decode()
