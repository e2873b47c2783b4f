"""The listening sockets of a site: each connection is counted before anything else is done for it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any

from aiohttp import web

from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.web.access.connection import Connection, look_first
from flowrra_exporter.web.access.limits import ConnectionLimits, client_of
from flowrra_exporter.web.access.tls import HANDSHAKE_SECONDS

logger = logging.getLogger(__name__)

# How many connections are taken in one turn of the loop: where one makes room, its descriptor comes free after it.
_AT_ONCE = 8
# How long no connection is taken when there is no place for one, or no descriptor to be had.
_PAUSE_SECONDS = 0.02


class Full(Exception):
    """There is no place for one more connection."""

    def __init__(self) -> None:
        super().__init__("too many connections are open; try again later")


class Listeners:
    """Takes the connections of a site's sockets.

    Args:
        runner: What serves them; it is set up.
        sockets: The listening sockets.
        context: The TLS of the connections to come, None for none; it may change at any time.
        limits: The limits that all sites share.
        for_probes: Whether this site has the probes alone.
        probes_have_a_port: Whether there is such a site.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        sockets: Sequence[socket.socket],
        limits: ConnectionLimits,
        for_probes: bool,
        probes_have_a_port: bool,
    ) -> None:
        if runner.server is None:
            raise RuntimeError("the application isn't set up")
        self.context: ssl.SSLContext | None = None
        self._server = runner.server
        self._server.request_factory = look_first(self._server.request_factory)
        self._sockets = sockets
        self._limits = limits
        self._for_probes = for_probes
        self._probes_have_a_port = probes_have_a_port
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._closed = False
        self._full = ThrottledWarning(logger, "let connections wait or end %d times: there was no place for one more")

    def start(self) -> None:
        """Accepts connections."""
        for listening in self._sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    def take(self, accepted: socket.socket, client: str, user: str | None) -> None:
        """Serves a connection of this process, behind which is the address ``client``, and a user if it is known who.

        Raises:
            Full: There is no place for it; ``accepted`` is closed.
        """
        if not self._has_room(accepted.fileno()):
            accepted.close()
            raise Full
        self._serve(accepted, client, None, address=client, user=user)

    def _serve(
        self,
        accepted: socket.socket,
        client: str,
        context: ssl.SSLContext | None,
        **handed_over: Any,
    ) -> None:
        of_client = client_of(client)
        connection = Connection(self._server, self._limits, self._loop, of_client, self._for_probes, **handed_over)
        connection.accepted = accepted
        handshake = None if context is None else HANDSHAKE_SECONDS
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=handshake,
            )
        )
        self._opening.add(opening)
        connection.open_by(opening)
        opening.add_done_callback(partial(self._opened, connection, accepted))

    def close(self) -> None:
        """Accepts no more. Connections that there are go on."""
        self._closed = True
        for listening in self._sockets:
            self._loop.remove_reader(listening)
        for opening in self._opening:
            opening.cancel()

    def _has_room(self, descriptor: int) -> bool:
        return self._limits.make_room(descriptor, self._for_probes, self._probes_have_a_port)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                # What there is no place for stays in the queue of the system, where it costs no descriptor.
                if not self._has_room(_next_descriptor(listening)):
                    raise Full
                accepted, address = listening.accept()
                accepted.setblocking(False)
                self._serve(accepted, address[0], self.context)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except (OSError, Full):  # OSError: the process, or the system, has no descriptor left
                self._pause(listening)
                return

    def _pause(self, listening: socket.socket) -> None:
        self._full.warn()
        self._loop.remove_reader(listening)
        self._loop.call_later(_PAUSE_SECONDS, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listening, self._accept, listening)

    def _opened(self, connection: Connection, accepted: socket.socket, opening: asyncio.Task[object]) -> None:
        """The connection is made, or will never be: no TLS was agreed on, or it had to make room."""
        self._opening.discard(opening)
        if opening.cancelled() or opening.exception() is not None:
            logger.debug("a connection of %s was not made", connection.client)
            self._limits.closed(connection)
            accepted.close()


def _next_descriptor(opened: socket.socket) -> int:
    """The descriptor that the next connection will have. Raises OSError if there is none."""
    with opened.dup() as copy:
        return copy.fileno()
