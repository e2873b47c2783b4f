"""Serves the console's pages. However many look, each form of a page is made at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from aiohttp import web

from flowrra_exporter.app.management import Management
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.paths import for_router
from flowrra_exporter.web.actions import Actions, Outcome
from flowrra_exporter.web.actions.requests import BACK_FIELD, LONGEST_BACK
from flowrra_exporter.web.api.endpoints import MAX_CURSOR
from flowrra_exporter.web.console.context import NO_REFRESH, REFRESH_PARAMETER, Context, logger
from flowrra_exporter.web.console.document import POLICY, Endpoint, Surroundings, document
from flowrra_exporter.web.console.page import Content, Page, cannot_be_shown
from flowrra_exporter.web.console.parts import note, notice
from flowrra_exporter.web.console.view import Viewer
from flowrra_exporter.web.parameters import MAX_ID, MAX_TEXT
from flowrra_exporter.web.responses import USER, shows_task_data, text_response

_FRESH_SECONDS = 1.0
# Under no-referrer a browser hides from where a form was sent, and an action that comes from nowhere is refused.
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
# So many forms of pages are kept, and so many pages are made at a time; the rest wait for their turn.
_MOST_KEPT = 64
_MOST_AT_ONCE = 16
# What stands in a parameter beyond this length is cut off. It is one more than an action takes: what was cut off is
# refused, and never taken for another task that is called so.
_LONGEST_PARAMETER = MAX_TEXT + 1
_LONGEST = {"id": MAX_ID + 1, "task_id": MAX_ID + 1, "cursor": MAX_CURSOR, BACK_FIELD: LONGEST_BACK}


class _Key(NamedTuple):
    """What a page depends on, besides the view."""

    path: str
    query: tuple[tuple[str, str], ...]
    refresh: bool
    task_data: bool
    user: str | None


class _Answer(NamedTuple):
    status: int
    text: str
    location: str


class _Rights(NamedTuple):
    """Whether a client may act, its token, and what came of the action that has led it to the page."""

    allowed: bool
    token: str
    outcome: Outcome | None


class _Made(NamedTuple):
    """A page that is made or in the making, begun ``at`` a moment of the monotonic clock."""

    at: float
    answer: asyncio.Task[_Answer]


class ConsoleRoutes:
    """The console.

    Args:
        pages: Its pages.
        viewer: Gathers what all of them are made from.
        management: Returns the Management API, None before there is an app.
        endpoints: What else there is to ask, for the footer.
        show_task_data: Clients that have proved who they are see arguments, results and errors.
        actions: What clients may do.
    """

    def __init__(
        self,
        pages: Sequence[Page],
        viewer: Viewer,
        management: Callable[[], Management | None],
        endpoints: Sequence[Endpoint],
        show_task_data: bool,
        actions: Actions,
    ) -> None:
        self._pages = pages
        self._viewer = viewer
        self._management = management
        self._endpoints = endpoints
        self._show_task_data = show_task_data
        self._actions = actions
        self._kept: OrderedDict[_Key, _Made] = OrderedDict()
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._failed_methods: dict[str, ThrottledWarning] = {}

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        return [web.get(for_router(page.path), partial(self.get, page)) for page in self._pages]

    async def get(self, page: Page, request: web.Request) -> web.Response:
        """Answers with the page, also while the app's loop is blocked."""
        allowed, outcome = self._actions.allowed(request), self._actions.outcome(request)
        key = _Key(
            request.rel_url.raw_path,
            _taken(page, request.query),
            request.query.get(REFRESH_PARAMETER) != NO_REFRESH,
            shows_task_data(request, self._show_task_data),
            request[USER] if allowed else None,
        )
        # After an action the page is made anew, as the one that is kept is from before.
        is_kept = page.is_kept and outcome is None
        made = self._kept.get(key) if is_kept else None
        if made is None or time.monotonic() - made.at >= _FRESH_SECONDS:
            rights = _Rights(allowed, self._actions.token(request) if allowed else "", outcome)
            making = self._make(page, key, dict(request.match_info), rights)
            made = _Made(time.monotonic(), asyncio.create_task(making))
            if is_kept:
                self._keep(key, made)
        answer = await asyncio.shield(made.answer)  # a client that goes away doesn't take it from the others
        headers = {**_HEADERS, "Location": answer.location} if answer.location else _HEADERS
        return text_response(answer.text, answer.status, content_type="text/html", headers=headers)

    def _keep(self, key: _Key, made: _Made) -> None:
        self._kept[key] = made
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    async def _make(self, page: Page, key: _Key, parts: Mapping[str, str], rights: _Rights) -> _Answer:
        async with self._turns:
            view = await self._viewer.view()
            there = [each for each in self._pages if each.available(view)]
            context = Context(
                view=view,
                path=key.path,
                parts=parts,
                query=dict(key.query),
                refresh=key.refresh,
                task_data=key.task_data,
                actions=rights.allowed,
                token=rights.token,
                outcome=rights.outcome,
                management=self._management(),
                failed=self._failed,
                pages=frozenset(each.path for each in there),
            )
            content = await _content(page, context)
            around = Surroundings([each for each in there if each.group is not None], self._endpoints)
            status = 303 if content.location else content.status
            return _Answer(status, document(context, page, content, around), content.location)

    def _failed(self, method: str) -> ThrottledWarning:
        return self._failed_methods.setdefault(method, ThrottledWarning(logger, f"{method}() failed %d times"))


async def _content(page: Page, context: Context) -> Content:
    view = context.view
    if view.attached and not page.available(view):
        return Content(note("This app has nothing to show here: what the page asks for is missing."), page.title, 404)
    if not view.attached and page.group is not None and page.parameters:
        return Content(notice(view.headline.level, f"There is nothing to see yet: {view.headline.sentence}"))
    try:
        return await page.render(context)
    except Exception as error:  # noqa: BLE001 - as of a part of a page: the rest of the console is there all the same
        return Content(cannot_be_shown(page.title, error), status=500)


def _taken(page: Page, query: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The parameters that a page takes, each once, in one order, bounded: other queries give no other page."""
    return tuple(
        (name, query[name][: _LONGEST.get(name, _LONGEST_PARAMETER)])
        for name in sorted(page.parameters)
        if query.get(name)
    )
