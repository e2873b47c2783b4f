"""The two ways to an action, a form of the page and the JSON API.

An action is carried out for a client that has proved who it is, with a token that it was given, from our own pages or
from no page at all: a browser sends passwords and certificates by itself, whatever page makes it ask.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Hashable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from flowrra_exporter.app.loop import CallTimeout
from flowrra_exporter.app.management import Management, NoSuchMethod, NotDone
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.paths import ACTIONS, API
from flowrra_exporter.web.access.tokens import Refused, Tokens
from flowrra_exporter.web.actions.requests import (
    BACK_FIELD,
    Failure,
    check_origin,
    checked_page,
    read_body,
    read_fields,
    read_object,
)
from flowrra_exporter.web.actions.table import ACTIONS_BY_NAME, Action, has_changed
from flowrra_exporter.web.parameters import BadValue, read_json, read_texts
from flowrra_exporter.web.refusals import status_of, text_of
from flowrra_exporter.web.responses import USER, json_response, problem_response, shows_task_data

logger = logging.getLogger(__name__)

TOKEN_HEADER = "X-Flowrra-Token"  # noqa: S105 - its name
TOKEN_FIELD = "token"  # noqa: S105 - its name
# The parameter of a page's query that says what became of an action.
OUTCOME_PARAMETER = "outcome"
# How long a token is good for: a page that stays open without being brought up to date has an older one.
TOKEN_SECONDS = 4 * 3600.0
_PURPOSE = "action"
# How long a page that is loaded again says what became of an action.
_OUTCOME_SECONDS = 20.0
_ACT_SECONDS = 10.0
# For how long after an action the same form of the same page says what became of it, and doesn't act again.
_TWICE_SECONDS = 5.0
_MAX_SHOWN = 100
_MAX_MESSAGE = 500


class Outcome(NamedTuple):
    """What became of an action, for people: whether it was done, or need not be, and a sentence without its stop."""

    is_done: bool
    message: str


class Actions:
    """Carries actions out.

    Args:
        management: Returns the Management API, None before there is an app.
        tokens: Signs tokens and outcomes.
        switched_on: Whether there are any.
        external_url: Where browsers find the page; None is where the Host header says.
        show_task_data: Clients that have proved who they are see what tasks were given and what they raised.
    """

    def __init__(
        self,
        management: Callable[[], Management | None],
        tokens: Tokens,
        switched_on: bool,
        external_url: str | None,
        show_task_data: bool,
    ) -> None:
        self._management = management
        self._tokens = tokens
        self._switched_on = switched_on
        self._external_url = external_url
        self._show_task_data = show_task_data
        self._sent: dict[Hashable, asyncio.Task[Outcome]] = {}
        self._refused = ThrottledWarning(logger, "refused %d actions, the last from %s: %s")

    # ── for the pages ───────────────────────────────────────────────────────────────────────────────────────

    def allowed(self, request: web.Request) -> bool:
        """Whether this client may act, so that it's shown forms."""
        return self._switched_on and request.get(USER) is not None

    def offers(self, name: str) -> bool:
        """Whether the app can do this."""
        management = self._management()
        return management is not None and management.has(ACTIONS_BY_NAME[name].method)

    def token(self, request: web.Request) -> str:
        """A token that this client brings back with an action, each time another; only for one that is ``allowed``."""
        return self._tokens.sign(_PURPOSE, request[USER], secrets.token_urlsafe(6), TOKEN_SECONDS)

    def outcome(self, request: web.Request) -> Outcome | None:
        """What became of the action that has led the client to this page; None if none has, or a while ago."""
        signed = request.query.get(OUTCOME_PARAMETER)
        if signed is None or request.get(USER) is None:
            return None
        try:
            text = self._tokens.read(OUTCOME_PARAMETER, request[USER], signed)
        except Refused:
            return None
        return Outcome(text[:1] == "+", text[1:])

    # ── routes ──────────────────────────────────────────────────────────────────────────────────────────────

    def page_routes(self) -> list[web.RouteDef]:
        """The routes of the page's forms."""
        return [web.post(f"{ACTIONS}{{name}}", self.post_form)]

    def api_routes(self) -> list[web.RouteDef]:
        """The routes of the JSON API."""
        return [web.post(f"{API}actions/{{name}}", self.post_json), web.get(f"{API}token", self.get_token)]

    async def get_token(self, request: web.Request) -> web.Response:
        """A token for this client."""
        try:
            self._check_user(request)
            check_origin(request, self._external_url)
        except Failure as failure:
            return self._refuse(request, failure)
        return json_response({"token": self.token(request), "expires_in": TOKEN_SECONDS})

    async def post_json(self, request: web.Request) -> web.Response:
        """Carries out an action that is asked for in JSON; says what became of it."""
        try:
            self._check_user(request)
            check_origin(request, self._external_url)
            self._check_token(request, request.headers.get(TOKEN_HEADER, ""))
            action = _action(request)
            arguments = read_json(action.parameters, read_object(await read_body(request, "application/json")))
        except BadValue as error:
            return problem_response(400, str(error), parameter=error.parameter)
        except Failure as failure:
            return self._refuse(request, failure)
        try:
            answer, sentence = await self._carry_out(request, action, arguments)
        except Failure as failure:
            return problem_response(failure.status, str(failure))
        return json_response(
            {"action": action.name, "changed": has_changed(answer), "message": sentence, "result": answer}
        )

    async def post_form(self, request: web.Request) -> web.Response:
        """Carries out an action that a form asks for, and leads back to the page, which says what became of it."""
        try:
            self._check_user(request)
            check_origin(request, self._external_url)
            fields = read_fields(await read_body(request, "application/x-www-form-urlencoded"))
            back = checked_page(fields.pop(BACK_FIELD, ""))
            token = fields.pop(TOKEN_FIELD, "")
            self._check_token(request, token)
        except Failure as failure:
            return self._refuse(request, failure)
        sent = (request[USER], token, request.match_info["name"], frozenset(fields.items()))
        return self._see_other(request, back, await self._once(sent, self._outcome_of(request, fields)))

    async def _once(self, sent: Hashable, acting: Coroutine[Any, Any, Outcome]) -> Outcome:
        """What became of a form, also for whoever clicks twice: each page has a token of its own."""
        task = self._sent.get(sent)
        if task is None:
            task = self._sent[sent] = asyncio.create_task(acting)
            later = asyncio.get_running_loop().call_later
            task.add_done_callback(lambda _: later(_TWICE_SECONDS, self._sent.pop, sent))
        else:
            acting.close()
        return await asyncio.shield(task)  # it is done, whichever of the clicks a browser waits for

    async def _outcome_of(self, request: web.Request, fields: Mapping[str, str]) -> Outcome:
        try:
            action = _action(request)
            # What is left empty in a form isn't meant.
            arguments = read_texts(action.parameters, [(name, value) for name, value in fields.items() if value])
            return Outcome(True, (await self._carry_out(request, action, arguments))[1])
        except (Failure, BadValue) as error:
            return Outcome(False, str(error))

    def _see_other(self, request: web.Request, back: str, outcome: Outcome) -> web.Response:
        text = f"{'+' if outcome.is_done else '-'}{outcome.message[:_MAX_MESSAGE]}"
        signed = self._tokens.sign(OUTCOME_PARAMETER, request[USER], text, _OUTCOME_SECONDS)
        path, _, query = back.partition("?")
        kept = [(name, value) for name, value in parse_qsl(query, True) if name != OUTCOME_PARAMETER]
        # Up from where the actions are: that works below any prefix, and leads to nowhere else.
        location = f"../{path}?{urlencode([*kept, (OUTCOME_PARAMETER, signed)])}"
        return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})

    # ── who may, and from where ─────────────────────────────────────────────────────────────────────────────

    def _check_user(self, request: web.Request) -> None:
        if not self._switched_on:
            raise Failure(403, "actions are switched off; --web.actions switches them on")
        if request.get(USER) is None:
            raise Failure(403, "actions are for clients that have authenticated")

    def _check_token(self, request: web.Request, token: str) -> None:
        try:
            self._tokens.read(_PURPOSE, request[USER], token)
        except Refused as refused:
            text = _EXPIRED if refused.expired else _EXPECTED
            raise Failure(403, text) from None

    def _refuse(self, request: web.Request, failure: Failure) -> web.Response:
        if failure.status == 403:
            self._refused.warn(request.remote, failure)
        if request.path.startswith(API):
            return problem_response(failure.status, str(failure))
        return web.Response(status=failure.status, text=f"{failure.status}: {failure}\n")

    # ── the action ──────────────────────────────────────────────────────────────────────────────────────────

    async def _carry_out(self, request: web.Request, action: Action, arguments: dict[str, Any]) -> tuple[Any, str]:
        """What the method answered, and a sentence for people. Logs who did what, and what became of it.

        Raises:
            Failure: It wasn't done, or nobody knows.
        """
        outcome = "failed"
        try:
            answer = await self._ask(request, action, arguments)
            outcome = sentence = action.sentence(arguments, answer)
            if answer is False and action.is_refusal:
                raise Failure(409, sentence)
            return answer, sentence
        except Failure as failure:
            outcome = str(failure)
            raise
        finally:
            told = ", ".join(f"{name}={str(value)[:_MAX_SHOWN]!r}" for name, value in arguments.items())
            # Ids are anybody's, and a program that we are mounted in may have a log that a terminal shows as it stands.
            seen = " ".join("".join(each if each.isprintable() else " " for each in outcome).split())
            logger.info("%r from %s: %s(%s): %s", request[USER], request.remote, action.name, told, seen)

    async def _ask(self, request: web.Request, action: Action, arguments: dict[str, Any]) -> Any:
        management = self._management()
        if management is None:
            raise Failure(503, "the app is starting")
        try:
            return await management.act(action.method, _ACT_SECONDS, **arguments)
        except NoSuchMethod as error:
            raise Failure(404, str(error)) from error
        except NotDone as error:
            raise Failure(503, f"nothing was done: {error}") from error
        except CallTimeout as error:
            raise Failure(503, f"{error}; look what becomes of it before it's tried again") from error
        except Exception as error:
            shown = shows_task_data(request, self._show_task_data)
            raise Failure(status_of(error), text_of(action.method, error, shown)) from error


_EXPIRED = "the token has expired, and nothing was done: load the page again, or ask for another token"
_EXPECTED = f"expected this user's token: in the header {TOKEN_HEADER}, as {API}token gives it, or in the form's field"


def _action(request: web.Request) -> Action:
    name = request.match_info["name"]
    if name not in ACTIONS_BY_NAME:
        raise Failure(404, f"there is no action {name[:50]!r}; expected one of {', '.join(ACTIONS_BY_NAME)}")
    return ACTIONS_BY_NAME[name]
