"""Who a user is, as the program around says it: what is for users who have authenticated opens for those alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from aiohttp import encode_basic_auth, web
from aiohttp.test_utils import TestClient, TestServer
from flowrra_exporter import asgi
from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Settings
from flowrra_exporter.subapp import subapp

from flowrra import Flowrra
from tests.exporter.contract import MinimalApp
from tests.exporter.embedding.servers import WAYS, Client

SERVERS = pytest.mark.parametrize("server", WAYS)
SHOWN = Settings(web_show_task_data=True)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A web configuration file with one user, ``ann``, whose password is ``secret``."""
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  ann: {hashed}\n")
    return path


async def _failed(app: Flowrra) -> None:
    @app.task(name="fail", max_retries=0)
    async def fail(argument: str) -> None:
        raise ValueError("planted")

    await app.wait_for_result(await app.submit(fail, "planted"), timeout=5)


async def _shows_task_data(ask: Client, **headers: str) -> bool:
    reply = await ask("/api/failures", **headers)
    assert json.loads(reply.body)["failures"]
    return b"planted" in reply.body


@SERVERS
async def test_what_tasks_were_given_is_shown_to_whom_the_program_knows(server: Any) -> None:
    async with Flowrra() as app, server(app, SHOWN, who=True) as ask:
        await _failed(app)
        assert await _shows_task_data(ask, X_Who="ann")
        assert not await _shows_task_data(ask)
        assert not await _shows_task_data(ask, X_Who="")


@SERVERS
async def test_no_header_makes_a_user(server: Any) -> None:
    forged = dict.fromkeys(("User", "X_User", "X_Flowrra_User", "Remote_User", "X_Remote_User", "From"), "ann")
    async with Flowrra() as app, server(app, SHOWN, who=True) as ask:
        await _failed(app)
        assert not await _shows_task_data(ask, **forged)


async def test_what_is_for_users_is_refused_where_nobody_can_be_one() -> None:
    mounted = asgi.Application(MinimalApp(), SHOWN)
    with pytest.raises(UsageError, match=r"--web\.show-task-data is for clients that have authenticated"):
        mounted.start()


@SERVERS
async def test_a_password_of_the_exporters_own_counts_too_and_is_not_asked_of_whom_the_program_knows(
    server: Any, users: Path
) -> None:
    settings = Settings(web_show_task_data=True, web_config_file=users)
    async with Flowrra() as app, server(app, settings, who=True) as ask:
        await _failed(app)
        assert (await ask("/metrics")).status == 401
        assert (await ask("/metrics", Authorization=encode_basic_auth("ann", "wrong"))).status == 401
        assert await _shows_task_data(ask, Authorization=encode_basic_auth("ann", "secret"))
        assert await _shows_task_data(ask, X_Who="bob")


async def test_the_function_may_be_a_coroutine_function_and_its_errors_are_the_programs_own() -> None:
    async def user(request: web.Request) -> str:
        if request.query.get("who") is None:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Theirs"})
        return request.query["who"]

    main = web.Application()
    main.add_subapp("/internal/", subapp(MinimalApp(), user=user))
    async with TestClient(TestServer(main)) as client:
        async with client.get("/internal/livez") as refused:
            assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Theirs")
        async with client.get("/internal/livez?who=ann") as answered:
            assert answered.status == 200


async def test_a_user_that_is_no_name_is_an_error_and_never_a_user() -> None:
    main = web.Application()
    main.add_subapp("/internal/", subapp(MinimalApp(), user=lambda _request: 7))  # type: ignore[arg-type, return-value]
    async with TestClient(TestServer(main)) as client, client.get("/internal/livez") as answer:
        assert answer.status == 500
