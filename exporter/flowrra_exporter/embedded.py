"""Everything that the exporter serves, inside a web server of the user's: what the aiohttp, ASGI and WSGI ways in have
in common.

A request is handed to the very server that listens on a port otherwise: it goes over a socket pair to the
exporter's own thread, and there through the same aiohttp application. So negotiation, compression, the cap on
scrapes, deadlines, authentication and what guards actions are the same by construction, whatever loop or thread the
request came from; no port or file is opened, and nobody outside of the process can reach the pair. Who the user is
goes with the pair's own end, never as a header. (Building aiohttp requests by hand would save two copies through the
kernel, and need what aiohttp offers for tests only.)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Generic, NamedTuple, Self, TypeVar

from flowrra_exporter.app.target import manager_of
from flowrra_exporter.errors import UsageError
from flowrra_exporter.exchange import (
    ANSWER_SECONDS,
    END_OF_HEAD,
    Remaining,
    Request,
    begin_answer,
    encode_request,
    headers_of,
    streams,
    with_slash,
)
from flowrra_exporter.exporter import Exporter
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.observed import Observed
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.access.connection import MAX_BODY
from flowrra_exporter.web.access.listeners import Full
from flowrra_exporter.web.responses import HEADERS

logger = logging.getLogger(__name__)

_not_answered = ThrottledWarning(logger, "did not answer %d requests: %s")
_BODY_SECONDS = 20.0
_SECRET_BYTES = 16
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Refused(Exception):
    """A request that isn't passed on."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


# What can keep an answer from beginning.
_FAILURES = (Refused, Full, OSError, EOFError, http.client.HTTPException, asyncio.LimitOverrunError)

_Pieces = TypeVar("_Pieces", AsyncIterator[bytes], Iterator[bytes])


class Answer(NamedTuple, Generic[_Pieces]):
    """An answer, to be sent as it stands while its context lasts.

    Attributes:
        streams: Whether its body comes as things happen, and has no end by itself.
        pieces: Its body.
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]
    streams: bool
    pieces: _Pieces


class Embedded:
    """Answers requests from ``async with``, on the app's loop, until its end.

    Args:
        app: The app.
        settings: The exporter's settings; its addresses are not used.
        identifies: Whether the program says of requests which user they are of: then what is for users who have
            authenticated may be switched on.
        secret: What the tokens of those users are signed with, of 16 bytes or more: processes that answer for each
            other need the same. Random if None.
    """

    def __init__(
        self, app: Any, settings: Settings | None = None, *, identifies: bool = False, secret: bytes | None = None
    ) -> None:
        if secret is not None and len(secret) < _SECRET_BYTES:
            raise UsageError(f"secret has {len(secret)} bytes; expected {_SECRET_BYTES} or more")
        self._app = app
        self._settings = settings or Settings()
        self._identifies = identifies
        self._secret = secret
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
            exporter.serve(listen=False, identified=self._identifies, secret=self._secret)
            try:
                exporter.attach(manager, exporter.watch(asyncio.get_running_loop()))
            except BaseException:
                exporter.close(0.0)
                raise
            exporter.follow(manager)
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

    @asynccontextmanager
    async def answer(
        self, request: Request, body: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[Answer[AsyncIterator[bytes]]]:
        """The answer, on any loop. Never raises for what a client can send.

        Args:
            request: The request.
            body: Its body, as it comes; None for none. It is read only where a route may need it, and no more of it
                than one may.
        """
        with ExitStack() as stack:
            try:
                exporter = self._ready_for(request)
                sent = await _read(body) if body is not None and request.method == "POST" else b""
                ours, handed_over = _connect(exporter, request, stack)
                async with asyncio.timeout(ANSWER_SECONDS):
                    # It is taken all the same if the client goes away meanwhile: then its end comes with ours.
                    await asyncio.shield(asyncio.wrap_future(handed_over))
                    reader, writer = await asyncio.open_connection(sock=ours)
                    stack.callback(writer.transport.abort)
                    writer.write(encode_request(request, sent, MAX_BODY))
                    response = begin_answer(await reader.readuntil(END_OF_HEAD), request.method)
            except _FAILURES as failure:
                status, reason, headers, text = refusal(request, failure)
                yield Answer(status, reason, headers, streams=False, pieces=_one(text))
                return
            yield _answer(response, _pieces(reader, Remaining(response)))

    @contextmanager
    def answer_blocking(self, request: Request, read_body: Callable[[int], bytes]) -> Iterator[Answer[Iterator[bytes]]]:
        """The same, in any thread but one whose loop runs the app; ``read_body(n)`` reads up to n bytes of the body."""
        with ExitStack() as stack:
            try:
                exporter = self._ready_for(request)
                sent = _read_blocking(read_body) if request.method == "POST" else b""
                ours, handed_over = _connect(exporter, request, stack)
                handed_over.result(ANSWER_SECONDS)
                ours.settimeout(ANSWER_SECONDS)
                ours.sendall(encode_request(request, sent, MAX_BODY))
                response = stack.enter_context(begin_answer(ours, request.method))
            except _FAILURES as failure:
                status, reason, headers, text = refusal(request, failure)
                yield Answer(status, reason, headers, streams=False, pieces=iter([text]))
                return
            yield _answer(response, _pieces_blocking(ours, response, Remaining(response)))

    def _ready_for(self, request: Request) -> Exporter:
        """What answers.

        Raises:
            Refused: Nothing does.
        """
        if request.method not in _METHODS:
            raise Refused(501, f"{request.method:.20} is no method that is known here")
        if not request.path and request.method in ("GET", "HEAD"):
            raise Refused(307, "there is a slash at the end of this path", Location=with_slash(request))
        if self._exporter is None:
            raise Refused(503, "the exporter isn't running: its `async with` has not begun, or has ended")
        return self._exporter


def _connect(
    exporter: Exporter, request: Request, stack: ExitStack
) -> tuple[socket.socket, concurrent.futures.Future[None]]:
    """Our end of a socket pair, closed with ``stack``, and what is done once the server has taken the other one."""
    try:
        server = exporter.server
        ours, theirs = socket.socketpair()
    except RuntimeError as error:  # after a fork, or while it stops
        raise Refused(503, str(error)) from error
    except OSError as error:  # the process has no descriptor left
        raise Refused(503, f"no connection could be made: {error.strerror}") from error
    stack.enter_context(ours)
    try:
        return ours, server.accept(theirs, request.client, request.user)
    except RuntimeError as error:
        raise Refused(503, str(error)) from error


async def _read(body: AsyncIterator[bytes]) -> bytes:
    """The body, or what shows that it is too large."""
    read = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in body:
                read += piece
                if len(read) > MAX_BODY:
                    break
    except TimeoutError:
        raise Refused(408, f"the request's body didn't come within {_BODY_SECONDS:g} s") from None
    return bytes(read)


def _read_blocking(read_body: Callable[[int], bytes]) -> bytes:
    read = bytearray()
    while len(read) <= MAX_BODY and (piece := read_body(MAX_BODY + 1 - len(read))):
        read += piece
    return bytes(read)


async def _pieces(reader: asyncio.StreamReader, remaining: Remaining) -> AsyncIterator[bytes]:
    while remaining.wanted:
        try:
            async with asyncio.timeout(remaining.seconds):
                piece = await reader.read(remaining.wanted)
        except TimeoutError as error:
            remaining.nothing_came(error)
            return
        remaining.came(piece)
        if piece:
            yield piece


def _pieces_blocking(ours: socket.socket, response: http.client.HTTPResponse, remaining: Remaining) -> Iterator[bytes]:
    while remaining.wanted:
        ours.settimeout(remaining.seconds)
        try:
            piece = response.read1(remaining.wanted)
        except TimeoutError as error:
            remaining.nothing_came(error)
            return
        remaining.came(piece)
        if piece:
            yield piece


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


def _answer(response: http.client.HTTPResponse, pieces: _Pieces) -> Answer[_Pieces]:
    return Answer(response.status, response.reason, headers_of(response), streams(response), pieces)


def refusal(request: Request, failure: BaseException) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """The status, reason, headers and body that say why there is no other answer."""
    if not isinstance(failure, Refused):
        problem = "no answer in time" if isinstance(failure, TimeoutError) else "the exporter ended the connection"
        failure = Refused(503, str(failure) if isinstance(failure, Full) else problem)
    if failure.status == 503:
        _not_answered.warn(failure)
    text = f"{failure.status}: {failure}\n".encode()
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(text)),
        "Cache-Control": "no-store",
        **HEADERS,
        **failure.headers,
    }
    del headers["Server"]
    body = b"" if request.method == "HEAD" else text
    return failure.status, http.client.responses[failure.status], list(headers.items()), body


def name_of(user: object) -> str | None:
    """The user's name, as the program's own function gave it; None for none."""
    if user is not None and not isinstance(user, str):
        raise TypeError(f"user= gave a {type(user).__name__}; expected the user's name, or None where there is no user")
    return user or None
