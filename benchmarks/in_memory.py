"""Tasks a second in memory, beside the published flowrra 0.1.8 and a bare asyncio queue that keeps the same records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, peer, spread, thousands

PUBLISHED = "flowrra==0.1.8"
TASKS = 20_000
# With a subscriber they come in batches: an event that finds 10,000 of its kind waiting is dropped.
BATCH = 1_000
ROUNDS = 7


def _side(name: str, *options: str, batch: int = TASKS, python: str | None = None) -> Side:
    command = ("tasks.py", str(TASKS), str(batch), *options)
    return Side(name, command) if python is None else Side(name, command, python)


@contextmanager
def paired() -> Iterator[list[Paired]]:
    sides = [_side("no arguments"), _side("subscriber", "--subscriber", batch=BATCH)]
    yield [Paired(side, {"rate": True, "cpu": False}) for side in sides]


def run() -> Report:
    report = Report("in_memory", f"In memory: {TASKS:,} no-op async tasks, 4 workers; medians of {ROUNDS} rounds")
    published = peer(PUBLISHED)
    ours, theirs = _side("flowrra"), _side("flowrra 0.1.8", python=published)
    bare = Side("bare asyncio.Queue", ("bare_queue.py", str(TASKS)))
    heard = _side("flowrra, subscriber", "--subscriber", batch=BATCH)
    theirs_heard = _side("flowrra 0.1.8, subscriber", "--subscriber", batch=BATCH, python=published)

    sides = (ours, theirs, bare, heard, theirs_heard)
    rounds = Rounds(sides, ROUNDS)
    header = ("", "tasks/s [least…most]", "submit ms", "rest ms", "CPU us a task")
    report.table(header, [_row(rounds, side) for side in sides])
    report.line("Events that the subscriber got, of 3 a task: " + ", ".join(_events(rounds, heard, theirs_heard)))
    report.line()

    beside_theirs, beside_bare = rounds.ratios(ours, theirs, "rate"), rounds.ratios(ours, bare, "rate")
    both_heard = rounds.ratios(heard, theirs_heard, "rate")
    form = decimals(2)
    report.goal("at least 4 times flowrra 0.1.8", spread(beside_theirs, form), median(beside_theirs) >= 4)
    report.goal("at least 0.5 of the bare queue", spread(beside_bare, form), median(beside_bare) >= 0.5)
    of_theirs, of_bare = median(rounds.ratios(theirs, ours, "cpu")), median(rounds.ratios(bare, ours, "cpu"))
    report.line(f"by processor time: {of_theirs:.2f} times flowrra 0.1.8, {of_bare:.2f} of the bare queue")
    report.line(f"with a subscriber, times flowrra 0.1.8 with one: {spread(both_heard, form)}")
    return report


def _row(rounds: Rounds, side: Side) -> tuple[str, ...]:
    parts = (f"{1000 * median(rounds.of(side, part)):.0f}" for part in ("submit", "drain"))
    return (side.name, spread(rounds.of(side, "rate"), thousands), *parts, f"{1e6 * _cpu(rounds, side):.1f}")


def _cpu(rounds: Rounds, side: Side) -> float:
    """Processor seconds a task: what other work on the machine disturbs less than the rate."""
    return median(rounds.of(side, "cpu")) / TASKS


def _events(rounds: Rounds, *sides: Side) -> list[str]:
    return [f"{side.name} {thousands(median(rounds.of(side, 'events')))}" for side in sides]
