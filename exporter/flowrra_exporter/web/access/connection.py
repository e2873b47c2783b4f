"""One client's connection: aiohttp's protocol, with our limits, and errors that tell nobody what we run on."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from flowrra_exporter.web.access.limits import FIRST_REQUEST_SECONDS, IDLE_SECONDS, ConnectionLimits
from flowrra_exporter.web.responses import HEADERS, Handler

logger = logging.getLogger(__name__)

# Bytes. No request needs a body; a small one is overlooked, a larger one refused.
MAX_BODY = 64 * 1024
_LINE_BYTES = 8190
_LINGERING_SECONDS = 1.0


def look_first(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """What makes requests, as ``make`` does, without headers that aiohttp chokes on before any of our code runs, and
    with the address of who is behind a connection that a program hands over.

    It reads Expect before the middlewares, and quotes what it doesn't know in an answer that it can't encode. RFC 9110,
    10.1.1, lets a server go on as if the header weren't there.
    """

    def make_without(message: RawRequestMessage, payload: Any, protocol: Any, *rest: Any) -> web.BaseRequest:
        # What is no HTTP has a plain dictionary instead.
        given = () if hdrs.EXPECT not in message.headers else message.headers.getall(hdrs.EXPECT)
        if any(each.lower() != "100-continue" for each in given):
            kept = CIMultiDict(message.headers)
            kept.popall(hdrs.EXPECT)
            message = message._replace(headers=CIMultiDictProxy(kept))
        request = make(message, payload, protocol, *rest)
        return request.clone(remote=protocol.address) if protocol.address else request

    return make_without


class Connection(web.RequestHandler):
    """A connection that ``limits`` watches over.

    Of one that a program hands over, ``address`` is that of who is behind it, and ``user`` the name of who has
    authenticated to that program, which nothing that comes on the connection changes; None for nobody.
    """

    __slots__ = (
        "_limits",
        "_opening",
        "accepted",
        "address",
        "client",
        "for_probes",
        "idle_limit",
        "user",
        "waiting_since",
    )

    def __init__(
        self,
        server: web.Server,
        limits: ConnectionLimits,
        loop: asyncio.AbstractEventLoop,
        client: str,
        for_probes: bool,
        address: str = "",
        user: str | None = None,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own word for none
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            lingering_time=_LINGERING_SECONDS,
            auto_decompress=False,
        )
        self._limits = limits
        self._opening: asyncio.Task[object] | None = None
        self.client = client
        self.for_probes = for_probes
        self.address = address
        self.user = user
        self.accepted: socket.socket | None = None
        self.waiting_since: float | None = time.monotonic()
        self.idle_limit = FIRST_REQUEST_SECONDS
        limits.opened(self)

    def open_by(self, opening: asyncio.Task[object]) -> None:
        """The task that makes the connection, which takes a while with TLS."""
        self._opening = opening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there, and has agreed on TLS if it has to."""
        self._opening = None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._limits.closed(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Ends it, without waiting for the client to read what is left."""
        if self.transport is not None:
            self.transport.abort()
        elif self._opening is not None:
            self._opening.cancel()

    def answering(self) -> None:
        """A whole request has come: from now on the client waits for us."""
        self.waiting_since = None

    def answered(self) -> None:
        """The answer is made: now it's for the client to read it, and to ask again."""
        self.waiting_since, self.idle_limit = time.monotonic(), IDLE_SECONDS

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP gets a short answer; aiohttp's own would log each with a traceback and quote what came."""
        if status >= 500:
            logger.error("answering %s failed", request.remote, exc_info=exc)
        else:
            logger.debug("refused what %s sent: %s", request.remote, message)
        reason = "internal error; the exporter's log says more" if status >= 500 else "this is no valid HTTP request"
        response = web.Response(status=status, text=f"{status}: {reason}\n", headers=HEADERS)
        response.force_close()
        return response


def user_of(request: web.Request) -> str | None:
    """Who has authenticated to the program that handed over the request's connection; None for nobody."""
    return request.protocol.user if isinstance(request.protocol, Connection) else None


@web.middleware
async def watch_connection(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the connection when it's whose turn, and ends it after a request with a body, which nobody reads."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.answering()
    try:
        response = await handler(request)
        if request.can_read_body:
            response.force_close()
        return response
    finally:
        connection.answered()


@web.middleware
async def refuse_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """413 for a body that is announced as large; those of no announced length end with their connection."""
    if (request.content_length or 0) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY, actual_size=request.content_length or 0)
    return await handler(request)
