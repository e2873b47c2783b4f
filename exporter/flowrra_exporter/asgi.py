"""Metrics and probes as an ASGI application, for Starlette, FastAPI and every ASGI server::

    api = FastAPI()
    api.mount("/internal", Application(app))

The exporter starts at the lifespan's start where it's the server's own application, at the first request
where it's mounted (a mounted application hears of no lifespan), or by ``async with``; always on the loop that
asks, which has to be the app's. So each worker of a prefork server starts its own, after the fork. Collections
run in the exporter's own thread, but the answers go through the server's loop: while that is blocked, nothing
answers, and a probe learns it from its time-out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from flowrra_exporter.embedded import Embedded, Request

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application(Embedded):
    """An ASGI application. Websockets are closed."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one connection, or follows the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise NotImplementedError(f"ASGI scope {scope['type']!r}; expected http, websocket or lifespan")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self.start()
        except Exception as error:
            logger.exception("the exporter did not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Message, send: Send) -> None:
        self.start_unless_stopped()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        query = scope.get("query_string", b"").decode("latin-1")
        answer = await self.answer(Request(scope["method"], _path(scope), query, headers))
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": answer.body})


def _path(scope: Message) -> str:
    """The path below the prefix that the application is mounted under: ASGI's ``path`` includes ``root_path``.

    But for the first part of that, if the framework knows of a prefix which a proxy in front of it takes away.
    """
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    while root:
        if path.startswith(f"{root}/"):
            return path.removeprefix(root)
        _, slash, rest = root[1:].partition("/")
        root = f"{slash}{rest}"
    return path
