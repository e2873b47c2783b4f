"""Limits on what clients may take: how often they ask, how many connect, and how long each may dawdle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from flowrra_exporter.logs import Occasionally

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
"""Half of the descriptors that a process usually has. With more, those go that have dawdled longest."""
FIRST_REQUEST_SECONDS = 10.0
"""How long a client may take from connecting to the end of its first request's headers."""
IDLE_SECONDS = 75.0
"""How long it may take to read an answer and to send the next request: more than any usual scrape interval."""
_SWEEP_SECONDS = 1.0


class Rate(NamedTuple):
    """One request each `interval` seconds on average, and `burst` at once."""

    interval: float
    burst: int


class RateLimiter:
    """A token bucket. `clock` is the monotonic clock, in seconds."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate.burst)
        self._filled_at = clock()

    def allows(self) -> bool:
        """Whether a request may be answered now; it takes one token."""
        now = self._clock()
        gained = (now - self._filled_at) / self._rate.interval
        self._tokens = min(self._tokens + gained, float(self._rate.burst))
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Client(Protocol):
    """A connection, as far as its limits go."""

    dawdles_since: float | None
    """The monotonic time since which we wait for the client; None while it waits for us."""
    patience: float
    """For how many seconds we do."""

    def abort(self) -> None:
        """Ends the connection at once."""


class ConnectionLimits:
    """The connections of a server: at most `limit`, and none that keeps us waiting for long."""

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._clients: dict[Client, None] = {}
        self._ended = Occasionally(logger, "ended %d connections whose clients sent nothing whole or read nothing")

    def opened(self, client: Client) -> None:
        """Counts a connection; beyond the limit, the one that has dawdled longest is ended for it."""
        self._clients[client] = None
        if len(self._clients) > self._limit:
            dawdling = [each for each in self._clients if each.dawdles_since is not None]
            if dawdling:
                self._end(min(dawdling, key=lambda each: each.dawdles_since or 0.0))

    def closed(self, client: Client) -> None:
        """Forgets a connection."""
        self._clients.pop(client, None)

    async def sweep(self) -> None:
        """Ends those that dawdle, again and again, until it's cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for client in list(self._clients):
                if client.dawdles_since is not None and now - client.dawdles_since > client.patience:
                    self._end(client)

    def _end(self, client: Client) -> None:
        self.closed(client)
        client.abort()
        self._ended.warn()
