"""Answers that come as things happen, through each of the three ways: they arrive at once, and end when they should."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import aiohttp
import flowrra_exporter.exchange
import flowrra_exporter.exporter
import pytest
from aiohttp import web
from flowrra_exporter.embedded import Embedded
from flowrra_exporter.exchange import Request
from flowrra_exporter.web.server import make_application

from flowrra import Flowrra
from tests.exporter.conftest import until
from tests.exporter.contract import MinimalApp
from tests.exporter.embedding.servers import WAYS, descriptors, in_aiohttp, in_asgi, in_wsgi

SERVERS = pytest.mark.parametrize("server", WAYS)


class Streams:
    """Routes of the inner server that answer in ways of their own."""

    def __init__(self) -> None:
        self.open = 0
        self.go_on = threading.Event()

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        self.open += 1
        try:
            await response.write(b"data: first\n\n")
            while not self.go_on.is_set():
                await asyncio.sleep(0.01)
                await response.write(b":\n\n")
            await response.write(b"data: second\n\n")
            while True:
                await asyncio.sleep(0.01)
                await response.write(b":\n\n")
        finally:
            self.open -= 1

    async def silent(self, request: web.Request) -> web.StreamResponse:
        """Says nothing more, and only looks whether there is a client."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.open += 1
        await response.write(b"data: first\n\n")
        while request.transport is not None:
            await asyncio.sleep(0.01)
        self.open -= 1
        return response

    async def flood(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b":\n\n" * 1_000)

    async def broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(b"x" * 50_000)
        raise ConnectionResetError

    async def large(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(64):
            await response.write(bytes([number]) * 100_000)
        return response


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    found = Streams()

    def make(routes: Any, *rest: Any) -> web.Application:
        more = [web.get(f"/{name}", getattr(found, name)) for name in ("events", "silent", "flood", "broken", "large")]
        return make_application([*routes, *more], *rest)

    monkeypatch.setattr(flowrra_exporter.exporter, "make_application", make)
    return found


async def _read_until(response: aiohttp.ClientResponse, text: bytes) -> None:
    read = b""
    while text not in read:
        piece = await asyncio.wait_for(response.content.readany(), 10)
        assert piece, read
        read += piece


@SERVERS
async def test_an_event_arrives_before_the_stream_ends(server: Any, streams: Streams) -> None:
    async with server(MinimalApp()) as ask:
        async with ask.request("/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            await _read_until(response, b"data: first\n\n")
            streams.go_on.set()
            await _read_until(response, b"data: second\n\n")
        await until(lambda: not streams.open)


@SERVERS
async def test_a_stream_ends_by_itself_after_a_while(
    server: Any, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowrra_exporter.exchange, "_STREAM_SECONDS", 0.2)
    async with server(MinimalApp()) as ask:
        reply = await asyncio.wait_for(ask("/events"), 10)
        assert reply.body.startswith(b"data: first\n\n")
        await until(lambda: not streams.open)


async def test_one_that_never_pauses_ends_too(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrra_exporter.exchange, "_STREAM_SECONDS", 0.2)
    async with in_aiohttp(MinimalApp()) as ask:
        assert (await asyncio.wait_for(ask("/flood"), 10)).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("server", [in_aiohttp, in_asgi])
async def test_a_client_that_goes_away_is_noticed_while_nothing_is_sent(server: Any, streams: Streams) -> None:
    async with server(MinimalApp()) as ask:
        async with ask.request("/silent") as response:
            await _read_until(response, b"first")
            assert streams.open == 1
        await until(lambda: not streams.open, seconds=5)


@pytest.mark.slow
@SERVERS
async def test_abandoned_streams_leave_nothing_behind(server: Any, streams: Streams) -> None:
    options = {"event_streams": 20} if server is in_wsgi else {}
    async with server(MinimalApp(), **options) as ask:
        await ask("/livez")
        before, threads = sorted(descriptors()), threading.active_count()
        for _ in range(10):
            responses = [await ask.request("/events") for _ in range(20)]
            await asyncio.gather(*(_read_until(response, b"first") for response in responses))
            for response in responses:
                response.close()
            await until(lambda: not streams.open)
        await until(lambda: len(sorted(descriptors())) <= len(before))
        await until(lambda: threading.active_count() <= threads)
        assert (await ask("/livez")).status == 200


@SERVERS
async def test_what_breaks_off_inside_breaks_off_outside(server: Any, streams: Streams) -> None:
    async with server(MinimalApp()) as ask:
        with pytest.raises(aiohttp.ClientError):
            await ask("/broken")
        assert (await ask("/livez")).status == 200


async def test_what_has_broken_off_is_an_error_and_no_end(streams: Streams) -> None:
    request = Request("GET", "/broken", "", [], "/broken")
    async with Embedded(MinimalApp()) as mounted, mounted.answer(request) as answer:
        with pytest.raises(ConnectionAbortedError, match="broke off"):
            async for _piece in answer.pieces:
                pass


@SERVERS
async def test_a_large_answer_of_no_announced_length_comes_whole(server: Any, streams: Streams) -> None:
    async with server(MinimalApp()) as ask:
        reply = await ask("/large")
    assert reply.body == b"".join(bytes([number]) * 100_000 for number in range(64))


@pytest.mark.slow
async def test_an_open_stream_does_not_hold_up_the_end_of_an_aiohttp_program(streams: Streams) -> None:
    async with in_aiohttp(MinimalApp()) as ask:
        response = await ask.request("/events")
        await _read_until(response, b"first")
        started = time.monotonic()
        reading = asyncio.create_task(response.read())
        await ask.stop()
        assert await reading
    assert time.monotonic() - started < 10


async def test_wsgi_streams_to_few_at_a_time_as_each_holds_a_thread(streams: Streams) -> None:
    async with in_wsgi(MinimalApp(), event_streams=1) as ask:
        async with ask.request("/events") as first:
            await _read_until(first, b"first")
            refused = await ask("/events")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        await until(lambda: not streams.open)
        async with ask.request("/events") as again:
            await _read_until(again, b"first")


async def test_wsgi_does_not_stream_where_that_holds_the_only_thread(streams: Streams) -> None:
    async with in_wsgi(MinimalApp(), threaded=False) as ask:
        assert (await ask("/events")).status == 503
        assert (await ask("/livez")).status == 200


# The console's own stream of events.


async def _event(response: aiohttp.ClientResponse, task_id: str) -> str:
    """The id of the next event that tells of a task."""
    last = ""
    async with asyncio.timeout(10):
        async for line in response.content:
            if line.startswith(b"id: "):
                last = line.decode().removeprefix("id: ").strip()
            if line.startswith(b"data: ") and task_id.encode() in line:
                return last
    raise AssertionError("the stream has ended")


def _working() -> tuple[Flowrra, Any]:
    app = Flowrra()

    @app.task(name="work")
    async def work() -> None: ...

    return app, work


@pytest.mark.slow
@SERVERS
async def test_changes_of_tasks_come_as_they_happen_and_go_on_where_a_client_was(server: Any) -> None:
    app, work = _working()
    async with app, server(app) as ask:
        async with ask.request("/api/events", Accept="text/event-stream") as response:
            assert response.status == 200
            seen = await _event(response, await app.submit(work))
        missed = await app.submit(work)
        await app.wait_for_result(missed, timeout=5)
        async with ask.request("/api/events", Last_Event_ID=seen) as response:
            await _event(response, missed)


@pytest.mark.slow
@SERVERS
async def test_abandoned_watches_leave_nothing_behind(server: Any) -> None:
    app, work = _working()
    options = {"event_streams": 20} if server is in_wsgi else {}
    async with app, server(app, **options) as ask:
        await ask("/api/stats")
        await app.wait_for_result(await app.submit(work), timeout=5)
        before, tasks = len(list(descriptors())), len(asyncio.all_tasks())
        for _ in range(10):
            responses = await asyncio.gather(*(ask.request("/api/events") for _ in range(20)))
            assert {response.status for response in responses} == {200}
            task_id = await app.submit(work)
            await asyncio.gather(*(_event(response, task_id) for response in responses))
            for response in responses:
                response.close()
            # What writes learns that nobody reads: in WSGI there is no other way.
            deadline = time.monotonic() + 10
            while len(list(descriptors())) > before or len(asyncio.all_tasks()) > tasks:
                assert time.monotonic() < deadline
                await app.wait_for_result(await app.submit(work), timeout=5)
                await asyncio.sleep(0.05)
