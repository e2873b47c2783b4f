"""Who may come in, how often, and with which headers the answers go out: the web configuration file at work."""

from __future__ import annotations

import logging

from aiohttp import web

from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.paths import is_probe
from flowrra_exporter.web.access.auth import Busy, Credentials, Passwords, parse_basic
from flowrra_exporter.web.access.connection import user_of
from flowrra_exporter.web.access.limits import RateLimiter, client_of
from flowrra_exporter.web.access.tls import name_of
from flowrra_exporter.web.access.tokens import Tokens
from flowrra_exporter.web.access.web_config import WebConfig
from flowrra_exporter.web.responses import AUTHENTICATED, USER, Handler

logger = logging.getLogger(__name__)

_CHALLENGE = 'Basic realm="flowrra-exporter", charset="UTF-8"'


class Access:
    """Applies a configuration, which may change at any time, to every request of an application.

    Attributes:
        tokens: Signs what its users bring back.
    """

    def __init__(self, config: WebConfig) -> None:
        self.tokens = Tokens()
        self._passwords = Passwords()
        self._refused = ThrottledWarning(logger, "refused %d wrong passwords, the last from %s")
        self.change(config)

    def change(self, config: WebConfig) -> None:
        """From now on, this configuration holds."""
        limiter = None if config.rate is None else RateLimiter(config.rate)
        self._passwords.use(config.users)
        self.tokens.use(config)
        self._config, self._limiter = config, limiter

    @property
    def authenticates(self) -> bool:
        """Whether clients have to prove who they are by a password."""
        return bool(self._config.users)

    def close(self) -> None:
        """No more passwords are checked."""
        self._passwords.close()

    async def add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Signal before an answer is sent: sets the configured headers, whatever it has by itself."""
        response.headers.update(self._config.headers)

    @web.middleware
    async def admission(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware: turns away who may not come in, with 429, 403 or 401."""
        await self._admit(request)
        return await handler(request)

    async def _admit(self, request: web.Request) -> None:
        config = self._config
        credentials = parse_basic(request.headers.get("Authorization", "")) if config.users else None
        if self._limiter is not None and not self._is_exempt(request, credentials) and not self._limiter.allows():
            raise web.HTTPTooManyRequests(reason="more requests than the rate limit allows", headers=_later())
        if config.tls is not None and not config.tls.allows(_certificate(request)) and _is_tls(request):
            raise web.HTTPForbidden(reason="this client certificate's names are not among client_allowed_sans")
        told = user_of(request)
        if config.users and told is None and (credentials is None or not await self._knows(credentials, request)):
            raise web.HTTPUnauthorized(
                reason="expected the user and password of basic_auth_users", headers={"WWW-Authenticate": _CHALLENGE}
            )
        user = told or (credentials.user if config.users and credentials else self._certified(request))
        request[AUTHENTICATED] = user is not None
        if user is not None:
            request[USER] = user

    def _certified(self, request: web.Request) -> str | None:
        """Who the client is by its certificate; None where none is required."""
        tls, certificate = self._config.tls, _certificate(request)
        if tls is None or not tls.requires_client_certificate or certificate is None:
            return None
        return name_of(certificate)

    def _is_exempt(self, request: web.Request, credentials: Credentials | None) -> bool:
        """Whether no rate limit applies: to a probe, as turning one away would restart a healthy pod.

        A probe that brings a password is exempt once that is known to be right: others may be guesses.
        """
        return is_probe(request.path) and (credentials is None or self._passwords.knows(credentials))

    async def _knows(self, credentials: Credentials, request: web.Request) -> bool:
        try:
            known = await self._passwords.check(credentials, client_of(request.remote or ""))
        except Busy:
            raise web.HTTPServiceUnavailable(
                reason="too many passwords are being checked; try again later", headers=_later()
            ) from None
        if not known:
            self._refused.warn(request.remote)
        return known


def _later() -> dict[str, str]:
    return {"Retry-After": "1"}


def _is_tls(request: web.Request) -> bool:
    return request.transport is not None and request.transport.get_extra_info("ssl_object") is not None


def _certificate(request: web.Request) -> dict[str, object] | None:
    return None if request.transport is None else request.transport.get_extra_info("peercert")
