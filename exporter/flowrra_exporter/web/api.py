"""The Management API's read-only queries as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from flowrra_exporter.app.loop import CallTimeout, LoopUnavailable
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.metrics.collectors.scheduler import MOST_LISTED
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.paths import API_PATHS
from flowrra_exporter.probes.checks import Checks
from flowrra_exporter.web.failures import MOST, Failure, Failures
from flowrra_exporter.web.responses import json_response, json_safe, json_text_response, shows_task_data

logger = logging.getLogger(__name__)

_TASK_DATA = ("error", "arguments")
_FAILURES_BY_DEFAULT = 20


class ApiRoutes:
    """The routes of ``API_PATHS``.

    Args:
        checks: Asks the Management API for a client that won't wait.
        management: Returns the Management API, None before there is an app.
        failures: Lists the tasks that failed last.
        show_task_data: Clients that have proved who they are see what tasks were given and what they raised.
    """

    def __init__(
        self,
        checks: Checks,
        management: Callable[[], Management | None],
        failures: Failures,
        show_task_data: bool,
    ) -> None:
        self._checks = checks
        self._management = management
        self._failures = failures
        self._show_task_data = show_task_data

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        handlers = (
            *(self.stats, self.health, self.tasks, self.queues, self.workers),
            *(self.task_stats, self.schedules, self.failures),
        )
        return [web.get(path, handler) for path, handler in zip(API_PATHS, handlers, strict=True)]

    async def stats(self, _request: web.Request) -> web.Response:
        """What ``get_stats`` answers."""
        return await self._answer("get_stats")

    async def health(self, _request: web.Request) -> web.Response:
        """What ``health_check`` answers."""
        return await self._answer("health_check")

    async def tasks(self, _request: web.Request) -> web.Response:
        """What ``list_registered_tasks`` answers."""
        return await self._answer("list_registered_tasks")

    async def queues(self, _request: web.Request) -> web.Response:
        """What ``get_queue_stats`` answers."""
        return await self._answer("get_queue_stats")

    async def workers(self, _request: web.Request) -> web.Response:
        """What ``list_workers`` answers."""
        return await self._answer("list_workers")

    async def task_stats(self, _request: web.Request) -> web.Response:
        """What ``get_task_stats`` answers: plain numbers, read in this thread even while the app's loop is blocked."""
        management = self._management()
        if management is None or not management.has("get_task_stats"):
            return await self._answer("get_task_stats")  # says why not
        pacer, pieces = Pacer(), []
        try:
            for name, figures in management.read("get_task_stats").items():
                pieces.append(f"{json.dumps(str(name))}: {json.dumps(json_safe(figures))}")
                await pacer.pause_if_due()
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            return _failed("get_task_stats", error)
        return json_text_response(f"{{{', '.join(pieces)}}}")

    async def schedules(self, _request: web.Request) -> web.Response:
        """What ``list_schedules`` answers; of a great many, which would hold up the app's loop, only that."""
        try:
            stats = await self._checks.ask("get_scheduler_stats")
            if stats is not None and stats["total_schedules"] > MOST_LISTED:
                text = f"there are {stats['total_schedules']} schedules; at most {MOST_LISTED} are listed here"
                return json_response({"error": text}, 503)
        except NoSuchMethod:
            pass  # then there is no list either, which the answer says
        except (LoopUnavailable, CallTimeout) as error:
            return json_response({"error": str(error)}, 503)
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            return _failed("get_scheduler_stats", error)
        return await self._answer("list_schedules")

    async def failures(self, request: web.Request) -> web.Response:
        """The tasks that failed last, up to ``limit`` of them (1 to 100): names, ids, times."""
        text = request.query.get("limit", str(_FAILURES_BY_DEFAULT))
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and 1 <= int(text) <= MOST):
            return json_response({"error": f"limit is {text[:50]!r}; expected a whole number from 1 to {MOST}"}, 400)
        try:
            listing = await self._failures.latest()
        except NoSuchMethod as error:
            return json_response({"error": str(error)}, 404)
        if listing.problem:
            return json_response({"error": listing.problem}, 503)
        hidden = () if shows_task_data(request, self._show_task_data) else _TASK_DATA
        found = [_visible(failure, hidden) for failure in listing.failures[: int(text)]]
        return json_response({"as_of": listing.at, "failures": found})

    async def _answer(self, method: str) -> web.Response:
        try:
            answer: Any = await self._checks.ask(method)
        except NoSuchMethod as error:
            return json_response({"error": str(error)}, 404)
        except (LoopUnavailable, CallTimeout) as error:
            return json_response({"error": str(error)}, 503)
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            return _failed(method, error)
        return json_response(answer)


def _failed(method: str, error: Exception) -> web.Response:
    logger.warning("%s() failed", method, exc_info=error)
    return json_response({"error": f"{method}() failed: {type(error).__name__}"}, 503)


def _visible(failure: Failure, hidden: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in failure._asdict().items() if key not in hidden}
