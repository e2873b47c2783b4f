"""How the memory of a process grows with the tasks it runs, beside the published flowrra 0.1.8."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Report, Rounds, Side, decimals, peer, spread

NAMES = 100
STEP = 100_000
TASKS = 1_000_000
# 0.1.8 keeps every record: two steps show the trend.
PUBLISHED_TASKS = 200_000
ROUNDS = 2
GOAL = 20.0

FORM = decimals(1)


def run() -> Report:
    title = f"Memory: resident MB over {TASKS:,} tasks of {NAMES} names, garbage collected; means of {ROUNDS} rounds"
    report = Report("memory", title)
    ours = Side("flowrra", _command(TASKS))
    published = Side("flowrra 0.1.8", _command(PUBLISHED_TASKS), peer("flowrra==0.1.8"))
    rounds = Rounds((ours, published), ROUNDS)

    header = ("tasks", "flowrra", "since 100,000", "flowrra 0.1.8", "since 100,000")
    counts = range(0, TASKS + STEP, STEP)
    report.table(
        header, [(f"{count:,}", *_cells(rounds, ours, count), *_cells(rounds, published, count)) for count in counts]
    )
    growth = [max(of_round) for of_round in zip(*(_growth(rounds, ours, count) for count in counts[1:]), strict=True)]
    report.goal(
        "under 20 MB after the first 100,000 tasks", f"{spread(growth, FORM)} MB at the most", max(growth) < GOAL
    )
    return report


def _command(tasks: int) -> tuple[str, ...]:
    return ("growing.py", str(NAMES), str(STEP), str(tasks))


def _growth(rounds: Rounds, side: Side, count: int) -> list[float]:
    """Megabytes more than after the first step, in each round."""
    first, now = rounds.of(side, str(STEP)), rounds.of(side, str(count))
    return [megabytes - at_first for megabytes, at_first in zip(now, first, strict=True)]


def _cells(rounds: Rounds, side: Side, count: int) -> tuple[str, str]:
    if not rounds.has(side, str(count)):
        return "", ""
    growth = f"{median(_growth(rounds, side, count)):+.1f}" if count > STEP else ""
    return FORM(median(rounds.of(side, str(count)))), growth
