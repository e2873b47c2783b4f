"""Metrics and probes as a part of an aiohttp application::

    main = web.Application()
    main.add_subapp("/internal/", subapp(app))

The exporter runs from the main application's start to its end. Collections run in the exporter's own thread,
but the answers go through the main application's loop: while that is blocked, nothing answers, and a probe
learns it from its time-out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from flowrra_exporter.embedded import Embedded, Request
from flowrra_exporter.settings import Settings


def subapp(app: Any, settings: Settings | None = None) -> web.Application:
    """An application to pass to ``add_subapp``, in the program whose loop runs ``app``."""
    embedded = Embedded(app, settings)

    async def run(_application: web.Application) -> AsyncIterator[None]:
        async with embedded:
            yield

    async def handle(request: web.Request) -> web.Response:
        path = "/" + request.match_info["path"]
        answer = await embedded.answer(
            Request(request.method, path, request.rel_url.raw_query_string, request.headers.items())
        )
        return web.Response(status=answer.status, reason=answer.reason, headers=answer.headers, body=answer.body)

    application = web.Application()
    application.cleanup_ctx.append(run)
    application.router.add_route("*", "/{path:.*}", handle)
    return application
