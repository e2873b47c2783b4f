"""The HTTP server in a thread of its own, with its own event loop:

It answers whatever the app's loop is doing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from aiohttp import web

from flowrra_exporter.web.access import Access
from flowrra_exporter.web.connection import refuse_bodies, watch_connection
from flowrra_exporter.web.listeners import Listeners
from flowrra_exporter.web.responses import add_headers, answer_errors

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 1.0
"""How long the answers under way have when the server stops."""


class Site(NamedTuple):
    """An application, and the sockets that it answers on; they are listening already."""

    application: Callable[[], web.Application]
    sockets: Sequence[socket.socket]
    tls: ssl.SSLContext | None = None


def make_application(routes: Sequence[web.RouteDef], access: Access | None = None) -> web.Application:
    """The aiohttp application with these routes; without `access`, whoever reaches it may come in."""
    admission = [] if access is None else [access.admission]
    application = web.Application(middlewares=[watch_connection, answer_errors, *admission, refuse_bodies])
    application.on_response_prepare.append(add_headers)
    if access is not None:
        application.on_response_prepare.append(access.add_headers)
    application.router.add_routes(routes)
    return application


class ServerThread:
    """Serves the applications of several sites.

    `background` is a coroutine function that runs beside the server, on the same loop, until the server
    stops. `loop` may be used from the construction on; it turns between `start` and `stop`.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        background: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self._sites = sites
        self._background = background
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._stopping = asyncio.Event()
        # A daemon: however the app ends, the server doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="flowrra-exporter-http", daemon=True)
        self._listeners: list[Listeners] = []

    def start(self) -> None:
        """Returns once the server answers. Raises what kept it from starting."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Lets the answers under way finish, within a second or so, and ends the thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_CLOSE_SECONDS * 3)

    async def accept(self, connection: socket.socket) -> None:
        """Serves the first site to a connection that came by no listening socket. Call it on `loop`, after `start`."""
        if not self._listeners:
            raise RuntimeError("the HTTP server doesn't serve")
        await self.loop.connect_accepted_socket(self._listeners[0].connection, connection)

    async def use_tls(self, context: ssl.SSLContext | None) -> None:
        """From now on, the first site's new connections are made under `context`. Call it on `loop`."""
        await self._listeners[0].start(context)

    def forsake_sockets(self) -> None:
        """In a forked child: closes its copies of the listening sockets, which would take connections for nobody."""
        for site in self._sites:
            for opened in site.sockets:
                opened.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again by `start`, and logged
            self._error = error
            logger.critical("the HTTP server has ended: %r", error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        runners = [
            web.AppRunner(site.application(), handle_signals=False, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
            for site in self._sites
        ]
        background = asyncio.create_task(self._background())
        try:
            for site, runner in zip(self._sites, runners, strict=True):
                await runner.setup()
                listeners = Listeners(runner, site.sockets)
                await listeners.start(site.tls)
                self._listeners.append(listeners)
            self._ready.set()
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stopping, background}, return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                background.result()
        finally:
            background.cancel()
            for listeners in self._listeners:
                listeners.close()
            await asyncio.gather(*(runner.cleanup() for runner in runners))
            self.forsake_sockets()
