"""What the dashboards show: how many series each query returns in which phase, and what it should."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prove.proof import Proof
from tests.end_to_end.processes import Prometheus
from tests.grafana.fleet import Dashboard, Shown

DASHBOARDS = ("overview", "tasks", "task", "queues", "scheduler", "exporter")
# What the dashboard of one task is of.
TASK = "charge_card"
QUIET, DEAD, STOPPED = "quiet", "dead", "stopped"


class Query(NamedTuple):
    """A query of a dashboard: its panel's title, and its letter there."""

    dashboard: str
    title: str
    letter: str


Counts = Mapping[Query, int]

# What only the broker knows. A join with it is absent as well.
_OF_BROKER = re.compile(r"flowrra_(queue_|worker_(?!restarts)|broker_(?!errors))")
# What only the process with the scheduler knows, and when that is away: whether for long enough, or not.
_OF_SCHEDULER = {"Due times, by result", "Lag", "Schedulers, errors of the store"}
_WITHOUT_SCHEDULER = {"gone": False, "missed": False, "killed": None, "blocked": None}
# What there is only while attempts end and schedules run, and when none do: for certain, or once the backlog has gone.
_OF_WORK = {
    ("tasks", "Run time, 95th percentile, by task"),
    ("tasks", "Wait for a worker, 95th percentile, by task"),
    ("task", "Failure ratio"),
    ("task", "Run time, median and 95th percentile"),
    ("task", "Wait for a worker, median and 95th percentile"),
    ("scheduler", "Lag"),
}
_WITHOUT_WORK = {STOPPED: False, "full": None}
# What there is only while the scheduler submits: it skips each due time while the run before it hangs, or waits.
_OF_SUBMISSIONS = {
    Query("tasks", "Submitted, by task", "A"),
    Query("scheduler", "Lag", "A"),
    Query("scheduler", "Lag", "B"),
}
_WITH_RUNS_SKIPPED = {"hung", "burst"}
# It is told with what the broker is asked for.
VERSIONS = Query("exporter", "Versions", "A")
# Tables of what happened within the range, however the processes are now.
_OF_RANGE = {("overview", "Tasks"), ("tasks", "Tasks by name")}
# What tells that nobody answers: how many of how many, and which of Prometheus' targets.
TELLS_OF_DEATH = {
    Query("overview", "Targets up", "A"),
    Query("overview", "Apps healthy", "A"),
    Query("overview", "Targets", "A"),
    Query("exporter", "Targets up", "A"),
    Query("exporter", "Targets", "A"),
    Query("exporter", "Targets", "E"),
}
# There is something to show only in these phases.
ONLY = {Query("queues", "Memory of the broker", "A"): {"full", "unfit"}}
# There is something to show if anything of the kind happens just then: it must at some time of the day.
AT_TIMES = {
    Query("tasks", "Failed for good, by task", "A"),
    Query("tasks", "Retried, by task", "A"),
    Query("tasks", "Exceptions, by class", "A"),
    Query("task", "Exceptions, by class", "A"),
    Query("tasks", "Tasks by name", "J"),  # how long the oldest that runs has
    Query("queues", "Queues", "A"),  # how long the oldest has waited
    Query("queues", "Oldest waiting, by queue", "A"),
    Query("scheduler", "Missed and skipped, by task", "A"),
}
NEVER = {Query("exporter", "Failures beside serving", "C"): "nothing is exported to OpenTelemetry"}


def dashboards(prometheus: Prometheus) -> dict[str, Dashboard]:
    """As they are now."""
    return {name: Dashboard(prometheus, name, **({"task": TASK} if name == "task" else {})) for name in DASHBOARDS}


def queries(prometheus: Prometheus) -> dict[Query, str]:
    """All queries, as the dashboards have them."""
    return {
        Query(name, title, target["refId"]): target["expr"]
        for name, dashboard in dashboards(prometheus).items()
        for title, panel in dashboard.panels.items()
        for target in panel.json["targets"]
    }


def counts(prometheus: Prometheus) -> Counts:
    """How many series each query returns now."""
    now = dashboards(prometheus)
    return {query: len(now[query.dashboard].ask(text)) for query, text in queries(prometheus).items()}


def tiles(prometheus: Prometheus) -> dict[str, Shown]:
    """The tiles of the overview."""
    return dashboards(prometheus)["overview"].tiles()


def wrong(texts: Mapping[Query, str], looks: Mapping[str, Counts]) -> Iterable[str]:
    """Where a query returned data and shouldn't have, or the other way round."""
    for query, text in texts.items():
        where = f"{query.dashboard}, {query.title} {query.letter}"
        if not any(found[query] for found in looks.values()) and query not in NEVER:
            yield f"{where}: never"
        for phase, found in looks.items():
            should = _should(query, text, phase)
            if should is not None and should != bool(found[query]):
                yield f"{where}: {found[query]} when {phase}"


def _should(query: Query, text: str, phase: str) -> bool | None:
    """Whether a query returns data in a phase; None if that depends on the moment."""
    if query in NEVER:
        return False
    if query in TELLS_OF_DEATH:
        return True
    if phase == DEAD:
        return None if (query.dashboard, query.title) in _OF_RANGE else False
    if phase == STOPPED and (_OF_BROKER.search(text) or query == VERSIONS):
        return False
    if phase in _WITHOUT_WORK and (query.dashboard, query.title) in _OF_WORK:
        return _WITHOUT_WORK[phase]
    if phase in _WITHOUT_SCHEDULER and query.dashboard == "scheduler" and query.title in _OF_SCHEDULER:
        return _WITHOUT_SCHEDULER[phase]
    if phase in _WITH_RUNS_SKIPPED and query in _OF_SUBMISSIONS:
        return None
    if query in ONLY:
        return phase in ONLY[query]
    return None if query in AT_TIMES else True


def show(proof: Proof, looks: Mapping[str, Counts]) -> None:
    """A table for each dashboard."""
    for dashboard in DASHBOARDS:
        found = [each for each in looks[QUIET] if each.dashboard == dashboard]
        rows = [
            (f"{query.title} {query.letter}", *(str(look[query] or "-") for look in looks.values())) for query in found
        ]
        proof.table((f"{dashboard}: series by query", *looks), rows)


def show_tiles(proof: Proof, seen: Mapping[str, Mapping[str, Shown]]) -> None:
    """The colours of the overview's tiles."""
    rows = [(title, *(tiles[title].color for tiles in seen.values())) for title in seen[QUIET]]
    proof.table(("overview: colour of each tile", *seen), rows)
