"""Metrics and probes inside a web server of the user's: what the aiohttp, ASGI and WSGI ways in have in common.

A request is handed to the very server that listens on a port otherwise: it goes over a socket pair to the
exporter's own thread, and there through the same aiohttp application. So negotiation, compression, the cap on
scrapes, deadlines and authentication are the same by construction, whatever loop or thread the request came
from; no port or file is opened, and nobody outside of the process can reach the pair. (Building aiohttp
requests by hand would save two copies through the kernel, and need what aiohttp offers for tests only.)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import io
import logging
import re
import socket
import threading
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from flowrra_exporter.app.target import manager_of
from flowrra_exporter.errors import UsageError
from flowrra_exporter.exporter import Exporter
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.observed import Observed
from flowrra_exporter.paths import is_probe
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.access.listeners import Full

logger = logging.getLogger(__name__)

_not_answered = ThrottledWarning(logger, "did not answer %d requests: %s")
# The longest that an answer takes: more than any collection and rendering does.
_ANSWER_SECONDS = 20.0
_PROBE_OR_CHECK = re.compile(r"/\w+(/[\w-]+([.:][\w-]+)*)?")
_METHODS = ("GET", "HEAD")
_FORWARDED = {"accept", "accept-encoding", "authorization", "x-prometheus-scrape-timeout-seconds"}
_OF_THE_CONNECTION = {"connection", "date", "keep-alive", "server", "transfer-encoding"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Request(NamedTuple):
    """A request: ``path`` is decoded and without the prefix that the exporter is mounted under."""

    method: str
    path: str
    query: str
    headers: Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """An answer, to be sent as it stands."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class Embedded:
    """Answers requests for metrics and probes from ``async with``, on the app's loop, until its end.

    The JSON API and the page aren't served.

    Args:
        app: The app.
        settings: The exporter's settings; its addresses are not used.
    """

    def __init__(self, app: Any, settings: Settings | None = None) -> None:
        self._app = app
        self._settings = settings or Settings()
        self._exporter: Exporter | None = None
        self._starting = threading.Lock()
        self._stopped = False

    def start_unless_stopped(self) -> None:
        """Starts at a first request. One that comes after the end gets 503 and doesn't start it anew."""
        if self._exporter is None and not self._stopped:
            self.start()

    def start(self) -> None:
        """Starts, if it hasn't. Call it on the app's loop.

        Raises:
            TypeError: The app is no app.
            UsageError: The settings make no sense for it.
        """
        with self._starting:
            if self._exporter is not None:
                return
            exporter = Exporter(self._app, self._settings)
            manager = manager_of(self._app)
            if self._settings.observe and not isinstance(manager, Observed):
                raise UsageError("observe is for flowrra-exporter and Exporter; expected an app that runs here")
            exporter.serve(listen=False)
            try:
                exporter.attach(manager, exporter.watch(asyncio.get_running_loop()))
            except BaseException:
                exporter.close(0.0)
                raise
            exporter.lifecycle.running()
            self._exporter, self._stopped = exporter, False

    async def stop(self) -> None:
        """Stops, if it runs; afterwards every request gets 503."""
        exporter, self._exporter, self._stopped = self._exporter, None, True
        if exporter is not None:
            exporter.lifecycle.draining()
            await asyncio.to_thread(exporter.close)

    @property
    def left_out(self) -> list[str]:
        """What the last scrape left out of the metrics that the program registered, in words."""
        return [] if self._exporter is None else self._exporter.left_out

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def answer(self, request: Request) -> Answer:
        """The answer, awaited on any loop. Never raises for what a client can send."""
        answering = self._begin(request)
        if isinstance(answering, Answer):
            return answering
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answering), _ANSWER_SECONDS)
        except TimeoutError:
            return _too_late()

    def answer_blocking(self, request: Request) -> Answer:
        """The answer, waited for in any thread but one whose loop runs the app."""
        answering = self._begin(request)
        if isinstance(answering, Answer):
            return answering
        try:
            return answering.result(_ANSWER_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError):
            answering.cancel()
            return _too_late()

    def _begin(self, request: Request) -> Answer | concurrent.futures.Future[Answer]:
        if request.path != self._settings.web_telemetry_path and not _is_probe(request.path):
            return _plain(404, "there is nothing at this path", request)
        if request.method not in _METHODS:
            return _plain(405, f"{request.method:.20} is not allowed here; expected GET or HEAD", request)
        exporter = self._exporter
        if exporter is None:
            return _plain(503, "the exporter isn't running: its `async with` has not begun, or has ended", request)
        try:
            return _submit(_exchange(exporter, request), exporter)
        except RuntimeError as error:  # after a fork, or while it stops
            logger.error("a request for %s can't be answered: %s", request.path, error)
            return _plain(503, str(error), request)


def _submit(exchange: Coroutine[Any, Any, Answer], exporter: Exporter) -> concurrent.futures.Future[Answer]:
    try:
        return asyncio.run_coroutine_threadsafe(exchange, exporter.server_loop)
    except RuntimeError:
        exchange.close()
        raise


def _is_probe(path: str) -> bool:
    """Whether it is a probe's path and one that can be sent on as it stands."""
    return is_probe(path) and _PROBE_OR_CHECK.fullmatch(path) is not None


async def _exchange(exporter: Exporter, request: Request) -> Answer:
    """One request over a socket pair; runs on the server's loop."""
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:  # the process has no descriptor left
        _not_answered.warn(error)
        return _plain(503, f"no connection could be made: {error.strerror}", request)
    async with AsyncExitStack() as stack:
        stack.callback(ours.close)
        try:
            await exporter.server.accept(theirs)
        except Full as error:
            _not_answered.warn(error)
            return _plain(503, str(error), request)
        except BaseException:
            theirs.close()
            raise
        reader, writer = await asyncio.open_connection(sock=ours)
        stack.callback(writer.close)
        writer.write(_head(request))
        return _parse(await reader.read(), request.method)


def _head(request: Request) -> bytes:
    query = f"?{quote(request.query, safe='=&%+,;:/?@!$*()~')}" if request.query else ""
    lines = [f"{request.method} {quote(request.path)}{query} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {_CONTROL.sub(' ', value)}" for name, value in request.headers if name.lower() in _FORWARDED]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


class _Received:
    """What http.client takes for a socket: bytes that are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parse(data: bytes, method: str) -> Answer:
    response = http.client.HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    response.begin()
    headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_THE_CONNECTION]
    return Answer(response.status, response.reason, headers, response.read())


def _plain(status: int, reason: str, request: Request | None = None) -> Answer:
    body = f"{status}: {reason}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if status == 405:
        headers.append(("Allow", ", ".join(_METHODS)))
    if request is not None and request.method == "HEAD":
        body = b""
    return Answer(status, http.client.responses[status], headers, body)


def _too_late() -> Answer:
    logger.error("a request got no answer within %g s", _ANSWER_SECONDS)
    return _plain(503, "no answer in time")
