"""Connections to the primary that sentinels or the nodes of a cluster name, by redis-py's classes for sentinels: after
a failover all lead to the new one.

redis-py asks when it connects. That is not enough for a connection that is open: a request to a primary that stands
still waits for its time limit, and who only listens there waits for ever. So it is asked again and again, and when
another one is named, or the one there was is given up, the connections to that are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool, ConnectionPool

from flowrra.outage import Outage
from flowrra.redis_address import Address, Place
from flowrra.redis_cluster import ClusterDiscovery, ClusterNodes, ThreadClusterDiscovery
from flowrra.redis_discovery import Discovery, PrimaryDownError
from flowrra.redis_sending import cancellable
from flowrra.redis_sentinel import SentinelDiscovery, thread_sentinel
from flowrra.supervision import Supervised, cancel_until_ended, spawn

logger = logging.getLogger(__name__)

# Seconds between two questions where the primary is.
ASK_EVERY = 0.5
# Seconds before a questioner that died is replaced.
REPLACEMENT_DELAY = 1.0


class _Pool(redis.asyncio.sentinel.SentinelConnectionPool):
    """A pool that knows its connections, also those that are in use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.made: weakref.WeakSet[AbstractConnection] = weakref.WeakSet()

    def make_connection(self) -> AbstractConnection:
        connection: AbstractConnection = super().make_connection()  # type: ignore[no-untyped-call]
        self.made.add(connection)
        return connection


class _BlockingPool(_Pool, BlockingConnectionPool):
    pass


class Primary:
    """What one event loop knows of the primary, and its pools of connections there.

    Args:
        address: The address, which has sentinels or a cluster.
        nodes: What is known of the cluster; None with sentinels.
        on_found: Called when the primary is found first, and when it is another one than before.
    """

    def __init__(self, address: Address, nodes: ClusterNodes | None, on_found: Callable[[Place], None]) -> None:
        self._discovery: Discovery = SentinelDiscovery(address) if nodes is None else ClusterDiscovery(nodes)
        self._connection_class = cancellable(
            redis.asyncio.sentinel.SentinelManagedSSLConnection
            if address.is_encrypted
            else redis.asyncio.sentinel.SentinelManagedConnection
        )
        self._on_found = on_found
        self._place: Place | None = None
        self._is_sure = False
        self._question: asyncio.Task[Place] | None = None
        self._is_closed = False
        self._pools: weakref.WeakSet[_Pool] = weakref.WeakSet()
        self._leaving: set[asyncio.Task[None]] = set()
        self._outage = Outage(logger, "no primary is known", f"server={address.name} {self._discovery.what}")
        self._asking = Supervised(self._ask_repeatedly, "flowrra-primary", REPLACEMENT_DELAY, self._count_death)
        self._asking.start()

    def pool(self, **options: Any) -> ConnectionPool:
        """A pool of connections to the primary, that raises when all are in use."""
        return self._add(_Pool, options)

    def blocking_pool(self, **options: Any) -> ConnectionPool:
        """A pool of connections to the primary, that waits when all are in use."""
        return self._add(_BlockingPool, options)

    def _add(self, kind: type[_Pool], options: dict[str, Any]) -> _Pool:
        pool = kind(
            service_name=self._discovery.what,
            sentinel_manager=self,
            connection_class=self._connection_class,
            **options,
        )
        self._pools.add(pool)
        return pool

    async def _ask_repeatedly(self) -> None:
        while True:
            try:
                await self.find()
            except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
                # Those connections that there are go on; whoever makes a new one meets the same error, with its text.
                self._outage.failed(type(error).__name__)
            else:
                self._outage.over()
            await asyncio.sleep(ASK_EVERY)

    async def discover_master(self, _: str) -> Place:
        """What the pools, made for sentinels, ask when they make a connection; see :meth:`find`."""
        return await self.find()

    async def find(self) -> Place:
        """Where the primary is. Connections that lead elsewhere are closed.

        Raises:
            redis.RedisError: Nobody knows it, or these connections were closed.
        """
        if self._is_closed:
            raise redis.ConnectionError("the app's connections were closed")
        if self._question is None or self._question.done():
            self._question = spawn(self._ask())
            # Whoever waited may be gone by then.
            self._question.add_done_callback(lambda question: question.cancelled() or question.exception())
        question = self._question
        await asyncio.wait({question})
        if question.cancelled():
            raise redis.ConnectionError("the app's connections were closed")
        return question.result()

    def doubt(self) -> None:
        """Have everybody asked the next time, and not the primary alone."""
        self._is_sure = False

    async def _ask(self) -> Place:
        place = self._place
        try:
            if place is None or not self._is_sure or not await self._discovery.is_still(place):
                self._is_sure = False
                place = await self._discovery.find()
        except PrimaryDownError:
            self._leave_all_but(None)
            raise
        self._found(place)
        return place

    def _found(self, place: Place) -> None:
        """It is there: close the connections that lead elsewhere."""
        self._is_sure = True
        if place != self._place:
            if self._place is not None:
                logger.info("primary changed %s from=%s:%d to=%s:%d", self._discovery.what, *self._place, *place)
            self._place = place
            self._on_found(place)
        # Each time: a connection that was being made when the primary changed is one to the former a little later.
        self._leave_all_but(place)

    def _leave_all_but(self, place: Place | None) -> None:
        for pool in self._pools:
            for connection in pool.made:
                # Of one that was never connected there is nothing to close.
                if connection.is_connected and (connection.host, connection.port) != place:  # type: ignore[attr-defined]
                    leaving = spawn(_leave(connection))
                    self._leaving.add(leaving)
                    leaving.add_done_callback(self._leaving.discard)

    def _count_death(self, error: BaseException | None) -> None:
        if error is not None:  # else its loop is about to end
            logger.error("asking for the primary died, replaced %s error=%r", self._discovery.what, error)

    async def close(self) -> None:
        """End what runs. The pools are their owners' to close."""
        self._is_closed = True
        asking = self._asking.release()
        await cancel_until_ended(*self._leaving, *(task for task in (asking, self._question) if task is not None))
        await self._discovery.close()


async def _leave(connection: AbstractConnection) -> None:
    """Close a connection, whoever waits for an answer on it: they try again, and are led to the new primary."""
    with contextlib.suppress(Exception):  # it raises anything while it closes a broken one
        await connection.disconnect(nowait=True)


def thread_pool(address: Address, nodes: ClusterNodes | None, **options: Any) -> redis.ConnectionPool:
    """A pool of connections to the primary for a thread, without an event loop; see :class:`Primary`."""
    return redis.sentinel.SentinelConnectionPool(  # type: ignore[no-untyped-call]
        service_name=address.name if address.sentinels is None else address.sentinels.service,
        sentinel_manager=thread_sentinel(address) if nodes is None else ThreadClusterDiscovery(nodes),
        connection_class=(
            redis.sentinel.SentinelManagedSSLConnection
            if address.is_encrypted
            else redis.sentinel.SentinelManagedConnection
        ),
        **options,
    )
