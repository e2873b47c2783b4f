"""What telemetry and tracing add to a task: nanoseconds for counting one that succeeds, beside two metrics libraries;
and of whole tasks, with telemetry and tracing off and on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks.harness import Paired, Report, Rounds, Side, spread, thousands

ROUNDS = 5
GOAL = 1_000.0
# The figures of whole tasks, and how they are called.
WHOLE_TASKS = {
    "plain": "telemetry on, tracing off",
    "plain again": "the same again, more than that",
    "telemetry off": "telemetry off, more than that",
    "tracing on, no trace sampled": "tracing on, no trace sampled, more than that",
    "tracing on, each trace sampled": "tracing on, each trace sampled, more than that",
}


@contextmanager
def paired() -> Iterator[list[Paired]]:
    yield [
        Paired(Side("flowrra.telemetry", ("counting.py", "flowrra")), {"counting": False}),
        Paired(Side("whole tasks", ("task_path.py",)), {"plain": False}),
    ]


def run() -> Report:
    title = f"Telemetry: nanoseconds to count one task that succeeds; medians of {ROUNDS} rounds"
    report = Report("telemetry", title, ("prometheus-client", "opentelemetry-sdk"))
    ours = Side("flowrra.telemetry", ("counting.py", "flowrra"))
    sides = (
        ours,
        Side("prometheus_client, children kept", ("counting.py", "prometheus_client")),
        Side("OpenTelemetry SDK", ("counting.py", "opentelemetry")),
    )
    whole_tasks = Side("whole tasks", ("task_path.py",))
    rounds = Rounds((*sides, whole_tasks), ROUNDS)

    def row(side: Side) -> tuple[str, ...]:
        times = rounds.ratios(side, ours, "counting")
        return (side.name, spread(rounds.of(side, "counting"), thousands), f"{median(times):.1f}")

    report.line("Counted: submitted, started, succeeded; observed: waiting time, run time.")
    report.table(("", "ns [least…most]", "times ours"), [row(side) for side in sides])
    counting, clock = rounds.of(ours, "counting"), rounds.of(ours, "clock")
    report.line(f"The three readings of the clock that the times come from: {spread(clock, thousands)} ns.")
    report.line()
    report.line("Whole tasks, submitted, run and waited for: nanoseconds of processor time a task, in turns.")
    report.table(("", "ns [least…most]"), [_whole(rounds, whole_tasks, *named) for named in WHOLE_TASKS.items()])
    whole = [sum(both) for both in zip(counting, clock, strict=True)]
    report.goal("less than 1,000 ns, clock included", f"{spread(whole, thousands)} ns", median(whole) < GOAL)
    return report


def _whole(rounds: Rounds, side: Side, figure: str, name: str) -> tuple[str, str]:
    return name, spread(rounds.of(side, figure), thousands)
