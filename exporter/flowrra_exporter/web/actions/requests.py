"""What an action's request must be like, and where it may come from."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from aiohttp import web

BACK_FIELD = "back"
# Characters of the page that an action leads back to: an id is a few hundred, each of which may take twelve here.
LONGEST_BACK = 5000
_BODY_SECONDS = 5.0
_MOST_FIELDS = 50
_PAGE = re.compile(r"[A-Za-z0-9._~/%@:+,=&?!$'()*;-]*")
_FROM_OUR_PAGES = ("same-origin", "none")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Failure(Exception):
    """An action wasn't carried out, or nobody knows; the text says why, for people.

    Attributes:
        status: The HTTP status that says so.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def check_origin(request: web.Request, external_url: str | None) -> None:
    """Refuses what a page of another origin asks for: a browser says so, and no page can make it say anything else.

    Args:
        request: The request.
        external_url: Where browsers find our pages, besides where the Host header says.

    Raises:
        Failure: It comes from elsewhere.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site not in _FROM_OUR_PAGES:
        raise Failure(403, f"a page of another origin asked for this (Sec-Fetch-Site: {site[:20]!r})")
    if origin is not None and not _is_ours(origin, request.headers.get("Host", ""), external_url):
        raise Failure(
            403,
            f"a page of {origin[:100]!r} asked for this, which is another origin than ours; --web.external-url says "
            "where browsers find our pages, if a proxy changes the Host header",
        )


def _is_ours(origin: str, host: str, external_url: str | None) -> bool:
    if external_url is not None and _origin(origin) == _origin(external_url):
        return True
    scheme, _, at = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and bool(at) and at.removesuffix(port) == host.lower().removesuffix(port)


def _origin(url: str) -> tuple[str, str, str] | None:
    """The scheme, host and port of a URL; None if it has none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme, "")
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


async def read_body(request: web.Request, content_type: str) -> bytes:
    """The body of a request.

    Raises:
        Failure: It is of another type, or doesn't come in time.
    """
    if request.content_type != content_type:
        raise Failure(415, f"the body is {request.content_type[:50]!r}; expected {content_type}")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Failure(408, f"the body did not come within {_BODY_SECONDS:g} s") from None


class _Twice(Exception):
    """A key of a JSON object that stands there a second time."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; raises Failure if it is none."""
    try:
        found = json.loads(body, object_pairs_hook=_each_once)
    except _Twice as twice:
        raise Failure(400, f"{twice.args[0]!r:.100} is there twice; expected each key once") from None
    except (ValueError, RecursionError):
        raise Failure(400, "the body is no JSON; expected an object with the action's parameters") from None
    if not isinstance(found, dict):
        raise Failure(400, "the body is JSON, and no object; expected one with the action's parameters")
    return found


def read_fields(body: bytes) -> dict[str, str]:
    """The fields of a form; raises Failure if it is none."""
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Failure(400, f"the body is no form; expected at most {_MOST_FIELDS} fields in UTF-8") from None
    fields = dict(found)
    if len(fields) < len(found):
        raise Failure(400, "a field is there twice; expected each once")
    return fields


def checked_page(back: str) -> str:
    """A page of ours, relative to the first one.

    Raises:
        Failure: It may lead elsewhere.
    """
    path = unquote(back.partition("?")[0])
    is_page = len(back) <= LONGEST_BACK and _PAGE.fullmatch(back)
    if not is_page or path.startswith("/") or not {".", ".."}.isdisjoint(path.split("/")):
        raise Failure(400, f"{BACK_FIELD} is {quote(back[:50])!r}; expected a page relative to the first one")
    return back
