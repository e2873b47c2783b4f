"""A real server for all tests, empty for each of them, and a look at what is on it that is not flowrra's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.servers import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def look(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of redis-py's own, whose database is empty at first."""
    with redis.Redis(port=valkey.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def url(valkey: ValkeyServer, look: redis.Redis) -> str:
    """The address of that database."""
    return f"redis://127.0.0.1:{valkey.port}/0"
