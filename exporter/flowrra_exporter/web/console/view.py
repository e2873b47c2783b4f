"""What the page shows: gathered once for all who look within the same second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowrra_exporter.app.lifecycle import Lifecycle
from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.app.stall import Stall, current_stall, past_stall, read_runtime_stats
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.metrics.queue_figures import broker_time
from flowrra_exporter.metrics.samples import Number
from flowrra_exporter.probes.checks import Check, Checks, components
from flowrra_exporter.web.console.activity import WINDOW, Activities, Activity
from flowrra_exporter.web.console.figures import Figures
from flowrra_exporter.web.console.findings import ExecutorFacts, Facts, Finding, QueueFacts, find
from flowrra_exporter.web.console.rates import Rates, Readings
from flowrra_exporter.web.failures import Failures, Listing

# Whose rates the page shows.
COUNTERS = (
    *(catalog.TASKS_SUCCEEDED, catalog.TASKS_FAILED, catalog.TASKS_RETRIED, catalog.TASKS_REDELIVERED),
    catalog.SCHEDULER_RUNS,
)
# The longest that the page waits for a collector: what isn't there by then is shown as not known.
_WAIT_SECONDS = 1.0
# For how long all pages are made from the same view.
_FRESH_SECONDS = 0.5

_HEALTHY = Finding("good", "Healthy", "Every component is healthy, and tasks get on.")


class Identity(NamedTuple):
    """What is being looked at.

    Attributes:
        name: ``MODULE:APP`` as the command was given it, or the class of the app.
        host: The name of this host.
        pid: The process id of the exporter, which is the app's, too, unless it's observed.
        started_at: When the exporter began to serve.
        mode: ``command``, ``library`` or ``observer``.
    """

    name: str
    host: str
    pid: int
    started_at: datetime
    mode: str


@dataclass(frozen=True)
class View:
    """Everything on the page as of a moment.

    Attributes:
        identity: What is being looked at.
        findings: What is wrong, the worst first.
        attached: There is an app whose Management API can be asked.
        observed: The app is run by other processes, and only what they share is there to see.
        blocked: What blocks the app's event loop now.
        activity: What became of attempts in this process; None if nobody tells.
        has: Whether the Management API has a method.
    """

    at: datetime
    identity: Identity
    findings: Sequence[Finding]
    attached: bool
    observed: bool
    health: list[Check]
    figures: Figures
    rates: Rates
    failures: Listing | None
    blocked: Stall | None
    last_stall: Stall | None
    activity: Activity | None
    has: Callable[[str], bool]

    @property
    def headline(self) -> Finding:
        """The worst of what is wrong, or that all is well."""
        return self.findings[0] if self.findings else _HEALTHY


class Viewer:
    """Gathers views. ``management`` and ``app_loop`` return what there is, None before there is an app."""

    def __init__(
        self,
        identity: Callable[[], Identity],
        lifecycle: Lifecycle,
        checks: Checks,
        collections: Collections,
        failures: Failures,
        management: Callable[[], Management | None],
        app_loop: Callable[[], AppLoop | None],
    ) -> None:
        self._identity = identity
        self._lifecycle = lifecycle
        self._checks = checks
        self._collections = collections
        self._failures = failures
        self._management = management
        self._app_loop = app_loop
        self._readings = Readings()
        self._activities = Activities(management)
        self._gathered: asyncio.Task[View] | None = None
        self._gathered_at = 0.0

    async def view(self) -> View:
        """What there is to see, within a second or so, whatever the app is doing; gathered at most twice a second."""
        now = time.monotonic()
        if self._gathered is None or (self._gathered.done() and now - self._gathered_at >= _FRESH_SECONDS):
            self._gathered, self._gathered_at = asyncio.create_task(self._gather()), now
        return await asyncio.shield(self._gathered)  # a page that isn't made after all doesn't take it from the others

    async def _gather(self) -> View:
        snapshot, health, failures = await asyncio.gather(
            self._collections.snapshot(_WAIT_SECONDS), self._checks.health(), self._list_failures()
        )
        figures = Figures(snapshot.families)
        counters = {metric.name: figures.numbers(metric) for metric in COUNTERS}
        management = self._management()
        runtime = read_runtime_stats(management)
        blocked, at = self._blocked(runtime), datetime.now(UTC)
        rates = self._readings.add(time.monotonic(), counters, figures.numbers(catalog.QUEUE_PENDING))
        activity = self._activities.latest()
        phase, message = self._lifecycle.status
        facts = Facts(
            phase=phase,
            message=mask_secrets(message),
            blocked=blocked,
            components=[each._replace(message=mask_secrets(each.message)) for each in components(health)],
            executors=_executors(figures),
            queues=_queues(figures, at, rates),
            workers=figures.number(catalog.WORKER_PROCESSES),
            idle=None if activity is None else activity.idle,
            running=_running(figures),
            names=[] if activity is None else activity.failing,
            window=WINDOW if activity is None or activity.lately is None else min(WINDOW, activity.lately.seconds),
            listed_failures=_recent(failures, at) if activity is None else 0,
            overdue=figures.number(catalog.SCHEDULER_OVERDUE),
            broken=figures.number(catalog.SCHEDULER_BROKEN),
            missed=_missed(rates),
            redelivered=rates.added(catalog.TASKS_REDELIVERED),
            unfit=sorted(reason for (reason,), unfit in figures.numbers(catalog.BROKER_UNFIT).items() if unfit),
            collectors=sorted(name for (name,), ok in figures.numbers(catalog.COLLECTOR_SUCCESS).items() if not ok),
        )
        return View(
            at=at,
            identity=self._identity(),
            findings=find(facts),
            attached=management is not None,
            observed=management is not None and management.observes,
            health=components(health),
            figures=figures,
            rates=rates,
            failures=failures,
            blocked=blocked,
            last_stall=past_stall(runtime.get("last_stall")),
            activity=activity,
            has=_has_nothing if management is None else management.has,
        )

    async def _list_failures(self) -> Listing | None:
        try:
            return await self._failures.latest()
        except NoSuchMethod:
            return None

    def _blocked(self, runtime: Mapping[str, Any]) -> Stall | None:
        loop = self._app_loop()
        if loop is None or loop.ended or not loop.unresponsive:
            return None
        return current_stall(loop, runtime)


def _has_nothing(_method: str) -> bool:
    return False


def waiting(figures: Figures) -> Number | None:
    """How many tasks wait in all queues."""
    pending = figures.total(catalog.QUEUE_PENDING)
    return figures.number(catalog.TASKS_PENDING) if pending is None else pending


def waits(figures: Figures, at: datetime, since: float) -> float:
    """For how many seconds the task waits that a queue says has been due since then, by the broker's clock."""
    return max(0.0, broker_time(at.timestamp(), figures.number(catalog.BROKER_CLOCK_OFFSET)) - since)


def _executors(figures: Figures) -> list[ExecutorFacts]:
    return [
        ExecutorFacts(
            name,
            figures.number(catalog.EXECUTOR_WORKERS, name),
            figures.number(catalog.EXECUTOR_BUSY_WORKERS, name),
            bool(figures.number(catalog.EXECUTOR_STUCK, name)),
            bool(figures.number(catalog.EXECUTOR_DRAINING, name)),
        )
        for (name,) in sorted(figures.numbers(catalog.EXECUTOR_RUNNING))
    ]


def _running(figures: Figures) -> list[tuple[str, float]]:
    """Names with how many of their attempts run, the most first."""
    found = [(name, number) for (name,), number in figures.numbers(catalog.TASKS_RUNNING).items() if number > 0]
    return sorted(found, key=lambda each: (-each[1], each[0]))


def _queues(figures: Figures, at: datetime, rates: Rates) -> list[QueueFacts]:
    found = []
    for executor, queue, *_ in sorted(figures.numbers(catalog.QUEUE_INFO)):
        oldest = figures.number(catalog.QUEUE_OLDEST_PENDING, executor, queue)
        found.append(
            QueueFacts(
                queue,
                executor,
                figures.number(catalog.QUEUE_PENDING, executor, queue),
                None if oldest is None else waits(figures, at, oldest),
                figures.number(catalog.QUEUE_DEAD, executor, queue),
                figures.number(catalog.QUEUE_UNKNOWN, executor, queue),
                bool(figures.number(catalog.QUEUE_PAUSED, executor, queue)),
                rates.growth(executor, queue),
            )
        )
    return found


def _missed(rates: Rates) -> float | None:
    found = [rates.added(catalog.SCHEDULER_RUNS, result=result) for result in ("missed", "failed")]
    known = [each for each in found if each is not None]
    return round(sum(known)) if known else None


def _recent(listing: Listing | None, at: datetime) -> int:
    """How many of the tasks that are listed failed within the window."""
    found = [] if listing is None else listing.failures
    return sum(1 for each in found if each.finished_at and (at - each.finished_at).total_seconds() <= WINDOW)
