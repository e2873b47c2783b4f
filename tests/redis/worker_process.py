"""A worker in a process of its own, whose tasks leave a line on the server when they begin.

python -m tests.redis.worker_process URL NAME SLOTS LEASE QUEUE…
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import redis

from flowrra import Flowrra
from tests.redis.apps import redis_app

RUNS = "runs"
LEASE = 2.0


def app_for(
    url: str,
    *,
    name: str = "",
    slots: int = 4,
    lease: float = LEASE,
    queues: tuple[str, ...] = (),
    consume: bool = True,
) -> Flowrra:
    """The app of workers, producers and observers."""
    app = redis_app(url, workers=slots, queues=queues or None, lease=lease, consume=consume)
    client = redis.Redis.from_url(url)

    @app.task(name="note")
    async def note(number: int, seconds: float = 0.0) -> int:
        client.rpush(RUNS, json.dumps([number, name, time.time()]))
        await asyncio.sleep(seconds)
        return number

    return app


class WorkerProcess:
    """One that has been started; it is killed at the end, if not before."""

    def __init__(self, url: str, name: str, *queues: str, slots: int = 4, lease: float = LEASE) -> None:
        self.name = name
        command = [sys.executable, "-m", __name__, url, name, str(slots), str(lease), *queues]
        self._process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "."})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """As by kill -9."""
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    url, name, slots, lease, *queues = sys.argv[1:]
    app_for(url, name=name, slots=int(slots), lease=float(lease), queues=tuple(queues)).run(shutdown_timeout=5)
