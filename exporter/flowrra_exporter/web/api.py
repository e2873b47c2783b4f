"""The Management API's read-only queries as JSON."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from flowrra_exporter.app_loop import CallTimeout, LoopUnavailable
from flowrra_exporter.checks import Checks
from flowrra_exporter.management import NoSuchMethod
from flowrra_exporter.web.responses import json_response

logger = logging.getLogger(__name__)


class ApiRoutes:
    """/api/stats, /api/health, /api/tasks."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [
            web.get("/api/stats", self.stats),
            web.get("/api/health", self.health),
            web.get("/api/tasks", self.tasks),
        ]

    async def stats(self, _request: web.Request) -> web.Response:
        """What `get_stats` answers."""
        return await self._answer("get_stats")

    async def health(self, _request: web.Request) -> web.Response:
        """What `health_check` answers."""
        return await self._answer("health_check")

    async def tasks(self, _request: web.Request) -> web.Response:
        """What `list_registered_tasks` answers."""
        return await self._answer("list_registered_tasks")

    async def _answer(self, method: str) -> web.Response:
        try:
            answer: Any = await self._checks.ask(method)
        except NoSuchMethod as error:
            return json_response({"error": str(error)}, 404)
        except (LoopUnavailable, CallTimeout) as error:
            return json_response({"error": str(error)}, 503)
        except Exception as error:
            logger.warning("%s() failed", method, exc_info=True)
            return json_response({"error": f"{method}() failed: {type(error).__name__}"}, 503)
        return json_response(answer)
