"""Worker processes to be killed, and servers that keep what they acknowledged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.servers import ValkeyServer

LEASE = 1.0
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a server keeps its data."""
    return tmp_path / "data"


@pytest.fixture
def server(data: Path) -> Iterator[ValkeyServer]:
    """A server of the test's own, that has on disk what it acknowledged."""
    with ValkeyServer(data_dir=data, persist=True, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def url(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts worker processes; none of them outlives the test."""
    workers: list[subprocess.Popen[bytes]] = []

    def start(url: str, partitions: int = 1) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.redis_faults.worker"]
        worker = subprocess.Popen([*program, url, str(LEASE), str(partitions)])
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        worker.wait()
