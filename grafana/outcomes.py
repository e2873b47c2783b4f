"""What became of attempts, as several dashboards show it."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import OUTCOMES
from grafana.panels import NONE, Panel, Query, figure, graph, runbook

ENDS = {
    "succeeded": catalog.TASKS_SUCCEEDED,
    "failed": catalog.TASKS_FAILED,
    "retried": catalog.TASKS_RETRIED,
    "cancelled": catalog.TASKS_CANCELLED,
    "released": catalog.TASKS_RELEASED,
}


def outcomes(width: int, links: Sequence[DashboardLink] = ()) -> Panel:
    """Attempts by how they ended."""
    return graph(
        "Attempts by outcome",
        "Every attempt ends as one of these. 'failed' is final, 'retried' is followed by another attempt, 'released' "
        "was given back by a stopping worker.",
        *(Query(q.rate(metric), outcome) for outcome, metric in ENDS.items()),
        unit=units.OpsPerSecond,
        width=width,
        stacked=True,
        colors=OUTCOMES,
        links=links,
    )


def failure_ratio(*by: str, within: str = q.AROUND) -> str:
    """Of the tasks that finished, how many failed for good, by these labels; nothing where none finished."""
    failed, succeeded = (
        q.increase(metric, *by, within=within) for metric in (catalog.TASKS_FAILED, catalog.TASKS_SUCCEEDED)
    )
    return q.ratio(failed, f"({failed} + {succeeded})")


def failure_ratio_now() -> str:
    """The same of what finishes just now, in processes that can be scraped; 0 while none finishes."""
    failed, succeeded = q.rate_now(catalog.TASKS_FAILED), q.rate_now(catalog.TASKS_SUCCEEDED)
    return q.or_none(q.ratio(failed, f"({failed} + {succeeded})"), q.series(catalog.TASKS_RUNNING))


def failing(*links: DashboardLink) -> Panel:
    """A tile: how much of what finishes fails.

    Args:
        *links: Where it leads besides.
    """
    return figure(
        "Failing",
        "Of the tasks that finish now, how many fail with no further attempt.",
        failure_ratio_now(),
        unit=units.PercentUnit,
        thresholds=limits.FAILURES,
        texts=NONE,
        links=[runbook("FlowrraTasksFailing"), *links],
    )


def failing_and_retried() -> list[Panel]:
    """Two tiles: how much of what finishes fails, and how much of what starts is tried again."""
    retried = q.ratio(q.rate_now(catalog.TASKS_RETRIED), q.rate_now(catalog.TASKS_STARTED))
    return [
        failing(),
        figure(
            "Retried",
            "Of the attempts that start now, how many are followed by another one.",
            q.or_none(retried, q.series(catalog.TASKS_RUNNING)),
            unit=units.PercentUnit,
            thresholds=limits.RETRIES,
            texts=NONE,
            links=[runbook("FlowrraRetryStorm")],
        ),
    ]
