"""Changes of tasks as server-sent events, as the WHATWG's HTML standard has them (section 9.2)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from flowrra_exporter.app.management import Management
from flowrra_exporter.app.shared_watch import SharedWatch
from flowrra_exporter.app.watch import MOST_WAITING, Event, Mailbox, Watch
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.paths import EVENTS
from flowrra_exporter.web.access.limits import IDLE_SECONDS, MAX_STREAMS
from flowrra_exporter.web.api.rendering import render
from flowrra_exporter.web.parameters import EVENT_ID, ID, TEXT, BadValue, Parameter, read_texts
from flowrra_exporter.web.refusals import is_of_flowrra, text_of
from flowrra_exporter.web.responses import problem_response, shows_task_data

PARAMETERS = (
    Parameter("task", ID, "Of the task of this id alone"),
    Parameter("name", TEXT, "Of tasks of this name alone"),
    Parameter("queue", TEXT, "Of tasks of this queue alone"),
    Parameter("last_event_id", EVENT_ID, "Go on after the event of this id; the header Last-Event-ID wins"),
)
_HIDDEN = frozenset(("error", "message"))
# A line that says nothing, so that proxies and clients see that the stream lives.
_HEARTBEAT_SECONDS = 10.0
_LOOK_SECONDS = 1.0
# After this a stream ends, and a client that comes again proves anew who it is.
_LONGEST_SECONDS = 900.0
# How long an error that comes at once, such as of an id that is none, may take to be told by a status.
_FIRST_SECONDS = 0.25
_RETRY_MILLISECONDS = 3000
# Streams that go on after an event that only the app remembers have a watch of their own; so many may at a time.
_MOST_OWN_WATCHES = 4
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class EventRoutes:
    """The stream of changes.

    Args:
        management: Returns the Management API, None before there is an app.
        show_task_data: Clients that have proved who they are see what tasks raised.
        most: Returns how many streams there may be at a time.
    """

    def __init__(
        self,
        management: Callable[[], Management | None],
        show_task_data: bool,
        most: Callable[[], int] = lambda: MAX_STREAMS,
    ) -> None:
        self._management = management
        self._show_task_data = show_task_data
        self._most = most
        self._streams: set[Mailbox] = set()
        self._shared: SharedWatch | None = None
        # By the event itself, which is kept with its text: by its id, what partitions tell is another change for a
        # reader that has read them in another order.
        self._written: OrderedDict[tuple[int, frozenset[str]], tuple[Event, str]] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        """The route for the HTTP server."""
        return [web.get(EVENTS, self.get, allow_head=False)]

    async def close(self, _application: web.Application) -> None:
        """Signal when the server stops: ends all streams."""
        for watch in self._streams:
            watch.interrupt()
        if self._shared is not None:
            self._shared.close()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answers with changes as they happen, until the client goes."""
        management = self._management()
        try:
            arguments = _arguments(request)
        except BadValue as error:
            return problem_response(400, str(error), parameter=error.parameter)
        if management is None:
            return problem_response(503, "the app is starting")
        if not management.has("watch"):
            return problem_response(404, "this app has no watch()")
        if len(self._streams) >= self._most():
            response = problem_response(503, f"{len(self._streams)} clients watch already; try again later")
            response.headers["Retry-After"] = "10"
            return response
        watch = self._open(management, arguments)
        self._streams.add(watch)
        try:
            await watch.wait(_FIRST_SECONDS)
            if watch.error is not None:
                return _problem(watch.error, shows_task_data(request, self._show_task_data))
            return await self._stream(request, watch)
        finally:
            self._streams.discard(watch)
            self._close(watch)

    def _open(self, management: Management, arguments: dict[str, str]) -> Mailbox:
        if self._shared is None:
            self._shared = SharedWatch(management.watch)
        wanted = {name: value for name, value in arguments.items() if name != "after"}
        after = arguments.get("after")
        own = sum(isinstance(each, Watch) for each in self._streams)
        if after is None or self._shared.has(after) or self._shared.is_of_none(after) or own >= _MOST_OWN_WATCHES:
            return self._shared.join(wanted, after)
        watch = management.watch(**arguments)
        watch.open()
        return watch

    def _close(self, watch: Mailbox) -> None:
        if isinstance(watch, Watch):
            watch.close()
        elif self._shared is not None:
            self._shared.leave(watch)

    async def _stream(self, request: web.Request, watch: Mailbox) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        hidden = frozenset() if shows_task_data(request, self._show_task_data) else _HIDDEN
        until = time.monotonic() + _LONGEST_SECONDS
        text, written = f"retry: {_RETRY_MILLISECONDS}\n\n", 0.0
        try:
            while not watch.interrupted and time.monotonic() < until and not _is_gone(request):
                is_over = watch.is_over  # asked first: what came just before the end is sent
                events = watch.take()
                text += await self._lines(events, hidden)
                if not events and time.monotonic() - written >= _HEARTBEAT_SECONDS:
                    text += f":\n{self._position(watch)}\n"
                if text:
                    async with asyncio.timeout(IDLE_SECONDS):  # a client that reads nothing has gone, too
                        await response.write(text.encode())
                    text, written = "", time.monotonic()
                if is_over:
                    break
                await watch.wait(_LOOK_SECONDS)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return response

    def _position(self, watch: Mailbox) -> str:
        """A line with the id that a client is to come back with, though nothing that it wants has come yet: a browser
        remembers one that stands alone."""
        if self._shared is None or isinstance(watch, Watch):
            return ""
        return f"id: {self._shared.position}\n"

    async def _lines(self, events: Sequence[Event], hidden: frozenset[str]) -> str:
        """The events as they are sent. Most streams tell the same: each event is written once for all of them."""
        pacer, pieces = Pacer(), []
        for event in events:
            key = (id(event), hidden)
            _, text = self._written.get(key, (event, ""))
            if not text:
                text = f"id: {_in_a_line(event)}\nevent: {event['type']}\ndata: {await render(event, hidden)}\n\n"
                self._written[key] = event, text
                if len(self._written) > MOST_WAITING:
                    self._written.popitem(last=False)
            pieces.append(text)
            await pacer.pause_if_due()
        return "".join(pieces)


def _arguments(request: web.Request) -> dict[str, Any]:
    given = [(name, value) for name, value in request.query.items()]
    if (last := request.headers.get("Last-Event-ID")) is not None:
        given = [*((name, value) for name, value in given if name != "last_event_id"), ("last_event_id", last)]
    arguments = read_texts(PARAMETERS, given)
    after = arguments.pop("last_event_id", None)
    return arguments if after is None else {**arguments, "after": after}


def _problem(error: Exception, shown: bool) -> web.Response:
    is_refusal = isinstance(error, ValueError) and is_of_flowrra(error)
    return problem_response(400 if is_refusal else 503, text_of("watch", error, shown))


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _in_a_line(event: Mapping[str, Any]) -> str:
    return "".join(str(event["id"]).split())
