"""A scrape's work by itself: collecting and writing out the figures of many tasks, beside prometheus_client writing out
the same samples and OpenTelemetry's Prometheus reader with as many of its own.

"All figures new" is the common case: every name's figures have changed since the last scrape. It is our whole way from
the counters in the app to the text. `generate_latest()` is given ready samples and only writes them out, which is to be
compared with our rendering; the reader collects and writes, as we do.

Collecting takes nearly half of ours, in many small steps of which none stands out: each name's counters are copied in
one step, made the Management API's answer, checked because any app may answer it, and added to the families. At 100,000
series the garbage collector takes a third of it: it looks through all that a collection keeps until its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, peer, spread, thousands

# Task names that make so many series.
NAMES = {1_000: 17, 10_000: 170, 100_000: 1_695}
OTEL = "opentelemetry-exporter-prometheus==0.66b2"
ROUNDS = 3
GOAL_SERIES, GOAL = 10_000, 10.0

FORM = decimals(2)
# What our side measures, and how that is called.
SCRAPES = {
    "changed": "all figures new",
    "rendering": "of that rendering",
    "unchanged": "no figure new",
    "first": "the first time",
}


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with TemporaryDirectory() as folder:
        sides = [
            Side(f"{series:,} series", ("exposition.py", str(names), str(Path(folder) / f"{series}.txt")))
            for series, names in NAMES.items()
        ]
        yield [Paired(side, dict.fromkeys(SCRAPES, False)) for side in sides]


def run() -> Report:
    title = f"Collecting and rendering the tasks' series, no HTTP: milliseconds; medians of {ROUNDS} rounds"
    report = Report("exposition", title, ("prometheus-client",))
    report.line(f"peer      {OTEL}")
    report.line()
    reader = peer(OTEL)
    with TemporaryDirectory() as folder:
        bodies = {series: str(Path(folder) / f"{series}.txt") for series in NAMES}
        ours = {
            series: Side(f"flowrra_exporter, {series:,} series", ("exposition.py", str(names), bodies[series]))
            for series, names in NAMES.items()
        }
        clients = {
            series: Side(f"generate_latest, {series:,} series", ("generate_latest.py", body))
            for series, body in bodies.items()
        }
        readers = {
            series: Side(f"PrometheusMetricReader, {series:,} series", ("otel_reader.py", str(names)), reader)
            for series, names in NAMES.items()
        }
        rounds = Rounds([side for series in NAMES for side in (ours[series], clients[series], readers[series])], ROUNDS)
    _report(report, rounds, ours, clients, readers)
    return report


def _report(
    report: Report, rounds: Rounds, ours: dict[int, Side], clients: dict[int, Side], readers: dict[int, Side]
) -> None:
    header = ("series", *SCRAPES.values(), "generate_latest", "PrometheusMetricReader")
    rows = []
    for series, side in ours.items():
        count, readers_count = rounds.of(side, "series")[0], rounds.of(readers[series], "series")[0]
        own = (spread(rounds.of(side, figure), FORM) for figure in SCRAPES)
        theirs = spread(rounds.of(clients[series], "median"), FORM)
        reads = f"{spread(rounds.of(readers[series], 'median'), FORM)} for {thousands(readers_count)}"
        rows.append((thousands(count), *own, theirs, reads))
    report.table(header, rows)
    report.line(
        "How many times as fast as the others. generate_latest() has nothing to collect here: it is given the samples."
    )
    rows = []
    for series, side in ours.items():
        for figure, name in SCRAPES.items():
            beside = (_faster(rounds, side, figure, other) for other in (clients[series], readers[series]))
            rows.append((f"{series:,} series, {name}", *(spread(ratios, decimals(1)) for ratios in beside)))
    report.table(("", "generate_latest", "PrometheusMetricReader"), rows)
    for figure in ("changed", "rendering"):
        ratios = _faster(rounds, ours[GOAL_SERIES], figure, clients[GOAL_SERIES])
        wanted = f"at least {GOAL:.0f} times as fast as generate_latest at {GOAL_SERIES:,} series, {SCRAPES[figure]}"
        report.goal(wanted, spread(ratios, decimals(1)), median(ratios) >= GOAL)


def _faster(rounds: Rounds, side: Side, figure: str, other: Side) -> list[float]:
    both = zip(rounds.of(other, "median"), rounds.of(side, figure), strict=True)
    return [theirs / own for theirs, own in both]
