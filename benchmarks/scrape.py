"""A scrape: how long it takes, beside prometheus_client writing out the same samples; and what it does to the turns of
the app's event loop, beside a run without scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, spread, thousands

# Task names that make so many series, with the metrics of the app and of the process.
NAMES = {1_000: 16, 10_000: 168}
SCRAPES_PER_SECOND = 5
# By load. The calm app's loop turns less often: that takes longer to tell one turn in a thousand.
SECONDS = {"calm": 10, "busy": 4}
ROUNDS = 3
GOAL = 5.0

FORM = decimals(2)


class Sides:
    """What is run in a round: each load without scrapes, and with those of each size; then prometheus_client.

    Args:
        folder: Where scraped texts are kept from one side to the next.
    """

    def __init__(self, folder: Path) -> None:
        bodies = {series: str(folder / f"{series}.txt") for series in NAMES}
        self.unscraped = {load: _app(load, max(NAMES.values()), 0, "") for load in SECONDS}
        self.scraped = {
            (load, series): _app(load, names, SCRAPES_PER_SECOND, bodies[series])
            for load in SECONDS
            for series, names in NAMES.items()
        }
        self.prometheus_client = {
            series: Side(f"generate_latest of {series:,} series", ("generate_latest.py", body))
            for series, body in bodies.items()
        }

    def all(self) -> list[Side]:
        """All of them, in order: prometheus_client reads what the apps' scrapes have left."""
        return [*self.unscraped.values(), *self.scraped.values(), *self.prometheus_client.values()]


def _app(load: str, names: int, scrapes: int, body: str) -> Side:
    command = ("served_app.py", load, str(names), str(scrapes), str(SECONDS[load]), body)
    return Side(f"{load}, {names} names, {scrapes} scrapes/s", command)


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with TemporaryDirectory() as folder:
        better = {"scrape p50": False, "turns/s": True}
        yield [Paired(side, better) for side in Sides(Path(folder)).scraped.values()]


def run() -> Report:
    title = f"Scrapes: {SCRAPES_PER_SECOND} a second over HTTP, every task's figures new each time; {ROUNDS} rounds"
    report = Report("scrape", title, ("prometheus-client", "aiohttp"))
    with TemporaryDirectory() as folder:
        sides = Sides(Path(folder))
        rounds = Rounds(sides.all(), ROUNDS)
    _report_scrapes(report, rounds, sides)
    _report_turns(report, rounds, sides)
    return report


def _report_scrapes(report: Report, rounds: Rounds, sides: Sides) -> None:
    report.line(
        "Scrapes, milliseconds as the scraper sees them (collecting, rendering, HTTP), beside prometheus_client's"
    )
    report.line("generate_latest() alone, over the same samples, in an idle process.")
    rows = []
    for (load, series), side in sides.scraped.items():
        theirs = sides.prometheus_client[series]
        samples = median(rounds.of(theirs, "samples"))
        medians, other = rounds.of(side, "scrape p50"), rounds.of(theirs, "median")
        faster = median(theirs_ms / ours_ms for theirs_ms, ours_ms in zip(other, medians, strict=True))
        p99 = median(rounds.of(side, "scrape p99"))
        name = f"{thousands(samples)} series, {load} app"
        rows.append((name, spread(medians, FORM), FORM(p99), spread(other, FORM), FORM(faster)))
    report.table(("", "median [least…most]", "p99", "generate_latest", "times as fast"), rows)


def _report_turns(report: Report, rounds: Rounds, sides: Sides) -> None:
    report.line("Turns of the app's loop, milliseconds; medians of the rounds.")
    header = ("", "p50", "p99", "p99.9 [least…most]", "max", "turns/s")
    report.table(header, [_turns(rounds, *named) for named in _named(sides)])
    for (load, series), side in sides.scraped.items():
        without, with_scrapes = rounds.of(sides.unscraped[load], "turn p99.9"), rounds.of(side, "turn p99.9")
        added = [scraped - bare for scraped, bare in zip(with_scrapes, without, strict=True)]
        wanted = f"p99.9 within {GOAL:.0f} ms of the run without, {load} app, {series:,} series"
        report.goal(wanted, f"{spread(added, decimals(2))} ms", median(added) <= GOAL)


def _named(sides: Sides) -> list[tuple[str, Side]]:
    rows = []
    for load, unscraped in sides.unscraped.items():
        rows.append((f"{load} app, no scrapes", unscraped))
        rows += [(f"{load} app, {series:,} series", sides.scraped[load, series]) for series in NAMES]
    return rows


def _turns(rounds: Rounds, name: str, side: Side) -> tuple[str, ...]:
    def middle(figure: str) -> float:
        return median(rounds.of(side, figure))

    tail = spread(rounds.of(side, "turn p99.9"), FORM)
    return (
        name,
        FORM(middle("turn p50")),
        FORM(middle("turn p99")),
        tail,
        FORM(middle("turn max")),
        thousands(middle("turns/s")),
    )
