"""Kubernetes probes: status code first, then JSON or text that says why, in the manner of kube-apiserver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.paths import HEALTHZ, LIVEZ, READYZ, STARTUPZ
from flowrra_exporter.probes.checks import Check, Checks, components
from flowrra_exporter.web.negotiation import prefers_text
from flowrra_exporter.web.responses import json_response, text_response


class ProbeRoutes:
    """/livez, /readyz, /startupz, each check below them, and /healthz in the shape of the Management API's document.

    ``?verbose`` lists each check and says what blocks the event loop; ``?exclude=NAME`` leaves checks out.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    def routes(self) -> list[web.RouteDef]:
        """The routes for the HTTP server."""
        handlers = {LIVEZ: self.livez, READYZ: self.readyz, STARTUPZ: self.startupz}
        paths = [
            web.get(f"/{probe}{below}", handler) for probe, handler in handlers.items() for below in ("", "/{check}")
        ]
        return [*paths, web.get(f"/{HEALTHZ}", self.healthz)]

    async def livez(self, request: web.Request) -> web.Response:
        """200 unless a restart would help."""
        return _Answer(request, LIVEZ).of(self._checks.liveness())

    async def readyz(self, request: web.Request) -> web.Response:
        """200 if the app can do its work."""
        checks, complete = await self._checks.readiness()
        return _Answer(request, READYZ).of(checks, complete)

    async def startupz(self, request: web.Request) -> web.Response:
        """200 once the app has started."""
        return _Answer(request, STARTUPZ).of(self._checks.startup())

    async def healthz(self, request: web.Request) -> web.Response:
        """The app's health check as it is, without hysteresis; 503 if it is unhealthy."""
        health = await self._checks.health()
        healthy = bool(health.get("healthy"))
        status = 200 if healthy else 503
        if _wants_text(request):
            lines = [_line(check, verbose=False) for check in components(health)]
            return _text([*lines, f"{HEALTHZ} check {'passed' if healthy else 'failed'}"], status)
        body = {
            "status": "healthy" if healthy else "unhealthy",
            "timestamp": health.get("timestamp"),
            "details": health.get("components"),
        }
        return _varying(json_response(body, status))


class _Answer:
    """The answer to one request to a probe."""

    def __init__(self, request: web.Request, probe: str) -> None:
        self._probe = probe
        self._one = request.match_info.get("check")
        self._verbose = "verbose" in request.query
        given = ",".join(request.query.getall("exclude", [])).split(",")
        self._excluded = dict.fromkeys(name.strip() for name in given if name.strip())
        self._as_text = _wants_text(request)

    def of(self, checks: Sequence[Check], complete: bool = True) -> web.Response:
        """The answer from these checks. Where they aren't ``complete``, a name that isn't among them may be one."""
        names = {check.name for check in checks}
        if self._one is not None:
            if self._one in names:
                checks = [check for check in checks if check.name == self._one]
            elif complete:
                return self._no_such_check(self._one, names)
        counted = [check for check in checks if check.name not in self._excluded]
        unknown = [name for name in self._excluded if name not in names and complete]
        ok = all(check.ok for check in counted)
        status = 200 if ok else 503
        if self._as_text:
            return _text(self._lines(checks, unknown, ok), status)
        body = {"status": _word(ok), "checks": {check.name: self._details(check) for check in counted}}
        if unknown:
            body["warning"] = _warning(unknown)
        return _varying(json_response(body, status))

    def _lines(self, checks: Sequence[Check], unknown: Sequence[str], ok: bool) -> list[str]:
        if ok and not self._verbose:
            return ["ok"]
        lines = [
            f"[+]{check.name} excluded: ok" if check.name in self._excluded else _line(check, self._verbose)
            for check in checks
        ]
        if unknown:
            lines.append(f"warn: {_warning(unknown)}")
        return [*lines, f"{self._probe} check {'passed' if ok else 'failed'}"]

    def _details(self, check: Check) -> dict[str, Any]:
        details: dict[str, Any] = {"status": _word(check.ok), "message": _message(check, self._verbose)}
        if self._verbose:
            details |= {"probes": check.probes, "failing_since": check.failing_since}
        return details

    def _no_such_check(self, name: str, names: set[str]) -> web.Response:
        reason = f"{self._probe} has no check {name[:50]!r}; it has: {', '.join(sorted(names))}"
        return _text([f"404: {reason}"], 404) if self._as_text else _varying(json_response({"error": reason}, 404))


def _wants_text(request: web.Request) -> bool:
    return prefers_text(",".join(request.headers.getall("Accept", [])))


def _line(check: Check, verbose: bool) -> str:
    if not check.ok:
        line = f"[-]{check.name} failed: {_message(check, verbose)}"
    elif verbose and check.failing_since is not None:
        line = f"[+]{check.name} ok: {check.message}"
    else:
        line = f"[+]{check.name} ok"
    return " ".join(line.split())  # a message of the app's can't make lines of its own


def _message(check: Check, verbose: bool) -> str:
    return f"{check.message}: {check.detail}" if verbose and check.detail else check.message


def _warning(unknown: Sequence[str]) -> str:
    names = ", ".join(f'"{name[:50]}"' for name in unknown[:20])
    return f"some health checks cannot be excluded: no matches for {names}"


def _text(lines: Sequence[str], status: int) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    text = mask_secrets("".join(f"{line}\n" for line in lines))
    return _varying(text_response(text, status, headers=headers))


def _varying(response: web.Response) -> web.Response:
    response.headers["Vary"] = "Accept"
    return response


def _word(ok: bool) -> str:
    return "ok" if ok else "failed"
