"""Actions through a program's own server: for its users, with a token, from its own pages, as on a port."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Settings
from flowrra_exporter.wsgi import Application

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.exporter.contract import MinimalApp
from tests.exporter.embedding.servers import WAYS, Client, Reply, behind_proxy, in_aiohttp, in_wsgi

SERVERS = pytest.mark.parametrize("server", WAYS)
PREFIXES = pytest.mark.parametrize("prefix", ["", "/a/b"])
ACTING = Settings(web_actions=True)


def _app() -> Flowrra:
    app = Flowrra()

    @app.task(name="work")
    async def work() -> None: ...

    return app


async def _token(ask: Client, who: str) -> str:
    reply = await ask("/api/token", X_Who=who)
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body)["token"])


async def _post(ask: Client, **headers: str) -> Reply:
    headers = {"Content-Type": "application/json", **headers}
    return await ask("/api/actions/pause-queue", "POST", b'{"queue": "default"}', **headers)


async def _is_paused(app: Flowrra) -> bool:
    queues = await FlowrraManager(app).get_queue_stats()
    return bool(queues["io"] and queues["io"]["paused"])


def _host(ask: Client) -> str:
    return ask.url.removeprefix("http://").partition("/")[0]


@SERVERS
@PREFIXES
async def test_a_user_acts_by_the_api(server: Any, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowrra_exporter")
    async with _app() as app, server(app, ACTING, prefix, who=True) as ask:
        token = await _token(ask, "ann")
        reply = await _post(ask, X_Who="ann", X_Flowrra_Token=token, Origin=f"http://{_host(ask)}")
        assert reply.status == 200, reply.body
        assert await _is_paused(app)
    assert re.search(r"'ann' from 127\.0\.0\.1: pause-queue\(queue='default'\)", caplog.text)


@SERVERS
async def test_nobody_else_does(server: Any) -> None:
    async with _app() as app, server(app, ACTING, who=True) as ask:
        token = await _token(ask, "ann")
        ours = f"http://{_host(ask)}"
        for headers in (
            {},
            {"X_Who": "ann"},
            {"X_Who": "bob", "X_Flowrra_Token": token},
            {"X_Who": "ann", "X_Flowrra_Token": token, "Origin": "http://evil.example"},
            {"X_Who": "ann", "X_Flowrra_Token": token, "Origin": ours, "Sec_Fetch_Site": "cross-site"},
            {"X_Who": "ann", "X_Flowrra_Token": token, "Origin": ours, "Sec_Fetch_Site": "same-site"},
        ):
            assert (await _post(ask, **headers)).status == 403, headers
        assert (await ask("/api/token")).status == 403
        assert (await ask("/api/actions/pause-queue?queue=default", X_Who="ann")).status == 405
        assert not await _is_paused(app)


@SERVERS
@PREFIXES
async def test_a_form_leads_back_to_its_page_below_every_prefix(server: Any, prefix: str) -> None:
    async with _app() as app, server(app, ACTING, prefix, who=True) as ask, behind_proxy(ask, "/ops", "in") as out:
        fields = {"queue": "default", "token": await _token(ask, "ann"), "back": "queues?page=2"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "X_Who": "ann"}
        for browser in (ask, out):
            reply = await browser("/actions/pause-queue", "POST", urlencode(fields).encode(), **headers)
            assert reply.status == 303, reply.body
            there = urljoin(f"{browser.url}/actions/pause-queue", reply.headers["Location"])
            assert there.startswith(f"{browser.url}/queues?page=2&outcome=")
        assert await _is_paused(app)


async def test_behind_a_proxy_that_changes_host_the_external_url_says_which_origin_is_ours() -> None:
    known = Settings(web_actions=True, web_external_url="https://jobs.example.com/ops")
    for settings, expected in ((ACTING, 403), (known, 200)):
        async with (
            _app() as app,
            in_aiohttp(app, settings, who=True) as ask,
            behind_proxy(ask, "/ops", "inner") as out,
        ):
            token = await _token(out, "ann")
            reply = await _post(out, X_Who="ann", X_Flowrra_Token=token, Origin="https://jobs.example.com")
            assert reply.status == expected


@SERVERS
async def test_a_body_beyond_the_bound_is_refused(server: Any) -> None:
    async with _app() as app, server(app, ACTING, who=True) as ask:
        headers = {"X_Who": "ann", "X_Flowrra_Token": await _token(ask, "ann"), "Content_Type": "application/json"}
        reply = await ask("/api/actions/pause-queue", "POST", b" " * 70_000, **headers)
        assert reply.status == 413


async def test_processes_with_one_secret_take_each_others_tokens_and_no_others() -> None:
    async with _app() as app:
        async with in_wsgi(app, ACTING, who=True, secret=b"s" * 16) as ask:
            token = await _token(ask, "ann")
        for secret, expected in ((b"s" * 16, 200), (b"t" * 16, 403), (None, 403)):
            async with in_wsgi(app, ACTING, who=True, secret=secret) as ask:
                assert (await _post(ask, X_Who="ann", X_Flowrra_Token=token)).status == expected


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(UsageError, match="secret has 3 bytes; expected 16 or more"):
        Application(MinimalApp(), secret=b"abc")


async def test_without_the_console_no_page_and_no_form_is_served() -> None:
    settings = Settings(web_actions=True, web_console=False)
    async with _app() as app, in_aiohttp(app, settings, who=True) as ask:
        assert (await ask("/")).status == 404
        assert (await ask("/actions/pause-queue", "POST", b"", X_Who="ann")).status == 404
        assert (await ask("/api/stats")).status == 200
