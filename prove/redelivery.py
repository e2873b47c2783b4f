"""Workers are killed, and cut off for a moment: the server knows by their connections which is which."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from typing import Any

import redis

from flowrra.brokers.redis import RedisBroker
from prove.cluster import Cluster
from prove.proof import Proof
from prove.targets.cutting import Cutting

TITLE = "A killed worker's tasks run again in under 5 s; of one that is cut off for 1 s each 5 s, none runs twice"
KILLS = 20
AGAIN_WITHIN = 5.0
CUTS, CUT_EVERY, CUT_FOR = 12, 5.0, 1.0
SLOW = 3.0
# More than one worker has slots for.
BATCH = 26
FLEETS = (2, 100, 1000)
CONNECTIONS = "flowrra:queue:io:connections"
# What a client asks for; the commands of a script are counted in it.
ASKED = ("evalsha", "eval", "client|id", "client|list", "info")


def run(proof: Proof) -> None:
    proof.line(f"Two workers, a lease of 20 s. {KILLS} times the one that runs the only task is killed (kill -9).")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_killed(proof, cluster))
    proof.line()
    proof.line(
        f"One worker goes through a proxy that resets all its connections and refuses new ones for {CUT_FOR:.0f} s"
    )
    proof.line(f"each {CUT_EVERY:.0f} s, {CUTS} times; another one is connected directly. Tasks of {SLOW:.0f} s.")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_cut(proof, cluster, through_proxy=True))
    proof.line()
    proof.line(f"The server closes all connections of both, over and over for {CUT_FOR:.0f} of {CUT_EVERY:.0f} s.")
    proof.line()
    with Cluster() as cluster:
        asyncio.run(_cut(proof, cluster, through_proxy=False))
    proof.line()
    proof.line(
        "The server's time for the signs of life of a fleet: leases and announcement each 5 s, as ever, and the looks."
    )
    proof.line()
    proof.table(
        ("workers", "heartbeat us", "look us", "looks/s", "of a core: heartbeats", "looks"),
        [_cost(size) for size in FLEETS],
    )


async def _until_seen(cluster: Cluster, workers: int) -> None:
    async with asyncio.timeout(60):
        with cluster.look() as look:
            while look.hlen(CONNECTIONS) != workers:
                await asyncio.sleep(0.05)


async def _killed(proof: Proof, cluster: Cluster) -> None:
    cluster.spawn()
    waited = []
    async with cluster.producer() as app:
        for number in range(KILLS):
            cluster.spawn()
            await _until_seen(cluster, 2)
            task_id = await app.submit("note", number, SLOW)
            holder = await _runner(cluster, number)
            holder.kill()
            killed = time.time()
            while (again := [at for each, at in cluster.runs() if each == number and at > killed]) == []:
                await asyncio.sleep(0.02)
            waited.append(again[0] - killed)
            record = await app.wait_for_result(task_id, timeout=20)
            if record.status != "success":
                proof.truth("each task succeeds in the end", False, record.status)
    median = statistics.median(waited)
    proof.line(f"seconds until it ran again: {', '.join(f'{each:.1f}' for each in sorted(waited))}")
    proof.truth(f"the median is under {AGAIN_WITHIN:.0f} s", median < AGAIN_WITHIN, f"{median:.1f} s")


async def _runner(cluster: Cluster, number: int) -> Any:
    """The worker that runs this task."""
    while True:
        for worker in cluster.workers:
            noted = cluster.folder / f"{worker.pid}.runs"
            if noted.exists() and any(line.split()[0] == str(number) for line in noted.read_text("utf-8").splitlines()):
                return worker
        await asyncio.sleep(0.02)


async def _cut(proof: Proof, cluster: Cluster, *, through_proxy: bool) -> None:
    async with Cutting(cluster.port) as proxy:
        cluster.spawn(proxy.url if through_proxy else None)
        cluster.spawn()
        await _until_seen(cluster, 2)
        async with cluster.producer() as app:
            number, ids = 0, []
            for _ in range(CUTS):
                batch = [("note", (number + each, SLOW), {}) for each in range(BATCH)]
                ids += await app.submit_many(batch)
                number += BATCH
                await asyncio.sleep(CUT_EVERY - CUT_FOR)
                if through_proxy:
                    await proxy.cut(CUT_FOR)
                else:
                    await _close_all(cluster, CUT_FOR)
            records = [await app.wait_for_result(task_id, timeout=60) for task_id in ids]
    runs = Counter(each for each, _ in cluster.runs())
    by_process = sorted(len(each) for each in cluster.runs_by_process() if each)
    proof.line(f"runs of the two workers: {', '.join(map(str, by_process))}")
    proof.truth("each task succeeds", all(each.status == "success" for each in records), f"{len(records):,}")
    twice = sum(count > 1 for count in runs.values())
    proof.truth("none runs twice", twice == 0 and len(runs) == len(ids), f"{twice} of {len(ids):,}")


async def _close_all(cluster: Cluster, seconds: float) -> None:
    """Have the server close all connections but this one, for so long."""
    ends = time.monotonic() + seconds
    with cluster.look() as look:
        while time.monotonic() < ends:
            for kind in ("normal", "pubsub"):
                look.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(0.05)


def _cost(size: int) -> tuple[str, ...]:
    """What a fleet of so many workers costs the server: a row of the table."""
    with Cluster() as cluster, cluster.look() as look:
        brokers = [RedisBroker(cluster.url) for _ in range(size)]

        def each_second(seconds: int) -> None:
            for _ in range(seconds):
                began = time.monotonic()
                for broker in brokers:
                    broker.look_for_gone()
                time.sleep(max(0.0, began + 1.0 - time.monotonic()))

        def heartbeat() -> None:
            for broker in brokers:
                broker.renew([])
                broker.announce({"id": broker._token}, None, 15.0)

        each_second(3)  # until all are announced
        heartbeat()
        beat = _server_time(look, heartbeat)
        looks = _server_time(look, lambda: each_second(5))
        for broker in brokers:
            broker.withdraw(None)
    rows = (f"{beat / size:.0f}", f"{looks / size / 5:.0f}", f"{size:,}", f"{beat / 5e6:.2%}", f"{looks / 5e6:.2%}")
    return f"{size:,}", *rows


def _server_time(look: redis.Redis, work: Any) -> float:
    """Microseconds that the server spent on what was asked of it meanwhile."""
    look.config_resetstat()
    work()
    stats: Any = look.info("commandstats")
    return float(sum(stats[f"cmdstat_{name}"]["usec"] for name in ASKED if f"cmdstat_{name}" in stats))
