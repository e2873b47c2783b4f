"""Passwords, the rate limit and headers: who isn't known gets 401 and nothing else, and files are read again."""

from __future__ import annotations

import asyncio
import http.client
import os
import statistics
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bcrypt
import pytest
from flowrra_exporter.settings import Address
from flowrra_exporter.web.access.auth import Busy, Credentials, Passwords, parse_basic
from flowrra_exporter.web.access.limits import Rate, RateLimiter

from flowrra import Flowrra
from tests.exporter.conftest import Answer, Serve, fetch, until

PATHS = ("/", "/metrics", "/livez", "/livez/event_loop", "/readyz", "/startupz", "/healthz", "/api/stats", "/nothing")


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def replace(path: Path, text: str) -> None:
    """At once, as tools do that care: nobody reads half a file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  anna: {hashed('right')}\n  örjan: {hashed('blåbär')}\n")
    return path


async def test_nobody_comes_in_without_the_password(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        for path in PATHS:
            for wrong in (None, basic("anna", "wrong"), basic("bob", "right"), basic("", ""), basic("anna", "")):
                answer = await service.get(path, **({"Authorization": wrong} if wrong else {}))
                assert (answer.status, path) == (401, path)
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="flowrra-exporter", charset="UTF-8"'
                assert b"flowrra_" not in answer.body
            right = await service.get(path, Authorization=basic("anna", "right"))
            assert right.status == (404 if path == "/nothing" else 200)
        assert (await service.get(Authorization=basic("örjan", "blåbär"))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YW5uYQ==",
        "Bearer YW5uYTpyaWdodA==",
        "basic" * 1000,
        "Basic " + "A" * 7000,
        "Basic " + b64encode(b"anna:ri\x00ght").decode(),
        "Basic " + b64encode(b"\xff\xfe:\xff").decode(),
    ],
)
async def test_headers_that_are_no_credentials(serve: Serve, config: Path, header: str) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        assert (await service.get("/metrics", Authorization=header)).status == 401


def test_what_counts_as_credentials() -> None:
    assert parse_basic(basic("anna", "a:b")) == Credentials("anna", b"a:b")
    assert parse_basic("bASIC  YW5uYTo=") == Credentials("anna", b"")
    assert parse_basic("Digest abc") is None


async def test_only_the_first_72_bytes_of_a_password_count_as_in_bcrypt(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('x' * 72)}}}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path)
        assert (await service.get(Authorization=basic("anna", "x" * 100))).status == 200
        assert (await service.get(Authorization=basic("anna", "x" * 71))).status == 401


async def test_a_port_for_probes_asks_nobody(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config, probe_listen_address=(Address("127.0.0.1", 0),))
        probes = service.exporter.probe_urls[0]
        answers = [
            await asyncio.to_thread(fetch, probes, path) for path in ("/livez", "/readyz", "/startupz", "/metrics", "/")
        ]
        assert [answer.status for answer in answers] == [200, 200, 200, 404, 404]


@pytest.mark.slow
async def test_one_who_has_proved_who_he_is_sees_task_data_and_nobody_else(serve: Serve, config: Path) -> None:
    """Also from the page, which is made once a second for all who look."""
    async with Flowrra() as app:

        @app.task(max_retries=0)
        async def charge(card: str) -> None:
            raise ValueError(f"declined: {card}")

        task_id = await app.submit(charge, "4711-0815")
        await app.wait_for_result(task_id, timeout=5)
        service = await serve(app, web_config_file=config, web_show_task_data=True)
        known = {"Authorization": basic("anna", "right")}
        for path in ("/", "/api/failures"):
            for _ in range(2):
                assert "4711-0815" in (await service.get(path, **known)).text
                assert "4711-0815" not in (await service.get(path)).text
        replace(config, "basic_auth_users: {}")
        await changed(service, "/metrics", 200)
        for path in ("/", "/api/failures"):
            assert (await service.get(path)).status == 200
            assert "4711-0815" not in (await service.get(path)).text


async def changed(service: Any, path: str, status: int, **headers: str) -> Answer:
    """The first answer with this status; the file is looked at each second."""
    for _ in range(600):
        answer: Answer = await service.get(path, **headers)
        if answer.status == status:
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} still answers {answer.status}")


@pytest.mark.slow
async def test_the_file_is_read_again_and_a_broken_one_changes_nothing(
    serve: Serve, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config)
        assert (await service.get(Authorization=basic("anna", "right"))).status == 200
        replace(config, f"basic_auth_users: {{anna: {hashed('newer')}}}")
        await changed(service, "/metrics", 401, Authorization=basic("anna", "right"))
        assert (await service.get(Authorization=basic("anna", "newer"))).status == 200

        replace(config, "basic_auth_users: {anna: broken}")
        await until(lambda: "the web configuration stays as it was" in caplog.text)
        assert "basic_auth_users.anna is no bcrypt hash" in caplog.text
        config.unlink()
        await until(lambda: "No such file" in caplog.text)
        assert (await service.get()).status == 401
        assert (await service.get(Authorization=basic("anna", "newer"))).status == 200

        replace(config, f"basic_auth_users: {{bob: {hashed('again')}}}")
        await changed(service, "/metrics", 200, Authorization=basic("bob", "again"))
        assert (await service.get(Authorization=basic("anna", "newer"))).status == 401


@pytest.mark.slow
async def test_guesses_are_turned_away_while_one_who_is_known_comes_in_at_once(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('right', cost=10)}}}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path, probe_listen_address=(Address("127.0.0.1", 0),))
        known = {"Authorization": basic("anna", "right")}
        assert (await service.get(**known)).status == 200
        guesses = [asyncio.create_task(service.get(Authorization=basic("anna", f"guess {n}"))) for n in range(45)]
        answers = [await service.get("/livez", **known) for _ in range(10)]
        assert [answer.status for answer in answers] == [200] * 10
        assert not all(guess.done() for guess in guesses), "who is known waits behind those who guess"
        assert (await asyncio.to_thread(fetch, service.exporter.probe_urls[0], "/livez")).status == 200
        statuses = {answer.status for answer in await asyncio.gather(*guesses)}
        assert statuses == {401, 503}


def passwords_of(**users: str) -> Passwords:
    passwords = Passwords()
    passwords.use(users)
    return passwords


@pytest.mark.slow
async def test_a_user_that_there_is_not_takes_as_long_as_a_wrong_password() -> None:
    passwords = passwords_of(anna=hashed("right", cost=8))
    loop = asyncio.get_running_loop()
    seconds: dict[str, list[float]] = {"anna": [], "nobody": []}
    for n in range(10):
        for user, found in seconds.items():
            started = loop.time()
            assert not await passwords.check(Credentials(user, f"wrong {n}".encode()), "")
            found.append(loop.time() - started)
    passwords.close()
    assert 0.5 < statistics.median(seconds["anna"]) / statistics.median(seconds["nobody"]) < 2


async def test_users_that_there_are_not_take_as_long_as_any_of_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[str] = []

    def matches(password: bytes, hashed: str) -> bool:
        spent.append(hashed)
        return False

    monkeypatch.setattr("flowrra_exporter.web.access.auth._matches", matches)
    passwords = passwords_of(cheap="cheap", dear="dear")
    for user in range(100):
        for attempt in (b"first", b"second"):
            assert not await passwords.check(Credentials(f"nobody {user}", attempt), "")
    passwords.close()
    assert set(spent) == {"cheap", "dear"}
    assert spent[::2] == spent[1::2]


async def test_a_right_password_of_another_user_is_wrong() -> None:
    passwords = passwords_of(anna=hashed("right"), bob=hashed("other"))
    assert await passwords.check(Credentials("anna", b"right"), "")
    assert not await passwords.check(Credentials("bob", b"right"), "")
    assert not await passwords.check(Credentials("carol", b"right"), "")
    assert not await passwords.check(Credentials("ann", b"aright"), "")
    passwords.close()


async def test_the_rate_limit_leaves_the_probes_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("rate_limit: {interval: 1h, burst: 3}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path)
        answers = [await service.get() for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["Retry-After"] == "1"
        for probe in ("/livez", "/readyz", "/readyz/app", "/startupz", "/healthz"):
            assert (await service.get(probe)).status == 200
        assert (await service.get("/livezzz")).status == 429


def test_a_bucket_fills_as_time_goes_by() -> None:
    now = [0.0]
    limiter = RateLimiter(Rate(interval=0.5, burst=2), clock=lambda: now[0])
    assert [limiter.allows() for _ in range(3)] == [True, True, False]
    now[0] = 0.5
    assert [limiter.allows() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [limiter.allows() for _ in range(3)] == [True, True, False]


async def test_configured_headers_win_on_every_answer(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(
        "http_server_config: {headers: {X-Frame-Options: sameorigin, Strict-Transport-Security: max-age=9}}"
    )
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path)
        for asked in (*PATHS, "/nothing"):
            headers = (await service.get(asked)).headers
            assert (headers["X-Frame-Options"], headers["Strict-Transport-Security"]) == ("sameorigin", "max-age=9")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "flowrra-exporter"


def status_from(url: str, source: str, path: str, authorization: str) -> int:
    """The status of an answer to a client with this address."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=15, source_address=(source, 0))
    with closing(connection):
        connection.request("GET", path, headers={"Authorization": authorization})
        return connection.getresponse().status


@pytest.mark.slow
async def test_one_who_guesses_keeps_nobody_out_and_fills_no_log(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even one whom we don't know yet."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('right', cost=9)}}}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path)
        ended = asyncio.Event()
        guessed: list[int] = []

        async def guess(n: int) -> None:
            while not ended.is_set():
                password = basic("anna", f"guess {n} {len(guessed)}")
                guessed.append(await asyncio.to_thread(status_from, service.url, "127.0.0.2", "/metrics", password))

        guessing = [asyncio.create_task(guess(n)) for n in range(25)]
        await until(lambda: 503 in guessed and 401 in guessed, 20)
        assert await asyncio.to_thread(fetch_status, service.url, basic("anna", "right")) == 200
        ended.set()
        await asyncio.gather(*guessing)
    assert set(guessed) == {401, 503}
    refused = [record.getMessage() for record in caplog.records if "wrong password" in record.getMessage()]
    assert refused == ["refused 1 wrong passwords, the last from 127.0.0.2"]


def fetch_status(url: str, authorization: str) -> int:
    return fetch(url, "/metrics", Authorization=authorization).status


async def test_who_comes_with_what_is_being_checked_takes_no_place() -> None:
    passwords = passwords_of(anna=hashed("right", cost=8))
    found = await asyncio.gather(*(passwords.check(Credentials("anna", b"right"), "10.0.0.1") for _ in range(50)))
    assert set(found) == {True}
    guesses = (passwords.check(Credentials("anna", b"%d" % n), "10.0.0.1") for n in range(50))
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert outcomes.count(False) == 4
    assert sum(isinstance(outcome, Busy) for outcome in outcomes) == 46
    passwords.close()


async def test_who_was_known_stays_known_while_the_own_hash_is_the_same() -> None:
    anna, bob = Credentials("anna", b"right"), Credentials("bob", b"other")
    users = {"anna": hashed("right"), "bob": hashed("other")}
    passwords = passwords_of(**users)
    assert await passwords.check(anna, "")
    assert await passwords.check(bob, "")
    passwords.use(dict(users))
    assert passwords.knows(anna)
    passwords.use({"anna": users["anna"], "carol": hashed("new")})
    assert passwords.knows(anna)
    assert not passwords.knows(bob)
    assert not await passwords.check(bob, "")
    passwords.use({"anna": hashed("right"), "carol": hashed("new")})
    assert not passwords.knows(anna)
    passwords.close()


@pytest.mark.slow
async def test_a_reload_drops_nobody_who_is_being_checked() -> None:
    """Each is judged by the users that there were when he came; what was found then is not remembered."""
    passwords = passwords_of(anna=hashed("right", cost=10), bob=hashed("other", cost=10))
    checks = [asyncio.create_task(passwords.check(Credentials("anna", b"right"), "")) for _ in range(3)]
    checks += [asyncio.create_task(passwords.check(Credentials("bob", b"wrong"), ""))]
    await asyncio.sleep(0)
    passwords.use({"anna": hashed("newer")})
    assert await asyncio.gather(*checks) == [True, True, True, False]
    assert not passwords.knows(Credentials("anna", b"right"))
    assert not await passwords.check(Credentials("anna", b"right"), "")
    passwords.use({})
    passwords.use({"anna": hashed("right")})
    assert await passwords.check(Credentials("anna", b"right"), "")
    passwords.close()


async def test_guesses_by_the_probes_are_limited_and_probes_are_not(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"rate_limit: {{interval: 1h, burst: 4}}\nbasic_auth_users: {{anna: {hashed('right')}}}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=path)
        known = {"Authorization": basic("anna", "right")}
        assert (await service.get("/livez", **known)).status == 200
        guesses = [await service.get("/livez", Authorization=basic("anna", f"guess {n}")) for n in range(6)]
        assert [answer.status for answer in guesses] == [401, 401, 401, 429, 429, 429]
        assert [(await service.get("/livez", **known)).status for _ in range(5)] == [200] * 5
        assert (await service.get("/livez")).status == 401
