"""One request to a server that may be anything: bounded in time and size, and every failure a sentence."""

from __future__ import annotations

import os
import ssl
import time
import zlib
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote

import aiohttp

MOST_BYTES = 64_000_000
_CHUNK = 65_536
_GZIP_WBITS = 31
_MOST_REDIRECTS = 5


class Unanswered(Exception):
    """There is no answer, or none that can be read; the text says why."""


class Unreachable(Unanswered):
    """Nobody takes connections there."""


class Answer(NamedTuple):
    """An answer.

    Attributes:
        transferred: Its size on the way, in bytes.
        seconds: The time until its last byte.
        redirected_to: Where it came from in the end; empty if from where it was asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    transferred: int
    seconds: float
    redirected_to: str

    def text(self) -> str:
        """The body as text. Unanswered if it isn't UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as failure:
            raise Unanswered(f"byte {failure.start} of the body is not UTF-8") from failure


def credentials_of(parts: SplitResult) -> Mapping[str, str]:
    """The header with the user and password of a URL, as Prometheus sends it: in UTF-8. None if there are none."""
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(credentials.encode()).decode()}"}


class Client:
    """Makes requests in ``async with``.

    Args:
        timeout: The most that each may take, in seconds.
        credentials: A header that each has.
    """

    def __init__(self, timeout: float, credentials: Mapping[str, str] | None = None) -> None:
        self._timeout = timeout
        self._credentials = credentials or {}

    async def __aenter__(self) -> Client:
        limit = aiohttp.ClientTimeout(total=self._timeout)
        self._session = aiohttp.ClientSession(timeout=limit, auto_decompress=False)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._session.close()

    async def get(self, url: str, accept: str) -> Answer:
        """The answer to a scrape or probe.

        Raises:
            Unanswered: There is none, or not a whole one.
        """
        headers = {
            **self._credentials,
            "Accept": accept,
            "Accept-Encoding": "gzip",
            "X-Prometheus-Scrape-Timeout-Seconds": f"{self._timeout:g}",
        }
        started = time.monotonic()
        try:
            async with self._session.get(url, headers=headers, max_redirects=_MOST_REDIRECTS) as response:
                raw = await _read(response)
                seconds = time.monotonic() - started
                encoding = response.headers.get("Content-Encoding", "identity")
                redirected_to = str(response.url.with_user(None).with_query(None)) if response.history else ""
                body = _decoded(raw, encoding)
                return Answer(response.status, dict(response.headers), body, len(raw), seconds, redirected_to)
        except aiohttp.ClientConnectorError as failure:
            raise Unreachable(f"cannot connect: {_reason(failure.os_error)}") from failure
        except TimeoutError as failure:
            raise Unanswered(f"no complete answer within {self._timeout:g} s") from failure
        except aiohttp.InvalidURL as failure:  # its text is the URL, where a redirect leads to
            raise Unanswered("it redirects to what is no URL") from failure
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise Unanswered(f"{type(failure).__name__}: {failure}") from failure


def _reason(failure: OSError) -> str:
    """What the system says; of TLS and of names that can't be looked up, their libraries say it."""
    if failure.errno is None or failure.errno <= 0 or isinstance(failure, ssl.SSLError):
        return failure.strerror or str(failure)
    return os.strerror(failure.errno)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(_CHUNK):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise Unanswered(f"the answer is larger than {MOST_BYTES} bytes")
    return b"".join(pieces)


def _decoded(raw: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() == "identity":
        return raw
    if encoding.strip().lower() != "gzip":
        raise Unanswered(f"Content-Encoding {encoding}; expected gzip or none")
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    try:
        body = decompressor.decompress(raw, MOST_BYTES + 1)
    except zlib.error as failure:
        raise Unanswered("the body is not gzip, as its Content-Encoding says") from failure
    if len(body) > MOST_BYTES:
        raise Unanswered(f"the answer is larger than {MOST_BYTES} bytes, once decompressed")
    if not decompressor.eof:
        raise Unanswered("the body ends in the middle of its gzip stream")
    return body
