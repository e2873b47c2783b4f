"""Actions: who may, from where, what becomes of them, and that nothing is done otherwise."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.access.tokens import Refused, Tokens
from flowrra_exporter.web.access.web_config import WebConfig
from flowrra_exporter.web.actions import ACTIONS_BY_NAME
from flowrra_exporter.web.actions.table import Action

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.exporter.conftest import Answer, Serve, Service, until
from tests.exporter.contract import ContractApp, MinimalApp
from tests.exporter.web.test_authentication import basic, hashed

ANNA = {"Authorization": basic("anna", "right")}
BOB = {"Authorization": basic("bob", "left")}
NAMES = sorted(ACTIONS_BY_NAME)
VALUES = {"n": 2, "executor": "io", "limit": 5}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('right')}, bob: {hashed('left')}}}\n")
    return path


class ActingApp(ContractApp):
    """Notes what it is told to do, and answers whatever a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in {action.method for action in ACTIONS_BY_NAME.values()}:
            raise AttributeError(name)

        async def act(**arguments: Any) -> Any:
            self.done.append((name, arguments))
            answer = self.answers.get(name, True)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return act


def arguments_of(action: Action) -> dict[str, Any]:
    return {each.name: VALUES.get(each.name, "x") for each in action.parameters if each.required}


async def token_of(service: Service, **user: str) -> str:
    answer = await service.get("/api/token", **user)
    assert answer.status == 200, answer.text
    return str(json.loads(answer.text)["token"])


async def post(service: Service, name: str, arguments: Any, **headers: str) -> Answer:
    headers = {"Content-Type": "application/json", **headers}
    return await service.get(f"/api/actions/{name}", "POST", json.dumps(arguments).encode(), **headers)


async def submit_form(service: Service, name: str, fields: dict[str, str], **headers: str) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return await service.get(f"/actions/{name}", "POST", urlencode(fields).encode(), **headers)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_each_action_is_done_with_the_token_and_for_nobody_without(serve: Serve, config: Path, name: str) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    action = ACTIONS_BY_NAME[name]
    arguments = arguments_of(action)
    token, other = await token_of(service, **ANNA), await token_of(service, **BOB)
    old = service.exporter._access.tokens.sign("action", "anna", "", -1)
    of_another_kind = service.exporter._access.tokens.sign("outcome", "anna", "", 60)
    refused: list[tuple[int, dict[str, str]]] = [
        (401, {"X-Flowrra-Token": token}),
        (401, {"X-Flowrra-Token": token, "Authorization": basic("anna", "wrong")}),
        (403, ANNA),
        *((403, {**ANNA, "X-Flowrra-Token": wrong}) for wrong in (other, old, of_another_kind, token[:-1], "x", "..")),
        (403, {**BOB, "X-Flowrra-Token": token}),
        *(
            (403, {**ANNA, "X-Flowrra-Token": token, "Sec-Fetch-Site": site})
            for site in ("cross-site", "same-site", "", "Same-Origin")
        ),
        *(
            (403, {**ANNA, "X-Flowrra-Token": token, "Origin": origin})
            for origin in ("https://evil.example", "null", "", "http://", service.url.replace("http", "ftp"))
        ),
        (403, {**ANNA, "X-Flowrra-Token": token, "Origin": service.url, "Sec-Fetch-Site": "cross-site"}),
    ]
    for status, headers in refused:
        answer = await post(service, name, arguments, **headers)
        assert (answer.status, headers) == (status, headers), answer.text
        form = {key: str(value) for key, value in arguments.items()}
        headers = dict(headers)
        answer = await submit_form(service, name, {**form, "token": headers.pop("X-Flowrra-Token", "")}, **headers)
        assert (answer.status, headers) == (status, headers), answer.text
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/api/actions/", "/actions/"):
            answer = await service.get(f"{path}{name}", method, **ANNA, X_Flowrra_Token=token)
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert app.done == []

    answer = await post(service, name, arguments, **ANNA, X_Flowrra_Token=token, Origin=service.url)
    assert answer.status == 200, answer.text
    defaults = {each.name: each.default for each in action.parameters if each.default is not None}
    assert app.done == [(action.method, {**defaults, **arguments})]


async def test_a_form_leads_back_to_its_page_which_can_say_what_became_of_it(serve: Serve, config: Path) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    fields = {"task_id": "7", "token": token, "back": "tasks/7?status=failed&outcome=old"}
    answer = await submit_form(service, "cancel-task", fields, **ANNA, Origin=service.url, Sec_Fetch_Site="same-origin")
    assert answer.status == 303
    path, _, query = answer.headers["Location"].partition("?")
    assert path == "../tasks/7"
    assert parse_qs(query)["status"] == ["failed"]
    (outcome,) = parse_qs(query)["outcome"]
    tokens = service.exporter._access.tokens
    assert tokens.read("outcome", "anna", outcome) == "+Task 7 was cancelled"
    with pytest.raises(Refused):
        tokens.read("outcome", "bob", outcome)
    app.answers["cancel_task"] = False
    answer = await submit_form(service, "cancel-task", {**fields, "token": await token_of(service, **ANNA)}, **ANNA)
    (outcome,) = parse_qs(urlsplit(answer.headers["Location"]).query)["outcome"]
    assert tokens.read("outcome", "anna", outcome).startswith("-Task 7 can't be cancelled")


async def test_a_form_that_is_sent_twice_is_done_once(
    serve: Serve, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double click would run a schedule twice, and say of what has just been requeued that it isn't dead."""
    done: list[str] = []
    gate = asyncio.Event()

    class Slow(MinimalApp):
        async def trigger_schedule(self, schedule_id: str) -> Any:
            done.append(schedule_id)
            await gate.wait()
            return str(len(done))

    service = await serve(Slow(), web_config_file=config, web_actions=True)
    tokens = service.exporter._access.tokens
    fields = {"schedule_id": "7", "token": await token_of(service, **ANNA)}

    def send(**changes: str) -> Any:
        return asyncio.create_task(submit_form(service, "run-schedule", {**fields, **changes}, **ANNA))

    async def said(sent: Any) -> str:
        (outcome,) = parse_qs(urlsplit((await sent).headers["Location"]).query)["outcome"]
        return tokens.read("outcome", "anna", outcome)

    clicks = [send(), send()]
    await until(lambda: bool(done))
    gate.set()
    assert [await said(each) for each in (*clicks, send())] == ["+Schedule 7 was run, as task 1"] * 3
    # The page that comes next, another schedule, and the same form later on are meant.
    assert await said(send(token=await token_of(service, **ANNA))) == "+Schedule 7 was run, as task 2"
    assert await said(send(schedule_id="6")) == "+Schedule 6 was run, as task 3"
    assert done == ["7", "7", "6"]
    monkeypatch.setattr("flowrra_exporter.web.actions.routes._TWICE_SECONDS", 0.0)
    fresh = await token_of(service, **ANNA)
    assert [await said(send(token=fresh)) for _ in range(2)] == [f"+Schedule 7 was run, as task {n}" for n in (4, 5)]


@pytest.mark.parametrize(
    "back",
    [
        *("//evil.example", "/", "/metrics", "../other", "a/../../b", "a/%2e%2e/b", "%2e%2e/b", ".", "https:\\\\a"),
        *("\\evil", "a\r\nSet-Cookie: b=c", "x" * 5001, "a b", "é"),
    ],
)
async def test_it_leads_nowhere_else(serve: Serve, config: Path, back: str) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    fields = {"task_id": "7", "token": await token_of(service, **ANNA), "back": back}
    answer = await submit_form(service, "cancel-task", fields, **ANNA)
    assert (answer.status, app.done) == (400, [])


@pytest.mark.parametrize("field", ["task_id=%ff", "task_id=%ed%a0%80", "task_id=7&task_id=8", "task_id=\xff"])
async def test_a_field_that_may_be_something_else_is_refused(serve: Serve, config: Path, field: str) -> None:
    """A byte that is no UTF-8 would be read as another character, and so as another id."""
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    body = f"{field}&{urlencode({'token': await token_of(service, **ANNA)})}".encode("latin-1")
    headers = {**ANNA, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await service.get("/actions/cancel-task", "POST", body, **headers)
    assert (answer.status, app.done) == (400, [])


async def test_fields_that_are_left_empty_are_not_meant(serve: Serve, config: Path) -> None:
    app = ActingApp()
    app.answers["delete_dead_tasks"] = {"done": 3, "left": 0}
    service = await serve(app, web_config_file=config, web_actions=True)
    fields = {"name": "", "reason": "lost", "token": await token_of(service, **ANNA)}
    assert (await submit_form(service, "delete-dead-tasks", fields, **ANNA)).status == 303
    assert app.done == [("delete_dead_tasks", {"reason": "lost", "limit": 1000})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "status", "parameter"),
    [
        ("cancel-task", {}, 400, "task_id"),
        ("cancel-task", {"task_id": ""}, 400, "task_id"),
        ("cancel-task", {"task_id": None}, 400, "task_id"),
        ("delete-dead-tasks", {"name": None}, 400, "name"),
        ("cancel-task", {"task_id": 7}, 400, "task_id"),
        ("cancel-task", {"task_id": "x" * 8001}, 400, "task_id"),
        ("cancel-task", {"task_id": "\ud800"}, 400, "task_id"),
        ("cancel-task", {"id": "7"}, 400, "id"),
        ("delete-dead-tasks", {"nam": "x"}, 400, "nam"),
        ("delete-dead-tasks", {"limit": 0}, 400, "limit"),
        ("delete-dead-tasks", {"limit": True}, 400, "limit"),
        ("delete-dead-tasks", {"limit": "5"}, 400, "limit"),
        ("delete-dead-tasks", {"limit": 1.5}, 400, "limit"),
        ("delete-dead-tasks", {"limit": 1e400}, 400, "limit"),
        ("cancel-tasks", {"status": "success"}, 400, "status"),
        ("cancel-tasks", {"since": "yesterday"}, 400, "since"),
        ("cancel-tasks", {"since": "2030-02-31T00:00:00Z"}, 400, "since"),
        ("cancel-tasks", {"since": "2030-01-31T00:00:00"}, 400, "since"),
        ("resize-workers", {"executor": "gpu", "n": 1}, 400, "executor"),
        ("resize-workers", {"executor": "io", "n": 0}, 400, "n"),
        ("cancel-task", [], 400, None),
        ("cancel-task", "x", 400, None),
        ("no-such-action", {}, 404, None),
    ],
)
async def test_what_makes_no_sense_is_refused_by_the_parameters_name(
    serve: Serve, config: Path, name: str, arguments: Any, status: int, parameter: str | None
) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    answer = await post(service, name, arguments, **ANNA, X_Flowrra_Token=await token_of(service, **ANNA))
    assert (answer.status, app.done) == (status, [])
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = json.loads(answer.text)
    assert problem["status"] == status
    assert problem.get("parameter") == parameter
    assert parameter is None or parameter in problem["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b"[" * 990 + b"]" * 990, "application/json", 400),
        (b'{"task_id": "7"}', "text/plain", 415),
        (b'{"task_id": "7", "task_id": "8"}', "application/json", 400),
        (b'{"task_id": "7"}', "application/x-www-form-urlencoded", 415),
        (b'{"task_id": "' + b"7" * 65_536 + b'"}', "application/json", 413),
    ],
)
async def test_bodies_that_are_none(serve: Serve, config: Path, body: bytes, content_type: str, status: int) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    headers = {**ANNA, "X-Flowrra-Token": await token_of(service, **ANNA), "Content-Type": content_type}
    answer = await service.get("/api/actions/cancel-task", "POST", body, **headers)
    assert (answer.status, app.done) == (status, [])


async def test_without_the_flag_nothing_is_done(serve: Serve, config: Path) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config)
    token = service.exporter._access.tokens.sign("action", "anna", "", 60)
    answer = await post(service, "cancel-task", {"task_id": "7"}, **ANNA, X_Flowrra_Token=token)
    assert (answer.status, app.done) == (403, [])
    assert "--web.actions" in answer.text
    assert (await submit_form(service, "cancel-task", {"task_id": "7", "token": token}, **ANNA)).status == 403
    assert (await service.get("/api/token", **ANNA)).status == 403


@pytest.mark.parametrize("flag", ["web_actions", "web_show_task_data"])
def test_the_flag_without_authentication_keeps_the_exporter_from_starting(flag: str) -> None:
    with pytest.raises(UsageError, match="authenticated"):
        Exporter(MinimalApp(), Settings(**{flag: True})).serve()  # type: ignore[arg-type]


async def test_a_user_who_is_gone_can_do_nothing(serve: Serve, config: Path) -> None:
    """Also while the file has no users at all any more, and everybody may read."""
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    config.write_text("basic_auth_users: {}\n")
    service.exporter.server.run_soon(service.exporter.reload)
    while (await service.get("/livez")).status == 401:
        await asyncio.sleep(0.05)
    answer = await post(service, "cancel-task", {"task_id": "7"}, **ANNA, X_Flowrra_Token=token)
    assert (answer.status, app.done) == (403, [])


async def test_behind_a_proxy_that_changes_the_host(serve: Serve, config: Path) -> None:
    service = await serve(
        ActingApp(), web_config_file=config, web_actions=True, web_external_url="https://jobs.example.com/flowrra"
    )
    known = {**ANNA, "X-Flowrra-Token": await token_of(service, **ANNA)}
    statuses = {
        origin: (await post(service, "cancel-task", {"task_id": "7"}, **known, Origin=origin)).status
        for origin in (
            *("https://jobs.example.com", "https://JOBS.example.com:443", service.url),
            *("http://jobs.example.com", "https://jobs.example.com:8443", "https://example.com"),
        )
    }
    assert list(statuses.values()) == [200, 200, 200, 403, 403, 403]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("card 4711"), 409, "cancel_task() failed: ValueError"),
        (KeyError("card 4711"), 404, "cancel_task() failed: KeyError"),
        (ConnectionError("card 4711"), 503, "cancel_task() failed: ConnectionError"),
    ],
)
async def test_what_the_users_code_raises_is_told_by_its_class(
    serve: Serve, config: Path, error: Exception, status: int, text: str
) -> None:
    app = ActingApp()
    app.answers["cancel_task"] = error
    service = await serve(app, web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    answer = await post(service, "cancel-task", {"task_id": "7"}, **ANNA, X_Flowrra_Token=token)
    assert (answer.status, json.loads(answer.text)["detail"]) == (status, text)


async def test_one_line_of_the_log_says_who_did_what_and_what_became_of_it(
    serve: Serve, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowrra_exporter.web.actions")
    app = ActingApp()
    app.answers |= {"retry_task": "8", "delete_dead_task": False}
    service = await serve(app, web_config_file=config, web_actions=True)
    known = {**ANNA, "X-Flowrra-Token": await token_of(service, **ANNA)}
    await post(service, "retry-task", {"task_id": "7"}, **known)
    await post(service, "delete-dead-task", {"task_id": "a\nb\x1b[2J\u202e"}, **known)
    lines = [record.getMessage() for record in caplog.records if "actions" in record.name]
    assert lines == [
        "'anna' from 127.0.0.1: retry-task(task_id='7'): Task 7 runs anew as 8",
        "'anna' from 127.0.0.1: delete-dead-task(task_id='a\\nb\\x1b[2J\\u202e'): No dead task has the id a b [2J",
    ]


async def test_a_real_task_is_cancelled_and_retried(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:
        gate = asyncio.Event()

        @app.task(max_retries=0)
        async def hold() -> str:
            await gate.wait()
            return "done"

        service = await serve(app, web_config_file=config, web_actions=True)
        known = {**ANNA, "X-Flowrra-Token": await token_of(service, **ANNA)}
        task_id = await app.submit(hold)
        answer = await post(service, "retry-task", {"task_id": task_id}, **known)
        assert answer.status == 409
        assert "only one that has finished is run anew" in answer.text
        answer = await post(service, "cancel-task", {"task_id": task_id}, **known)
        assert answer.status == 200, answer.text
        assert (await app.wait_for_result(task_id, timeout=5)).status == "cancelled"
        answer = await post(service, "cancel-task", {"task_id": task_id}, **known)
        assert (answer.status, json.loads(answer.text)["title"]) == (409, "Conflict")
        gate.set()
        answer = await post(service, "retry-task", {"task_id": task_id}, **known)
        new = json.loads(answer.text)["result"]
        assert (await app.wait_for_result(new, timeout=5)).result == "done"
        answer = await post(service, "retry-task", {"task_id": "unknown"}, **known)
        assert (answer.status, "not found" in answer.text) == (404, True)
        answer = await post(service, "run-schedule", {"schedule_id": "unknown"}, **known)
        assert (answer.status, "no scheduler" in answer.text) == (409, True)


async def test_an_action_on_many_tasks_has_changed_nothing_where_none_was_meant(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:

        @app.task
        async def send() -> None:
            """Nothing."""

        service = await serve(app, web_config_file=config, web_actions=True)
        known = {**ANNA, "X-Flowrra-Token": await token_of(service, **ANNA)}
        await app.options(countdown=600).submit(send)
        answers = [await post(service, "cancel-tasks", {"name": "send"}, **known) for _ in range(2)]
        assert [json.loads(each.text)["changed"] for each in answers] == [True, False]
        assert json.loads(answers[1].text)["result"] == {"done": 0, "left": 0}


async def test_an_app_that_cannot_do_it_says_so(serve: Serve, config: Path) -> None:
    service = await serve(MinimalApp(), web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    answer = await post(service, "cancel-task", {"task_id": "7"}, **ANNA, X_Flowrra_Token=token)
    assert (answer.status, json.loads(answer.text)["detail"]) == (404, "this app has no cancel_task()")


@pytest.mark.slow
async def test_what_a_blocked_loop_did_not_get_to_is_not_done_later(serve: Serve, config: Path) -> None:
    app = ActingApp()
    service = await serve(app, web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    asking = asyncio.create_task(post(service, "cancel-task", {"task_id": "7"}, **ANNA, X_Flowrra_Token=token))
    await asyncio.sleep(0)  # it's on its way, in a thread
    time.sleep(1.0)
    answer = await asking
    assert answer.status == 503
    assert re.match("nothing was done: event loop blocked for", json.loads(answer.text)["detail"])
    await asyncio.sleep(0.05)
    assert app.done == []


async def test_one_that_was_begun_may_yet_be_done_and_the_answer_says_so(
    serve: Serve, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra_exporter.web.actions.routes._ACT_SECONDS", 0.1)
    ended = asyncio.Event()

    class Slow(MinimalApp):
        async def purge_queue(self, queue: str, limit: int) -> Any:
            await asyncio.sleep(0.3)
            ended.set()
            return {"done": 1, "left": 0}

    service = await serve(Slow(), web_config_file=config, web_actions=True)
    token = await token_of(service, **ANNA)
    answer = await post(service, "purge-queue", {"queue": "a"}, **ANNA, X_Flowrra_Token=token)
    assert answer.status == 503
    assert "was begun" in json.loads(answer.text)["detail"]
    await asyncio.wait_for(ended.wait(), 5)


def test_tokens_of_one_configuration_are_taken_by_another_with_the_same_users() -> None:
    users = {"anna": hashed("right"), "bob": hashed("left")}
    ours, theirs, changed, certified = Tokens(), Tokens(), Tokens(), Tokens()
    ours.use(WebConfig(users=users))
    theirs.use(WebConfig(users=dict(users)))
    changed.use(WebConfig(users={**users, "anna": hashed("right")}))
    certified.use(WebConfig(secret=b"x" * 32))
    token = ours.sign("action", "anna", "ü", 60)
    assert theirs.read("action", "anna", token) == "ü"
    for tokens in (changed, certified, Tokens()):
        with pytest.raises(Refused):
            tokens.read("action", "anna", token)
    again = Tokens()
    again.use(WebConfig(secret=b"x" * 32))
    assert again.read("action", "anna", certified.sign("action", "anna", "", 60)) == ""


def test_every_action_is_a_method_with_these_parameters() -> None:
    import inspect

    for action in ACTIONS_BY_NAME.values():
        parameters = inspect.signature(getattr(FlowrraManager, action.method)).parameters
        assert {each.name for each in action.parameters} <= parameters.keys(), action.name
        needed = {name for name, each in parameters.items() if each.default is each.empty and name != "self"}
        assert needed <= {each.name for each in action.parameters if each.required}, action.name


async def test_no_other_origin_gets_a_token(serve: Serve, config: Path) -> None:
    service = await serve(ActingApp(), web_config_file=config, web_actions=True)
    assert (await service.get("/api/token", **ANNA, Sec_Fetch_Site="cross-site")).status == 403
    assert (await service.get("/api/token", **ANNA, Origin="https://evil.example")).status == 403
