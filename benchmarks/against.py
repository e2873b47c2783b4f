"""Our own sides beside those of another commit, in turns: what a change has cost, or gained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from statistics import median
from types import ModuleType
from typing import Protocol

from benchmarks.harness import Commit, Paired, Report, Rounds, decimals, spread

ROUNDS = 9
FORM = decimals(3)


class Pairable(Protocol):
    """A benchmark whose sides can be paired."""

    def paired(self) -> AbstractContextManager[list[Paired]]:
        """Its own sides, for as long as what they need is there."""


def run(name: str, benchmark: ModuleType, revision: str) -> Report:
    """Compare a benchmark's own sides with those of another commit.

    Args:
        name: Of the benchmark.
        benchmark: It.
        revision: The commit, as git names it.
    """
    commit = Commit(revision)
    title = f"{name}, beside commit {commit.name}: how many times its figures; medians of {ROUNDS} rounds"
    report = Report(f"against_{name}", title)
    rows = []
    with benchmark.paired() as pairs:
        sides = [side for pair in pairs for side in (pair.side, commit.side(pair.side))]
        rounds = Rounds(sides, ROUNDS)
        for pair in pairs:
            before = commit.side(pair.side)
            for figure, is_more_better in pair.figures.items():
                own, theirs = (rounds.of(side, figure) for side in (pair.side, before))
                ratios = rounds.ratios(pair.side, before, figure)
                better = ratios if is_more_better else [1 / ratio for ratio in ratios]
                rows.append(
                    (
                        f"{pair.side.name}: {figure}",
                        f"{median(own):,.4g}",
                        f"{median(theirs):,.4g}",
                        spread(better, FORM),
                    )
                )
    report.table(("", "now", commit.name, "times as good [least…most]"), rows)
    return report
