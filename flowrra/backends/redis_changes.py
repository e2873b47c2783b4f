"""Changes of tasks on Redis, as ``flowrra/lua/records.lua`` tells them while somebody watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from flowrra import codec
from flowrra.backends.change_ids import change_id, parse_change_id
from flowrra.backoff import Backoff
from flowrra.changes import Change
from flowrra.exceptions import BackendError
from flowrra.outage import Outage
from flowrra.redis_client import MAX_BLOCK, Client, RedisServer
from flowrra.redis_script import Script, records_key
from flowrra.supervision import Supervised, cancel_until_ended, see_through, spawn

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

# Seconds between two signs that somebody watches, and for which one of them counts.
SIGN_INTERVAL = 10.0
SIGN_COUNTS = 35.0
REPLACEMENT_DELAY = 1.0
# Changes that are read at once.
AT_ONCE = 200

_WATCH = Script("clock", "records", "watch")


class RedisChanges:
    """Reads the changes of one namespace.

    Args:
        server: Where they are told.
        namespace: The beginning of the names of its keys.

    Attributes:
        watchers: How many watch from this process.
    """

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self.watchers = 0

    async def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        """The changes from now on, or after one.

        Raises:
            BackendError: The server could not be reached at first; later it is tried again and again.
            ValueError: ``after`` is no id of a change.
        """
        entry, number = await self._sign()
        if after is not None:
            entry, number = parse_change_id(after)
        signing = Supervised(self._sign_repeatedly, "flowrra-watch", REPLACEMENT_DELAY, self._count_death)
        signing.start()
        client = self._server.dedicated_client()
        reader = _Reader(self._server, client, f"{self._namespace}:changes", self._sign, entry, number)
        self.watchers += 1
        try:
            async with aclosing(reader.changes()) as changes:
                async for change in changes:
                    yield change
        finally:
            self.watchers -= 1
            try:
                await signing.stop()
            finally:  # whoever is cancelled again and again while it waits leaves no connection either
                await see_through(client.aclose())

    async def latest(self) -> str:
        """The id of the latest change; all that comes after it is told from now on.

        Raises:
            BackendError: The server could not be reached.
        """
        return change_id(*await self._sign())

    async def _sign(self) -> tuple[str, int]:
        """Say that somebody watches. Returns the id and the number of the last entry."""
        key = records_key(self._namespace)
        entry, number = await self._server.run(_WATCH, "watch tasks", key, round(SIGN_COUNTS * 1e3))
        return entry.decode(), int(number)

    async def _sign_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(SIGN_INTERVAL)
            try:
                await self._sign()
            except BackendError as error:
                logger.debug("not watching for now error=%s", error)  # the reader says so

    def _count_death(self, error: BaseException | None) -> None:
        logger.error("the sign of watching died, replaced error=%r", error)


class _Reader:
    """Goes through the stream from one entry on.

    Args:
        server, client: Who reads, and what of.
        stream: Its key.
        sign: Says that somebody watches, and returns the id and the number of the last entry.
        entry, number: Of the entry that was read last.
    """

    def __init__(
        self,
        server: RedisServer,
        client: Client,
        stream: str,
        sign: Callable[[], Coroutine[Any, Any, tuple[str, int]]],
        entry: str,
        number: int,
    ) -> None:
        self._server = server
        self._client = client
        self._stream = stream
        self._sign = sign
        self._entry = entry
        self._number = number

    async def changes(self) -> AsyncGenerator[Change, None]:
        backoff, outage, is_sure = Backoff(0.1, 5.0), Outage(logger, "changes of tasks not readable"), False
        while True:
            try:
                # At first, and after an outage, the stream may be another one than that which was read before.
                if not is_sure and self._is_before(await _surely(self._sign())):
                    yield Change(self._id(), None, None)
                is_sure = True
                entries = await _surely(self._read())
            except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
                is_sure = False
                outage.failed(str(self._server.failure("tell changes", error)))
                await asyncio.sleep(backoff.next())
                continue
            outage.over()
            backoff.reset()
            for entry, fields in entries:
                for change in self._take(entry, fields):
                    yield change

    def _is_before(self, latest: tuple[str, int]) -> bool:
        """Whether the last entry that there is comes before the one that was read: then go on behind it."""
        if _order(latest[0]) >= _order(self._entry) and latest[1] >= self._number:
            return False
        self._entry, self._number = latest
        return True

    async def _read(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        wait = round(MAX_BLOCK * 1e3)
        answer = await self._client.xread({self._stream: self._entry}, count=AT_ONCE, block=wait)
        return answer[0][1] if answer else []

    def _take(self, entry: bytes, fields: dict[bytes, bytes]) -> list[Change]:
        """What an entry says, and what was missed before it."""
        changes: list[Change] = []
        text = fields.get(b"number", b"")
        if not text.isdigit():  # another program's
            self._entry = entry.decode()
            return changes
        number = int(text)
        missed, is_gap = number - self._number - 1, b"task" not in fields
        if missed and not is_gap:
            # Whoever goes on after that still has this change before it.
            self._number = number - 1
            changes.append(Change(self._id(), None, missed if missed > 0 else None))
        self._entry, self._number = entry.decode(), number
        if is_gap:
            return [Change(self._id(), None, None)]
        try:
            changes.append(Change(self._id(), codec.decode_record(fields[b"task"])))
        except BackendError as error:
            logger.warning("change not readable, left out id=%s error=%s", self._id(), error)
        return changes

    def _id(self) -> str:
        return change_id(self._entry, self._number)


async def _surely(request: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer to a request, of which the driver may lose a cancellation."""
    asking = spawn(request)
    # Who is cancelled, and has the connection closed meanwhile, doesn't want to know what it failed of.
    asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
    try:
        await asyncio.wait({asking})
    finally:
        await cancel_until_ended(asking)
    return asking.result()


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)
