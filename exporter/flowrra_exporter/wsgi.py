"""Metrics and probes as a WSGI application, for Flask, Django and every WSGI server::

    metrics = Application(app)
    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {"/internal": metrics})

A WSGI server has no event loop, so the app runs on one in a thread of yours, and so does the exporter::

    async with app, metrics: ...

Until then every request gets 503. In a prefork server, start that thread after the fork. The answers need a
worker that is free, but not the app's loop: while that is blocked, the probes say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flowrra_exporter.embedded import Embedded, Request

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Application(Embedded):
    """A WSGI application."""

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        # WSGI's strings are bytes in disguise (PEP 3333).
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        request = Request(environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""), _headers(environ))
        answer = self.answer_blocking(request)
        start_response(f"{answer.status} {answer.reason}", answer.headers)
        return [answer.body]


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key.removeprefix("HTTP_").replace("_", "-"), value
