"""What becomes of a push that a receiver refuses, in whole or in part, or answers with something else."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flowrra_exporter.otel.delivery import Delivery
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.readings import Kind, Point, Reading
from flowrra_exporter.otel.sender import MetricSender
from flowrra_exporter.otel.streams import Streams
from flowrra_exporter.otel.transport import metric_sender
from flowrra_exporter.settings import Settings
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.resources import Resource

from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp
from tests.exporter.otel.receivers import GrpcReceiver, HttpReceiver, Inbox, Judge, Reply, streams
from tests.exporter.otel.test_push import pushing, until_counted

Receiver = HttpReceiver | GrpcReceiver

REFUSED = Reply(
    status=400, body=Status(message="bad label").SerializeToString(), code="INVALID_ARGUMENT", text="bad label"
)
TOO_LARGE = Reply(status=413, code="RESOURCE_EXHAUSTED", text="message larger than max")
BROKEN = Reply(status=500, code="INTERNAL", text="oops")


def orders(request: ExportMetricsServiceRequest) -> list[str]:
    return [dict(labels)["order"] for _, labels in streams(request)]


def refuses(*bad: str, reply: Reply = REFUSED) -> Judge:
    """Refuses every request with one of these orders in it."""
    return lambda request: reply if set(bad) & set(orders(request)) else None


class Pusher:
    """Pushes a counter of orders, as many times as it's told."""

    def __init__(self, receiver: Receiver, delta: bool = True) -> None:
        settings = Settings(otel_endpoint=receiver.endpoint, otel_protocol=receiver.protocol)
        self.sender: MetricSender = metric_sender(Environment(settings, {}), 2.0)
        self._streams = Streams(Resource({}), frozenset({Kind.COUNTER} if delta else ()), 1000.0)
        self._at = 2000.0

    def push(self, **orders: float) -> Delivery:
        self._at += 10
        points = [Point((("order", order),), value) for order, value in orders.items()]
        delivery = Delivery()
        readings = [Reading("prometheus_client", "shop_orders", "", "", Kind.COUNTER, points)]
        delivery.deliver(self._streams.batches(readings, self._at), self.sender)
        return delivery


@pytest.fixture
def pusher(either: Receiver) -> Iterator[Pusher]:
    found = Pusher(either)
    yield found
    found.sender.close()


def many(number: int, value: float = 1) -> dict[str, float]:
    return {f"o{place}": value for place in range(number)}


def taken(inbox: Inbox) -> list[str]:
    return sorted(order for request in inbox.requests for order in orders(request))


@pytest.mark.slow
@pytest.mark.parametrize("reply", [REFUSED, TOO_LARGE, BROKEN], ids=lambda reply: str(reply.status))
def test_what_a_receiver_refuses_is_dropped_alone(pusher: Pusher, inbox: Inbox, reply: Reply) -> None:
    inbox.judge = refuses("o3", "o700", reply=reply)
    done = pusher.push(**many(1500))
    assert (done.result, done.taken, done.dropped, done.rejected) == ("partial", 1498, 2, 0)
    assert taken(inbox) == sorted(set(many(1500)) - {"o3", "o700"})
    assert f" {reply.status} " in done.complaint or reply.code in done.complaint


@pytest.mark.slow
def test_a_refused_point_costs_few_requests_and_loses_no_count(pusher: Pusher, inbox: Inbox) -> None:
    inbox.judge = refuses("o3")
    pusher.push(**many(1000))
    assert inbox.attempts < 25
    inbox.judge = lambda request: None
    pusher.push(**many(1000, 5))
    values = {dict(labels)["order"]: found.value for (_, labels), found in inbox.last().items()}
    assert values == {**many(1000, 4), "o3": 5}


def test_a_request_that_is_too_large_is_sent_in_parts(pusher: Pusher, inbox: Inbox) -> None:
    inbox.judge = lambda request: TOO_LARGE if len(orders(request)) > 300 else None
    done = pusher.push(**many(1000))
    assert (done.result, done.taken) == ("success", 1000)
    assert taken(inbox) == sorted(many(1000))


@pytest.mark.slow
def test_a_receiver_that_refuses_everything_is_an_outage_without_many_requests(pusher: Pusher, inbox: Inbox) -> None:
    inbox.judge = lambda request: REFUSED
    done = pusher.push(**many(3000))
    assert (done.result, done.taken, done.dropped) == ("failure", 0, 0)
    assert "bad label" in done.failure
    assert inbox.attempts < 40
    inbox.judge = lambda request: None
    assert pusher.push(**many(3000, 4)).taken == 3000
    assert {found.value for request in inbox.requests for found in streams(request).values()} == {4}


@pytest.mark.slow
def test_a_batch_that_is_refused_as_a_whole_keeps_the_next_ones_from_nothing(pusher: Pusher, inbox: Inbox) -> None:
    bad = set(many(1000))
    inbox.judge = lambda request: REFUSED if bad & set(orders(request)) else None
    done = pusher.push(**many(2500))
    assert (done.result, done.taken, done.dropped) == ("partial", 1500, 1000)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=401, code="UNAUTHENTICATED", text="who are you?"),
        Reply(status=403, code="PERMISSION_DENIED", text="no"),
        Reply(status=404, code="UNIMPLEMENTED", text="no such service"),
    ],
    ids=lambda reply: reply.code,
)
def test_an_answer_about_the_receiver_drops_nothing(pusher: Pusher, inbox: Inbox, reply: Reply) -> None:
    inbox.judge = lambda request: reply
    done = pusher.push(**many(2000))
    assert (done.result, done.taken, done.dropped, inbox.attempts) == ("failure", 0, 0, 1)
    assert str(reply.status) in done.failure or reply.text in done.failure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "replies"),
    [
        (HttpReceiver, [Reply(status=status) for status in (429, 502, 503, 504)]),
        (
            GrpcReceiver,
            [
                Reply(code=code)
                for code in ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
            ]
            + [Reply(code="RESOURCE_EXHAUSTED", retry_after=0)],
        ),
    ],
    ids=["http", "grpc"],
)
def test_what_may_be_sent_again_is_sent_again(
    inbox: Inbox, kind: type[HttpReceiver] | type[GrpcReceiver], replies: list[Reply]
) -> None:
    receiver = kind(inbox)
    pusher = Pusher(receiver)
    try:
        for reply in replies:
            answers = iter([reply])
            inbox.attempts, inbox.judge = 0, lambda request, answers=answers: next(answers, None)  # type: ignore[misc]
            assert pusher.push(a=1).result == "success", reply
            assert inbox.attempts == 2, reply
    finally:
        pusher.sender.close()
        receiver.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, headers={"Retry-After": "30"}, code="RESOURCE_EXHAUSTED", retry_after=30),
        Reply(status=503, headers={"Retry-After": "30"}, code="UNAVAILABLE", retry_after=30),
    ],
    ids=["throttled", "unavailable"],
)
def test_a_receiver_that_wants_to_be_left_alone_is_told_apart(pusher: Pusher, inbox: Inbox, reply: Reply) -> None:
    inbox.judge = lambda request: reply
    done = pusher.push(a=1)
    assert (done.result, done.retry_after, inbox.attempts) == ("failure", 30, 1)


@pytest.mark.slow
async def test_a_receiver_is_left_alone_for_as_long_as_it_says(either: Receiver, serve: Serve, inbox: Inbox) -> None:
    wait = Reply(status=503, headers={"Retry-After": "2"}, code="UNAVAILABLE", retry_after=2)
    answers = iter([wait])
    inbox.judge = lambda request: next(answers, None)
    started = time.monotonic()
    await serve(ContractApp(), **pushing(either, otel_interval=0.1))
    await asyncio.to_thread(inbox.wait, 1)
    assert time.monotonic() - started >= 2
    assert inbox.attempts == 2


async def test_what_a_receiver_rejects_is_counted_and_logged_once(
    either: Receiver, serve: Serve, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.judge = lambda request: Reply(rejected=3, message="three labels too many")
    service = await serve(ContractApp(), **pushing(either))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert not await service.exporter.push_metrics()
        scrape = await service.get()
        inbox.judge = lambda request: None
        assert await service.exporter.push_metrics()
    points = len(streams(inbox.requests[0]))
    assert scrape.value("flowrra_otel_points_total", result="rejected") == 9
    assert scrape.value("flowrra_otel_points_total", result="dropped") == 0
    assert scrape.value("flowrra_otel_exports_total", result="partial") == 3
    assert scrape.value("flowrra_otel_exports_total", result="success") == 0
    assert scrape.value("flowrra_otel_last_export_timestamp_seconds") == pytest.approx(time.time(), abs=10)
    assert caplog.text.count("three labels too many") == 1
    assert f"the OTLP receiver rejects 3 of {points} points: three labels too many" in caplog.text
    assert caplog.text.count("the OTLP receiver takes all points again") == 1


async def test_a_receiver_that_rejects_all_points_is_no_success(
    either: Receiver, serve: Serve, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.judge = lambda request: Reply(rejected=len(streams(request)), message="out of space")
    service = await serve(ContractApp(), **pushing(either))
    assert not await service.exporter.push_metrics()
    scrape = await service.get()
    assert scrape.value("flowrra_otel_exports_total", result="failure") == 1
    assert scrape.value("flowrra_otel_points_total", result="accepted") == 0
    assert scrape.value("flowrra_otel_points_total", result="rejected") == len(inbox.last())
    assert scrape.value("flowrra_otel_last_export_timestamp_seconds") is None
    assert "pushing metrics over OTLP fails: out of space" in caplog.text


@pytest.mark.slow
async def test_what_is_dropped_is_counted_and_logged_once(
    either: Receiver, serve: Serve, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ("flowrra.event_loop.stalls", frozenset[tuple[str, str]]())
    inbox.judge = lambda request: REFUSED if bad in streams(request) else None
    service = await serve(ContractApp(), **pushing(either))
    for _ in range(2):
        assert not await service.exporter.push_metrics()
    scrape = await service.get()
    assert scrape.value("flowrra_otel_points_total", result="dropped") == 2
    assert scrape.value("flowrra_otel_exports_total", result="partial") == 2
    assert caplog.text.count("bad label") == 1


async def test_a_remark_of_a_receiver_that_takes_everything_is_logged_once(
    either: Receiver, serve: Serve, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.judge = lambda request: Reply(message="use version 2")
    service = await serve(ContractApp(), **pushing(either))
    for _ in range(2):
        assert await service.exporter.push_metrics()
    assert caplog.text.count("use version 2") == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>"), "text/html"),
        (
            Reply(headers={"Content-Type": "application/x-protobuf"}, body=b"\xff\xff\xff"),
            "ExportMetricsServiceResponse",
        ),
        (Reply(headers={"Content-Type": "application/json"}, body=b"[1"), "application/json"),
        (Reply(headers={"Content-Type": "application/x-protobuf"}, body=b"\x00" * 100_000), "longer than"),
        (Reply(status=302, headers={"Location": "http://elsewhere.example/"}), "http://elsewhere.example/"),
        (Reply(status=308, headers={"Location": "/v2/metrics"}), "/v2/metrics"),
    ],
    ids=["page", "garbage", "broken-json", "endless", "302", "308"],
)
def test_an_answer_that_is_no_otlp_answer_is_no_success(
    http: HttpReceiver, inbox: Inbox, reply: Reply, said: str
) -> None:
    pusher = Pusher(http)
    inbox.judge = lambda request: reply
    done = pusher.push(a=1)
    assert (done.result, done.taken) == ("failure", 0)
    assert said in done.failure
    pusher.sender.close()


def test_a_receiver_may_answer_in_json(http: HttpReceiver, inbox: Inbox) -> None:
    body = b'{"partialSuccess": {"rejectedDataPoints": "1", "errorMessage": "one too many"}, "more": 1}'
    pusher = Pusher(http)
    inbox.judge = lambda request: Reply(headers={"Content-Type": "application/json"}, body=body)
    done = pusher.push(a=1, b=2)
    assert (done.result, done.taken, done.rejected, done.complaint) == ("partial", 1, 1, "one too many")
    pusher.sender.close()


class Raw:
    """Reads a request, and answers bytes with pauses in between, until it's closed."""

    def __init__(self, *pieces: bytes, pause: float = 0.05) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pieces, self._pause = pieces, pause
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.protocol = "http/protobuf"
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    for piece in self._pieces:
                        connection.sendall(piece)
                        self._closed.wait(self._pause)
                except OSError:
                    continue

    def close(self) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.mark.slow
def test_an_answer_that_comes_in_drops_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100000\r\n\r\n"
    receiver: Any = Raw(head, *[b"\x00"] * 100_000)
    pusher = Pusher(receiver)
    try:
        started = time.monotonic()
        done = pusher.push(a=1)
        assert done.result == "failure"
        assert time.monotonic() - started < 8
    finally:
        pusher.sender.close()
        receiver.close()


async def test_a_slow_answer_within_the_time_is_a_success(either: Receiver, serve: Serve, inbox: Inbox) -> None:
    inbox.open.clear()
    service = await serve(ContractApp(), **pushing(either))
    pushing_now = asyncio.create_task(service.exporter.push_metrics(10))
    await asyncio.to_thread(inbox.wait_for_attempts, 1)
    inbox.open.set()
    assert await pushing_now
    await until_counted(service, "success", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "spoken", "hint"),
    [
        (GrpcReceiver, "http/protobuf", "--otel.protocol=grpc"),
        (HttpReceiver, "grpc", "--otel.protocol=http/protobuf"),
    ],
    ids=["http-to-grpc", "grpc-to-http"],
)
async def test_the_wrong_protocol_is_named(
    inbox: Inbox,
    serve: Serve,
    kind: type[HttpReceiver] | type[GrpcReceiver],
    spoken: str,
    hint: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = kind(inbox)
    try:
        service = await serve(ContractApp(), **pushing(receiver, otel_protocol=spoken, otel_interval=2.0))
        assert not await service.exporter.push_metrics(10)
        await until_counted(service, "failure", 1)
        assert f"then: {hint}" in caplog.text
    finally:
        receiver.close()
