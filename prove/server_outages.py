"""The server is killed, away, stopped, and cuts connections: what it had accepted is not lost, and work goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

from prove.cluster import TASKS, WORKERS, Cluster, judge, submit
from prove.proof import Proof

TITLE = "The server is killed, away for 30 s, stopped for 30 s, and cuts connections: none of 5,000 tasks is lost"
AWAY = 30.0
RESUMED_WITHIN = 2.0
CUT_EVERY = 0.5

# Brings about the outage and returns when the server was back, by the clock.
Outage = Callable[[Cluster], Awaitable[float]]


def run(proof: Proof) -> None:
    proof.line(f"{WORKERS} workers with 16 slots each, a lease of 20 s, tasks of 0.1 s; append-only, fsync always.")
    outages: dict[str, Outage] = {
        "Killed (kill -9) and started again at once": _killed,
        f"Killed, and started again after {AWAY:.0f} s": _away,
        f"Stopped (SIGSTOP) for {AWAY:.0f} s": _stopped,
    }
    for what, outage in outages.items():
        proof.line()
        proof.line(what)
        proof.line()
        with Cluster() as cluster:
            asyncio.run(_outage(proof, cluster, outage))
    proof.line()
    proof.line(f"All connections cut (CLIENT KILL TYPE normal, pubsub) every {CUT_EVERY} s")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_cut(proof, cluster))


async def _outage(proof: Proof, cluster: Cluster, outage: Outage) -> None:
    for _ in range(WORKERS):
        cluster.spawn()
    async with cluster.producer() as app:
        ids = await submit(app)
        await cluster.until_ran(TASKS // 3)
        back = await outage(cluster)
        await judge(proof, cluster, app, ids, WORKERS)
    since = [[at - back for _, at in runs if at > back] for runs in cluster.runs_by_process()]
    resumed = sorted(min(runs) for runs in since if runs)
    proof.truth(
        f"all {WORKERS} workers run tasks again within {RESUMED_WITHIN:.0f} s of its return",
        len(resumed) == WORKERS and resumed[-1] < RESUMED_WITHIN,
        ", ".join(f"{seconds:.2f} s" for seconds in resumed),
    )
    proof.truth("no worker ended", all(worker.poll() is None for worker in cluster.workers))


async def _killed(cluster: Cluster) -> float:
    cluster.kill_server()
    return cluster.restart_server()


async def _away(cluster: Cluster) -> float:
    cluster.kill_server()
    await asyncio.sleep(AWAY)
    return cluster.restart_server()


async def _stopped(cluster: Cluster) -> float:
    server = cluster.server_pid()
    os.kill(server, signal.SIGSTOP)
    try:
        await asyncio.sleep(AWAY)
    finally:
        os.kill(server, signal.SIGCONT)
    return time.time()


async def _cut(proof: Proof, cluster: Cluster) -> None:
    for _ in range(WORKERS):
        cluster.spawn()
    async with cluster.producer() as app:
        ids = await submit(app)
        await cluster.until_ran(1)
        cutting = asyncio.create_task(cluster.cut(CUT_EVERY, "normal", "pubsub"))
        await cluster.until_ran(TASKS)
        cutting.cancel()
        await judge(proof, cluster, app, ids, WORKERS)
    proof.truth("no worker ended", all(worker.poll() is None for worker in cluster.workers))
