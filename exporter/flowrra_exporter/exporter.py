"""Exporter: the service. Binds, serves from its own thread, watches the app's loop, collects; the command
drives it.

Inside a program of yours::

    async with Exporter(app):
        ...  # the app's metrics and probes are served; starting and stopping the app stays with you
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from flowrra_exporter.app_loop import AppLoop
from flowrra_exporter.checks import Checks
from flowrra_exporter.collection import Collections
from flowrra_exporter.collectors import Collector, PythonCollector, collectors_for
from flowrra_exporter.lifecycle import Lifecycle
from flowrra_exporter.management import Management
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.settings import Settings
from flowrra_exporter.target import manager_of
from flowrra_exporter.watchdog import Watchdog
from flowrra_exporter.web.api import ApiRoutes
from flowrra_exporter.web.metrics import MetricsRoute
from flowrra_exporter.web.page import PageRoute
from flowrra_exporter.web.probes import ProbeRoutes
from flowrra_exporter.web.server import ServerThread, make_application
from flowrra_exporter.web.sockets import bind, url

if TYPE_CHECKING:
    from flowrra_exporter.otel.service import OpenTelemetry

logger = logging.getLogger(__name__)

_REGISTRY_TIMEOUT = 1.0
_FLUSH_SECONDS = 5.0
"""The longest that `close` waits for an OTLP receiver to take the last figures and spans."""


class Exporter:
    """Serves metrics and probes of a Flowrra app, or of any object with `get_stats` and `health_check`.

    `app` may come later, by `attach`: the command serves probes while it is still importing it. `mode` is
    what flowrra_exporter_info says. Raises UsageError for settings that make no sense and for a port in use.
    """

    def __init__(self, app: Any = None, settings: Settings | None = None, mode: str = "library") -> None:
        self.settings = settings or Settings()
        self.lifecycle = Lifecycle()
        self.app_loop: AppLoop | None = None
        self._app = app
        self._mode = mode
        self._management: Management | None = None
        self._python = PythonCollector(_REGISTRY_TIMEOUT)
        self._collectors: list[Collector] = [self._python]
        self._server: ServerThread | None = None
        self._otel: OpenTelemetry | None = None
        self.urls: list[str] = []
        self._watchdog = Watchdog(lambda: self.app_loop, self.lifecycle, self.settings.loop_block_threshold)
        self._checks = Checks(
            self.lifecycle,
            self._watchdog,
            lambda: self.app_loop,
            lambda: self._management,
            self.settings.probe_timeout,
        )
        self._collections = Collections(
            mode, lambda: self._collectors, lambda: self._python.dropped, self.settings.collect_timeout
        )

    @property
    def server_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the server's thread. RuntimeError before `serve`."""
        if self._server is None:
            raise RuntimeError("the exporter doesn't serve yet; call serve() first")
        return self._server.loop

    @property
    def management(self) -> Management | None:
        """The Management API of the app; None before `attach`."""
        return self._management

    def serve(self) -> Sequence[str]:
        """Binds the addresses and starts to serve;

        Returns the URLs. Raises UsageError if an address can't be had, or what OpenTelemetry needs.
        """
        self._otel = self._open_otel()
        sockets = bind(self.settings.web_listen_address)
        self.urls = [url(bound) for bound in sockets]
        self._server = ServerThread(self._application, sockets, self._watchdog.run)
        self._server.start()
        for listening in self.urls:
            logger.info("listening on %s", listening)
        return self.urls

    def watch(self, loop: asyncio.AbstractEventLoop) -> AppLoop:
        """Watches the app's event loop. Call it in the thread that runs it, after `serve`."""
        app_loop = AppLoop(loop, threading.current_thread(), self.server_loop, self.settings.loop_deadline)
        self.app_loop = app_loop
        return app_loop

    def attach(self, manager: Any, app_loop: AppLoop) -> None:
        """Serves what `manager` answers on the loop that is being watched."""
        management = Management(manager, app_loop, self.settings.collect_timeout)
        otel = [] if self._otel is None else self._otel.attach(getattr(manager, "app", manager))
        self._collectors = [*collectors_for(management), *otel, self._python]
        self._management = management

    def close(self, flush_timeout: float = _FLUSH_SECONDS) -> None:
        """Stops to serve. What is to be pushed gets up to `flush_timeout` seconds, and no more than five."""
        if self._otel is not None:
            self._otel.close(min(flush_timeout, _FLUSH_SECONDS))
            self._otel = None
        if self._server is not None:
            self._server.loop.call_soon_threadsafe(self._collections.close)
            self._server.stop()
            self._server = None

    async def push_metrics(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Pushes the metrics over OTLP now; whether the receiver took them within `timeout` seconds.

        False, too, where no metrics are pushed.
        """
        return self._otel is not None and await asyncio.to_thread(self._otel.flush, timeout)

    async def __aenter__(self) -> Self:
        if self._app is None:
            raise TypeError("Exporter() has no app to serve; expected Exporter(app)")
        manager = manager_of(self._app)  # before anything is bound: what is no app is refused without a trace
        self.serve()
        self.attach(manager, self.watch(asyncio.get_running_loop()))
        self.lifecycle.running()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.lifecycle.draining()
        await asyncio.to_thread(self.close)

    def _open_otel(self) -> OpenTelemetry | None:
        """What pushes metrics and makes spans; None, and nothing is imported, unless it's switched on."""
        environment = Environment(self.settings, os.environ)
        metrics, traces = environment.metrics_on(), environment.traces_on()
        if not metrics and not traces:
            return None
        from flowrra_exporter.otel.service import OpenTelemetry

        return OpenTelemetry(environment, metrics, traces, self._collections, lambda: self.server_loop, self._mode)

    def _application(self) -> web.Application:
        path = self.settings.web_telemetry_path
        return make_application(
            [
                *MetricsRoute(path, self._collections, self.settings.max_concurrent_scrapes).routes(),
                *ProbeRoutes(self._checks).routes(),
                *ApiRoutes(self._checks).routes(),
                *PageRoute(path, self.lifecycle).routes(),
            ]
        )
