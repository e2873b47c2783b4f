"""Passwords in URLs, whatever characters they have: no message shows a part of one."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from flowrra_exporter.check_command.endpoint import EndpointCheck
from flowrra_exporter.cli import main
from flowrra_exporter.settings import OPTIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrra import Config
from flowrra.backends import get_backend
from flowrra.brokers.factory import get_broker
from flowrra.exceptions import BackendError
from flowrra.scheduler.backends import get_scheduler_backend
from tests.exporter.commands import check
from tests.exporter.conftest import Serve
from tests.exporter.web.test_authentication import hashed

# Their own marks tell parts of the password from what messages say anyway.
MARKS = ("Qz", "Xk", "Jv")
PASSWORDS = st.builds(
    lambda first, second: first.join(MARKS[:2]) + second + MARKS[2],
    *(st.text("#/?@:[]%&='\"\\ \tå;,+!$ 0123456789", max_size=4) for _ in range(2)),
)
URLS = st.builds(
    lambda form, password: form.replace("PASSWORD", password),
    st.sampled_from(
        [
            "SCHEME://:PASSWORD@127.0.0.1:1/0",
            "SCHEME://anna:PASSWORD@127.0.0.1:1",
            "SCHEME://anna:PASSWORD@127.0.0.1:port/path",
            "SCHEME://PASSWORD@127.0.0.1:1/0",
            "SCHEME://anna:1PASSWORD@127.0.0.1/db?x=y",
            "SCHEME:/anna:PASSWORD@127.0.0.1:1/0",
            "SCHEME//anna:PASSWORD@127.0.0.1:1/0",
        ]
    ),
    PASSWORDS,
)
many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def shows(text: str) -> list[str]:
    return [mark for mark in MARKS if mark in text]


def printed(*arguments: str) -> str:
    """What the command prints with these arguments."""
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        main(arguments)
    return out.getvalue()


VALUED = [option.flag for option in OPTIONS if not option.switch and option.flag != "--web.config.file"]


@many
@given(st.sampled_from(VALUED), URLS, st.sampled_from(["http", "redis"]))
def test_no_flag_shows_it_nor_its_traceback(flag: str, url: str, scheme: str) -> None:
    text = printed(f"{flag}={url.replace('SCHEME', scheme)}", "--print-config", "--debug")
    assert not shows(text), text


@many
@given(st.sampled_from([option.variable for option in OPTIONS if option.flag != "--web.config.file"]), URLS)
def test_no_variable_of_the_exporter_shows_it(variable: str, url: str) -> None:
    with patch.dict(os.environ, {variable: url.replace("SCHEME", "http")}):
        text = printed("--print-config", "--debug")
    assert not shows(text), text


@many
@given(st.sampled_from(VALUED), URLS)
def test_no_configuration_file_shows_it(tmp_path_factory: pytest.TempPathFactory, flag: str, url: str) -> None:
    path = tmp_path_factory.mktemp("config") / "exporter.yml"
    text = url.replace("SCHEME", "http").replace("'", "''")
    path.write_text(f"{flag.removeprefix('--')}: '{text}'\n")
    text = printed(f"--config.file={path}", "--print-config", "--debug")
    assert not shows(text), text


@many
@given(URLS)
def test_no_url_to_check_shows_it(url: str) -> None:
    text = printed("check", f"--url={url.replace('SCHEME', 'ftp')}")
    assert not shows(text), text


@settings(many, max_examples=30)
@given(PASSWORDS)
async def test_no_finding_about_an_endpoint_shows_it(password: str) -> None:
    from urllib.parse import quote

    url = f"http://anna:{quote(password, safe='')}@127.0.0.1:1/metrics?token={quote(password)}"
    found = [finding.message async for finding in EndpointCheck(url, 5).findings()]
    assert "can't be scraped" in found[0]
    assert not shows(" ".join(found))


@many
@given(URLS, st.sampled_from(["redis", "rediss", "unix", "postgresql", "postgres", "mysql", "amqp", "http"]))
def test_no_store_or_broker_shows_it(url: str, scheme: str) -> None:
    """Nor do the errors before theirs, which a traceback would show."""
    for make in (get_broker, get_backend, get_scheduler_backend):
        error: BaseException | None = None
        try:
            if scheme in url or not _is_file(url, make):
                make(url.replace("SCHEME", scheme))
        except (BackendError, ValueError) as raised:
            error = raised
        while error is not None:
            assert not shows(str(error)), str(error)
            error = error.__cause__ or error.__context__


def _is_file(url: str, make: object) -> bool:
    """A plain path is the name of an SQLite file."""
    return make is get_scheduler_backend and "SCHEME:" not in url


@pytest.mark.parametrize("password", ["Qz@Xk", "Qz@Xk/x:y", "Qz:Xk@1/Jv", "Qz#Xk@a?b=Jv"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_database_whose_host_would_be_a_part_of_it(scheme: str, password: str) -> None:
    with pytest.raises(ValueError, match="in a password write") as caught:
        get_scheduler_backend(f"{scheme}://anna:{password}@127.0.0.1:1/db")
    assert not shows(str(caught.value))
    assert caught.value.__context__ is None


NUMBERS = [
    f"{part}_{name}"
    for part, names in {
        "BROKER": ("MAX_CONNECTIONS", "SOCKET_TIMEOUT"),
        "BACKEND": ("TTL", "MAX_CONNECTIONS"),
        "EXECUTOR": ("IO_WORKERS", "MAX_RETRIES", "RETRY_DELAY"),
    }.items()
    for name in names
]


@many
@given(st.sampled_from(NUMBERS), URLS)
def test_no_variable_of_the_app_shows_it(variable: str, url: str) -> None:
    values = {"FLOWRRA_BROKER_URL": "redis://x", "FLOWRRA_BACKEND_URL": "redis://x", f"FLOWRRA_{variable}": url}
    with patch.dict(os.environ, values), pytest.raises(ValueError, match=variable) as caught:
        Config.from_env()
    assert not shows(str(caught.value))


@pytest.mark.slow
async def test_a_password_that_is_not_ascii_gets_in_as_with_prometheus(serve: Serve, tmp_path: Path) -> None:
    from tests.exporter.contract import MinimalApp

    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{örjan: {hashed('blåbär/€')}}}")
    service = await serve(MinimalApp(), web_config_file=path)
    place = service.url.removeprefix("http://")
    ended = await check(f"--url=http://%C3%B6rjan:bl%C3%A5b%C3%A4r%2F%E2%82%AC@{place}/metrics")
    assert f"http://{place}/metrics answers 200" in ended.out
    assert "answers 401" not in ended.out
    assert "%A5" not in ended.out + ended.err
