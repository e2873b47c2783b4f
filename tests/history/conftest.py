"""Where tasks and their records may lie: in memory, on a server, and with the results on another server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from flowrra import BackendConfig, Flowrra
from tests.core.apps import memory_app
from tests.redis.apps import redis_app
from tests.redis.conftest import look, url, valkey
from tests.redis_faults.conftest import spawn
from tests.support.servers import ValkeyServer

__all__ = ["look", "spawn", "url", "valkey"]

Place = Callable[[], Flowrra]


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=["memory", "server", "two servers", "partitions"])
def place(request: pytest.FixtureRequest) -> Place:
    """Makes apps that keep their tasks there; on a server they share them."""
    if request.param == "memory":
        return lambda: memory_app()
    address = request.getfixturevalue("url")
    if request.param == "server":
        return lambda: redis_app(address)
    if request.param == "partitions":
        return lambda: redis_app(address, backend=BackendConfig(url=address, partitions=4), partitions=4)
    other = request.getfixturevalue("elsewhere")
    with redis.Redis(port=other.port) as client:
        client.flushall()
    return lambda: redis_app(address, backend=f"redis://127.0.0.1:{other.port}/0")
