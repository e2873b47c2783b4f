"""JSON answers and errors, alike on every route."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from enum import Enum
from typing import Any

from aiohttp import web

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": ("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"),
}


def json_safe(value: Any) -> Any:
    """`value` as JSON knows it: dates become ISO 8601, enum members their values, non-finite numbers null."""
    if isinstance(value, Enum):
        return json_safe(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item) for item in value]
    return str(value)


def json_response(body: Any, status: int = 200) -> web.Response:
    """An answer with `body` as JSON, never cached."""
    text = json.dumps(json_safe(body)) + "\n"
    headers = {"Cache-Control": "no-store"}
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives every answer the security headers, and errors a body that says what is wrong."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _error(request, error.status, _reason(request, error), error.headers)
    except Exception:
        logger.exception("answering %s %.200r failed", request.method, request.path)
        response = _error(request, 500, "internal error; the exporter's log says more", {})
    if not response.prepared:
        response.headers.update(SECURITY_HEADERS)
    return response


def _reason(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return "there is nothing at this path; '/' lists what there is"
    if error.status == 405:
        return f"{request.method} is not allowed here; expected GET or HEAD"
    return error.reason


def _error(request: web.Request, status: int, reason: str, headers: Mapping[str, str]) -> web.Response:
    if request.path.startswith("/api/") or "json" in request.headers.get("Accept", ""):
        response = json_response({"error": reason}, status)
    else:
        response = web.Response(text=f"{status}: {reason}\n", status=status)
    if "Allow" in headers:
        response.headers["Allow"] = headers["Allow"]
    return response
