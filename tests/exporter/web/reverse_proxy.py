"""A reverse proxy as many put before the console: it serves it below a prefix, strips that, and changes the Host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

PREFIX = "/ops/flowrra"
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length", "content-encoding"})


@asynccontextmanager
async def reverse_proxy(target: str) -> AsyncIterator[str]:
    """Where the target is found below the prefix; paths come to it with their quoting undone, as by nginx."""

    async def forward(request: web.Request) -> web.StreamResponse:
        path = URL(target).joinpath(request.match_info["path"]) if request.match_info["path"] else URL(f"{target}/")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOPS}
        url = path.with_query(request.rel_url.query)
        async with session.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOPS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    app = web.Application()
    app.router.add_route("*", PREFIX + "/{path:.*}", forward)
    runner = web.AppRunner(app)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        try:
            yield f"http://{host}:{port}{PREFIX}"
        finally:
            await runner.cleanup()
