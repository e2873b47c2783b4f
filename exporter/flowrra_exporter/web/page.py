"""The page at ``/``: what this is, which version, and where to find what."""

from __future__ import annotations

import html

from aiohttp import web

from flowrra_exporter._version import __version__
from flowrra_exporter.lifecycle import Lifecycle

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flowrra exporter</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }}
dt {{ font-weight: 600; }}
</style>
</head>
<body>
<main>
<h1>Flowrra exporter</h1>
<p>Version {version}. State: {state}.</p>
<dl>
{links}
</dl>
</main>
</body>
</html>
"""


class PageRoute:
    """Serves the page. `telemetry_path` is where the metrics are."""

    def __init__(self, telemetry_path: str, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._links = {
            telemetry_path: "Metrics for Prometheus, as text or OpenMetrics",
            "/livez": "Liveness probe",
            "/readyz": "Readiness probe",
            "/startupz": "Startup probe",
            "/healthz": "The app's health check",
            "/api/stats": "Executors, tasks and scheduler, as JSON",
            "/api/health": "Health by component, as JSON",
            "/api/tasks": "Registered tasks, as JSON",
        }

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [web.get("/", self.get)]

    async def get(self, _request: web.Request) -> web.Response:
        """Answers with the page."""
        rows = [f'<dt><a href="{path}">{path}</a></dt><dd>{text}</dd>' for path, text in self._links.items()]
        state = html.escape(self._lifecycle.status.message)
        text = _PAGE.format(version=html.escape(__version__), state=state, links="\n".join(rows))
        return web.Response(text=text, content_type="text/html")
