"""JSON answers and errors, alike on every route."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime
from enum import Enum
from http import HTTPStatus
from typing import Any

from aiohttp import web

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.paths import API, PAGE

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The key of a request under which stands True once the client has proved who it is.
AUTHENTICATED = web.RequestKey("AUTHENTICATED", bool)
# The key under which stands the name of that client: a user of basic_auth_users, or the name of its certificate.
USER = web.RequestKey("USER", str)

# Without a version: it would only tell what to attack.
SERVER = {"Server": "flowrra-exporter"}

# What every answer has, unless it says otherwise itself.
HEADERS = {
    **SERVER,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


MAX_DEPTH = 32
# What an error's answer keeps of the headers with which it was raised.
_KEPT_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")


def json_safe(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON knows it: dates become ISO 8601, enum members their values, non-finite numbers null.

    Passwords in URLs are masked in each text by itself: in finished JSON, a text's escapes would look like its own.
    What lies deeper than anything of ours, at ``MAX_DEPTH``, is left out: what a stranger announced has no end.
    """
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, Enum):
        return json_safe(value.value, depth + 1)
    if isinstance(value, str):
        return mask_secrets(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {mask_secrets(str(key)): json_safe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item, depth + 1) for item in value]
    return mask_secrets(str(value))


def _moment(value: datetime) -> str:
    """With its offset, as in RFC 3339; one without a zone is in local time, as the scheduler's are."""
    try:
        return (value if value.tzinfo is not None else value.astimezone()).isoformat()
    except (OverflowError, ValueError, OSError):  # the first and the last day of all times have no offset
        return value.replace(tzinfo=UTC).isoformat()


def json_response(body: Any, status: int = 200) -> web.Response:
    """An answer with ``body`` as JSON, never cached. Passwords in URLs are masked, whatever they stand in."""
    return json_text_response(json.dumps(json_safe(body)), status)


def json_text_response(text: str, status: int = 200) -> web.Response:
    """An answer with a body that is JSON already."""
    headers = {"Cache-Control": "no-store"}
    return web.Response(text=f"{text}\n", status=status, content_type="application/json", headers=headers)


def problem_response(status: int, detail: str, **more: Any) -> web.Response:
    """An error as RFC 9457 has it: ``detail`` says what is wrong, for people; ``more`` are members besides."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    response = json_response(body, status)
    response.content_type = "application/problem+json"
    return response


def text_response(
    text: str, status: int = 200, content_type: str = "text/plain", headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer in UTF-8. A lone surrogate, as in the name of a file that is no text, becomes its escape."""
    body = text.encode(errors="backslashreplace")
    return web.Response(body=body, status=status, content_type=content_type, charset="utf-8", headers=headers)


def shows_task_data(request: web.Request, switched_on: bool) -> bool:
    """Whether this client may see what tasks were given and what they raised: only one that has proved who it is."""
    return switched_on and request.get(AUTHENTICATED) is True


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives errors a body that says what is wrong."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(request, error.status, _reason(request, error), error.headers)
    except Exception:
        logger.exception("answering %s %.200r failed", request.method, request.path)
        return _error(request, 500, "internal error; the exporter's log says more", {})


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Signal before an answer is sent, also one of aiohttp's own: gives it what every answer has."""
    response.headers.update(SERVER)  # aiohttp has put its own there
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _reason(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        listed = any(resource.canonical == PAGE for resource in request.app.router.resources())
        return "there is nothing at this path" + ("; '/' lists what there is" if listed else "")
    if error.status == 405:
        allowed = error.headers.get("Allow", "GET,HEAD").split(",")
        return f"{request.method} is not allowed here; expected {' or '.join(sorted(allowed))}"
    return error.reason


def _error(request: web.Request, status: int, reason: str, headers: Mapping[str, str]) -> web.Response:
    if request.path.startswith(API) or "json" in request.headers.get("Accept", ""):
        response = problem_response(status, reason)
    else:
        response = text_response(f"{status}: {reason}\n", status)
    response.headers.update({name: headers[name] for name in _KEPT_HEADERS if name in headers})
    return response
