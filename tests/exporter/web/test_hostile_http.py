"""Whatever comes over the wire: never a 500, never a hang, and the probes go on answering."""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flowrra_exporter.paths import EVENTS, OTHER_PATHS
from flowrra_exporter.settings import Address
from flowrra_exporter.web.access.limits import MAX_CONNECTIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.exporter.conftest import FREE_PORT, Command, Run, Serve, Service, fetch

PATHS = ("/metrics", *(path for path in OTHER_PATHS if path != EVENTS))  # which has no end
SECONDS = 15.0


def exchange(url: str, sent: bytes, patience: float = 2.0) -> bytes:
    """Sends bytes, and returns all that comes back until the server ends the connection.

    If it doesn't within ``patience`` seconds, it's told that no more will come. TimeoutError if that is no end, either.
    """
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    with socket.create_connection(address, timeout=SECONDS) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.settimeout(patience)
            while True:
                try:
                    piece = connection.recv(1 << 16)
                except TimeoutError:
                    if connection.gettimeout() == SECONDS:
                        raise
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(SECONDS)
                    continue
                if not piece:
                    break
                received += piece
        except ConnectionError:
            pass
        return received


def status_of(received: bytes) -> int | None:
    """The first answer's status; None if there was no answer."""
    found = re.match(rb"HTTP/\d\.\d (\d{3}) ", received)
    return int(found[1]) if found else None


def request(path: str = "/livez", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode("latin-1")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(command: Command) -> int:
    return len(os.listdir(f"/proc/{command.process.pid}/fd"))


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_slow_connections(run: Run) -> None:
    """More than the server keeps: idle ones are ended, and whoever asks is answered."""
    command = run(f"--web.listen-address={FREE_PORT}", f"--probe.listen-address={FREE_PORT}", "told:make")
    url = command.ready()
    probes = command.wait_for_line(r"answering probes on (http://\S+?)\"?$")[1]
    before = descriptors(command)
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    with ExitStack() as stack:
        slow = []
        for n in range(1000):
            connection = stack.enter_context(socket.create_connection(address, timeout=SECONDS))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: " + b"s" * (n % 50) if n % 2 else b"")
            slow.append(connection)
            if n % 50 == 0:
                assert fetch(url, "/livez").status == 200
        answers = [fetch(each, path) for each in (url, probes) for path in ("/livez", "/readyz") for _ in range(10)]
        assert {answer.status for answer in answers} == {200}
        assert max(answer.seconds for answer in answers) < SECONDS / 2
        assert fetch(url).status == 200
        assert descriptors(command) < before + MAX_CONNECTIONS + 20
        # Those that were kept are ended by the clock, one drop of header after the other or not.
        for connection in slow:
            try:
                while connection.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
    assert fetch(url).status == 200
    assert descriptors(command) < before + 20
    command.wait_for_line("connections whose clients sent nothing whole")


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """How many connections a command that is started now may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield 256 // 4
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_one_who_does_not_read_the_answers_is_ended_when_there_are_too_many(run: Run, few_descriptors: int) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "told:make")
    url = command.ready()
    before = descriptors(command)
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    with ExitStack() as stack:
        for _ in range(few_descriptors + 20):
            greedy = stack.enter_context(socket.socket())
            greedy.settimeout(SECONDS)
            # So little that the server can't get rid of what is asked for.
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect(address)
            try:
                greedy.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            except ConnectionError:
                continue
        for path in ("/livez", "/readyz", "/metrics"):
            answer = fetch(url, path)
            # So many scrapes wait for their turn that this one may be one too many.
            assert answer.status == 200 or (path == "/metrics" and answer.status == 503)
            assert answer.seconds < SECONDS / 2
        command.wait_for_line("connections whose clients sent nothing whole or read nothing")
        assert descriptors(command) <= before + few_descriptors


@pytest.fixture
async def app() -> AsyncIterator[Flowrra]:
    app = Flowrra()

    @app.task()
    async def work() -> None: ...

    async with app:
        yield app


@pytest.fixture
async def service(serve: Serve, app: Flowrra) -> Service:
    found: Service = await serve(app, probe_listen_address=(Address("127.0.0.1", 0),))
    return found


async def answer_to(service: Service, sent: bytes, patience: float = 2.0) -> bytes:
    return await asyncio.to_thread(exchange, service.url, sent, patience)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", {None}),
        (b"\r\n\r\n", {None, 400}),
        (b"\x00" * 1000, {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
        (b"GET /livez\r\n\r\n", {200, 400}),
        (b"GET /livez HTTP/9.9\r\n\r\n", {200, 400, 505}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 404}),
        (b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n", {400, 414}),
        (request("/livez", "X: " + "x" * 100_000), {400, 431}),
        (request("/livez", *(f"X-{n}: {n}" for n in range(5000))), {400, 431}),
        (request("/livez", "X" * 9000 + ": 1"), {400, 431}),
        (request("/livez", "No colon here"), {400}),
        (request("/livez", ": nothing"), {400}),
        (request("/livez", "X: a\x00b"), {400}),
        (request("/livez", "Content-Length: -1"), {400}),
        (request("/livez", "Content-Length: 5", "Content-Length: 6"), {400}),
        (request("/livez", "Content-Length: 5", "Transfer-Encoding: chunked"), {400}),
        (request("/livez", "Transfer-Encoding: chunked") + b"zzz\r\n", {200, 400}),
        (request("/livez", "Transfer-Encoding: chunked") + b"fffffffffffffffffff\r\n", {200, 400}),
        (request("/livez", "Content-Length: 99999999999999") + b"x", {413}),
        (request("/livez", "Content-Length: 1000000") + b"x" * 1_000_000, {413}),
        (request("/livez", "Content-Length: 10") + b"x" * 10, {200}),
        (request("/livez", "Content-Encoding: gzip", "Content-Length: 3") + b"abc", {200}),
        (request("/livez", "Expect: 100-continue", "Content-Length: 3"), {200, 100}),
        (request("/livez", "Expect: a miracle"), {200, 417}),
        (request("/livez", "Upgrade: websocket", "Sec-WebSocket-Key: x"), {200}),
        (request("/livez", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), {200}),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
async def test_what_is_hardly_http(service: Service, sent: bytes, expected: set[int | None]) -> None:
    received = await answer_to(service, sent)
    assert status_of(received) in expected
    assert b"aiohttp" not in received
    assert b"Python" not in received
    assert b"Traceback" not in received
    assert (await service.get("/livez")).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get"])
async def test_no_route_changes_anything(service: Service, app: Flowrra, method: str) -> None:
    await app.wait_for_result(await app.submit("work"))
    before = await state_of(app)
    for path in PATHS:
        target = "127.0.0.1:80" if method == "CONNECT" else path
        status = status_of(await answer_to(service, request(target, method=method)))
        assert status in (400, 404, 405), (path, status)
    assert await state_of(app) == before


async def state_of(app: Flowrra) -> dict[str, object]:
    """All that somebody else could change."""
    manager = FlowrraManager(app)
    return {
        "app": (await manager.get_stats())["app"],
        "completed": await manager.list_completed_tasks(),
        "tasks": await manager.get_task_stats(),
        "registered": await manager.list_registered_tasks(),
        "queues": await manager.get_queue_stats(),
        "schedules": await manager.get_scheduler_stats(),
    }


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/metrics/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%5c..%5cwindows"),
        *("//metrics", "/metrics/", "/METRICS", "/metrics%00", "/metrics%0d%0aX: y", "/metrics;a=b", "/./metrics"),
        *(
            "/api",
            "/api/",
            "/api/../metrics",
            "/api/stats/..",
            "/livez/../metrics",
            "/livez//event_loop",
            "/readyz/%00",
        ),
        *("/readyz/" + "x" * 5000, "/%ff%fe", "/%", "/%zz", "/\xe9", "http://elsewhere/metrics", "*", "metrics", "?"),
        *("/livez/<script>", "/nothing?x=<script>alert(1)</script>", "http://[::1", "//", "/metrics#fragment"),
    ],
)
async def test_path_tricks(service: Service, path: str) -> None:
    received = await answer_to(service, request(path))
    assert status_of(received) in (200, 400, 404)
    assert b"root:" not in received
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"X-Content-Type-Options: nosniff" in head or status_of(received) == 400
    assert b"text/html" not in head or b"<script>alert" not in body


@pytest.mark.slow
@pytest.mark.parametrize(
    "accept",
    [
        *("version=abc", "text/plain;version=abc", "application/openmetrics-text;version=abc", ";;;", ",,,", "q=", "*"),
        *("*/*;q=nan", "*/*;q=-1", "*/*;q=1e999", "text/plain;q=inf", "/", "a/b/c", "text/plain;" * 500, "," * 7000),
        *("\xff\xfe", "application/json;q=", 'text/plain;version="', "text/*;q=0", "application/openmetrics-text;q=0"),
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    ],
)
@pytest.mark.parametrize("header", ["Accept", "Accept-Encoding"])
async def test_broken_accept(service: Service, header: str, accept: str) -> None:
    for path in ("/metrics", "/readyz", "/"):
        assert status_of(await answer_to(service, request(path, f"{header}: {accept}"), SECONDS)) == 200


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "0", "1e400", "abc", "", "0x10", "1" * 5000])
async def test_broken_scrape_time_outs(service: Service, timeout: str) -> None:
    received = await answer_to(service, request("/metrics", f"X-Prometheus-Scrape-Timeout-Seconds: {timeout}"))
    assert status_of(received) == 200


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=x", "limit=1e9", "limit=" + "9" * 5000, "limit=", "limit=%00", "limit=%EF%BC%91"],
)
async def test_broken_parameters(service: Service, query: str) -> None:
    sent = f"GET /api/failures?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    assert status_of(await answer_to(service, sent)) == 400


async def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    received = await answer_to(service, first * 20 + request("/nothing"))
    assert re.findall(rb"HTTP/1.1 (\d{3})", received) == [b"200"] * 20 + [b"404"]


HEADER_NAMES = st.sampled_from(
    (
        *("Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "Cookie"),
        *("Expect", "Host", "If-None-Match", "Range", "TE", "Transfer-Encoding", "Upgrade"),
        "X-Prometheus-Scrape-Timeout-Seconds",
    )
)
RAW = st.text(st.characters(max_codepoint=255), max_size=60)
LIKELY = st.text("aeztxpl/*+;,=q.01 \t\"'-%<>&?:", max_size=60)
VALUES = st.one_of(RAW, LIKELY, st.sampled_from(["chunked", "close", "keep-alive", "0", "-1", "gzip", "bytes=0-"]))


def fuzzed() -> st.SearchStrategy[bytes]:
    line = st.tuples(st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]), st.sampled_from(PATHS), VALUES)
    headers = st.lists(st.tuples(HEADER_NAMES, VALUES), max_size=8)

    def build(line: tuple[str, str, str], headers: list[tuple[str, str]], rest: str) -> bytes:
        method, path, tail = line
        lines = [f"{method} {path}{tail} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join([*lines, "", ""]) + rest).encode("latin-1")

    return st.builds(build, line, headers, RAW)


@pytest.mark.slow
def test_fuzzed_requests_on_every_route(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text("http_server_config: {headers: {X-Frame-Options: deny}}")
    command = run(f"--web.listen-address={FREE_PORT}", f"--web.config.file={config}", "told:make")
    url = command.ready()

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(fuzzed(), st.binary(max_size=300)))
    def never_a_500_and_never_a_hang(sent: bytes) -> None:
        received = exchange(url, sent, patience=0.1)
        statuses = [int(found) for found in re.findall(rb"HTTP/\d\.\d (\d{3}) ", received)]
        assert 500 not in statuses
        assert b"Traceback" not in received

    never_a_500_and_never_a_hang()
    assert fetch(url, "/livez").status == 200
    assert "Traceback" not in command.log
    assert not command.err


@pytest.mark.slow
def test_random_bytes_in_the_middle_of_good_requests(run: Run) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "told:make")
    url = command.ready()
    chance = random.Random(7)
    good = request("/metrics", "Accept: application/openmetrics-text;version=1.0.0;q=0.5", "Accept-Encoding: gzip")
    for _ in range(300):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert status_of(exchange(url, bytes(broken), patience=0.1)) != 500
    assert fetch(url).status == 200
    assert "Traceback" not in command.log


# Every header that aiohttp reads by itself, or that a server could.
HEADERS = (
    *("Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection"),
    *("Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "Cookie", "Date", "Expect", "Forwarded"),
    *("From", "Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since"),
    *("Keep-Alive", "Max-Forwards", "Origin", "Proxy-Authorization", "Range", "Referer", "Sec-WebSocket-Extensions"),
    *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent"),
    *("Via", "X-Forwarded-For", "X-Prometheus-Scrape-Timeout-Seconds", "X-Unknown"),
)
ODD_VALUES = (
    *(b"", b"\x80", b"\xff\xfe", b"\xc3\x28", "ü€😀".encode(), b"\xed\xa0\x80"),
    *(b",", b";", b'"', b"=", b"\t", b"x" * 5000),
    *(b"100-continue", b"100-CONTINUE\x80", b"-1", b"9" * 30, b"0x1", b"chunked, chunked", b"chunked\x80", b"gzip\xff"),
    *(b"keep-alive\x80", b"upgrade", b"bytes=\xff-", b"Basic \xff", b"Basic ====", b"a=\x80; b", b"multipart/\xff"),
    *(b"text/html; charset=\xff", b"[::1", b"x:99999999", b"a b", b"Thu, 99 \xff 1970", b"W/\x80"),
)


def without_a_500(received: bytes) -> bool:
    """Whether nothing failed, and whatever was refused ended the connection."""
    statuses = [int(found) for found in re.findall(rb"HTTP/\d\.\d (\d{3}) ", received)]
    return all(status < 500 for status in statuses) and b"Traceback" not in received and b"Expect:" not in received


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADERS)
async def test_no_value_of_a_header_makes_an_answer_fail(
    service: Service, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for value in ODD_VALUES:
        sent = b"GET /livez HTTP/1.1\r\n" + name.encode() + b": " + value + b"\r\nX-Last: 1\r\n\r\n"
        # Answered, and then either the next request is, too, or the first was refused and the connection ended.
        received = await asyncio.to_thread(exchange, service.url, sent + request("/livez"), 0.5)
        assert without_a_500(received), ascii(value)
        statuses = [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]
        assert statuses[:1] in ([200], [100], [400], [413]), ascii((value, received))
        assert len(statuses) >= 2 or statuses[0] in (400, 413) or name in MAY_END, ascii((value, received))
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# After these it's not certain where the next request begins, or whether there is to be one.
MAY_END = ("Connection", "Content-Length", "Transfer-Encoding", "Upgrade")


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(HEADERS), st.one_of(st.binary(max_size=40), st.sampled_from(ODD_VALUES))), max_size=6
    ),
    st.sampled_from(PATHS),
)
async def test_no_headers_together_make_an_answer_fail(
    service: Service, headers: list[tuple[str, bytes]], path: str
) -> None:
    lines = [name.encode() + b": " + value.translate(None, b"\r\n") for name, value in headers]
    sent = b"\r\n".join([f"GET {path} HTTP/1.1".encode(), b"Connection: close", *lines, b"", b""])
    assert without_a_500(await asyncio.to_thread(exchange, service.url, sent, 0.5))
    assert (await service.get("/livez")).status == 200
