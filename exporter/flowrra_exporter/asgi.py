"""The exporter as an ASGI application, for Starlette, FastAPI and every ASGI server::

    api = FastAPI()
    api.mount("/internal", Application(app))

The exporter starts at the lifespan's start where it's the server's own application, at the first request
where it's mounted (a mounted application hears of no lifespan), or by ``async with``; always on the loop that
asks, which has to be the app's. So each worker of a prefork server starts its own, after the fork. Collections
run in the exporter's own thread, but the answers go through the server's loop: while that is blocked, nothing
answers, and a probe learns it from its time-out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from flowrra_exporter.embedded import Answer, Embedded, Refused, name_of
from flowrra_exporter.exchange import Request
from flowrra_exporter.settings import Settings

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
User = Callable[[Message], "str | Awaitable[str | None] | None"]


class Application(Embedded):
    """An ASGI application. Websockets are closed.

    Args:
        app: The app.
        settings: The exporter's settings; its addresses are not used.
        user: Tells of a connection's scope which user it is from, None for nobody; it may be a coroutine function.
            What it raises is left to what is around.
        secret: What the tokens of those users are signed with, of 16 bytes or more: processes that answer for each
            other need the same. Random if None.
    """

    def __init__(
        self, app: Any, settings: Settings | None = None, user: User | None = None, secret: bytes | None = None
    ) -> None:
        super().__init__(app, settings, identifies=user is not None, secret=secret)
        self._user = user

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one connection, or follows the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
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

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        self.start_unless_stopped()
        async with self.answer(await self._request(scope), _body(receive)) as answer:
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.streams:
                await _send_until_gone(answer, receive, send)
            else:
                await _send(answer, send)

    async def _request(self, scope: Message) -> Request:
        raw_path = scope.get("raw_path")
        return Request(
            scope["method"],
            _path(scope),
            scope.get("query_string", b"").decode("latin-1"),
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
            quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1"),
            (scope.get("client") or ("",))[0],
            await self._name(scope),
        )

    async def _name(self, scope: Message) -> str | None:
        if self._user is None:
            return None
        found = self._user(scope)
        return name_of(await found if inspect.isawaitable(found) else found)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request's body broke off")
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _send(answer: Answer[AsyncIterator[bytes]], send: Send) -> None:
    async for piece in answer.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send_until_gone(answer: Answer[AsyncIterator[bytes]], receive: Receive, send: Send) -> None:
    """Sends the answer while there is a client: a server tells by a message that it's gone."""
    sending, gone = asyncio.create_task(_send(answer, send)), asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, gone):
            task.cancel()
        await asyncio.wait((sending, gone))
    if not sending.cancelled():
        sending.result()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _path(scope: Message) -> str:
    """The path below the prefix that the application is mounted under: ASGI's ``path`` includes ``root_path``.

    But for the first part of that, if the framework knows of a prefix which a proxy in front of it takes away.
    """
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    while root:
        if path == root or path.startswith(f"{root}/"):
            return path.removeprefix(root)
        _, slash, rest = root[1:].partition("/")
        root = f"{slash}{rest}"
    return path
