"""The metrics, in the text format or OpenMetrics."""

from __future__ import annotations

import logging
import math

from aiohttp import web

from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.web.negotiation import accepts_gzip, choose_format

logger = logging.getLogger(__name__)

_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
# What is left of the scraper's own deadline for rendering and for the way back.
_TRANSFER_SECONDS = 0.25


class MetricsRoute:
    """Serves the collection. More than ``limit`` scrapes at once are turned away with 503."""

    def __init__(self, path: str, collections: Collections, limit: int) -> None:
        self._path = path
        self._collections = collections
        self._limit = limit
        self._active = 0
        self._turned_away = ThrottledWarning(logger, f"turned away %d scrapes: {limit} were being answered already")

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [web.get(self._path, self.get)]

    async def get(self, request: web.Request) -> web.Response:
        """Answers a scrape."""
        if self._active >= self._limit:
            self._turned_away.warn()
            text = f"503: {self._limit} scrapes are being answered already; try again later\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        self._active += 1
        try:
            return await self._answer(request)
        finally:
            self._active -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        format = choose_format(",".join(request.headers.getall("Accept", [])))
        gzip = accepts_gzip(",".join(request.headers.getall("Accept-Encoding", [])))
        snapshot = await self._collections.snapshot(_timeout(request))
        headers = {"Content-Type": format.value, "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=await snapshot.body(format, gzip), headers=headers)


def _timeout(request: web.Request) -> float | None:
    """The time that the scraper gives us, in seconds: Prometheus says it in a header."""
    try:
        seconds = float(request.headers.get(_TIMEOUT_HEADER, ""))
    except ValueError:
        return None
    return max(seconds - _TRANSFER_SECONDS, seconds / 2) if math.isfinite(seconds) and seconds > 0 else None
