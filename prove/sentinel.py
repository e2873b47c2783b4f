"""Sentinels make a replica the primary, while tasks are submitted and run: with `min_replicas` nothing that was
acknowledged is lost, and work goes on soon. What it costs, and what is lost without it, is counted."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prove.cluster import PATIENCE, WORKERS, Workers
from prove.failover import SECONDS_EACH, SUBMITTERS, TASKS, Submission, judge_outcomes, judge_resumption, resumptions
from prove.proof import Proof
from tests.support.sentinels import DOWN_AFTER, Topology

TITLE = "Three servers with three sentinels fail over under load: replicas keep 5,000 of 5,000 acknowledged tasks"
ROUNDS = 3
ONE_BY_ONE = 1000

Blow = Callable[[Topology, int], None]
BLOWS: dict[str, Blow] = {
    "kill -9 of the primary": lambda topology, primary: topology.kill(primary),
    "SIGSTOP of the primary, which comes back as a replica": lambda topology, primary: topology.stop(primary),
    "SENTINEL FAILOVER COORDINATED": lambda topology, _: topology.fail_over("COORDINATED"),
    "SENTINEL FAILOVER": lambda topology, _: topology.fail_over(),
}
ALL_REPLICAS = 2
# With as many as that, the primary that steps down has nobody left who could confirm anything.
MOST = {blow: ALL_REPLICAS if blow == "SENTINEL FAILOVER" else 1 for blow in BLOWS}


def run(proof: Proof) -> None:
    proof.line(
        f"{WORKERS} workers with 16 slots each, tasks of {SECONDS_EACH} s, {SUBMITTERS} submitters; two replicas;"
    )
    proof.line(f"down-after-milliseconds {round(1e3 * DOWN_AFTER)}. Who gets an error submits again with the same id.")
    for blow in BLOWS:
        for replicas in range(MOST[blow] + 1):
            proof.line()
            proof.line(f"{blow}, min_replicas={replicas}")
            proof.line()
            with _stage(replicas) as (topology, workers):
                asyncio.run(_fail_over(proof, topology, workers, blow))
    proof.line()
    proof.line("What it costs: the same app on the same servers, turn by turn")
    proof.line()
    asyncio.run(_price(proof))


@contextmanager
def _stage(replicas: int) -> Iterator[tuple[Topology, Workers]]:
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-") as scratch, Topology(Path(scratch)) as topology:
        workers = Workers(topology.url, Path(scratch), replicas)
        try:
            yield topology, workers
        finally:
            workers.end()


async def _fail_over(proof: Proof, topology: Topology, workers: Workers, blow: str) -> None:
    for _ in range(WORKERS):
        workers.spawn()
    [former] = topology.primaries()
    async with workers.producer() as app:
        submission = Submission(app)
        submitting = asyncio.create_task(submission.run())
        await workers.until_ran(TASKS // 10)
        BLOWS[blow](topology, former)
        before = submission.acknowledged
        promoted = await topology.promoted(former)
        meanwhile = submission.acknowledged - before
        await submitting
        topology.resume(former)
        statuses = await submission.outcomes()
    after = TASKS - before - meanwhile
    proof.line(f"        acknowledged before {before:,}, until the promotion {meanwhile:,}, after it {after:,}")
    proof.line(f"        errors of submitters {submission.errors:,}, runs {len(workers.runs()):,}")
    judge_outcomes(proof, statuses, is_promised=workers.min_replicas > 0)
    if workers.min_replicas < ALL_REPLICAS:
        judge_resumption(proof, workers, promoted, "the promotion")
    else:
        told = ", ".join(f"{seconds:.2f} s" for seconds in resumptions(workers, promoted))
        proof.line(
            f"        nothing counts until the former primary is a replica; workers run tasks again after {told}"
        )
    proof.truth("no worker ended", all(worker.poll() is None for worker in workers.workers))


async def _price(proof: Proof) -> None:
    singly: dict[int, list[float]] = {0: [], 1: []}
    drained: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(ROUNDS):
        for replicas in singly:
            with _stage(replicas) as (topology, workers):
                await _submit_singly(topology.url, workers.folder, singly)
                async with workers.producer() as app:
                    ids = await app.submit_many(("answer", (number,), {}) for number in range(TASKS))
                    workers.spawn()
                    await app.wait_for_result(ids[0], timeout=PATIENCE)  # from here on, without the worker's start
                    began = time.perf_counter()
                    await app.wait_for_result(ids[-1], timeout=PATIENCE)
                    drained[replicas].append(TASKS / (time.perf_counter() - began))
    rows = [
        (
            str(replicas),
            f"{1e3 * statistics.median(singly[replicas]):.2f}",
            f"{statistics.median(drained[replicas]):,.0f}",
        )
        for replicas in singly
    ]
    proof.table(("min_replicas", "submit one by one, median ms", "empty tasks a second, one worker"), rows)


async def _submit_singly(url: str, folder: Path, seconds: dict[int, list[float]]) -> None:
    async with Workers(url, folder, 0).producer() as without, Workers(url, folder, 1).producer() as waiting:
        for number in range(ONE_BY_ONE):
            for replicas, app in ((0, without), (1, waiting)):
                began = time.perf_counter()
                await app.submit("answer", number)
                seconds[replicas].append(time.perf_counter() - began)
