"""A network between app and server that resets, swallows or garbles what passes."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK = 65536


class Proxy:
    """Passes on connections to a port of this machine, unless told otherwise; a context manager.

    Attributes:
        target: The port that new connections lead to.
        swallows: Whether what is sent in either direction is lost, and new connections hang.
        garbage: What the app is sent instead of the next answer; None for the answer.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.swallows = False
        self.garbage: bytes | None = None
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where the app is to connect to."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def reset(self) -> None:
        """Reset all connections (RST) there are."""
        for end in self._ends:
            raw = end.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    async def _accept(self, from_app: asyncio.StreamReader, to_app: asyncio.StreamWriter) -> None:
        self._ends.add(to_app)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            to_app.transport.abort()
            self._ends.discard(to_app)
            return
        self._ends.add(to_server)
        for source, sink, answers in ((from_app, to_server, False), (from_server, to_app, True)):
            task = asyncio.create_task(self._pass(source, sink, answers=answers))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await source.read(CHUNK):
                if self.swallows:
                    continue
                if answers and self.garbage is not None:
                    data, self.garbage = self.garbage, None
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # either end is gone, and so is the other one now
        finally:
            self._ends.discard(sink)
            sink.transport.abort()
