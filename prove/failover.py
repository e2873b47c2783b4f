"""Tasks that are submitted and run while a server fails: what became of each that was acknowledged, and how soon work
goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from flowrra import BackendError, Flowrra, ResultNotFoundError
from prove.cluster import PATIENCE, WORKERS, Workers
from prove.proof import Proof

TASKS = 5000
SECONDS_EACH = 0.05
SUBMITTERS = 16
# Seconds between two submissions of one submitter, so that they go on throughout a failover.
PAUSE = 0.01
RESUMED_WITHIN = 2.0


class Submission:
    """All tasks, submitted by several at once, each until it is acknowledged."""

    def __init__(self, app: Flowrra) -> None:
        self._app = app
        self._numbers = iter(range(TASKS))
        self.errors = 0
        self.acknowledged = 0

    async def run(self) -> None:
        """Return when all are acknowledged."""
        await asyncio.gather(*(self._submit() for _ in range(SUBMITTERS)))

    async def _submit(self) -> None:
        for number in self._numbers:
            while True:
                try:
                    await self._app.options(task_id=_id(number)).submit("note", number, SECONDS_EACH)
                    self.acknowledged += 1
                    await asyncio.sleep(PAUSE)
                    break
                except BackendError:
                    self.errors += 1
                    await asyncio.sleep(0.05)

    async def outcomes(self) -> Counter[str]:
        """How many ended how."""
        statuses, until = Counter[str](), time.monotonic() + PATIENCE
        for number in range(TASKS):
            try:
                record = await self._app.wait_for_result(_id(number), timeout=max(0.1, until - time.monotonic()))
                statuses[record.status] += 1
            except ResultNotFoundError:
                statuses["forgotten"] += 1
            except TimeoutError:
                statuses["unfinished"] += 1
        return statuses


def _id(number: int) -> str:
    return f"task-{number}"


def judge_outcomes(proof: Proof, statuses: Counter[str], *, is_promised: bool) -> None:
    """Print how many acknowledged tasks are lost; where it is promised, none may be."""
    lost = TASKS - statuses["success"]
    told = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    if is_promised:
        proof.truth(f"0 of {TASKS:,} acknowledged tasks are lost, each has its outcome", not lost, told)
    else:
        proof.line(f"        lost of {TASKS:,} acknowledged tasks, which is not promised: {lost:,} ({told})")


def resumptions(workers: Workers, since: float) -> list[float]:
    """The seconds after that time, by the clock, in which each worker had its first run; the latest last."""
    after = [[at - since for _, at in runs if at > since] for runs in workers.runs_by_process()]
    return sorted(min(runs) for runs in after if runs)


def judge_resumption(proof: Proof, workers: Workers, since: float, event: str) -> None:
    """Print how soon after an event all workers were at work again, which must be soon."""
    resumed = resumptions(workers, since)
    told = ", ".join(f"{seconds:.2f} s" for seconds in resumed)
    is_soon = len(resumed) == WORKERS and resumed[-1] < RESUMED_WITHIN
    proof.truth(f"all {WORKERS} workers run tasks within {RESUMED_WITHIN:.0f} s of {event}", is_soon, told)
