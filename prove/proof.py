"""What a proof reports: figures, which are only shown, and truths, of which none may be broken."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.harness import ROOT, Report
from prove.traffic import Asked

OUTPUTS = ROOT / "docs" / "prove"
PACKAGES = ("aiohttp", "prometheus-client")


class Proof(Report):
    """Prints and keeps what a proof finds.

    Args:
        name: The proof's; also that of the file.
        title: What it shows.
    """

    def __init__(self, name: str, title: str) -> None:
        super().__init__(name, title, PACKAGES, OUTPUTS)
        self.holds = True
        self.is_shown = True

    def not_shown(self, why: str) -> None:
        """Print why this machine can't show it. What another one showed stays the kept output."""
        self.is_shown = False
        self.line(f"NOT SHOWN: {why}")

    def truth(self, statement: str, holds: bool, found: object = "") -> None:
        """Print whether something is true that must be, and what was found."""
        self.holds = self.holds and holds
        told = f": {found}" if found != "" else ""
        self.line(f"{'true   ' if holds else 'BROKEN '} {statement}{told}")

    def answers(self, what: str, asked: Mapping[str, Sequence[Asked]]) -> None:
        """Print how many answers there were by path, and how long they took."""
        rows = [_row(path, answers) for path, answers in asked.items()]
        self.table((what, "answers", "median ms", "p99 ms", "slowest ms", "by status"), rows)


def _row(path: str, asked: Sequence[Asked]) -> tuple[str, ...]:
    milliseconds = sorted(1000 * each.answer.seconds for each in asked)
    if not milliseconds:
        return path, "0", "", "", "", ""
    p99 = milliseconds[int(0.99 * (len(milliseconds) - 1))]
    figures = (statistics.median(milliseconds), p99, milliseconds[-1])
    return path, f"{len(asked):,}", *(f"{figure:,.1f}" for figure in figures), statuses(asked)


def statuses(asked: Iterable[Asked]) -> str:
    """``200: 17, 503: 3``."""
    counts: dict[int, int] = {}
    for each in asked:
        counts[each.answer.status] = counts.get(each.answer.status, 0) + 1
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.items()))
