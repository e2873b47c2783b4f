"""Limits on what clients may take: how often they ask, how many connect, and how long each may be idle."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from flowrra_exporter.logs import ThrottledWarning

logger = logging.getLogger(__name__)

# The most connections of all ports together, however many descriptors the process may have.
MAX_CONNECTIONS = 512
# The most of them that may be answers without an end.
MAX_STREAMS = 50
# How long a client may take from connecting to the end of its first request's headers.
FIRST_REQUEST_SECONDS = 10.0
# How long it may take to read an answer and to send the next request: more than any usual scrape interval.
IDLE_SECONDS = 75.0
# A connection may have one descriptor of this many: the rest is the app's.
_SHARE = 4
# Of this many, one stays free for the app, whatever it has opened itself.
_SPARE_SHARE = 8
_MOST_FOR_PROBES = 16
# What each connection has, however many more there are: what has come with it has to be read first.
_MOMENT_SECONDS = 0.1
_CLOSE_IDLE_SECONDS = 1.0
# What one customer gets of IPv6: all addresses in there are one client to us.
_NETWORK_BITS = 64


class Rate(NamedTuple):
    """One request each ``interval`` seconds on average, and ``burst`` at once."""

    interval: float
    burst: int


class RateLimiter:
    """A token bucket. ``clock`` is the monotonic clock, in seconds."""

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


def client_of(address: str) -> str:
    """Who is behind an IP address, as far as it tells; addresses that one can have many of count as one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a connection that came over no network
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> _NETWORK_BITS << _NETWORK_BITS, _NETWORK_BITS)))


def descriptor_limit() -> int:
    """How many files and sockets this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, which has another limit, and a far larger one
        return _SHARE * MAX_CONNECTIONS
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _SHARE * MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft


class Client(Protocol):
    """A connection, as far as its limits go."""

    # Who has made it, as ``client_of`` has it.
    client: str
    # Whether it came to a port that has the probes alone.
    for_probes: bool
    # The monotonic time since which we wait for the client; None while it waits for us.
    waiting_since: float | None
    # For how many seconds we do.
    idle_limit: float

    # Its socket.
    accepted: socket.socket | None

    def abort(self) -> None:
        """Ends the connection at once."""


class ConnectionLimits:
    """The connections of all ports, each from the moment in which it has a descriptor, and none that is idle for long.

    Together they have a share of the descriptors of the process. Of that, some are kept for the ports of probes; and
    of what the app has left, some stay free for it. For a new connection, one is ended that is idle: of the client
    that has most, the one that has been idle longest.
    """

    def __init__(self, descriptors: Callable[[], int] = descriptor_limit) -> None:
        self._descriptors = descriptors
        self._clients: dict[Client, None] = {}
        self._ended = ThrottledWarning(logger, "ended %d connections whose clients sent nothing whole or read nothing")

    @property
    def most(self) -> int:
        """How many there may be at a time."""
        return max(1, min(MAX_CONNECTIONS, self._descriptors() // _SHARE))

    @property
    def kept_for_probes(self) -> int:
        """How many of them are for the ports of probes alone, if there are any."""
        return min(_MOST_FOR_PROBES, self.most // 4)

    @property
    def most_streams(self) -> int:
        """How many of them may be answers that have no end: what is left is enough for scrapes and probes."""
        return min(MAX_STREAMS, max(1, self.most // 4))

    def make_room(self, descriptor: int, for_probes: bool, probes_have_a_port: bool) -> bool:
        """Whether there is a place for one more, with this descriptor; if need be after an idle one was ended."""
        if self._is_scarce(descriptor) and len(self._clients) >= self.kept_for_probes:
            return self._end_one(self._clients)
        if probes_have_a_port and not for_probes:
            others = [each for each in self._clients if not each.for_probes]
            if len(others) >= self.most - self.kept_for_probes:
                return self._end_one(others)
        return len(self._clients) < self.most or self._end_one(self._clients)

    def _is_scarce(self, descriptor: int) -> bool:
        """Whether the app needs what is left. The lowest number that is free is given first: a high one says so.

        A few connections are taken even then, so that probes are answered.
        """
        limit = self._descriptors()
        return descriptor >= limit - limit // _SPARE_SHARE

    def opened(self, client: Client) -> None:
        """Counts a connection."""
        self._clients[client] = None

    def closed(self, client: Client) -> None:
        """Forgets a connection."""
        self._clients.pop(client, None)

    def close_inherited(self) -> None:
        """In a forked child: lets go of its copies of all connections.

        Not by closing them: the transports whose they are close them again, whatever has the number by then.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for client in self._clients:
            if client.accepted is not None and client.accepted.fileno() >= 0:
                os.dup2(nothing, client.accepted.fileno(), inheritable=False)
        os.close(nothing)

    async def close_idle(self) -> None:
        """Ends those that have been idle for too long, again and again, until it's cancelled."""
        while True:
            await asyncio.sleep(_CLOSE_IDLE_SECONDS)
            now = time.monotonic()
            for client in list(self._clients):
                if client.waiting_since is not None and now - client.waiting_since > client.idle_limit:
                    self._end(client)

    def _end_one(self, clients: Iterable[Client]) -> bool:
        """Ends one of these; False if we owe each of them an answer, or it has only just come."""
        clients = list(clients)
        number = Counter(each.client for each in clients)
        before = time.monotonic() - _MOMENT_SECONDS
        idle = [each for each in clients if each.waiting_since is not None and each.waiting_since < before]
        if not idle:
            return False
        self._end(min(idle, key=lambda each: (-number[each.client], each.waiting_since)))
        return True

    def _end(self, client: Client) -> None:
        self.closed(client)
        client.abort()
        self._ended.warn()
