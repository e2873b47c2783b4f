"""Waiting for records on Redis to be complete: any number of waiters of an event loop share one connection, on which
the server tells them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable

from redis.asyncio.connection import AbstractConnection

from flowrra.backoff import Backoff
from flowrra.exceptions import BackendError, ResultNotFoundError, ServerUnavailableError
from flowrra.outage import Outage
from flowrra.per_loop import PerLoop
from flowrra.redis_client import MAX_BLOCK, RedisServer
from flowrra.supervision import cancel_until_ended, see_through, spawn
from flowrra.task import TaskResult

logger = logging.getLogger(__name__)

# Seconds after which a waiter looks for itself: what a server tells is lost with the connection, or with the server.
RECHECK = 5.0
# Seconds for which a record that may have been complete is looked for again when it is gone: as long as a lease, after
# which somebody else has the task and tells of it.
GRACE = 20.0
# Seconds between two looks whether the server has answered.
GLANCE = 1.0
# Seconds before a reader that died is replaced.
REPLACEMENT_DELAY = 1.0
# Listening goes on for so long after the last waiter has gone: the next one is likely to come soon.
LINGER = 30.0


class _Waiter:
    """One who waits: woken when the server listens for it, and when there may be something new. Channels know no
    databases: what is told may be of a task of the same id in another one.

    Attributes:
        subscriptions: How often the server has said that it listens. What is told before another one may not be heard.
    """

    def __init__(self) -> None:
        self.is_listened_for = asyncio.Event()
        self.news = asyncio.Event()
        self.was_told = False
        self.subscriptions = 0


class _Listener:
    """The listening connection of one event loop."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        # On a cluster the channels are those of a shard.
        sharded = "" if server.slot is None else "S"
        self._subscribe, self._unsubscribe = f"{sharded}SUBSCRIBE", f"{sharded}UNSUBSCRIBE"
        self._deafness = Outage(logger, "not listening for results", f"server={server.name}")
        self._waiters: dict[str, list[_Waiter]] = {}
        self._connection: AbstractConnection | None = None
        # Channels to be listened on, or no longer, as soon as the connection can be written to.
        self._added: set[str] = set()
        self._removed: set[str] = set()
        self._writer: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        # When the first was sent of what the server has not answered; None if it has answered all.
        self._asked_at: float | None = None
        self.is_closed = False

    def add(self, task_id: str) -> _Waiter:
        waiter = _Waiter()
        waiters = self._waiters.setdefault(task_id, [])
        if waiters and waiters[0].is_listened_for.is_set():
            waiter.is_listened_for.set()
            waiter.subscriptions = waiters[0].subscriptions
        waiters.append(waiter)
        if len(waiters) == 1:
            self._removed.discard(task_id)
            self._added.add(task_id)
            self._write_soon()
        if self._reader is None:
            self._read_anew()
        return waiter

    def remove(self, task_id: str, waiter: _Waiter) -> None:
        waiters = self._waiters[task_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[task_id]
            self._added.discard(task_id)
            self._removed.add(task_id)
            self._write_soon()

    def _channel(self, task_id: str) -> bytes:
        return (self._prefix + task_id).encode(errors="surrogateescape")

    def _read_anew(self) -> None:
        if not self.is_closed:
            self._reader = spawn(self._listen())
            self._reader.add_done_callback(self._ended)

    def _ended(self, reader: asyncio.Task[None]) -> None:
        """Somebody may have come while the reader was ending, or it died: whoever waits must be listened for."""
        self._reader = None
        if not reader.cancelled() and (error := reader.exception()) is not None:
            logger.error("listening for results died, replaced server=%s error=%r", self._server.name, error)
            asyncio.get_running_loop().call_later(REPLACEMENT_DELAY, self._read_if_awaited)
        else:
            self._read_if_awaited()

    def _read_if_awaited(self) -> None:
        if self._waiters and self._reader is None:
            self._read_anew()

    def _write_soon(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write())

    async def _write(self) -> None:
        """Tell the server of what has changed. A failure is the reader's to see: it connects anew and tells it all."""
        with contextlib.suppress(Exception):  # on a stream that the reader closes meanwhile, the driver raises anything
            while (connection := self._connection) is not None and (self._added or self._removed):
                if not connection.is_connected:
                    return
                added, self._added = self._added, set()
                removed, self._removed = self._removed, set()
                if added:
                    await self._send(connection, self._subscribe, *map(self._channel, added))
                if removed and connection.is_connected:
                    await self._send(connection, self._unsubscribe, *map(self._channel, removed))

    async def _send(self, connection: AbstractConnection, *command: str | bytes) -> None:
        if self._asked_at is None:
            self._asked_at = asyncio.get_running_loop().time()
        await connection.send_command(*command)

    async def _listen(self) -> None:
        backoff = Backoff()
        client = self._server.dedicated_client()
        try:
            while self._waiters:
                # The driver's own pubsub connects anew by itself, for the one who reads and for the one who writes, and
                # they get into each other's way.
                connection = None
                try:
                    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                    _end_if_cancelled()
                    # A channel of no task, so that the connection always listens to something.
                    channels = [self._channel(""), *map(self._channel, self._waiters)]
                    self._added.clear()
                    self._removed.clear()
                    self._asked_at = None
                    await self._send(connection, self._subscribe, *channels)
                    self._connection = connection
                    self._write_soon()
                    await self._read(connection, backoff)
                except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
                    self._deafness.failed(str(self._server.failure("listen for results", error)))
                    await asyncio.sleep(backoff.next())
                finally:
                    self._connection = None
                    if connection is not None:
                        with contextlib.suppress(Exception):  # it raises anything while it closes a broken one
                            await connection.disconnect()
                        await client.connection_pool.release(connection)
        finally:
            await see_through(client.aclose())  # whoever is cancelled again while it waits leaves no connection

    async def _read(self, connection: AbstractConnection, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        idle_since = heard_at = loop.time()
        while self._waiters or loop.time() - idle_since < LINGER:
            if self._waiters:
                idle_since = loop.time()
            _end_if_cancelled()
            message = await connection.read_response(timeout=min(GLANCE, MAX_BLOCK))
            if message is None:
                await self._look_after(connection, heard_at)
                continue
            heard_at, self._asked_at = loop.time(), None
            self._deafness.over()
            backoff.reset()
            if isinstance(message, list) and message[0] != b"pong":
                self._hear(message[0].decode(), message[1])

    async def _look_after(self, connection: AbstractConnection, heard_at: float) -> None:
        """Ask a server of which nothing was heard for long whether it is there: nobody tells of a connection that is
        forgotten on the way, as by a firewall.

        Raises:
            TimeoutError: It has not answered in time.
        """
        now, patience = asyncio.get_running_loop().time(), self._server.time_for(0)
        if self._asked_at is None:
            if now - heard_at >= MAX_BLOCK:
                await self._send(connection, "PING")
        elif patience is not None and now - self._asked_at >= patience:
            raise TimeoutError(f"no answer within {patience:g} s")

    def _hear(self, kind: str, channel: bytes) -> None:
        task_id = channel.decode(errors="surrogateescape")[len(self._prefix) :]
        if not task_id and kind == "sunsubscribe":
            raise ServerUnavailableError("the channels have gone to another node with their slot")
        for waiter in self._waiters.get(task_id, ()):
            if kind == self._subscribe.lower():
                waiter.subscriptions += 1
                waiter.is_listened_for.set()
            elif kind.endswith("message"):
                waiter.was_told = True
            waiter.news.set()

    async def close(self) -> None:
        self.is_closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.is_listened_for.set()
                waiter.news.set()
        await cancel_until_ended(*(task for task in (self._reader, self._writer) if task is not None))


def _end_if_cancelled() -> None:
    """The driver may lose a cancellation that comes while it connects, as when a loop ends after a short wait."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class _Sightings:
    """Whether a record that was there is gone for good: it was complete, and expired before it could be read."""

    def __init__(self) -> None:
        self._subscriptions: int | None = None
        self._gone_at: float | None = None

    def saw(self, record: TaskResult | None, subscriptions: int) -> None:
        """A record was read; or there was none, when the server had said so often that it listens."""
        if record is not None:
            self._subscriptions, self._gone_at = subscriptions, None
        elif self._gone_at is None and self._subscriptions not in (None, subscriptions):
            # Nobody listened for a while after it was last there: that it was complete may have been told then.
            self._gone_at = asyncio.get_running_loop().time()

    def is_gone(self, *, was_told: bool) -> bool:
        """Whether it was there once and, as far as is known, was complete since."""
        if self._subscriptions is None:
            return False
        return was_told or self._left() <= 0

    def next_look(self, seconds: float) -> float:
        """Seconds until it is to be looked for again, at most those."""
        left = self._left()
        return min(seconds, left) if left > 0 else seconds

    def _left(self) -> float:
        """Seconds until it is given up."""
        return math.inf if self._gone_at is None else self._gone_at + GRACE - asyncio.get_running_loop().time()


class Completions:
    """Waits for records to be complete.

    Args:
        server: Where they are.
        prefix: What the names of their channels begin with; the id follows.
        read: Reads a record.
    """

    def __init__(self, server: RedisServer, prefix: str, read: Callable[[str], Awaitable[TaskResult | None]]) -> None:
        self._server = server
        self._prefix = prefix
        self._read = read
        self._reading = Outage(logger, "results not readable, still waited for", f"server={server.name}")
        self._listeners = PerLoop(lambda: _Listener(server, prefix))

    async def wait_for(self, task_id: str, *, must_exist: bool = False) -> TaskResult:
        """The record of a task once it is complete; the task need not exist yet, unless it must.

        Raises:
            BackendError: The records can't be read, or the app was stopped meanwhile.
            ResultNotFoundError: There is none, although it must exist; or there was one, which was complete and gone
                before it could be read, or may have been, as nobody listened for a while.
        """
        listener = self._listeners.get()
        waiter = listener.add(task_id)
        try:
            # Looked for while the server is told to listen, and again when it listens: whatever completes from then on
            # is told.
            sightings, subscriptions = _Sightings(), waiter.subscriptions
            record = await self._read(task_id)
            if record is None and must_exist:
                raise ResultNotFoundError(task_id)
            sightings.saw(record, subscriptions)
            is_read, was_told = True, False
            if record is None or not record.is_complete:
                await _at_most(RECHECK, waiter.is_listened_for)
                # Before it is read: what is told during that may be of a record that comes too late for it.
                was_told, subscriptions = waiter.was_told, waiter.subscriptions
                record = await self._read(task_id)
            while record is None or not record.is_complete:
                if listener.is_closed:
                    raise BackendError(f"The app stopped while task '{task_id}' was waited for")
                if is_read:
                    sightings.saw(record, subscriptions)
                    if record is None and sightings.is_gone(was_told=was_told):
                        raise ResultNotFoundError(task_id)
                recheck = sightings.next_look(RECHECK * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
                await _at_most(recheck, waiter.news)
                waiter.news.clear()
                was_told, subscriptions = waiter.was_told, waiter.subscriptions
                record, is_read = await self._read_patiently(task_id)
            return record
        finally:
            listener.remove(task_id, waiter)

    async def _read_patiently(self, task_id: str) -> tuple[TaskResult | None, bool]:
        """The record, and whether it could be read."""
        try:
            record = await self._read(task_id)
        except BackendError as error:  # the server is away for a while: it will be looked for again
            self._reading.failed(str(error))
            return None, False
        self._reading.over()
        return record, True

    async def close(self) -> None:
        """Fail whoever waits on the running loop: nothing will complete any more."""
        listener = self._listeners.pop()
        if listener is not None:
            await listener.close()
