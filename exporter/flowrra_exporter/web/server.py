"""The HTTP server: it runs in a thread and event loop of its own, and answers whatever the app's loop is doing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohttp import web

from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.access.admission import Access
from flowrra_exporter.web.access.connection import MAX_BODY, refuse_bodies, watch_connection
from flowrra_exporter.web.access.limits import ConnectionLimits
from flowrra_exporter.web.access.listeners import Listeners
from flowrra_exporter.web.background import Background
from flowrra_exporter.web.responses import add_headers, answer_errors

logger = logging.getLogger(__name__)

# How long the answers under way have when the server stops.
_CLOSE_SECONDS = 1.0


class Site(NamedTuple):
    """An application, and the sockets that it answers on; they are listening already."""

    application: Callable[[], web.Application]
    sockets: Sequence[socket.socket]
    tls: ssl.SSLContext | None = None
    for_probes: bool = False


def make_application(routes: Sequence[web.RouteDef], access: Access | None = None) -> web.Application:
    """The aiohttp application with these routes; without ``access``, every client may come in."""
    admission = [] if access is None else [access.admission]
    application = web.Application(
        middlewares=[watch_connection, answer_errors, *admission, refuse_bodies], client_max_size=MAX_BODY
    )
    application.on_response_prepare.append(add_headers)
    if access is not None:
        application.on_response_prepare.append(access.add_headers)
    application.router.add_routes(routes)
    return application


class ServerThread:
    """Serves the applications of several sites.

    Args:
        sites: The sites.
        background: What is done beside, on the same loop, until the server stops; no failure of it ends the server.
        limits: Those of all sites together.

    Attributes:
        loop: May be used from the construction on; it turns between ``start`` and ``stop``.
    """

    def __init__(
        self, sites: Sequence[Site], background: Sequence[Background], limits: ConnectionLimits | None = None
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self._sites = sites
        self._limits = limits or ConnectionLimits()
        closing_idle = Background("closing idle connections", "connections", self._limits.close_idle)
        self.background = [*background, closing_idle]
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._stopping = asyncio.Event()
        # A daemon: however the app ends, the server doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="flowrra-exporter-http", daemon=True)
        self._listeners: list[Listeners] = []
        # Connections that were handed over, and not taken yet, by what tells of that.
        self._handed_over: dict[concurrent.futures.Future[None], socket.socket] = {}

    def start(self) -> None:
        """Returns once the server answers; raises what kept it from starting.

        Raises:
            UsageError: There is no thread to be had.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close_sockets()
            self.loop.close()
            raise UsageError(f"the HTTP server has no thread to run in: {error}") from error
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Lets the answers under way finish, within a second or so, and ends the thread."""
        self.run_soon(self._stopping.set)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS * 3)

    def run_soon(self, callback: Callable[[], object]) -> bool:
        """Runs ``callback`` on ``loop``, from any thread; False, and nothing is run, if the server has ended."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def accept(
        self, connection: socket.socket, client: str = "", user: str | None = None
    ) -> concurrent.futures.Future[None]:
        """Serves the first site to a connection that came by no listening socket. For any thread, after ``start``.

        Args:
            connection: It is closed once it has been served, or at once if it isn't.
            client: The address of who is behind it.
            user: The name of the user who has authenticated to whoever hands it over; None for nobody.

        Returns:
            What is done once it's taken. It raises Full if there is no place for one more, and ConnectionError if the
            server ends first.

        Raises:
            RuntimeError: The server has ended.
        """
        taken = concurrent.futures.Future[None]()
        # First: what the loop gets and doesn't come to any more is found there at its end.
        self._handed_over[taken] = connection

        def take() -> None:
            if self._stopping.is_set():  # whoever is let in now finds nobody who answers
                self._refuse(taken)
                return
            del self._handed_over[taken]
            try:
                connection.setblocking(False)
                self._listeners[0].take(connection, client, user)
            except Exception as error:  # noqa: BLE001 - raised again by ``taken``
                taken.set_exception(error)
            else:
                taken.set_result(None)

        if not self.run_soon(take):
            self._refuse(taken)
            raise RuntimeError("the HTTP server has ended")
        return taken

    def _refuse(self, taken: concurrent.futures.Future[None]) -> None:
        connection = self._handed_over.pop(taken, None)
        if connection is not None:
            connection.close()
            taken.set_exception(ConnectionError("the HTTP server has ended"))

    def use_tls(self, context: ssl.SSLContext | None) -> None:
        """From now on, the first site's new connections are made under ``context``."""
        self._listeners[0].context = context

    def close_inherited_sockets(self) -> None:
        """In a forked child: lets go of its copies of all sockets.

        The listening ones would keep the port from whoever comes after us, and take connections for nobody; the others
        would keep clients waiting for an answer after our end.
        """
        self._limits.close_inherited()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for site in self._sites:
            for opened in site.sockets:
                opened.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again by ``start``, and logged
            self._error = error
            logger.critical("the HTTP server has ended: %r", error)
        finally:
            for taken in list(self._handed_over):
                self._refuse(taken)
            self._ready.set()

    async def _serve(self) -> None:
        runners = [
            web.AppRunner(site.application(), handle_signals=False, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
            for site in self._sites
        ]
        background = [asyncio.create_task(work.run()) for work in self.background]
        try:
            for site, runner in zip(self._sites, runners, strict=True):
                await runner.setup()
                self._listeners.append(self._listen(site, runner))
            self._ready.set()
            await self._stopping.wait()
        finally:
            for task in background:
                task.cancel()
            for listeners in self._listeners:
                listeners.close()
            await asyncio.gather(*(runner.cleanup() for runner in runners))
            self._close_sockets()

    def _listen(self, site: Site, runner: web.AppRunner) -> Listeners:
        probes_have_a_port = any(each.for_probes for each in self._sites)
        listeners = Listeners(runner, site.sockets, self._limits, site.for_probes, probes_have_a_port)
        listeners.context = site.tls
        listeners.start()
        return listeners
