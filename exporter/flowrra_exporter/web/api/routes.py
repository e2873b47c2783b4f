"""The Management API's read-only queries as JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from flowrra_exporter.app.loop import CallTimeout, LoopUnavailable
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.metrics.collectors.scheduler import MOST_LISTED
from flowrra_exporter.paths import API, for_router
from flowrra_exporter.probes.checks import Checks
from flowrra_exporter.web.api import openapi
from flowrra_exporter.web.api.endpoints import ENDPOINTS, Endpoint
from flowrra_exporter.web.api.rendering import render
from flowrra_exporter.web.failures import Failures
from flowrra_exporter.web.parameters import ID, BadValue, Parameter, read_texts
from flowrra_exporter.web.refusals import is_of_flowrra, status_of, text_of
from flowrra_exporter.web.responses import json_response, json_text_response, problem_response, shows_task_data

logger = logging.getLogger(__name__)

# The method of the Management API that each path without an id needs.
METHODS = {each.path: each.method for each in ENDPOINTS if not each.id_parameter}


class ApiRoutes:
    """The routes of ``ENDPOINTS``, and of the document that describes them.

    Args:
        checks: Asks the Management API for a client that won't wait.
        management: Returns the Management API, None before there is an app.
        failures: Lists the tasks that failed last.
        show_task_data: Clients that have proved who they are see what tasks were given and what they raised.
        authenticates: Returns whether clients have to prove who they are.
        actions: Clients that have may act.
    """

    def __init__(
        self,
        checks: Checks,
        management: Callable[[], Management | None],
        failures: Failures,
        show_task_data: bool,
        authenticates: Callable[[], bool] = lambda: False,
        actions: bool = False,
    ) -> None:
        self._checks = checks
        self._management = management
        self._failures = failures
        self._show_task_data = show_task_data
        self._authenticates = authenticates
        self._actions = actions
        self._failed_methods: dict[str, ThrottledWarning] = {}

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [
            *(web.get(for_router(each.path), partial(self.get, each)) for each in ENDPOINTS),
            web.get(f"{API}openapi.json", self.get_document),
        ]

    async def get_document(self, _request: web.Request) -> web.Response:
        """The OpenAPI document."""
        management = self._management()
        if management is None:
            return problem_response(503, "the app is starting")
        return json_response(openapi.document(management, self._authenticates(), self._actions))

    async def get(self, endpoint: Endpoint, request: web.Request) -> web.Response:
        """What a method of the Management API answers."""
        shown = shows_task_data(request, self._show_task_data)
        try:
            arguments = _arguments(endpoint, request)
        except BadValue as error:
            return problem_response(400, str(error), parameter=error.parameter)
        for name in endpoint.hidden_parameters & arguments.keys():
            if not shown:
                return problem_response(403, f"{name} is for clients that may see task data", parameter=name)
        try:
            answer = await self._answer(endpoint, arguments)
        except NoSuchMethod as error:
            return problem_response(404, str(error))
        except (LoopUnavailable, CallTimeout) as error:
            return problem_response(503, str(error))
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            return self._failed(endpoint, error, shown)
        if answer is None and endpoint.id_parameter:
            return problem_response(404, f"nothing is known of {request.match_info['id'][:100]!r}")
        if isinstance(answer, web.Response):
            return answer
        return json_text_response(await render(answer, frozenset() if shown else endpoint.hidden))

    async def _answer(self, endpoint: Endpoint, arguments: dict[str, Any]) -> Any:
        if endpoint.method == "list_failed_tasks":
            return await self._latest_failures(arguments["limit"])
        if endpoint.method == "list_schedules":
            return await self._all_schedules()
        management = self._management()
        if endpoint.how == "read" and management is not None and management.has(endpoint.method):
            return management.read(endpoint.method, **arguments)
        return await self._checks.ask(endpoint.method, **arguments)

    async def _latest_failures(self, limit: int) -> Any:
        listing = await self._failures.latest()
        if listing.problem:
            return problem_response(503, listing.problem)
        return {"as_of": listing.at, "failures": [failure._asdict() for failure in listing.failures[:limit]]}

    async def _all_schedules(self) -> Any:
        """The schedules; of a great many, which would hold up the app's loop, only that. Each with its time zone."""
        try:
            stats = await self._checks.ask("get_scheduler_stats") or {}
        except NoSuchMethod:
            stats = {}
        if (total := stats.get("total_schedules") or 0) > MOST_LISTED:
            return problem_response(503, f"there are {total} schedules; at most {MOST_LISTED} are listed here")
        schedules = await self._checks.ask("list_schedules")
        return [_with_zone(schedule, stats.get("timezone")) for schedule in schedules]

    def _failed(self, endpoint: Endpoint, error: Exception, shown: bool) -> web.Response:
        method, status = endpoint.method, status_of(error)
        if status != 503 and is_of_flowrra(error):  # a cursor that is none, a task that isn't registered
            return problem_response(404 if status == 404 else 400, text_of(method, error, shown))
        warning = self._failed_methods.setdefault(method, ThrottledWarning(logger, f"{method}() failed %d times"))
        warning.warn(error=error)
        return problem_response(503, f"{method}() failed: {type(error).__name__}")


def _arguments(endpoint: Endpoint, request: web.Request) -> dict[str, Any]:
    """What the method is asked for.

    Raises:
        BadValue: The query makes no sense, or nothing can have the id.
    """
    arguments = read_texts(endpoint.parameters, list(request.query.items()))
    if endpoint.id_parameter:
        parameter = Parameter("id", ID, "", required=True)
        arguments[endpoint.id_parameter] = read_texts([parameter], [("id", request.match_info["id"])])["id"]
    return arguments


def _with_zone(schedule: Mapping[str, Any], zone: str | None) -> dict[str, Any]:
    """A schedule whose expression is read in the scheduler's zone tells that one."""
    if "timezone" not in schedule:
        return dict(schedule)
    return {**schedule, "timezone": schedule["timezone"] or zone}
