"""Two servers, so that tasks and results can be on different ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.servers import ValkeyServer


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of two servers."""
    with ValkeyServer() as one, ValkeyServer() as other:
        yield f"redis://127.0.0.1:{one.port}/0", f"redis://127.0.0.1:{other.port}/0"


@pytest.fixture
def empty_servers(servers: tuple[str, str]) -> tuple[str, str]:
    for url in servers:
        with redis.Redis.from_url(url) as client:
            client.flushall()
    return servers
