"""TLS: certificates of the server and of clients, versions, and files that change while connections are open."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import shutil
import socket
import ssl
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flowrra import Flowrra
from tests.exporter.certificates import Issuer
from tests.exporter.conftest import FREE_PORT, Run, Serve, Service

PLAIN = "tls_server_config: {cert_file: server.crt, key_file: server.key}"
MUTUAL = """
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_ca_file: issuer.pem
  client_auth_type: %s
  client_allowed_sans: %s
"""


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer(tmp_path, "issuer")
    issuer.issue("server")
    return issuer


def config(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def connect(url: str, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    parts = urlsplit(url)
    assert parts.scheme == "https"
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=10, context=context)


def status(url: str, context: ssl.SSLContext, path: str = "/metrics") -> int:
    with closing(connect(url, context)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


async def serial(service: Service, issuer: Issuer) -> Any:
    def ask() -> Any:
        with closing(connect(service.url, issuer.client())) as connection:
            connection.connect()
            return connection.sock.getpeercert()["serialNumber"]

    return await asyncio.to_thread(ask)


@pytest.mark.slow
def test_the_command_serves_over_tls_and_says_so(run: Run, issuer: Issuer, tmp_path: Path) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", f"--web.config.file={config(tmp_path, PLAIN)}", "told:make")
    url = command.wait_for_line(r"listening on (https://\S+?)\"?$")[1]
    command.wait_for_line("the app has started")
    assert status(url, issuer.client()) == 200
    assert status(url, issuer.client(), "/readyz") == 200


async def test_who_does_not_speak_tls_is_cut_off(serve: Serve, issuer: Issuer, tmp_path: Path) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, PLAIN))
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            await service.get()
        assert await asyncio.to_thread(status, service.url, issuer.client()) == 200


async def test_a_stranger_to_the_issuer_trusts_us_as_little(serve: Serve, issuer: Issuer, tmp_path: Path) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, PLAIN))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(status, service.url, ssl.create_default_context())


@pytest.mark.parametrize(
    ("minimum", "version", "accepted"),
    [
        ("TLS12", ssl.TLSVersion.TLSv1, False),
        ("TLS12", ssl.TLSVersion.TLSv1_1, False),
        ("TLS12", ssl.TLSVersion.TLSv1_2, True),
        ("TLS12", ssl.TLSVersion.TLSv1_3, True),
        ("TLS13", ssl.TLSVersion.TLSv1_2, False),
        ("TLS13", ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_old_versions(
    serve: Serve, issuer: Issuer, tmp_path: Path, minimum: str, version: ssl.TLSVersion, accepted: bool
) -> None:
    client = issuer.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the versions that we want to see refused
        client.minimum_version = client.maximum_version = version
    client.set_ciphers("ALL:@SECLEVEL=0")
    text = PLAIN.replace("}", f", min_version: {minimum}}}")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, text))
        if accepted:
            assert await asyncio.to_thread(status, service.url, client) == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(status, service.url, client)
        assert await asyncio.to_thread(status, service.url, issuer.client(), "/livez") == 200


async def test_clients_need_a_certificate_of_the_issuer(serve: Serve, issuer: Issuer, tmp_path: Path) -> None:
    known, other = issuer.issue("prometheus.internal"), issuer.issue("other.internal")
    (tmp_path / "elsewhere").mkdir()
    stranger = Issuer(tmp_path / "elsewhere", "issuer").issue("prometheus.internal")
    text = MUTUAL % ("RequireAndVerifyClientCert", "[prometheus.internal]")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, text), web_show_task_data=True)
        assert await asyncio.to_thread(status, service.url, issuer.client(known)) == 200
        assert await asyncio.to_thread(status, service.url, issuer.client(other)) == 403
        for pair in (None, stranger):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
                await asyncio.to_thread(status, service.url, issuer.client(pair))


async def test_a_certificate_that_is_optional_is_verified_if_it_comes(
    serve: Serve, issuer: Issuer, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    stranger = Issuer(tmp_path / "elsewhere", "issuer").issue("prometheus.internal")
    text = MUTUAL % ("VerifyClientCertIfGiven", "[]")
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, text))
        assert await asyncio.to_thread(status, service.url, issuer.client(issuer.issue("anyone"))) == 200
        assert await asyncio.to_thread(status, service.url, issuer.client()) == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
            await asyncio.to_thread(status, service.url, issuer.client(stranger))


@pytest.mark.slow
async def test_a_renewed_certificate_is_taken_up_and_open_connections_go_on(
    serve: Serve, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, PLAIN))
        before = await serial(service, issuer)
        with closing(connect(service.url, issuer.client())) as kept:

            def ask() -> int:
                kept.request("GET", "/livez")
                answer = kept.getresponse()
                answer.read()
                return answer.status

            assert await asyncio.to_thread(ask) == 200
            # A key that doesn't fit yet, as between the two writes of a tool that doesn't care:
            (tmp_path / "renewed").mkdir()
            renewed = issuer.issue("next")
            shutil.copy(renewed.key, tmp_path / "server.key")
            while "the web configuration stays as it was" not in caplog.text:
                await asyncio.sleep(0.02)
            assert await serial(service, issuer) == before
            shutil.copy(renewed.certificate, tmp_path / "server.crt")
            deadline = time.monotonic() + 10
            while await serial(service, issuer) == before:
                assert time.monotonic() < deadline
            assert await asyncio.to_thread(ask) == 200


@pytest.mark.slow
async def test_handshakes_that_never_end_hold_up_nobody(serve: Serve, issuer: Issuer, tmp_path: Path) -> None:
    async with Flowrra() as app:
        service = await serve(app, web_config_file=config(tmp_path, PLAIN))
        address = (urlsplit(service.url).hostname, urlsplit(service.url).port)
        dumb = [socket.create_connection(address) for _ in range(100)]
        try:
            dumb[0].sendall(b"\x16\x03\x01\x02\x00\x01")
            assert await asyncio.to_thread(status, service.url, issuer.client(), "/livez") == 200
            dumb[0].settimeout(15)
            assert await asyncio.to_thread(dumb[0].recv, 1) == b""
        finally:
            for each in dumb:
                each.close()


async def test_a_client_acts_under_the_name_of_its_certificate(
    serve: Serve, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a token of its own, that another client's is none of; both are taken by a replica with the same key."""
    caplog.set_level(logging.INFO, "flowrra_exporter.web.actions")
    path = config(tmp_path, MUTUAL % ("RequireAndVerifyClientCert", "[]"))
    anna, bob = issuer.client(issuer.issue("anna")), issuer.client(issuer.issue("bob"))

    def token(url: str, context: ssl.SSLContext) -> str:
        with closing(connect(url, context)) as connection:
            connection.request("GET", "/api/token")
            return str(json.loads(connection.getresponse().read())["token"])

    def act(url: str, context: ssl.SSLContext, token: str) -> int:
        headers = {"Content-Type": "application/json", "X-Flowrra-Token": token}
        with closing(connect(url, context)) as connection:
            connection.request("POST", "/api/actions/pause-queue", b'{"queue": "default"}', headers)
            return connection.getresponse().status

    async with Flowrra() as app:

        @app.task()
        async def idle() -> None: ...

        first, second = [await serve(app, web_config_file=path, web_actions=True) for _ in range(2)]
        of_anna = await asyncio.to_thread(token, first.url, anna)
        assert await asyncio.to_thread(act, first.url, anna, of_anna) == 200
        assert await asyncio.to_thread(act, second.url, anna, of_anna) == 200
        assert await asyncio.to_thread(act, first.url, bob, of_anna) == 403
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("actions.routes")]
    assert [line.partition(":")[0] for line in lines if "pause-queue" in line] == ["'anna' from 127.0.0.1"] * 2
