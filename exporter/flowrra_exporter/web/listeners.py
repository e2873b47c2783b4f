"""The listening sockets of a site, whose TLS can change without a connection being lost."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence

from aiohttp import web

from flowrra_exporter.web.connection import Connection
from flowrra_exporter.web.limits import ConnectionLimits
from flowrra_exporter.web.tls import HANDSHAKE_SECONDS

_BACKLOG = 128


class Listeners:
    """Takes the connections of `sockets` for what `runner`, which is set up, serves."""

    def __init__(self, runner: web.AppRunner, sockets: Sequence[socket.socket]) -> None:
        if runner.server is None:
            raise RuntimeError("the application isn't set up")
        self._server = runner.server
        self._sockets = sockets
        self._limits = ConnectionLimits()
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.create_task(self._limits.sweep())
        self._accepting: list[asyncio.Server] = []

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self._server, self._limits, self._loop)

    async def start(self, context: ssl.SSLContext | None) -> None:
        """Accepts under `context`, plainly without one, instead of what was before.

        Each server gets a copy of the socket, and closes only that: the queue of connections is the same.
        """
        handshake = None if context is None else HANDSHAKE_SECONDS
        former, self._accepting = (
            self._accepting,
            [
                await self._loop.create_server(
                    self.connection,
                    sock=listening.dup(),
                    ssl=context,
                    ssl_handshake_timeout=handshake,
                    ssl_shutdown_timeout=handshake,
                    backlog=_BACKLOG,
                )
                for listening in self._sockets
            ],
        )
        for server in former:
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
        # What was accepted just before is given its server in the loop's next turn; with a closed one, nobody would
        # ever answer it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in former:
            server.close()

    def close(self) -> None:
        """Accepts no more. Connections that there are go on."""
        self._sweep.cancel()
        for server in self._accepting:
            server.close()
