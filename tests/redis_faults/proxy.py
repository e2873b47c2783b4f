"""A network between app and server that resets, swallows or garbles what passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

CHUNK = 65536


class Proxy:
    """Passes on connections to a port of this machine, unless told otherwise; a context manager.

    Attributes:
        target: The port that new connections lead to.
        swallows: Whether what is sent in either direction is lost, and new connections hang.
        refusal: The error with which each request is answered, without the server; None passes them on.
        garbage: What the app is sent instead of the next answer; None for the answer.
        rate: Bytes a second in either direction, of each connection; None for as many as there are.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.swallows = False
        self.refusal: bytes | None = None
        self.garbage: bytes | None = None
        self.rate: float | None = None
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()
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
        for end in self._ends.copy():
            raw = end.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    def forget(self) -> None:
        """Lose what is sent on the connections there are, and tell nobody, as a firewall does; new ones pass."""
        self._forgotten.update(self._ends)

    def _loses(self, end: asyncio.StreamWriter) -> bool:
        """Whether what is to be sent there is lost."""
        return self.swallows or end in self._forgotten

    async def _accept(self, from_app: asyncio.StreamReader, to_app: asyncio.StreamWriter) -> None:
        self._ends.add(to_app)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            to_app.transport.abort()
            self._ends.discard(to_app)
            return
        self._ends.add(to_server)
        for work in (self._ask(from_app, to_server, to_app), self._answer(from_server, to_app)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        async with _ending(sink):
            while data := await source.read(CHUNK):
                if self.refusal is not None:
                    # One for each request that begins here: those of the tests are shorter than what is read at once.
                    back.write(b"-%b\r\n" % self.refusal * (b"\r\n" + data).count(b"\r\n*"))
                elif not self._loses(sink):
                    await self._pass(data, sink)

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        async with _ending(sink):
            while data := await source.read(CHUNK):
                if self.garbage is not None:
                    data, self.garbage = self.garbage, None
                if not self._loses(sink):
                    await self._pass(data, sink)

    async def _pass(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        sink.write(data)
        await sink.drain()
        if self.rate is not None:
            await asyncio.sleep(len(data) / self.rate)


@contextlib.asynccontextmanager
async def _ending(sink: asyncio.StreamWriter) -> AsyncIterator[None]:
    """When either end is gone, so is the other one."""
    try:
        yield
    except OSError:
        pass
    finally:
        sink.transport.abort()
