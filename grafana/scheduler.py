"""The scheduler: what is due when, what is late, and what was missed."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import BAD, GOOD, RUNS, UNKNOWN
from grafana.frame import Frame
from grafana.panels import (
    NONE,
    Column,
    Panel,
    Query,
    Text,
    Threshold,
    figure,
    from_warning_and_bad,
    graph,
    runbook,
    table,
)

# Seconds: a scheduler notices within its check interval, 60 s by default, what other processes changed.
LATE = from_warning_and_bad(1, 60)


def now() -> list[Panel]:
    """How it is just now."""
    answered = q.series(catalog.COLLECTOR_SUCCESS, 'collector="scheduler"')
    answers = f"({answered} == 1)"
    none = {**NONE, **limits.NO_SCHEDULER}
    return [
        figure(
            "Schedulers running",
            "Processes whose scheduler runs. One is enough for a store; without any, nothing is submitted when it is "
            "due. None as soon as one of the stores has none.",
            q.or_none(
                f"{q.sum_unless_none(q.running_schedulers())} or {q.total(catalog.SCHEDULER_RUNNING)}", answers, -1
            ),
            base=UNKNOWN,
            thresholds=[Threshold(0, BAD), Threshold(1, GOOD)],
            texts={"0": Text("none", BAD), **limits.NO_SCHEDULER},
            links=[runbook("FlowrraSchedulerStalled")],
        ),
        figure(
            "Overdue",
            "Schedules that should have run a minute ago: no scheduler gets to them.",
            q.or_none(f"sum({q.overdue()})", answers, -1),
            thresholds=limits.ANY,
            texts=none,
            links=[runbook("FlowrraSchedulerStalled")],
        ),
        figure(
            "Missed",
            "Due times in the range shown that were past their grace time when a scheduler got to them. What a process "
            "had missed before Prometheus first saw it is told by the alert alone.",
            q.or_none(_due_times('result="missed"'), answers, -1),
            thresholds=limits.ANY,
            texts=none,
            links=[runbook("FlowrraScheduleMissed")],
        ),
        figure(
            "Failed",
            "Submissions in the range shown that were refused; each is tried again.",
            q.or_none(_due_times('result="failed"'), answers, -1),
            thresholds=limits.ANY,
            texts=none,
        ),
        figure(
            "Broken",
            "Schedules that can't run as they are: their task isn't registered, or their expression can't be read.",
            q.or_none(f"sum({q.broken()})", answers, -1),
            thresholds=limits.ANY,
            texts=none,
            links=[runbook("FlowrraSchedulesBroken")],
        ),
        figure(
            "Next run",
            "Until the next schedule is due. Below 0 it is late.",
            q.or_none(f"min({q.by_store(catalog.SCHEDULER_NEXT_RUN, own='min', shared='min')} - time())", answers, -1),
            unit=units.Seconds,
            base=BAD,
            thresholds=[Threshold(-1, GOOD)],
            texts={"-1": Text("nothing is due", UNKNOWN)},
        ),
    ]


def _due_times(matcher: str) -> str:
    """How many due times within the range shown ended so."""
    return q.of_range(f"sum(increase({q.series(catalog.SCHEDULER_RUNS, matcher)}{q.WHOLE}))")


def by_schedule() -> list[Panel]:
    """All schedules that repeat, the latest first."""
    late = f"clamp_min(time() - {q.by_schedule(catalog.SCHEDULE_NEXT_RUN)}, 0)"
    return [
        table(
            "Schedules",
            "Enabled cron and interval schedules, those that are late first. Each is there once, however many "
            "processes see its store. A schedule that was just made has not run yet.",
            {
                "task": "Task",
                "description": "Description",
                "runs": "Runs",
                "store": "Store",
                "schedule": "Schedule",
            },
            Column("Late by", late, units.Seconds, LATE, {"0": Text("in time", "transparent")}, width=110),
            Column("Due in", f"{q.by_schedule(catalog.SCHEDULE_NEXT_RUN)} - time()", units.Seconds, width=110),
            Column("Last run", f"time() - {q.by_schedule(catalog.SCHEDULE_LAST_RUN)}", units.Seconds, width=110),
            Column("Changed", f"time() - {q.by_schedule(catalog.SCHEDULE_UPDATED)}", units.Seconds, width=110),
            Column("Period", q.by_schedule(catalog.SCHEDULE_PERIOD), units.Seconds, width=110),
            worst=["Late by"],
            height=11,
            hidden=["schedule"],
            links=[runbook("FlowrraScheduleNotRun")],
        )
    ]


def course() -> list[Panel]:
    """How it was."""
    lag = catalog.SCHEDULER_LAG
    not_run = q.series(catalog.SCHEDULER_RUNS, 'result=~"missed|skipped"')
    return [
        graph(
            "Due times, by result",
            "What became of due times. Missed ones were past their grace time, collapsed ones are part of a later run, "
            "skipped ones had too many running already, failed ones are tried again.",
            Query(q.rate(catalog.SCHEDULER_RUNS, "result"), "{{result}}"),
            unit=units.OpsPerSecond,
            stacked=True,
            colors=RUNS,
            links=[runbook("FlowrraScheduleMissed")],
        ),
        graph(
            "Missed and skipped, by task",
            "Due times that were not run, or not at that time.",
            Query(f"sum by (task, result) (increase({not_run}{q.AROUND})) > 0", "{{task}} {{result}}"),
        ),
        graph(
            "Lag",
            "How long after the due time tasks were submitted.",
            Query(q.quantile(0.5, lag), "median"),
            Query(q.quantile(0.99, lag), "99 %"),
            unit=units.Seconds,
        ),
        graph(
            "Schedules, by store",
            "Schedules that are enabled, of each store.",
            Query(q.by_store(catalog.SCHEDULER_SCHEDULES, "state"), "{{job}}{{store}}: {{state}}"),
        ),
        graph(
            "Overdue and broken, by store",
            "Overdue ones should have run already, broken ones can't run as they are.",
            Query(q.overdue(), "{{job}}{{store}}: overdue"),
            Query(q.broken(), "{{job}}{{store}}: broken"),
            links=[runbook("FlowrraSchedulerStalled"), runbook("FlowrraSchedulesBroken")],
        ),
        graph(
            "Schedulers, errors of the store",
            "Processes whose scheduler runs, and operations on the store that failed.",
            Query(q.total(catalog.SCHEDULER_RUNNING), "running"),
            Query(q.increase(catalog.SCHEDULER_STORE_ERRORS, "operation"), "{{operation}} failed"),
        ),
    ]


FRAME = Frame(
    "flowrra-scheduler",
    "Scheduler",
    "What is due when, what is late, and what was missed.",
    {"": [*now(), *by_schedule(), *course()]},
)
