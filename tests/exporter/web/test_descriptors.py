"""Connections take a share of the process's descriptors, from the first byte on: the app and the probes have theirs."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from flowrra_exporter.settings import Address
from flowrra_exporter.web.access.limits import ConnectionLimits, client_of
from flowrra_exporter.web.access.sockets import bind, url
from flowrra_exporter.web.server import ServerThread, Site, make_application

from tests.exporter.certificates import Issuer
from tests.exporter.conftest import FREE_PORT, Command, Run, fetch

LIMIT = 256
SHARE = LIMIT // 4


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Where connections are kept, with descriptors enough for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    with ExitStack() as stack:
        yield stack
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def start(run: Run, *flags: str) -> tuple[Command, str, str]:
    """The command under a low limit, its own port and the one of its probes."""
    command = run(f"--web.listen-address={FREE_PORT}", f"--probe.listen-address={FREE_PORT}", *flags, "opens:app")
    listening = command.wait_for_line(r"listening on (https?://\S+?)\"?$")[1]
    probes = command.wait_for_line(r"answering probes on (http://\S+?)\"?$")[1]
    command.wait_for_line("the app has started")
    resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    return command, listening, probes


def flood(clients: ExitStack, address: str, connections: int, sent: bytes = b"") -> None:
    """Connections that are made, and then keep us waiting."""
    place = (urlsplit(address).hostname or "", urlsplit(address).port or 0)
    for _ in range(connections):
        connection = socket.socket()
        clients.callback(connection.close)
        connection.setblocking(False)
        connection.connect_ex(place)
        try:
            connection.send(sent)
        except OSError:
            continue


def descriptors(command: Command) -> int:
    return len(os.listdir(f"/proc/{command.process.pid}/fd"))


def can_open(command: Command, number: int) -> None:
    before = len(command.out)
    command.tell(str(number))
    command.wait_for_line(f"^opened {number}$", 10)
    assert not [line for line in command.out[before:] if line.startswith("failed")]


@pytest.mark.slow
@pytest.mark.parametrize("over_tls", [True, False])
def test_floods_of_both_ports_leave_the_app_and_the_probes_their_descriptors(
    run: Run, clients: ExitStack, tmp_path: Path, over_tls: bool
) -> None:
    """Without a handshake, too: then aiohttp has never heard of the connection."""
    flags: list[str] = []
    if over_tls:
        Issuer(tmp_path, "issuer").issue("server")
        (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}")
        flags = [f"--web.config.file={tmp_path / 'web.yml'}"]
    command, listening, probes = start(run, *flags)
    before = descriptors(command)
    for _ in range(3):
        flood(clients, listening, LIMIT)
        flood(clients, probes, LIMIT)
        assert fetch(probes, "/livez").status == 200
        assert descriptors(command) <= before + SHARE + 16
    can_open(command, LIMIT - before - SHARE - 16)
    assert fetch(probes, "/readyz").seconds < 2
    assert "Traceback" not in command.log
    assert len(command.out) < 20
    assert not command.err


@pytest.mark.slow
def test_an_app_that_has_opened_nearly_all_can_still_open_some_more(run: Run, clients: ExitStack) -> None:
    command, listening, probes = start(run)
    can_open(command, LIMIT - descriptors(command) - LIMIT // 8)
    flood(clients, listening, LIMIT)
    assert fetch(probes, "/livez").status == 200
    assert fetch(listening, "/livez").status == 200
    can_open(command, 10)
    command.signal()
    assert command.wait() == 0
    assert "the app has stopped" in command.log


@pytest.mark.slow
def test_a_process_without_any_descriptor_says_so_in_a_line_and_answers_once_there_are_some(
    run: Run, clients: ExitStack
) -> None:
    command, listening, _ = start(run)
    resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE, (descriptors(command), LIMIT))
    flood(clients, listening, 50, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    command.wait_for_line("no place for one more")
    resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    assert fetch(listening, "/livez").status == 200
    assert "Traceback" not in command.log
    assert not command.err


@pytest.mark.slow
def test_who_comes_while_all_places_are_taken_waits_and_is_answered(clients: ExitStack) -> None:
    """None of those who wait for an answer is ended for a newcomer, and the probes have places of their own."""
    go_on = threading.Event()
    asked = threading.Semaphore(0)

    async def answer(request: web.Request) -> web.Response:
        if request.path != "/probe":
            asked.release()
            while not go_on.is_set():
                await asyncio.sleep(0.01)
        return web.Response(text="done")

    def application() -> web.Application:
        return make_application([web.get("/{path}", answer)])

    main, probes = (bind([Address("127.0.0.1", 0)], "--flag") for _ in range(2))
    places = ConnectionLimits(lambda: LIMIT)
    assert (places.most, places.kept_for_probes) == (64, 16)
    server = ServerThread([Site(application, main), Site(application, probes, for_probes=True)], [], places)
    server.start()
    with ThreadPoolExecutor(60) as threads:
        answers = [threads.submit(fetch, url(main[0]), "/slow") for _ in range(48)]
        try:
            for _ in range(48):
                assert asked.acquire(timeout=10)
            answers += [threads.submit(fetch, url(main[0]), "/slow") for _ in range(12)]
            assert not asked.acquire(timeout=0.5)
            assert fetch(url(probes[0]), "/probe").status == 200
        finally:
            go_on.set()
        assert {each.result().status for each in answers} == {200}
    server.stop()


class Dummy:
    """A connection that has nothing behind it."""

    for_probes = False
    idle_limit = 10.0

    def __init__(self, client: str, waiting_since: float | None) -> None:
        self.client, self.waiting_since = client, waiting_since
        self.ended = False

    def abort(self) -> None:
        self.ended = True


def test_room_is_made_by_the_client_that_has_most_connections() -> None:
    """The scraper's idle connection has waited longest, and stays."""
    places = ConnectionLimits(lambda: 16)
    scraper = Dummy("10.0.0.1", 1.0)
    greedy = [Dummy("10.0.0.2", 2.0), Dummy("10.0.0.2", 3.0), Dummy("10.0.0.2", None)]
    for client in (scraper, *greedy):
        places.opened(client)
    assert places.make_room(9, for_probes=False, probes_have_a_port=False)
    assert [client.ended for client in (scraper, *greedy)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_who_a_client_is(address: str, client: str) -> None:
    assert client_of(address) == client
