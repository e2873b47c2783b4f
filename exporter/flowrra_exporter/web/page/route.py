"""Serves the page. However many look, each of its few forms is made at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web

from flowrra_exporter.paths import PAGE
from flowrra_exporter.web.page.document import NO_REFRESH, POLICY, REFRESH_PARAMETER, Form, document
from flowrra_exporter.web.page.view import Viewer
from flowrra_exporter.web.responses import shows_task_data, text_response

_FRESH_SECONDS = 1.0
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}


class _Made(NamedTuple):
    """A page that is made or in the making, begun ``at`` a moment of the monotonic clock."""

    at: float
    text: asyncio.Task[str]


class PageRoute:
    """The status page.

    Args:
        viewer: Gathers what it shows.
        links: Paths with what they lead to.
        show_task_data: Clients that have proved who they are see errors and arguments of failed tasks.
        max_series: The bound on the series of task names; None without one.
    """

    def __init__(
        self, viewer: Viewer, links: Mapping[str, str], show_task_data: bool, max_series: int | None = None
    ) -> None:
        self._viewer = viewer
        self._links = links
        self._show_task_data = show_task_data
        self._max_series = max_series
        self._made: dict[Form, _Made] = {}

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [web.get(PAGE, self.get)]

    async def get(self, request: web.Request) -> web.Response:
        """Answers with the page, also while the app's loop is blocked."""
        refresh = request.query.get(REFRESH_PARAMETER) != NO_REFRESH
        form = Form(refresh, shows_task_data(request, self._show_task_data))
        made = self._made.get(form)
        if made is None or time.monotonic() - made.at >= _FRESH_SECONDS:
            made = self._made[form] = _Made(time.monotonic(), asyncio.create_task(self._make(form)))
        text = await asyncio.shield(made.text)  # a client that goes away doesn't take it from the others
        return text_response(text, content_type="text/html", headers=_HEADERS)

    async def _make(self, form: Form) -> str:
        return await document(await self._viewer.view(), form, self._links, self._max_series)
