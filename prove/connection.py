"""A connection that scrapes as Prometheus does: it is kept, asks for OpenMetrics, and takes gzip. Hundreds of them cost
a process little, which a client library's wouldn't."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Self

HEADERS = (
    "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1\r\n"
    "Accept-Encoding: gzip\r\n"
    "User-Agent: Prometheus/2.42.0\r\n"
    "X-Prometheus-Scrape-Timeout-Seconds: 10\r\n"
)


class Reply(NamedTuple):
    """What a scrape was answered: status, size of the body, whether it says when to come again, and seconds."""

    status: int
    size: int
    retry_after: bool
    seconds: float


class Connection:
    """Open it by `open`. One request at a time."""

    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        reader, writer = await asyncio.open_connection(host, port)
        return cls(f"{host}:{port}", reader, writer)

    async def get(self, path: str) -> Reply:
        """Raises OSError or EOFError if the server goes away."""
        started = time.monotonic()
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{HEADERS}\r\n".encode())
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        size = int(headers["content-length"])
        await self._reader.readexactly(size)
        return Reply(int(status.split()[1]), size, "retry-after" in headers, time.monotonic() - started)

    def close(self) -> None:
        self._writer.close()
