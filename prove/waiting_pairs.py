"""Tasks that end before anybody can begin to wait for them: nobody is left waiting."""

from __future__ import annotations

import asyncio
import time

from prove.cluster import Cluster
from prove.proof import Proof

TITLE = "10,000 times submit and wait, of a task that takes less than a millisecond: nobody is left waiting"
PAIRS = 10_000
AT_ONCE = 50
LEFT_WAITING = 15.0
CUT_EVERY = 0.2


def run(proof: Proof) -> None:
    for what, kinds in {"Undisturbed": (), f"Subscriptions cut every {CUT_EVERY} s": ("pubsub",)}.items():
        proof.line(f"{what}, {AT_ONCE} pairs at once")
        proof.line()
        with Cluster() as cluster:
            asyncio.run(_pairs(proof, cluster, kinds))
        proof.line()


async def _pairs(proof: Proof, cluster: Cluster, kinds: tuple[str, ...]) -> None:
    cluster.spawn()
    cluster.spawn()
    seconds: list[float] = []
    async with cluster.producer() as app:
        await app.wait_for_result(await app.submit("answer", -1), timeout=LEFT_WAITING)
        cutting = asyncio.create_task(cluster.cut(CUT_EVERY, *kinds))
        numbers = iter(range(PAIRS))

        async def pairs() -> None:
            for number in numbers:
                started = time.monotonic()
                try:
                    record = await app.wait_for_result(await app.submit("answer", number), timeout=LEFT_WAITING)
                except TimeoutError:
                    continue
                if record.result == number:
                    seconds.append(time.monotonic() - started)

        await asyncio.gather(*(pairs() for _ in range(AT_ONCE)))
        cutting.cancel()
    ordered = sorted(seconds)
    proof.truth(f"{PAIRS:,} have their result within {LEFT_WAITING:.0f} s", len(seconds) == PAIRS, f"{len(seconds):,}")
    p50, p99 = (1000 * ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
    proof.line(f"median {p50:.1f} ms, p99 {p99:.1f} ms, slowest {1000 * ordered[-1]:.0f} ms")
