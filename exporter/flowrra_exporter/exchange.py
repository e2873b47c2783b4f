"""One request and its answer over a socket pair, as HTTP/1.0: an answer ends with its connection, so no framing of the
outside is ever passed on, and one of unknown length is read as it comes."""

from __future__ import annotations

import http.client
import io
import math
import re
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

# The longest that an answer takes to begin, and then each next piece of it: any collection and rendering takes less.
ANSWER_SECONDS = 20.0
# The longest that a stream lasts: a browser comes back by itself and goes on where it was. So servers that wait for
# their connections when they stop don't wait for ever, and a thread that streams is free again.
_STREAM_SECONDS = 20.0
_A_MOMENT = 0.001
_PIECE_BYTES = 64 * 1024
END_OF_HEAD = b"\r\n\r\n"

# What the exporter's own routes read. Cookies aren't among it: those of the user's program are none of our business.
_FORWARDED = {
    "accept",
    "accept-encoding",
    "authorization",
    "content-type",
    "host",
    "last-event-id",
    "origin",
    "sec-fetch-site",
    "x-flowrra-token",
    "x-prometheus-scrape-timeout-seconds",
}
_OF_THE_CONNECTION = {
    *("connection", "date", "keep-alive", "proxy-connection", "server", "te", "trailer", "transfer-encoding"),
    "upgrade",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BYTE_IN_A_PATH = re.compile(r"%[0-9A-Fa-f]{2}|.", re.DOTALL)
# What stands for itself in a request line. The rest is percent-encoded.
_IN_A_PATH = "/:@!$&'()*+,;=~"
_IN_A_QUERY = "=&%+,;:/?@!$*()~"


class Request(NamedTuple):
    """A request, without its body.

    Attributes:
        path: Decoded, and without the prefix that the exporter is mounted under; empty for the prefix without a slash.
        written_path: The path as the client wrote it, the prefix included.
        client: The address of the client; empty if it isn't known.
        user: The user's name, as the program has found it out; None if it hasn't.
    """

    method: str
    path: str
    query: str
    headers: Iterable[tuple[str, str]]
    written_path: str
    client: str = ""
    user: str | None = None


def encode_request(request: Request, body: bytes, most: int) -> bytes:
    """The request as it goes over the pair; of a body with more than ``most`` bytes only that it is too large."""
    lines = [f"{request.method} {_path(request)}{_query(request)} HTTP/1.0"]
    lines += [f"{name}: {_CONTROL.sub(' ', value)}" for name, value in request.headers if name.lower() in _FORWARDED]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    return head if len(body) > most else head + body


def begin_answer(source: socket.socket | bytes, method: str) -> http.client.HTTPResponse:
    """An answer whose head is read: from a blocking socket, or from what came up to ``END_OF_HEAD``."""
    received: Any = source if isinstance(source, socket.socket) else _Received(source)
    response = http.client.HTTPResponse(received, method=method)
    response.begin()
    return response


def headers_of(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    """The headers, without those that are the connection's."""
    return [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_THE_CONNECTION]


def streams(response: http.client.HTTPResponse) -> bool:
    """Whether the body comes as things happen, and has no end by itself."""
    return response.getheader("Content-Type", "").startswith("text/event-stream")


class Remaining:
    """What is still to come of an answer's body, and until when."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._bytes: float = math.inf if response.length is None else response.length
        self._until = time.monotonic() + _STREAM_SECONDS if streams(response) else None

    @property
    def wanted(self) -> int:
        """How many bytes to read next; 0 at the end."""
        if self._until is not None and time.monotonic() >= self._until:
            return 0
        return int(min(self._bytes, _PIECE_BYTES))

    @property
    def seconds(self) -> float:
        """How long to wait for them."""
        return ANSWER_SECONDS if self._until is None else max(_A_MOMENT, self._until - time.monotonic())

    def came(self, piece: bytes) -> None:
        """Takes a piece into account; an empty one says that the connection has ended.

        Raises:
            ConnectionAbortedError: There was more to come.
        """
        if not piece and self._bytes < math.inf:
            raise ConnectionAbortedError("the exporter's answer broke off")
        self._bytes = self._bytes - len(piece) if piece else 0

    def nothing_came(self, error: TimeoutError) -> None:
        """Nothing has come for ``seconds``, which ends a stream.

        Raises:
            ConnectionAbortedError: There was more to come.
        """
        if self._until is None:
            raise ConnectionAbortedError("the rest of the exporter's answer didn't come in time") from error


class _Received:
    """What http.client takes for a socket: bytes that are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _path(request: Request) -> str:
    """The path for the request line: as the client wrote it if that is known, as ``a%2Fb`` is one name and not two."""
    decoded = request.path.encode("utf-8", "replace")
    bytes_written = _BYTE_IN_A_PATH.findall(request.written_path)
    written = "".join(bytes_written[-len(decoded) :])
    if unquote_to_bytes(written) == decoded:
        return quote(written, safe=f"{_IN_A_PATH}%")
    return quote(decoded, safe=_IN_A_PATH)


def with_slash(request: Request) -> str:
    """A relative reference from a path that lacks its slash at the end to the one that has it, below any prefix."""
    name = quote(request.written_path.rpartition("/")[2], safe=f"{_IN_A_PATH}%")
    return f"./{name}/{_query(request)}"


def _query(request: Request) -> str:
    # Frameworks give its bytes as Latin-1 (PEP 3333, ASGI's bytes): letters beyond ASCII are what they were as UTF-8.
    return f"?{quote(request.query.encode('latin-1', 'replace'), safe=_IN_A_QUERY)}" if request.query else ""
