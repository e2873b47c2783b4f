"""Metrics and probes mounted in servers of the user's: aiohttp, ASGI, WSGI. They answer as the exporter's own does."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from flowrra_exporter import asgi, wsgi
from flowrra_exporter.settings import Settings
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import Client

from flowrra import Flowrra
from tests.exporter.contract import MinimalApp
from tests.exporter.embedding.servers import WAYS, in_wsgi

SERVERS = pytest.mark.parametrize("server", WAYS)


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
async def test_it_says_that_an_app_has_started_from_when_it_has(server: Any) -> None:
    app = Flowrra()
    async with server(app, Settings()) as ask:
        replies = [await ask(path) for path in ("/livez", "/startupz", "/readyz")]
        assert [reply.status for reply in replies] == [200, 503, 503]
        assert not any(b"has started" in reply.body for reply in replies)
        async with app:
            assert [(await ask(path)).status for path in ("/startupz", "/readyz")] == [200, 200]


@SERVERS
async def test_the_page_and_the_api_are_served(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        page, stats = await ask("/", Accept_Encoding="identity"), await ask("/api/stats")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"</html>" in page.body
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert json.loads(stats.body)["executors"]["io"]["workers"] == 4


@SERVERS
async def test_without_the_api_there_is_none(server: Any) -> None:
    async with server(MinimalApp(), Settings(web_api=False)) as ask:
        assert (await ask("/api/stats")).status == 404
        assert (await ask("/metrics")).status == 200


@pytest.mark.slow
@SERVERS
@pytest.mark.parametrize("path", ["/nothing", "/livez/../api/stats", "/api%2Fstats", "/metrics/", "//livez"])
async def test_nothing_else_is_served(server: Any, path: str) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        assert (await ask(path)).status == 404


@SERVERS
async def test_paths_that_are_no_text_are_refused(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        for path in ("/%00", "/%ff", "/%C3%A9", "/livez%0d%0aX:1", "/%", "/%zz", "/%2e%2e/%2e%2e/etc/passwd"):
            assert (await ask(path)).status in (400, 404), path


@SERVERS
async def test_other_methods_are_refused(server: Any) -> None:
    async with server(MinimalApp(), Settings()) as ask:
        reply = await ask("/metrics", "POST")
        assert (await ask("/metrics", "DELETE")).status == 405
        assert (await ask("/metrics", "PROPFIND")).status == 501
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET,HEAD"


@SERVERS
async def test_a_mount_without_its_slash_leads_to_the_one_with_it_by_a_relative_reference(server: Any) -> None:
    async with server(MinimalApp(), Settings(), "/a/b-c") as ask:
        reply = await ask("?x=1")
        assert (reply.status, urljoin(f"{ask.url}?x=1", reply.headers["Location"])) == (307, f"{ask.url}/?x=1")


@SERVERS
async def test_a_large_body_is_refused_and_a_small_one_overlooked(server: Any) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b"x" * 1024

    async with server(MinimalApp(), Settings()) as ask:
        assert (await ask("/metrics", "POST", b"x" * 1024)).status == 405
        assert (await ask("/metrics", "POST", b"x" * 70_000)).status == 413
        if server is not in_wsgi:  # werkzeug's server keeps a body of no announced length to itself
            assert (await ask("/metrics", "POST", pieces())).status == 413
        assert (await ask("/livez")).status == 200


@SERVERS
async def test_what_others_know_is_not_passed_on_and_what_comes_in_cannot_break_out(server: Any) -> None:
    async with server(MinimalApp(), Settings(), who=True) as ask:
        assert (await ask("/livez?x=%0d%0aX:1&y=%00")).status == 200
        assert (await ask("/livez", Cookie="c" * 7_000, X_Other="x" * 7_000)).status == 200
        assert (await ask("/livez", Accept="\x80\xff" * 10, X_Flowrra_Token="\t\xe9")).status == 200
        assert (await ask("/livez", Expect="100-continue", Connection="upgrade", Upgrade="h2c")).status == 200


@pytest.mark.slow
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
