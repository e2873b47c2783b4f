"""Metrics and probes mounted in servers of the user's: aiohttp, ASGI, WSGI. They answer as the exporter's own does."""

from __future__ import annotations

import asyncio
import gzip
import io
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from flask import Flask
from flowrra_exporter import asgi, wsgi
from flowrra_exporter.settings import Settings
from flowrra_exporter.subapp import subapp
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.exporter.contract import MinimalApp

Ask = Callable[..., Awaitable["Reply"]]


class Reply:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


@asynccontextmanager
async def in_aiohttp(app: Any, settings: Settings) -> AsyncIterator[Ask]:
    main = web.Application()
    main.add_subapp("/internal/", subapp(app, settings))
    async with TestClient(TestServer(main), auto_decompress=False) as client:

        async def ask(path: str, method: str = "GET", **headers: str) -> Reply:
            async with client.request(method, f"/internal{path}", headers=_dashed(headers)) as response:
                return Reply(response.status, response.headers, await response.read())

        yield ask


@asynccontextmanager
async def in_fastapi(app: Any, settings: Settings) -> AsyncIterator[Ask]:
    api = FastAPI()
    mounted = asgi.Application(app, settings)
    api.mount("/internal", mounted)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:

        async def ask(path: str, method: str = "GET", **headers: str) -> Reply:
            request = client.build_request(method, f"/internal{path}", headers=_dashed(headers))
            response = await client.send(request, stream=True)
            body = b"".join([piece async for piece in response.aiter_raw()])
            return Reply(response.status_code, response.headers, body)

        yield ask
    await mounted.stop()


@asynccontextmanager
async def in_flask(app: Any, settings: Settings) -> AsyncIterator[Ask]:
    mounted = wsgi.Application(app, settings)
    client = Client(DispatcherMiddleware(Flask("test").wsgi_app, {"/internal": mounted}))

    async def ask(path: str, method: str = "GET", **headers: str) -> Reply:
        def request() -> Reply:
            response = client.open(f"/internal{path}", method=method, headers=_dashed(headers))
            return Reply(response.status_code, response.headers, response.get_data())

        return await asyncio.to_thread(request)

    async with mounted:
        yield ask


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Accept-Encoding": "identity", **{name.replace("_", "-"): value for name, value in headers.items()}}


SERVERS = pytest.mark.parametrize("server", [in_aiohttp, in_fastapi, in_flask])


@SERVERS
async def test_metrics_are_served_below_a_prefix(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        reply = await ask("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    families = {family.name for family in text_string_to_metric_families(reply.body.decode())}
    assert {"flowrra_healthy", "flowrra_executor_workers"} <= families


@SERVERS
async def test_the_format_and_gzip_are_negotiated(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        reply = await ask("/metrics", Accept="application/openmetrics-text", Accept_Encoding="gzip")
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["Vary"] == "Accept, Accept-Encoding"
    assert gzip.decompress(reply.body).endswith(b"# EOF\n")


@SERVERS
async def test_head_has_the_headers_of_get_and_no_body(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        get, head = await ask("/livez"), await ask("/livez", "HEAD")
    assert head.status == 200
    assert head.body == b""
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.body))


@SERVERS
async def test_probes_say_what_the_app_says(server: Any) -> None:
    app = MinimalApp()
    async with server(app, Settings()) as ask:
        assert [(await ask(path)).status for path in ("/livez", "/readyz", "/startupz", "/healthz")] == [200] * 4
        app.health["healthy"] = False
        assert (await ask("/healthz")).status == 503


@SERVERS
@pytest.mark.parametrize("path", ["/", "/api/stats", "/livez/../api/stats", "/metrics/", "/livez%0d%0aX:1"])
async def test_nothing_else_is_served(server: Any, path: str) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        assert (await ask(path)).status == 404


@SERVERS
async def test_other_methods_are_refused(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        reply = await ask("/metrics", "POST")
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD"


@SERVERS
async def test_more_scrapes_than_the_cap_get_503_and_the_scrapers_time_out_is_kept(server: Any) -> None:
    app, asked = MinimalApp(), asyncio.Event()

    async def hang() -> Any:
        asked.set()
        await asyncio.Event().wait()

    app.get_stats = hang  # type: ignore[method-assign]
    async with server(app, Settings(max_concurrent_scrapes=1)) as ask:
        started = time.monotonic()
        first = asyncio.create_task(ask("/metrics", X_Prometheus_Scrape_Timeout_Seconds="1"))
        await asked.wait()
        assert (await ask("/metrics")).status == 503
        reply = await first
    assert time.monotonic() - started < 4
    assert b'flowrra_collector_success{collector="app"} 0' in reply.body


async def test_wsgi_says_that_the_loop_is_blocked_while_it_is() -> None:
    mounted, blocked, said = wsgi.Application(MinimalApp(), Settings(loop_block_threshold=0.3)), threading.Event(), []
    client = Client(mounted)

    def probe() -> None:
        blocked.wait()
        until = time.monotonic() + 5
        while time.monotonic() < until and 503 not in said:
            said.append(client.get("/livez").status_code)

    async with mounted:
        thread = threading.Thread(target=probe)
        thread.start()
        blocked.set()
        thread.join()  # this blocks the loop
    assert said[-1] == 503


async def test_asgi_follows_the_lifespan() -> None:
    mounted = asgi.Application(MinimalApp())
    received, sent = asyncio.Queue[Any](), asyncio.Queue[Any]()
    running = asyncio.create_task(mounted({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert await sent.get() == {"type": "lifespan.startup.complete"}
    await received.put({"type": "lifespan.shutdown"})
    assert await sent.get() == {"type": "lifespan.shutdown.complete"}
    await running
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]


async def test_asgi_says_why_it_cannot_start() -> None:
    received, sent = asyncio.Queue[Any](), asyncio.Queue[Any]()
    await received.put({"type": "lifespan.startup"})
    exposed = asgi.Application(MinimalApp(), Settings(web_show_task_data=True))
    await exposed({"type": "lifespan"}, received.get, sent.put)
    message = await sent.get()
    assert message["type"] == "lifespan.startup.failed"
    assert "show-task-data" in message["message"]


def test_wsgi_answers_503_before_it_was_started() -> None:
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "wsgi.input": io.BytesIO()}
    body = wsgi.Application(MinimalApp())(environ, lambda status, _headers: statuses.append(status))
    assert statuses == ["503 Service Unavailable"]
    assert b"isn't running" in b"".join(body)


async def test_after_the_end_a_request_does_not_start_it_anew() -> None:
    mounted = asgi.Application(MinimalApp())
    async with mounted:
        pass
    async with httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://test") as client:
        assert (await client.get("/livez")).status_code == 503
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]
