"""The exporter as a part of an aiohttp application::

    main = web.Application()
    main.add_subapp("/internal/", subapp(app))

The exporter runs from the main application's start to its end. Collections run in the exporter's own thread,
but the answers go through the main application's loop: while that is blocked, nothing answers, and a probe
learns it from its time-out.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from flowrra_exporter.embedded import Answer, Embedded, Refused, name_of
from flowrra_exporter.exchange import Request
from flowrra_exporter.settings import Settings

# aiohttp tells no handler that its client is gone: while nothing is written, only a look shows it.
_LOOK_SECONDS = 1.0

User = Callable[[web.Request], "str | Awaitable[str | None] | None"]


def subapp(
    app: Any, settings: Settings | None = None, user: User | None = None, secret: bytes | None = None
) -> web.Application:
    """An application to pass to ``add_subapp``, in the program whose loop runs ``app``.

    Args:
        app: The app.
        settings: The exporter's settings; its addresses are not used.
        user: Tells of a request which user it is from, None for nobody; it may be a coroutine function. What it raises
            is the main application's to answer, such as ``web.HTTPUnauthorized``.
        secret: What the tokens of those users are signed with, of 16 bytes or more: processes that answer for each
            other need the same. Random if None.
    """
    handler = _Handler(Embedded(app, settings, identifies=user is not None, secret=secret), user)
    application = web.Application()
    application.cleanup_ctx.append(handler.run)
    application.on_shutdown.append(handler.end_streams)
    for path in ("", "/{path:.*}"):
        application.router.add_route("*", path, handler.handle)
    return application


class _Handler:
    def __init__(self, embedded: Embedded, user: User | None) -> None:
        self._embedded = embedded
        self._user = user
        self._shutting_down = False

    async def run(self, _application: web.Application) -> AsyncIterator[None]:
        self._shutting_down = False
        async with self._embedded:
            yield

    async def end_streams(self, _application: web.Application) -> None:
        """The main application waits for what is being answered before it cleans up."""
        self._shutting_down = True

    async def handle(self, request: web.Request) -> web.StreamResponse:
        lacks_slash = "path" not in request.match_info and not request.path.endswith("/")
        asked = Request(
            request.method,
            "" if lacks_slash else f"/{request.match_info.get('path', '')}",
            request.rel_url.raw_query_string,
            request.headers.items(),
            request.rel_url.raw_path,
            request.remote or "",
            await self._name(request),
        )
        async with self._embedded.answer(asked, _body(request)) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
            with suppress(ConnectionResetError):  # the client is gone
                await response.prepare(request)
                if answer.streams:
                    await self._stream(request, asyncio.create_task(_send(answer, response)))
                else:
                    await _send(answer, response)
            return response

    async def _name(self, request: web.Request) -> str | None:
        if self._user is None:
            return None
        found = self._user(request)
        return name_of(await found if inspect.isawaitable(found) else found)

    async def _stream(self, request: web.Request, sending: asyncio.Task[None]) -> None:
        try:
            while not sending.done() and not self._shutting_down and request.transport is not None:
                await asyncio.wait((sending,), timeout=_LOOK_SECONDS)
        finally:
            sending.cancel()
            await asyncio.wait((sending,))
        if not sending.cancelled():
            sending.result()


async def _send(answer: Answer[AsyncIterator[bytes]], response: web.StreamResponse) -> None:
    async for piece in answer.pieces:
        await response.write(piece)
    await response.write_eof()


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.content.iter_any():
            yield piece
    except (OSError, web.RequestPayloadError) as error:
        raise Refused(400, "the request's body broke off") from error
