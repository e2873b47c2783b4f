"""Real web servers of the three kinds with the exporter mounted in them, and a proxy to put in front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from flask import Flask
from flowrra_exporter import asgi, wsgi
from flowrra_exporter.settings import Settings
from flowrra_exporter.subapp import subapp
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server
from yarl import URL

# The header by which the tests' own programs know their users, as a login of theirs would.
WHO = "X-Who"


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes


async def _nothing() -> None: ...


class Client:
    """Asks a server; ``url`` is where the exporter is mounted, without a slash at its end. ``stop`` ends it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.stop: Callable[[], Awaitable[None]] = _nothing

    def request(self, path: str, method: str = "GET", data: Any = None, **headers: str) -> Any:
        """One request, its path sent as it stands; names of headers are given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(f"{self.url}{path}", encoded=True)
        return self.session.request(method, url, data=data, headers=named, allow_redirects=False)

    async def __call__(self, path: str, method: str = "GET", data: Any = None, **headers: str) -> Reply:
        async with self.request(path, method, data, **headers) as response:
            return Reply(response.status, response.headers, await response.read())


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    skipped = ("Accept", "Accept-Encoding", "User-Agent")
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=skipped, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield Client(url, session)


@asynccontextmanager
async def in_aiohttp(
    app: Any, settings: Settings | None = None, prefix: str = "/internal", who: bool = False, **_unused: Any
) -> AsyncIterator[Client]:
    part = subapp(app, settings, (lambda request: request.headers.get(WHO)) if who else None)
    main = part
    if prefix:
        main = web.Application()
        main.add_subapp(f"{prefix}/", part)
    runner = web.AppRunner(main, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with client(f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}") as asking:
            asking.stop = runner.cleanup
            yield asking
    finally:
        await runner.cleanup()


class _Uvicorn(uvicorn.Server):
    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


@asynccontextmanager
async def in_asgi(
    app: Any, settings: Settings | None = None, prefix: str = "/internal", who: bool = False, **options: Any
) -> AsyncIterator[Client]:
    """FastAPI in uvicorn; without a prefix, uvicorn alone. ``options`` are uvicorn's."""
    mounted = asgi.Application(app, settings, _who_of_scope if who else None)
    main: Any = mounted
    if prefix:
        main = FastAPI()
        main.mount(prefix, mounted)
    server = _Uvicorn(uvicorn.Config(main, port=0, log_level="warning", access_log=False, **options))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with client(f"http://127.0.0.1:{port}{prefix}") as asking:
            yield asking
    finally:
        await mounted.stop()
        server.should_exit = True
        await serving


def _who_of_scope(scope: Any) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == WHO.lower().encode()), None)


@asynccontextmanager
async def in_wsgi(
    app: Any,
    settings: Settings | None = None,
    prefix: str = "/internal",
    who: bool = False,
    threaded: bool = True,
    **options: Any,
) -> AsyncIterator[Client]:
    """Flask in werkzeug's server with threads; without a prefix, without Flask. ``options`` are the application's."""
    mounted = wsgi.Application(app, settings, (lambda environ: environ.get("HTTP_X_WHO")) if who else None, **options)
    main = DispatcherMiddleware(Flask("test").wsgi_app, {prefix: mounted}) if prefix else mounted
    server = make_server("127.0.0.1", 0, main, threaded=threaded)
    server.log = lambda *_arguments: None  # type: ignore[method-assign]
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        async with mounted, client(f"http://127.0.0.1:{server.server_port}{prefix}") as asking:
            yield asking
    finally:
        server.shutdown()
        await asyncio.to_thread(thread.join)
        server.server_close()


WAYS = (in_aiohttp, in_asgi, in_wsgi)


@asynccontextmanager
async def behind_proxy(upstream: Client, prefix: str, host: str = "") -> AsyncIterator[Client]:
    """A proxy that takes ``prefix`` away in front of a server, and gives it another ``host`` if that is given."""

    async def forward(request: web.Request) -> web.StreamResponse:
        rest = request.rel_url.raw_path.removeprefix(prefix)
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        headers = {name: value for name, value in request.headers.items() if name not in ("Connection", "Host")}
        headers["Host"] = host or request.headers["Host"]
        url = URL(f"{upstream.url}{rest}{query}", encoded=True)
        async with upstream.session.request(
            request.method, url, headers=headers, data=await request.read() or None, allow_redirects=False
        ) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name not in ("Transfer-Encoding", "Connection", "Date", "Server")
            }
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    main = web.Application()
    main.router.add_route("*", f"{prefix}/{{path:.*}}", forward)
    runner = web.AppRunner(main, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with client(f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}") as asking:
            yield asking
    finally:
        await runner.cleanup()


def descriptors() -> Iterator[str]:
    """What this process has open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/self/fd/{name}")
