"""The names of the alerts, and where people find what to do about them."""

from __future__ import annotations

from typing import Final

# What `runbook_url` and `dashboard_url` begin with: a folder of the repository, and a path of Grafana. `--runbooks` and
# `--dashboards` of the generator put addresses before them.
RUNBOOKS: Final = "docs/runbooks"
DASHBOARDS: Final = "/d"

ALERTS: Final = (
    "FlowrraTargetDown",
    "FlowrraTargetsMissing",
    "FlowrraCollectorFailing",
    "FlowrraSeriesDropped",
    "FlowrraAppNotRunning",
    "FlowrraProcessRestarting",
    "FlowrraDependencyDown",
    "FlowrraWorkersDead",
    "FlowrraWorkersRestarting",
    "FlowrraNoWorkers",
    "FlowrraExecutorStuck",
    "FlowrraSaturated",
    "FlowrraHeartbeatLost",
    "FlowrraEventLoopBlocked",
    "FlowrraEventLoopStalls",
    "FlowrraTasksAbandoned",
    "FlowrraNoProgress",
    "FlowrraOldestTaskTooOld",
    "FlowrraDeadTasks",
    "FlowrraUnknownTasks",
    "FlowrraBrokerFull",
    "FlowrraBrokerUnfit",
    "FlowrraClockSkew",
    "FlowrraTasksFailing",
    "FlowrraRetryStorm",
    "FlowrraTaskHung",
    "FlowrraRedeliveries",
    "FlowrraScheduleMissed",
    "FlowrraScheduleNotRun",
    "FlowrraSchedulerStalled",
    "FlowrraSchedulesBroken",
)


def runbook_url(alert: str, base: str = RUNBOOKS) -> str:
    """Where the runbook of an alert is."""
    return f"{base}/{alert}.md"


def dashboard_url(uid: str, base: str = DASHBOARDS) -> str:
    """Where a dashboard is."""
    return f"{base}/{uid}"
