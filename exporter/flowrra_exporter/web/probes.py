"""Kubernetes probes: status code first, and JSON that says why."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from flowrra_exporter.checks import Check, Checks
from flowrra_exporter.web.responses import json_response


class ProbeRoutes:
    """/livez, /readyz, /startupz, and /healthz in the shape that the Management API's document shows."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/startupz", self.startupz),
            web.get("/healthz", self.healthz),
        ]

    async def livez(self, _request: web.Request) -> web.Response:
        """200 unless a restart would help."""
        return _answer(self._checks.liveness())

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 if the app can do its work."""
        return _answer(await self._checks.readiness())

    async def startupz(self, _request: web.Request) -> web.Response:
        """200 once the app has started."""
        return _answer(self._checks.startup())

    async def healthz(self, _request: web.Request) -> web.Response:
        """The app's health check, as JSON; 503 if it is unhealthy."""
        health = await self._checks.health()
        healthy = bool(health.get("healthy"))
        body = {
            "status": "healthy" if healthy else "unhealthy",
            "timestamp": health.get("timestamp"),
            "details": health.get("components"),
        }
        return json_response(body, 200 if healthy else 503)


def _answer(checks: Sequence[Check]) -> web.Response:
    ok = all(check.ok for check in checks)
    details = {check.name: {"status": _word(check.ok), "message": check.message} for check in checks}
    return json_response({"status": _word(ok), "checks": details}, 200 if ok else 503)


def _word(ok: bool) -> str:
    return "ok" if ok else "failed"
