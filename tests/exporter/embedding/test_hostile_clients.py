"""What clients and circumstances do to an exporter that is mounted: each request ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import flowrra_exporter.embedded
import pytest
from flowrra_exporter import asgi, wsgi
from flowrra_exporter.embedded import Embedded
from flowrra_exporter.exchange import Request
from flowrra_exporter.settings import Settings

from tests.exporter.contract import MinimalApp
from tests.exporter.embedding.servers import WAYS, Client, descriptors, in_aiohttp, in_asgi

SERVERS = pytest.mark.parametrize("server", WAYS)
LIVEZ = Request("GET", "/livez", "", [], "/livez")


async def _answered(mounted: Embedded, request: Request = LIVEZ) -> int:
    async with mounted.answer(request) as answer:
        async for _piece in answer.pieces:
            pass
        return answer.status


def _answered_blocking(mounted: Embedded) -> int:
    with mounted.answer_blocking(LIVEZ, lambda _size: b"") as answer:
        b"".join(answer.pieces)
        return answer.status


async def test_a_connection_that_the_server_does_not_come_to_any_more_is_refused_at_once() -> None:
    mounted = Embedded(MinimalApp())
    mounted.start()
    assert mounted._exporter is not None
    server, held = mounted._exporter.server, threading.Event()
    server.run_soon(lambda: held.wait(10))
    server.run_soon(server._stopping.set)
    ours, theirs = socket.socketpair()
    taken = server.accept(theirs)
    held.set()
    with pytest.raises(ConnectionError, match="has ended"):
        await asyncio.wait_for(asyncio.wrap_future(taken), 10)
    assert await asyncio.to_thread(ours.recv, 1) == b""
    ours.close()
    await mounted.stop()


async def test_requests_that_meet_the_end_are_answered_too() -> None:
    statuses: set[int] = set()

    async def ask_on(mounted: Embedded, blocking: bool) -> None:
        while True:
            asking = asyncio.to_thread(_answered_blocking, mounted) if blocking else _answered(mounted)
            started = time.monotonic()
            statuses.add(await asking)
            assert time.monotonic() - started < 5
            if 503 in statuses and mounted._exporter is None:
                return

    for _ in range(5):
        mounted = Embedded(MinimalApp())
        mounted.start()
        asking = [asyncio.create_task(ask_on(mounted, number % 2 > 0)) for number in range(8)]
        await asyncio.sleep(0.05)  # whenever it comes
        await mounted.stop()
        await asyncio.gather(*asking)
    assert statuses <= {200, 503}


async def test_clients_that_go_away_at_any_moment_leave_nothing_behind() -> None:
    async with Embedded(MinimalApp()) as mounted:
        await _answered(mounted)
        before = len(list(descriptors()))
        for number in range(200):
            asking = asyncio.create_task(_answered(mounted))
            for _ in range(number % 12):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait((asking,))
        deadline = time.monotonic() + 5
        while len(list(descriptors())) > before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len(list(descriptors())) <= before
        assert await _answered(mounted) == 200


@pytest.mark.parametrize("server", [in_aiohttp, in_asgi])
async def test_a_body_that_does_not_come_is_not_waited_for(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrra_exporter.embedded, "_BODY_SECONDS", 0.1)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async with server(MinimalApp()) as ask:
        async with ask.request("/api/actions/pause-queue", "POST", slow()) as response:
            assert response.status == 408
        assert (await ask("/livez")).status == 200


async def _raw(ask: Client, data: bytes) -> bytes:
    """What a server sends back for these bytes, until it closes the connection or a second is over."""
    parts = urlsplit(ask.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(data)
    received = b""
    try:
        async with asyncio.timeout(1):
            while piece := await reader.read(65_536):
                received += piece
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    return received


@pytest.mark.slow
@SERVERS
@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
        b"Content-Length: +5\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
    ],
)
async def test_no_request_is_hidden_in_another(server: Any, headers: bytes) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
    async with server(MinimalApp(), Settings(web_telemetry_path="/hidden")) as ask:
        data = b"POST /internal/livez HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n0\r\n\r\n" + hidden
        received = await _raw(ask, data)
        # Whatever the server around makes of the rest, it has no prefix and isn't ours.
        assert b"flowrra_" not in received
        assert (await ask("/livez")).status == 200


@SERVERS
async def test_what_is_too_long_for_a_port_is_refused_and_ends_nothing(server: Any) -> None:
    async with server(MinimalApp()) as ask:
        for path in ("/livez?x=" + "x" * 8_300, "/" + "%2F" * 2_500, "/" + "/" * 7_000):
            assert (await ask(path)).status in (400, 404, 414), path[:20]
        assert (await ask("/livez", Accept="x" * 8_170)).status in (200, 400)
        assert (await ask("/livez")).status == 200


@SERVERS
async def test_without_descriptors_the_answer_is_503(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> Any:
        raise OSError(24, "Too many open files")

    async with server(MinimalApp()) as ask:
        await ask("/livez")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", none_left)
            reply = await ask("/livez")
        assert (reply.status, reply.body) == (503, b"503: no connection could be made: Too many open files\n")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert (await ask("/livez")).status == 200


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/internal/livez", "/internal", 200),
        ("/internal/livez", "/internal/", 200),
        ("/internal/livez", "/proxy/internal", 200),  # the framework knows of a prefix that its proxy takes away
        ("/proxy/internal/livez", "/proxy/internal", 200),
        ("/livez", "", 200),
        ("/livez", "/proxy", 200),
        ("/internal", "/internal", 307),
        ("", "", 307),
        ("/internallivez", "/internal", 404),
    ],
)
async def test_the_forms_of_asgis_root_path(path: str, root_path: str, expected: int) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root_path, "headers": []}
    async with asgi.Application(MinimalApp()) as mounted:
        await mounted(scope, receive, send)
    assert sent[0]["status"] == expected


@pytest.mark.parametrize("length", ["", "abc", "-1", "9" * 5_000])
async def test_wsgi_takes_whatever_a_server_says_of_a_body(length: str) -> None:
    class Body:
        def read(self, size: int) -> bytes:
            return b"x" * size

    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/livez",
        "CONTENT_LENGTH": length,
        "wsgi.input": Body(),
    }
    async with wsgi.Application(MinimalApp()) as mounted:
        await asyncio.to_thread(mounted, environ, lambda status, _headers: statuses.append(status))
    assert statuses[0][:3] == ("413" if length.startswith("9") else "405")
