"""What the page shows: gathered once for all who look within the same second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from flowrra_exporter.app.lifecycle import Lifecycle, Phase
from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.app.stall import Stall, current_stall, past_stall, read_runtime_stats
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.probes.checks import Check, Checks, components
from flowrra_exporter.web.failures import Failures, Listing
from flowrra_exporter.web.page.figures import Figures
from flowrra_exporter.web.page.rates import Rates, Readings

# Whose rates the page shows.
COUNTERS = (catalog.TASKS_SUCCEEDED, catalog.TASKS_FAILED, catalog.TASKS_RETRIED)
# The longest that the page waits for a collector: what isn't there by then is shown as not known.
_WAIT_SECONDS = 1.0

Level = Literal["good", "busy", "bad"]


class Headline(NamedTuple):
    """The state of it all: a word or two, and a sentence."""

    level: Level
    words: str
    sentence: str


@dataclass(frozen=True)
class View:
    """Everything on the page as of a moment.

    Attributes:
        observed: The app is run by other processes, and only what they share is there to see.
        blocked: What blocks the app's event loop now.
    """

    at: datetime
    headline: Headline
    attached: bool
    observed: bool
    health: list[Check]
    figures: Figures
    rates: Rates
    failures: Listing | None
    blocked: Stall | None
    last_stall: Stall | None


class Viewer:
    """Gathers views. ``management`` and ``app_loop`` return what there is, None before there is an app."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        checks: Checks,
        collections: Collections,
        failures: Failures,
        management: Callable[[], Management | None],
        app_loop: Callable[[], AppLoop | None],
    ) -> None:
        self._lifecycle = lifecycle
        self._checks = checks
        self._collections = collections
        self._failures = failures
        self._management = management
        self._app_loop = app_loop
        self._readings = Readings()

    async def view(self) -> View:
        """What there is to see, within a second or so, whatever the app is doing."""
        snapshot, health, failures = await asyncio.gather(
            self._collections.snapshot(_WAIT_SECONDS), self._checks.health(), self._list_failures()
        )
        figures = Figures(snapshot.families)
        counters = {metric.name: figures.numbers(metric) for metric in COUNTERS}
        management = self._management()
        runtime = read_runtime_stats(management)
        blocked = self._blocked(runtime)
        return View(
            at=datetime.now(UTC),
            headline=_headline(self._lifecycle, components(health), blocked),
            attached=management is not None,
            observed=management is not None and management.observes,
            health=components(health),
            figures=figures,
            rates=self._readings.add(time.monotonic(), counters),
            failures=failures,
            blocked=blocked,
            last_stall=past_stall(runtime.get("last_stall")),
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


def _headline(lifecycle: Lifecycle, health: list[Check], blocked: Stall | None) -> Headline:
    phase, message = lifecycle.status
    if phase is Phase.FAILED:
        return Headline("bad", "Failed", message)
    if blocked is not None:
        return Headline("bad", "Event loop blocked", "the app's event loop doesn't turn, so no task gets on")
    if phase is not Phase.RUNNING:
        words = {Phase.STARTING: "Starting", Phase.DRAINING: "Shutting down", Phase.STOPPED: "Stopped"}
        return Headline("busy", words[phase], message)
    failing = [f"{check.name}: {mask_secrets(check.message)}" for check in health if not check.ok]
    if failing:
        return Headline("bad", "Unhealthy", "; ".join(failing))
    return Headline("good", "Healthy", "every component is healthy")
