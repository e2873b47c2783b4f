"""The exporter as a WSGI application, for Flask, Django and every WSGI server::

    exporter = Application(app)
    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {"/internal": exporter})

A WSGI server has no event loop, so the app runs on one in a thread of yours, and so does the exporter::

    async with app, exporter: ...

Until then every request gets 503. In a prefork server, start that thread after the fork. The answers need a
worker that is free, but not the app's loop: while that is blocked, the probes say so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from flowrra_exporter.embedded import Answer, Embedded, Refused, name_of, refusal
from flowrra_exporter.exchange import Request
from flowrra_exporter.settings import Settings

# Of a length: more than any that is read.
_DIGITS = 18

StartResponse = Callable[[str, list[tuple[str, str]]], object]
User = Callable[[dict[str, Any]], "str | None"]


class Application(Embedded):
    """A WSGI application.

    Args:
        app: The app.
        settings: The exporter's settings; its addresses are not used.
        user: Tells of a request's environ which user it is from, None for nobody. What it raises is left to what is
            around.
        secret: What the tokens of those users are signed with, of 16 bytes or more: processes that answer for each
            other need the same. Random if None.
        event_streams: How many streams of events there may be at a time, as each holds one of the server's threads.
            A server with one thread has none.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings | None = None,
        user: User | None = None,
        secret: bytes | None = None,
        event_streams: int = 2,
    ) -> None:
        super().__init__(app, settings, identifies=user is not None, secret=secret)
        self._user = user
        self._free_streams = threading.Semaphore(event_streams)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        request = self._request(environ)
        with ExitStack() as stack:
            answer = stack.enter_context(self.answer_blocking(request, _body(environ)))
            if answer.streams and not self._may_stream(environ, stack):
                too_many = Refused(503, "no thread is free for one more stream of events", Retry_After="5")
                status, reason, headers, text = refusal(request, too_many)
                answer = Answer(status, reason, headers, streams=False, pieces=iter([text]))
            start_response(f"{answer.status} {answer.reason}", answer.headers)
            return _Stream(answer.pieces, stack.pop_all()) if answer.streams else list(answer.pieces)

    def _may_stream(self, environ: dict[str, Any], stack: ExitStack) -> bool:
        if not environ.get("wsgi.multithread") or not self._free_streams.acquire(blocking=False):
            return False
        stack.callback(self._free_streams.release)
        return True

    def _request(self, environ: dict[str, Any]) -> Request:
        # WSGI's strings are bytes in disguise (PEP 3333).
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        written = environ.get("REQUEST_URI") or environ.get("RAW_URI") or ""
        whole = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
        return Request(
            environ["REQUEST_METHOD"],
            path,
            environ.get("QUERY_STRING", ""),
            _headers(environ),
            written.partition("?")[0] or quote(whole),
            environ.get("REMOTE_ADDR", ""),
            None if self._user is None else name_of(self._user(environ)),
        )


class _Stream:
    """A body that comes as things happen. A server closes it, however it ends."""

    def __init__(self, pieces: Iterator[bytes], stack: ExitStack) -> None:
        self._pieces = pieces
        self._stack = stack

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._stack.close()


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if environ.get("CONTENT_TYPE"):
        yield "Content-Type", environ["CONTENT_TYPE"]
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key.removeprefix("HTTP_").replace("_", "-"), value


def _body(environ: dict[str, Any]) -> Callable[[int], bytes]:
    """Reads the request's body: as much as was announced, or to its end where the server knows that."""
    if environ.get("wsgi.input_terminated"):
        return lambda size: _read(environ["wsgi.input"], size)
    length = environ.get("CONTENT_LENGTH") or "0"
    left = int(length[:_DIGITS]) if length.isascii() and length.isdigit() else 0

    def read(size: int) -> bytes:
        nonlocal left
        piece = _read(environ["wsgi.input"], min(size, left))
        left -= len(piece)
        if not piece and left:
            raise Refused(400, "the request's body broke off")
        return piece

    return read


def _read(body: Any, size: int) -> bytes:
    try:
        piece: bytes = body.read(size)
    except OSError as error:
        raise Refused(400, "the request's body broke off") from error
    return piece
