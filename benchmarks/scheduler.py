"""The scheduler beside the published flowrra 0.1.8: 100,000 enabled schedules in SQLite, idle and with 100 due a
second, and the next run of cron expressions that match once a year or less.

Lag is from a schedule's due time to its task's first line, in memory, with the default executor. The present version
reads the database that 0.1.8 writes, and upgrades it.
"""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Report, Rounds, Side, decimals, peer, spread

SCHEDULES = 100_000
SECONDS = 20
ROUNDS = 2
CRON_ROUNDS = 3
PUBLISHED = ("flowrra==0.1.8",)
MOST_CPU, MOST_LAG, LEAST_SPEED_UP = 1.0, 100.0, 100.0

FORM, WHOLE = decimals(2), decimals(0)


def run() -> Report:
    title = f"Scheduler: {SCHEDULES:,} enabled schedules in SQLite, {SECONDS} s; medians of {ROUNDS} rounds"
    report = Report("scheduler", title)
    _next_run(report)
    idle, idle_rounds = _scheduled("idle")
    due, due_rounds = _scheduled("due")
    rows = []
    for kind, sides, rounds in (("idle", idle, idle_rounds), ("100 due a second", due, due_rounds)):
        rows += [(f"{side.name}, {kind}", *_cells(rounds, side)) for side in sides]
    report.table(("", "% of a core", "peak MB", "runs", "lag p50 ms", "p99 ms"), rows)
    cpu = idle_rounds.of(idle[0], "cpu")
    report.goal("idle, under 1% of a core", f"{spread(cpu, FORM)}%", median(cpu) < MOST_CPU)
    if due_rounds.has(due[0], "p99"):
        lag = due_rounds.of(due[0], "p99")
        report.goal("lag p99 under 100 ms", f"{spread(lag, FORM)} ms", median(lag) < MOST_LAG)
    return report


def _next_run(report: Report) -> None:
    ours, published = (
        Side("flowrra", ("schedules.py", "next_run")),
        Side("0.1.8", ("schedules.py", "next_run"), _peer()),
    )
    rounds = Rounds((ours, published), CRON_ROUNDS)
    header = ("next_run, us", "flowrra", "0.1.8")
    names = {"yearly": "0 0 1 1 *", "leap_day": "0 0 29 2 * (0.1.8 gives up)"}
    report.table(
        header,
        [(text, *(FORM(median(rounds.of(side, name))) for side in (ours, published))) for name, text in names.items()],
    )
    faster = rounds.ratios(published, ours, "yearly")
    report.goal(
        "the yearly expression at least 100 times faster", spread(faster, WHOLE), median(faster) >= LEAST_SPEED_UP
    )
    report.line()


def _scheduled(case: str) -> tuple[tuple[Side, Side], Rounds]:
    command = ("schedules.py", case, str(SCHEDULES), str(SECONDS))
    sides = Side("flowrra", command), Side("0.1.8", command, _peer())
    return sides, Rounds(sides, ROUNDS)


def _cells(rounds: Rounds, side: Side) -> tuple[str, ...]:
    return tuple(
        FORM(median(rounds.of(side, figure))) if rounds.has(side, figure) else ""
        for figure in ("cpu", "memory", "runs", "p50", "p99")
    )


def _peer() -> str:
    return peer(*PUBLISHED)
