"""An app: whether it can be imported, answers the Management API, and fits into the budget of series.

It isn't started, so nothing of it runs but what its module runs; but it is asked, and scraped once as Prometheus would
do it, through the exporter itself.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from flowrra_exporter.app.target import Target, describe, import_target, resolve_target
from flowrra_exporter.check_command.exporter_series import exporter_findings
from flowrra_exporter.check_command.exposition import Exposition
from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.check_command.formats import Asked, openmetrics_finding, text_findings
from flowrra_exporter.embedded import Embedded
from flowrra_exporter.errors import UsageError
from flowrra_exporter.exchange import Request
from flowrra_exporter.metrics.series_budget import SeriesBudget
from flowrra_exporter.metrics.task_figures import read_stats
from flowrra_exporter.observed import observe
from flowrra_exporter.settings import Settings

_SUBJECT = "app"
_MANAGEMENT = "Management API"
_NEEDED = ("get_stats", "health_check")
_WANTED_SHARED = ("get_queue_stats", "list_workers")
_WANTED = ("get_task_stats", "get_queue_stats", "get_runtime_stats", "list_registered_tasks")
_SLOW_IMPORT_SECONDS = 10.0


class AppCheck:
    """Checks an app. ``import_it`` comes first, outside of an event loop, as the command does it.

    Args:
        text: Names the app, as ``module:attribute``.
        settings: Those with which it would be served.
        timeout: The most that each answer may take, in seconds.
    """

    def __init__(self, text: str, settings: Settings, timeout: float) -> None:
        self._text = text
        self._settings = settings
        self._timeout = timeout
        self._found: Any = None
        self.imported = False

    def import_it(self) -> Iterator[Finding]:
        """Whether the module can be imported, and has this attribute."""
        started = time.monotonic()
        try:
            self._found = import_target(self._text)
        except UsageError as failure:
            yield error(_SUBJECT, str(failure))
            return
        self.imported = True
        seconds = time.monotonic() - started
        message = f"{self._text} can be imported, in {seconds:.1f} s"
        yield ok(_SUBJECT, message) if seconds < _SLOW_IMPORT_SECONDS else warning(_SUBJECT, message)

    async def findings(self) -> AsyncIterator[Finding]:
        """What is right and wrong with it. Runs on the loop that stands for the app's."""
        try:
            target = await resolve_target(self._found, self._text)
        except UsageError as failure:
            yield error(_SUBJECT, str(failure))
            return
        yield ok(_SUBJECT, f"it is an app: {type(target.app).__module__}.{type(target.app).__qualname__}")
        if self._settings.observe:
            try:
                observed = await observe(target.manager, self._text)
            except UsageError as failure:
                yield error(_SUBJECT, str(failure))
                return
            target = Target(observed, observed)
        answers: dict[str, Any] = {}
        for method in (*_NEEDED, *(_WANTED_SHARED if self._settings.observe else _WANTED)):
            yield await self._ask(target, method, answers)
        for finding in (*self._tasks(answers), *_broker(answers)):
            yield finding
        async for finding in self._scrape(target):
            yield finding

    async def _ask(self, target: Target, method: str, answers: dict[str, Any]) -> Finding:
        function = getattr(target.manager, method, None)
        if not callable(function):
            return warning(_MANAGEMENT, f"it has no {method}(): the metrics that come from it are absent")
        try:
            answer = function()
            if inspect.isawaitable(answer):
                answer = await asyncio.wait_for(answer, self._timeout)
        except TimeoutError:
            return error(_MANAGEMENT, f"{method}() doesn't answer within {self._timeout:g} s")
        except Exception as failure:  # noqa: BLE001 - whatever the app raises is the finding
            return error(_MANAGEMENT, f"{method}() fails: {describe(failure)}")
        answers[method] = answer
        return ok(_MANAGEMENT, f"{method}() answers")

    def _tasks(self, answers: Mapping[str, Any]) -> Iterator[Finding]:
        """How many tasks there are, and whether each gets series of its own."""
        if "get_task_stats" not in answers:
            return
        budget = SeriesBudget(self._settings.max_series)
        try:
            needed = {str(name): read_stats(stats).series for name, stats in answers["get_task_stats"].items()}
        except Exception as failure:  # noqa: BLE001 - nonsense takes many forms
            yield error(_MANAGEMENT, f"get_task_stats() answers what can't be read: {describe(failure)}")
            return
        if not needed:
            yield warning("tasks", "none is registered: does the module import those that define them?")
            return
        left_out = [name for name, series in needed.items() if not budget.admits((name,), series)]
        total = sum(needed.values())
        if left_out:
            yield error(
                "tasks",
                f"{len(left_out)} of {len(needed)} have no series of their own, {left_out[0]} for one; "
                f"expected --max-series={total} or more, and some for exceptions",
            )
        else:
            yield ok("tasks", f"{len(needed)} are registered; {total} series of {self._settings.max_series}")

    async def _scrape(self, target: Target) -> AsyncIterator[Finding]:
        # Without OpenTelemetry: a check pushes nothing. Without arguments of tasks: nobody authenticates here.
        settings = replace(self._settings, otel_metrics=False, otel_traces=False, web_show_task_data=False)
        path = settings.web_telemetry_path
        try:
            async with Embedded(target.app, settings) as served:
                status, text = await _get(served, path, "*/*")
                _status, openmetrics = await _get(served, path, Asked.OPENMETRICS.value)
                left_out = served.left_out
        except (UsageError, TypeError) as failure:
            yield error(_SUBJECT, f"it can't be served: {failure}")
            return
        if status != 200:
            yield error(_SUBJECT, f"{path} answers {status}: {text}")
            return
        exposition = Exposition(text)
        for finding in (*text_findings(exposition), *exporter_findings(exposition)):
            yield finding
        yield openmetrics_finding(openmetrics)
        for message in left_out:
            yield warning("collectors", message)


async def _get(served: Embedded, path: str, accept: str) -> tuple[int, str]:
    async with served.answer(Request("GET", path, "", [("Accept", accept)], path)) as answer:
        return answer.status, b"".join([piece async for piece in answer.pieces]).decode()


def _broker(answers: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the broker's server is fit to keep tasks; nothing where it isn't known."""
    try:
        queues = [queue for queue in answers.get("get_queue_stats", {}).values() if queue is not None]
        known = {reason: unfit for queue in queues for reason, unfit in (queue.get("unfit") or {}).items()}
        health = answers.get("health_check", {}).get("components", {}).get("broker") or {}
        message = str(health.get("message", ""))
    except Exception as failure:  # noqa: BLE001 - nonsense takes many forms
        yield error(_MANAGEMENT, f"what it says of the broker can't be read: {describe(failure)}")
        return
    if any(known.values()):
        reasons = ", ".join(reason for reason, unfit in known.items() if unfit)
        yield warning("broker", f"its server is unfit to keep tasks ({reasons}): {message}")
    elif known and None not in known.values():
        yield ok("broker", "its server is fit to keep tasks")
