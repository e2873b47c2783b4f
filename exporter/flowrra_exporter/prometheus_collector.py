"""A prometheus_client collector, for a program that serves its own /metrics already.

async with app, FlowrraCollector(app):
    ...  # the program's own registry now holds the app's families too
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable
from typing import Any, Self

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from flowrra_exporter.app_loop import AppLoop
from flowrra_exporter.collection import Collections
from flowrra_exporter.collectors import collectors_for
from flowrra_exporter.management import Management
from flowrra_exporter.prometheus import Format
from flowrra_exporter.settings import Settings
from flowrra_exporter.target import manager_of
from flowrra_exporter.web.server import ServerThread, make_application

_RENDER_SECONDS = 5.0
"""What rendering may take beyond the deadline of the sources."""


class FlowrraCollector(Collector):
    """The families of `app` in `registry`, from `async with` on the app's loop until its end.

    Sources are asked from a thread of its own, under the deadlines of `settings`. Let the registry be
    collected in a thread other than the app's: on the app's own loop it would wait for itself, and what
    needs the loop would be absent. In a prefork server, enter it after the fork: `collect` raises
    RuntimeError in a process that inherited it.
    """

    def __init__(self, app: Any, registry: CollectorRegistry = REGISTRY, settings: Settings | None = None) -> None:
        self._app = app
        self._registry = registry
        self._settings = settings or Settings()
        self._pid = 0
        self._thread: ServerThread | None = None
        self._collections: Collections | None = None

    async def __aenter__(self) -> Self:
        settings, manager = self._settings, manager_of(self._app)  # may raise: before there is a thread to end
        thread = ServerThread(lambda: make_application([]), [], _until_cancelled)
        thread.start()
        app_loop = AppLoop(asyncio.get_running_loop(), threading.current_thread(), thread.loop, settings.loop_deadline)
        collectors = collectors_for(Management(manager, app_loop, settings.collect_timeout))
        self._collections = Collections("library", lambda: collectors, lambda: 0, settings.collect_timeout)
        self._thread, self._pid = thread, os.getpid()
        self._registry.register(self)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._registry.unregister(self)
        if self._thread is not None and self._collections is not None:
            self._thread.loop.call_soon_threadsafe(self._collections.close)
            await asyncio.to_thread(self._thread.stop)
        self._thread = self._collections = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering doesn't collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The families as of now. RuntimeError outside of `async with`, and after a fork."""
        thread, collections = self._thread, self._collections
        if thread is None or collections is None:
            raise RuntimeError("FlowrraCollector is not running; expected `async with FlowrraCollector(app)`")
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"FlowrraCollector was started in process {self._pid} and inherited by {os.getpid()}; "
                "start it after the fork"
            )
        text = asyncio.run_coroutine_threadsafe(_openmetrics(collections), thread.loop)
        body = text.result(self._settings.collect_timeout + _RENDER_SECONDS)
        return list(text_string_to_metric_families(body))  # type: ignore[no-untyped-call]


async def _openmetrics(collections: Collections) -> str:
    snapshot = await collections.snapshot()
    return (await snapshot.body(Format.OPENMETRICS, gzip=False)).decode()


async def _until_cancelled() -> None:
    await asyncio.Event().wait()
