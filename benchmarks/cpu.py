"""CPU-bound tasks on two processes, beside a bare concurrent.futures.ProcessPoolExecutor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, spread, thousands

TASKS = 16
NO_OPS = 2_000
WORKERS = 2
ROUNDS = 7
GOAL = 1.15

FORM = decimals(2)

ARGUMENTS = (str(TASKS), str(NO_OPS))
OURS = Side("flowrra", ("cpu_tasks.py", *ARGUMENTS))


@contextmanager
def paired() -> Iterator[list[Paired]]:
    yield [Paired(OURS, {"first": False, "work": False, "no_op": False})]


def run() -> Report:
    report = Report("cpu", f"CPU-bound: {TASKS} tasks of equal work, {WORKERS} processes; medians of {ROUNDS} rounds")
    bare = Side("ProcessPoolExecutor", ("executor_pool.py", *ARGUMENTS))
    rounds = Rounds((OURS, bare), ROUNDS)

    header = ("", "first batch s, with start", "second batch s [least…most]", "no-ops/s")
    report.table(header, [_row(rounds, side) for side in (OURS, bare)])
    ratios = rounds.ratios(OURS, bare, "work")
    report.goal(f"at most {GOAL} times the bare pool's seconds", spread(ratios, FORM), median(ratios) <= GOAL)
    first, no_ops = rounds.ratios(OURS, bare, "first"), rounds.ratios(bare, OURS, "no_op")
    report.line(f"with the start of the processes, times the bare pool's seconds: {spread(first, FORM)}")
    report.line(f"no-ops, where only the way there and back counts, times the bare pool's rate: {spread(no_ops, FORM)}")
    return report


def _row(rounds: Rounds, side: Side) -> tuple[str, ...]:
    first, work = rounds.of(side, "first"), rounds.of(side, "work")
    return side.name, FORM(median(first)), spread(work, FORM), thousands(NO_OPS / median(rounds.of(side, "no_op")))
