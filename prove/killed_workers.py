"""Workers are killed in the middle of their batches: what they had runs elsewhere, with the lease of every day."""

from __future__ import annotations

import asyncio
import time

from prove.cluster import TASKS, WORKERS, Cluster, judge, submit
from prove.proof import Proof

TITLE = "Workers are killed (kill -9) in turn: none of 5,000 tasks is lost, and they run again within 30 s"
KILLS = 6
AGAIN_WITHIN = 30.0


def run(proof: Proof) -> None:
    proof.line(f"{WORKERS} workers with 16 slots each, a lease of 20 s, tasks of 0.1 s. A worker is killed after each")
    proof.line(f"{TASKS // (KILLS + 2):,} runs, {KILLS} in all, and another one started in its place.")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_in_turn(proof, cluster))
    proof.line()
    proof.line("A worker is killed that runs the only task; another one is idle, and nothing else happens.")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_idle(proof, cluster))


async def _in_turn(proof: Proof, cluster: Cluster) -> None:
    for _ in range(WORKERS):
        cluster.spawn()
    async with cluster.producer() as app:
        ids = await submit(app)
        killed: list[float] = []
        for kill in range(KILLS):
            await cluster.until_ran((kill + 1) * TASKS // (KILLS + 2))
            cluster.workers[kill].kill()
            killed.append(time.time())
            cluster.spawn()
        await judge(proof, cluster, app, ids, KILLS)
    last = max(at for _, at in cluster.runs())
    proof.truth(
        f"the last run begins within {AGAIN_WITHIN:.0f} s of the last kill",
        last - killed[-1] < AGAIN_WITHIN,
        f"{last - killed[-1]:.1f} s",
    )


async def _idle(proof: Proof, cluster: Cluster) -> None:
    victim = cluster.spawn()
    async with cluster.producer() as app:
        task_id = await app.submit("note", 1, 2.0)
        await cluster.until_ran(1)
        cluster.spawn()
        await asyncio.sleep(1.0)
        victim.kill()
        killed = time.time()
        await cluster.until_ran(2)
        again = cluster.runs()
        waited = max(at for _, at in again) - killed
        proof.truth(f"its task runs again within {AGAIN_WITHIN:.0f} s", waited < AGAIN_WITHIN, f"{waited:.1f} s")
        record = await app.wait_for_result(task_id, timeout=10)
        proof.truth("and succeeds", record.status == "success", record.status)
