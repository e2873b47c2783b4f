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
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from flowrra_exporter.app.histogram_bounds import set_bounds
from flowrra_exporter.app.lifecycle import Lifecycle
from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management
from flowrra_exporter.app.target import has_started, manager_of
from flowrra_exporter.app.watchdog import Watchdog
from flowrra_exporter.errors import UsageError
from flowrra_exporter.fork_guard import ForkGuard
from flowrra_exporter.metrics.catalog import BACKGROUND_ERRORS, WEB_CONFIG_IN_ORDER
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.metrics.collectors import Collector, PythonCollector, collectors_for
from flowrra_exporter.metrics.samples import Family
from flowrra_exporter.observed import observe
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.paths import API_PATHS, PROBE_PATHS
from flowrra_exporter.probes.checks import Checks
from flowrra_exporter.probes.queue_limits import QueueLimits
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.access.admission import Access
from flowrra_exporter.web.access.limits import ConnectionLimits
from flowrra_exporter.web.access.reload import WebConfigFile
from flowrra_exporter.web.access.sockets import bind, url
from flowrra_exporter.web.access.web_config import WebConfig, flags_without_authentication
from flowrra_exporter.web.actions import Actions
from flowrra_exporter.web.api import METHODS, ApiRoutes, EventRoutes
from flowrra_exporter.web.background import Background
from flowrra_exporter.web.console import ConsoleRoutes, Endpoint, Identity, Viewer, pages
from flowrra_exporter.web.failures import Failures
from flowrra_exporter.web.metrics import MetricsRoute
from flowrra_exporter.web.probes import ProbeRoutes
from flowrra_exporter.web.server import ServerThread, Site, make_application

if TYPE_CHECKING:
    from flowrra_exporter.otel.service import OpenTelemetry

logger = logging.getLogger(__name__)

# The longest that ``close`` waits for an OTLP receiver to take the last figures and spans.
_FLUSH_SECONDS = 5.0


class Exporter:
    """Serves metrics and probes of a Flowrra app, or of any object with ``get_stats`` and ``health_check``.

    Args:
        app: What is served. It may come later, by ``attach``: the command serves probes while it still imports the app.
        settings: The settings; the defaults if None.
        mode: What flowrra_exporter_info says; with the setting ``observe`` it is 'observer'.
        name: What the console calls the app; by default its class.

    Raises:
        UsageError: The settings make no sense.
    """

    def __init__(
        self, app: Any = None, settings: Settings | None = None, mode: str = "library", name: str = ""
    ) -> None:
        self.settings = settings or Settings()
        self.lifecycle = Lifecycle(self.settings.observe)
        self.app_loop: AppLoop | None = None
        self._app = app
        self._name = name
        self._started_at = datetime.now(UTC)
        self._mode = mode = "observer" if self.settings.observe else mode
        self._management: Management | None = None
        self._python = PythonCollector(self.settings.collector_python_timeout, own_only=self.settings.observe)
        self._collectors: list[Collector] = self._chosen([self._python])
        self._server: ServerThread | None = None
        self._has_served = False
        self._fork_guard = ForkGuard("the exporter")
        self._web_config_file: WebConfigFile | None = None
        self._access = Access(WebConfig())
        self._limits = ConnectionLimits()
        self._otel: OpenTelemetry | None = None
        self.urls: list[str] = []
        self.probe_urls: list[str] = []
        self._watchdog = Watchdog(
            lambda: self.app_loop, lambda: self._management, self.lifecycle, self.settings.loop_block_threshold
        )
        self._checks = Checks(
            self.lifecycle,
            self._watchdog,
            lambda: self.app_loop,
            lambda: self._management,
            self.settings.probe_timeout,
            self.settings.probe_failure_grace,
            QueueLimits(self.settings.probe_max_pending, self.settings.probe_max_queue_age),
            self.settings.probe_require_workers,
            self.settings.probe_fail_when_stuck,
        )
        self._collections = Collections(
            mode,
            lambda: self._collectors,
            max(self.settings.collect_timeout, self.settings.collector_python_timeout),
            lambda: None if self._otel is None else self._otel.exemplars,
            self._own_families,
        )

    @property
    def server_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the server's thread.

        Raises:
            RuntimeError: ``serve`` was not called yet.
        """
        return self.server.loop

    @property
    def server(self) -> ServerThread:
        """The server's thread.

        Raises:
            RuntimeError: ``serve`` was not called yet, or was called before a fork.
        """
        if self._server is None:
            raise RuntimeError("the exporter doesn't serve yet; call serve() first")
        self._fork_guard.check()
        return self._server

    @property
    def left_out(self) -> list[str]:
        """What the last collection left out of the metrics that the program registered, in words."""
        return self._python.left_out

    @property
    def management(self) -> Management | None:
        """The Management API of the app; None before ``attach``."""
        return self._management

    def serve(self, listen: bool = True, identified: bool = False, secret: bytes | None = None) -> Sequence[str]:
        """Binds the addresses and starts to serve; returns the URLs.

        Args:
            listen: Whether the addresses are listened on; if not, only what ``server.accept`` is given is served.
            identified: Whether what is given there comes with the names of users who have authenticated.
            secret: What tokens of those are signed with; random if None.

        Raises:
            UsageError: An address can't be had, or what OpenTelemetry needs, or settings contradict each other.
            RuntimeError: It has served already: what has drained says so for good.
        """
        if self._has_served:
            raise RuntimeError("this Exporter has served already; expected a new one for each time")
        web_config = self._open_web_config(identified)
        self._access.tokens.share(secret)
        self._otel = self._open_otel()
        sockets = bind(self.settings.web_listen_address if listen else (), "--web.listen-address")
        try:
            probe_sockets = bind(self.settings.probe_listen_address if listen else (), "--probe.listen-address")
        except UsageError:
            for bound in sockets:
                bound.close()
            raise
        scheme = "http" if web_config.context is None else "https"
        self.urls = [url(bound, scheme) for bound in sockets]
        self.probe_urls = [url(bound) for bound in probe_sockets]
        sites = [Site(self._application, sockets, web_config.context)]
        if probe_sockets:
            sites.append(Site(self._probe_application, probe_sockets, for_probes=True))
        server = ServerThread(sites, self._background(), self._limits)
        server.start()
        self._fork_guard.arm(self._forked)
        self._server = server
        self._has_served = True
        for listening in self.urls:
            logger.info("listening on %s", listening)
        for listening in self.probe_urls:
            logger.info("answering probes on %s", listening)
        return self.urls

    def _open_web_config(self, identified: bool) -> WebConfig:
        """What the web configuration file says; what it would say if it were empty, if there is none."""
        if self.settings.web_config_file is not None:
            self._web_config_file = WebConfigFile(self.settings.web_config_file)
            self._access.change(self._web_config_file.current)
        config = WebConfig() if self._web_config_file is None else self._web_config_file.current
        for flag in flags_without_authentication(self.settings, config, identified):
            raise UsageError(
                f"{flag} is for clients that have authenticated; expected --web.config.file with "
                "basic_auth_users or required client certificates"
            )
        return config

    def _background(self) -> list[Background]:
        found = [Background("watching the app's event loop", "event_loop", self._watchdog.run)]
        if self._web_config_file is not None:
            watch = partial(self._web_config_file.watch, self._change_web_config)
            found.append(Background("reading the web configuration again", "web_config", watch))
        return found

    def _own_families(self) -> list[Family]:
        """The families about the server's own work."""
        background = [] if self._server is None else self._server.background
        found = [Family(BACKGROUND_ERRORS, [((each.label,), each.errors) for each in background])]
        if self._web_config_file is not None:
            found.append(Family(WEB_CONFIG_IN_ORDER, [((), int(self._web_config_file.in_order))]))
        return found

    def _change_web_config(self, config: WebConfig) -> None:
        self._access.change(config)
        self.server.use_tls(config.context)

    def reload(self) -> None:
        """Reads the web configuration again, whether its files have changed or not. Call it on the server's loop."""
        if self._web_config_file is None:
            logger.info("there is no web configuration file to be read again; what flags say holds until the end")
        else:
            self._web_config_file.ask()

    def watch(self, loop: asyncio.AbstractEventLoop) -> AppLoop:
        """Watches the app's event loop. Call it in the thread that runs it, after ``serve``."""
        app_loop = AppLoop(loop, threading.current_thread(), self.server_loop, self.settings.loop_deadline)
        self.app_loop = app_loop
        return app_loop

    def attach(self, manager: Any, app_loop: AppLoop) -> None:
        """Serves what ``manager`` answers on the loop that is being watched; an ``Observed`` one in observer mode.

        Raises:
            UsageError: The app doesn't take the histogram bounds of the settings.
        """
        management = Management(manager, app_loop, self.settings.collect_timeout, self.settings.observe)
        if not self.settings.observe:
            set_bounds(management, self.settings)
        bounds = self.settings.histogram_run_duration_bounds
        otel = [] if self._otel is None else self._otel.attach(getattr(manager, "app", manager), bounds)
        collectors = collectors_for(management, self.settings.max_series, shared_only=self.settings.observe)
        self._collectors = self._chosen([*collectors, *otel, self._python])
        self._management = management

    def follow(self, manager: Any) -> None:
        """The app is started by others: it is said to have, once it has."""
        self.lifecycle.ask(partial(has_started, getattr(manager, "app", manager)))

    def _chosen(self, collectors: Sequence[Collector]) -> list[Collector]:
        return [collector for collector in collectors if self.settings.collects(collector.name)]

    def close(self, flush_timeout: float = _FLUSH_SECONDS) -> None:
        """Stops to serve. Does nothing in a process forked since ``serve``: the threads are the parent's.

        Args:
            flush_timeout: The time for what is to be pushed, in seconds; no more than five are waited for.
        """
        if self._fork_guard.inherited:
            return
        try:
            if self._otel is not None:
                self._otel.close(min(flush_timeout, _FLUSH_SECONDS))
                self._otel = None
        finally:
            self._stop_server()

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.run_soon(self._collections.close)
            self._server.stop()
            self._access.close()
            self._server = None
            self._fork_guard.disarm()

    async def push_metrics(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Pushes the metrics over OTLP now.

        Args:
            timeout: The time that the receiver has, in seconds.

        Returns:
            Whether it took them in time; False, too, where no metrics are pushed.
        """
        return self._otel is not None and await asyncio.to_thread(self._otel.flush, timeout)

    async def __aenter__(self) -> Self:
        if self._app is None:
            raise TypeError("Exporter() has no app to serve; expected Exporter(app)")
        manager = manager_of(self._app)  # before anything is bound: what is no app is refused without a trace
        if self.settings.observe:
            manager = await observe(manager, "the app")
        self.serve()
        try:
            self.attach(manager, self.watch(asyncio.get_running_loop()))
        except BaseException:
            await asyncio.to_thread(self.close, 0.0)
            raise
        self.follow(manager)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.lifecycle.draining()
        await asyncio.to_thread(self.close)

    def _forked(self) -> None:
        if self._server is not None:
            self._server.close_inherited_sockets()

    def _open_otel(self) -> OpenTelemetry | None:
        """What pushes metrics and makes spans; None, and nothing is imported, unless it's switched on."""
        environment = Environment(self.settings, os.environ)
        # An observer runs no tasks, so it makes no spans.
        metrics, traces = environment.metrics_on(), environment.traces_on() and not self.settings.observe
        if not metrics and not traces:
            return None
        from flowrra_exporter.otel.service import OpenTelemetry

        return OpenTelemetry(environment, metrics, traces, self._collections, lambda: self.server_loop, self._mode)

    def _identity(self) -> Identity:
        """What the console says of what it shows."""
        name = self._name or ("app" if self._app is None else type(self._app).__name__)
        return Identity(name, socket.gethostname(), os.getpid(), self._started_at, self._mode)

    def _probe_application(self) -> web.Application:
        """The probes alone, for a port that asks nobody who they are: the kubelet has no credentials."""
        return make_application(ProbeRoutes(self._checks).routes())

    def _actions(self) -> Actions:
        return Actions(
            lambda: self._management,
            self._access.tokens,
            self.settings.web_actions,
            self.settings.web_external_url,
            self.settings.web_show_task_data,
        )

    def _api(self, failures: Failures) -> list[web.RouteDef]:
        return ApiRoutes(
            self._checks,
            lambda: self._management,
            failures,
            self.settings.web_show_task_data,
            lambda: self._access.authenticates,
            self.settings.web_actions,
        ).routes()

    def _application(self) -> web.Application:
        path, task_data = self.settings.web_telemetry_path, self.settings.web_show_task_data
        failures = Failures(lambda: self._management, self.settings.probe_timeout)
        actions = self._actions()
        events = EventRoutes(lambda: self._management, task_data, lambda: self._limits.most_streams)
        api = [*self._api(failures), *events.routes(), *actions.api_routes()]
        endpoints = [
            Endpoint(path, "Metrics for Prometheus, as text or OpenMetrics"),
            *(Endpoint(*probe) for probe in PROBE_PATHS.items()),
            *(Endpoint(link, text, METHODS.get(link, "")) for link, text in API_PATHS.items()),
        ]
        if not self.settings.web_api:
            api, endpoints = [], [each for each in endpoints if each.path not in API_PATHS]
        viewer = Viewer(
            self._identity,
            self.lifecycle,
            self._checks,
            self._collections,
            failures,
            lambda: self._management,
            lambda: self.app_loop,
        )
        console: list[web.RouteDef] = []
        if self.settings.web_console:
            serving = ConsoleRoutes(
                pages(self.settings.max_series), viewer, lambda: self._management, endpoints, task_data, actions
            )
            console = actions.page_routes() + serving.routes()
        application = make_application(
            [
                *MetricsRoute(path, self._collections, self.settings.max_concurrent_scrapes).routes(),
                *ProbeRoutes(self._checks).routes(),
                *api,
                *console,
            ],
            self._access,
        )
        application.on_shutdown.append(events.close)
        return application
