"""A cluster of six nodes fails over and moves the slot of a queue, while tasks are submitted and run: with
`min_replicas` nothing that was acknowledged is lost, nothing runs twice because a slot is moved, and work goes on
soon."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flowrra.partitions import cell_namespace
from prove.cluster import WORKERS, Workers
from prove.failover import SECONDS_EACH, SUBMITTERS, TASKS, Submission, judge_outcomes, judge_resumption
from prove.proof import Proof
from tests.support.clusters import NODE_TIMEOUT, Cluster, slot_of

TITLE = (
    "A six-node cluster fails over and moves the queue's slot under load: 5,000 of 5,000 acknowledged tasks are kept"
)
SLOT = slot_of(cell_namespace("flowrra", 0, 1))
# Seconds that a move takes of a slot with many keys: longer than a submission is tried again.
SLOWLY = 5.0

Blow = Callable[[Cluster, int], None]
FAILOVERS: dict[str, Blow] = {
    "kill -9 of the slot's primary": lambda cluster, primary: cluster.kill(primary),
    "SIGSTOP of the primary, which comes back as a replica": lambda cluster, primary: cluster.stop(primary),
    "CLUSTER FAILOVER": lambda cluster, _: cluster.fail_over(SLOT),
}
MOVES: dict[str, Blow] = {
    "the slot is moved key by key (MIGRATE)": lambda cluster, target: cluster.move(SLOT, target),
    f"the slot is moved key by key, over {SLOWLY:.0f} s": lambda cluster, target: cluster.move(SLOT, target, SLOWLY),
    "the slot is moved in one step (CLUSTER MIGRATESLOTS)": lambda cluster, target: cluster.move_at_once(SLOT, target),
}


def run(proof: Proof) -> None:
    proof.line(f"{WORKERS} workers with 16 slots each, tasks of {SECONDS_EACH} s, {SUBMITTERS} submitters;")
    proof.line(
        f"three primaries, of which the queue's has two replicas; cluster-node-timeout {round(1e3 * NODE_TIMEOUT)}."
    )
    proof.line("Who gets an error submits again with the same id.")
    for blow in FAILOVERS:
        for replicas in (0, 1):
            _begin(proof, f"{blow}, min_replicas={replicas}")
            with _stage(replicas) as (cluster, workers):
                asyncio.run(_fail_over(proof, cluster, workers, blow))
    for move in MOVES:
        for replicas in (0, 1):
            _begin(proof, f"{move}, min_replicas={replicas}")
            with _stage(replicas) as (cluster, workers):
                asyncio.run(_move(proof, cluster, workers, move))


def _begin(proof: Proof, title: str) -> None:
    proof.line()
    proof.line(title)
    proof.line()


@contextmanager
def _stage(replicas: int) -> Iterator[tuple[Cluster, Workers]]:
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-") as scratch, Cluster(Path(scratch)) as cluster:
        workers = Workers(cluster.url, Path(scratch), replicas)
        for _ in range(WORKERS):
            workers.spawn()
        try:
            yield cluster, workers
        finally:
            workers.end()


async def _fail_over(proof: Proof, cluster: Cluster, workers: Workers, blow: str) -> None:
    former = cluster.the_primary_of(SLOT)
    async with workers.producer() as app:
        submission = Submission(app)
        submitting = asyncio.create_task(submission.run())
        await workers.until_ran(TASKS // 10)
        FAILOVERS[blow](cluster, former)
        before, struck = submission.acknowledged, time.time()
        promoted = await cluster.promoted(SLOT, former)
        meanwhile = submission.acknowledged - before
        await submitting
        cluster.resume(former)
        statuses = await submission.outcomes()
    proof.line(f"        a replica is the primary after {promoted - struck:.2f} s")
    _tell(proof, workers, submission, before, meanwhile)
    judge_outcomes(proof, statuses, is_promised=workers.min_replicas > 0)
    judge_resumption(proof, workers, promoted, "the promotion")
    proof.truth("no worker ended", all(worker.poll() is None for worker in workers.workers))


async def _move(proof: Proof, cluster: Cluster, workers: Workers, move: str) -> None:
    target = cluster.other_primary(SLOT)
    async with workers.producer() as app:
        submission = Submission(app)
        submitting = asyncio.create_task(submission.run())
        await workers.until_ran(TASKS // 2)
        before, began = submission.acknowledged, time.time()
        with cluster.look(cluster.the_primary_of(SLOT)) as node:
            keys = node.execute_command("CLUSTER", "COUNTKEYSINSLOT", SLOT)
        await asyncio.to_thread(MOVES[move], cluster, target)
        moved, meanwhile = time.time(), submission.acknowledged - before
        await submitting
        statuses = await submission.outcomes()
    proof.line(f"        it had about {keys:,} keys, and is moved after {moved - began:.2f} s")
    _tell(proof, workers, submission, before, meanwhile)
    judge_outcomes(proof, statuses, is_promised=True)
    again = [number for number, count in Counter(number for number, _ in workers.runs()).items() if count > 1]
    proof.truth("none ran twice", not again, f"{len(again):,}")
    judge_resumption(proof, workers, moved, "the end of the move")
    proof.truth("no worker ended", all(worker.poll() is None for worker in workers.workers))


def _tell(proof: Proof, workers: Workers, submission: Submission, before: int, meanwhile: int) -> None:
    after = TASKS - before - meanwhile
    proof.line(f"        acknowledged before {before:,}, until then {meanwhile:,}, after it {after:,}")
    proof.line(f"        errors of submitters {submission.errors:,}, runs {len(workers.runs()):,}")
