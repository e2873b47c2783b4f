"""The scheduler: what it has to do, what it did, and when: from ``get_scheduler_stats``, ``get_schedule_run_stats`` and
``list_schedules``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowrra_exporter.app.management import Management
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import (
    Incomplete,
    ManagementCollector,
    distribution,
    number,
    section,
    timestamp,
)
from flowrra_exporter.metrics.samples import Family, Number
from flowrra_exporter.metrics.series_budget import OTHER, SeriesBudget

# How many schedules have series of their own: the oldest ones.
MOST_SCHEDULES = 200
# With more enabled schedules than that none has: listing them all would hold up the app's event loop.
MOST_LISTED = 2_000
# Of what people wrote about a schedule, in a label.
MOST_CHARACTERS = 100
# What is known of each, when it runs next, ran last and was changed, and its period.
SERIES_EACH = 5
# How many series the runs have by task name and result.
MOST_RUN_SERIES = 5_000

_FIGURES = {
    "running": catalog.SCHEDULER_RUNNING,
    "overdue_schedules": catalog.SCHEDULER_OVERDUE,
    "broken_schedules": catalog.SCHEDULER_BROKEN,
}
_STATES = {"enabled": "enabled_schedules", "disabled": "disabled_schedules"}
_REPEATING = frozenset({"cron", "interval"})


class SchedulerCollector(ManagementCollector):
    """flowrra_scheduler_* and flowrra_schedule_*.

    Whether it runs, its runs and their lag are this process's own, and are there even while the store is away.
    ``dropped`` counts the series that schedules beyond ``MOST_SCHEDULES`` would have had.
    """

    name = "scheduler"
    shared = True
    method = "get_scheduler_stats"

    def __init__(self, management: Management) -> None:
        super().__init__(management)
        self.dropped = 0
        self._budget = SeriesBudget(MOST_RUN_SERIES)

    async def collect(self) -> Sequence[Family]:
        families = self._runs()
        try:
            stats = await self._management.ask("get_scheduler_stats")
            if stats is not None:
                known = {family.metric for family in families}
                families += [family for family in _state(stats) if family.metric not in known]
                families += await self._schedules(number(stats, "enabled_schedules") or 0)
        except Exception as error:
            raise Incomplete(f"{type(error).__name__}: {error}", [*families]) from error
        return families

    def _runs(self) -> list[Family]:
        """What this process did: read in the server's thread, whatever the app's loop and the store are doing."""
        if not self._management.has("get_schedule_run_stats"):
            return []
        stats = self._management.read("get_schedule_run_stats")
        if stats is None:
            return []
        families = [self._by_task(section(stats, "runs") or {}), Family(catalog.SCHEDULER_STORE_ERRORS)]
        if "running" in stats:
            families.append(Family(catalog.SCHEDULER_RUNNING, [((), number(stats, "running") or 0)]))
        errors = section(stats, "store_errors") or {}
        for operation in list(errors):
            _add(families[1], (str(operation),), number(errors, operation))
        lag = distribution(stats, "lag")
        return families if lag is None else [*families, Family(catalog.SCHEDULER_LAG, [((), lag)])]

    def _by_task(self, runs: Mapping[str, Any]) -> Family:
        counts: dict[tuple[str, ...], Number] = {}
        for task in list(runs):
            results = section(runs, task) or {}
            own = self._budget.admits((str(task),), len(results))
            for result in list(results):
                labels = (str(task) if own else OTHER, str(result))
                counts[labels] = counts.get(labels, 0) + (number(results, result) or 0)
        return Family(catalog.SCHEDULER_RUNS, list(counts.items()))

    async def _schedules(self, enabled: Number) -> list[Family]:
        """When the schedules that repeat run next, and ran last."""
        self.dropped = 0
        if not self._management.has("list_schedules"):
            return []
        if enabled > MOST_LISTED:
            self.dropped = SERIES_EACH * int(enabled)
            return []
        listed = await self._management.ask("list_schedules", enabled_only=True)
        repeating = [schedule for schedule in listed if str(schedule["schedule_type"]) in _REPEATING]
        # Always the same ones, whichever is due next.
        repeating.sort(key=lambda schedule: (str(schedule.get("created_at")), str(schedule["id"])))
        self.dropped = SERIES_EACH * len(repeating[MOST_SCHEDULES:])
        info = Family(catalog.SCHEDULE_INFO)
        following, last = Family(catalog.SCHEDULE_NEXT_RUN), Family(catalog.SCHEDULE_LAST_RUN)
        updated, period = Family(catalog.SCHEDULE_UPDATED), Family(catalog.SCHEDULE_PERIOD)
        for schedule in repeating[:MOST_SCHEDULES]:
            labels = (str(schedule["id"]), str(schedule["task_name"]))
            info.points.append(((*labels, *_description(schedule)), 1))
            # A naive datetime is a local time, as ``timestamp`` takes it.
            _add(following, labels, timestamp(schedule, "next_run_at"))
            _add(last, labels, timestamp(schedule, "last_run_at"))
            _add(updated, labels, timestamp(schedule, "updated_at"))
            _add(period, labels, number(schedule, "period"))
        return [info, following, last, updated, period]


def _description(schedule: Mapping[str, Any]) -> tuple[str, str]:
    """What a schedule is for, and when it runs. People write texts with URLs, so passwords in these are masked."""
    runs = f"{schedule['schedule_type']} {schedule.get('schedule') or ''}"
    told = mask_secrets(str(schedule.get("description") or ""))
    return told[:MOST_CHARACTERS], mask_secrets(runs.strip())[:MOST_CHARACTERS]


def _state(stats: Mapping[str, Any]) -> list[Family]:
    families = [Family(metric) for metric in _FIGURES.values()]
    for family, key in zip(families, _FIGURES, strict=True):
        _add(family, (), number(stats, key))
    schedules, following = Family(catalog.SCHEDULER_SCHEDULES), Family(catalog.SCHEDULER_NEXT_RUN)
    for state, key in _STATES.items():
        _add(schedules, (state,), number(stats, key))
    _add(following, (), timestamp(stats, "next_run_at"))
    info = Family(catalog.SCHEDULER_INFO, [((mask_secrets(str(stats.get("store", ""))),), 1)])
    return [info, *families, schedules, following]


def _add(family: Family, labels: tuple[str, ...], value: Number | None) -> None:
    if value is not None:
        family.points.append((labels, value))
