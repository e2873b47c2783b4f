"""Metrics over OTLP: what a real receiver holds, and what becomes of the push when the receiver fails."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.errors import UsageError
from flowrra_exporter.metrics.catalog import CATALOG, Metric
from flowrra_exporter.otel.environment import DEFAULT_TIMEOUT
from flowrra_exporter.otel.names import unit_of
from flowrra_exporter.otel.resource import _resource_of, resource, started_at
from flowrra_exporter.settings import Address, Settings
from prometheus_client import Counter, Gauge, Histogram, Info, Summary
from prometheus_client.core import HistogramMetricFamily

from flowrra import Flowrra
from tests.exporter.conftest import Serve, Service
from tests.exporter.contract import ContractApp
from tests.exporter.otel.receivers import CUMULATIVE, DELTA, GrpcReceiver, HttpReceiver, Inbox, Stream, Streams, streams
from tests.support.forks import FORK_IS_MEANT

Receiver = HttpReceiver | GrpcReceiver
VOLATILE = (
    *("flowrra_collector_duration", "flowrra_registered_collector_duration"),
    *("flowrra_otel", "flowrra_event_loop", "flowrra_exporter_series"),
)
"""Metrics that the scrape and the push themselves move."""


def pushing(receiver: Receiver, **more: Any) -> dict[str, Any]:
    """Settings that push to this receiver, and only when the test says so."""
    return {
        "otel_metrics": True,
        "otel_endpoint": receiver.endpoint,
        "otel_protocol": receiver.protocol,
        "otel_interval": 600.0,
        **more,
    }


def busy_app() -> Flowrra:
    """An app whose task fails for odd numbers."""
    app = Flowrra()

    @app.task("shop.pay", max_retries=1, retry_delay=0)
    async def pay(number: int) -> None:
        if number % 2:
            raise ValueError(number)

    return app


async def run(app: Flowrra, *numbers: int) -> None:
    for task_id in [await app.submit("shop.pay", number) for number in numbers]:
        await app.wait_for_result(task_id, 5)


def stream(found: Streams, name: str, **attributes: str) -> Stream:
    return found[name, frozenset(attributes.items())]


def flat(metric: Metric, found: Streams) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """A pushed metric as the samples that a scrape has of it."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for (name, labels), sent in found.items():
        if name != metric.otel_name:
            continue
        if sent.kind != "histogram":
            samples[metric.name, labels] = sent.value
            continue
        bounds = [*sent.point.explicit_bounds, math.inf]
        for bound, count in zip(bounds, accumulate(sent.point.bucket_counts), strict=True):
            le = "+Inf" if math.isinf(bound) else str(bound)
            samples[f"{metric.name}_bucket", labels | {("le", le)}] = count
        samples[f"{metric.name}_count", labels] = sent.point.count
        samples[f"{metric.name}_sum", labels] = sent.point.sum
    return samples


async def test_the_receiver_holds_the_numbers_of_the_scrape(either: Receiver, serve: Serve, inbox: Inbox) -> None:
    async with busy_app() as app:
        service = await serve(app, **pushing(either))
        await run(app, *range(40))
        assert await service.exporter.push_metrics()
        scrape = (await service.get()).samples
    sent = inbox.last()
    for metric in CATALOG:
        if metric.name.startswith(VOLATILE):
            continue
        scraped = {key: value for key, value in scrape.items() if key[0] in metric.sample_names}
        assert flat(metric, sent) == pytest.approx(scraped), metric.name
    assert stream(sent, "flowrra.tasks.started", task="shop.pay").value == 60


async def test_every_metric_has_its_type_unit_and_scope(http: Receiver, serve: Serve, inbox: Inbox) -> None:
    service = await serve(ContractApp(), **pushing(http))
    await service.exporter.push_metrics()
    sent = inbox.last()
    kinds = {
        "gauge": ("gauge", None),
        "info": ("sum", False),
        "counter": ("sum", True),
        "histogram": ("histogram", None),
    }
    for metric in CATALOG:
        for (name, _), found in sent.items():
            if name == metric.otel_name:
                assert (found.kind, found.monotonic) == kinds[metric.type], name
                assert found.unit == unit_of(metric)
                assert found.scope == "flowrra_exporter"


async def test_where_the_messaging_conventions_have_a_name_the_same_counts_go_by_it_too(
    http: Receiver, serve: Serve, inbox: Inbox
) -> None:
    async with busy_app() as app:
        service = await serve(app, **pushing(http))
        await run(app, 1, 2, 3)
        await service.exporter.push_metrics()
    sent = inbox.last()
    of_task = {"messaging.system": "flowrra", "messaging.destination.name": "shop.pay"}
    send = {**of_task, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    process = {**of_task, "messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert stream(sent, "messaging.client.sent.messages", **send).value == 3
    assert stream(sent, "messaging.client.consumed.messages", **process).value == 5
    for outcome, error in (("success", {}), ("error", {"error.type": "_OTHER"})):
        theirs = stream(sent, "messaging.process.duration", **process, **error)
        ours = stream(sent, "flowrra.task.run.duration", task="shop.pay", outcome=outcome)
        assert theirs.unit == "s"
        assert list(theirs.point.bucket_counts) == list(ours.point.bucket_counts)
        assert (theirs.point.count, theirs.point.sum) == (ours.point.count, ours.point.sum)


async def test_totals_count_from_the_start_of_the_process(http: Receiver, serve: Serve, inbox: Inbox) -> None:
    before = time.time_ns()
    service = await serve(ContractApp(), **pushing(http))
    await service.exporter.push_metrics()
    await service.exporter.push_metrics()
    first, second = (stream(sent, "flowrra.event_loop.stalls") for sent in map(streams, inbox.requests))
    start = started_at()
    assert start < before / 1e9
    for found in (first, second):
        assert found.temporality == CUMULATIVE
        assert found.interval[0] / 1e9 == pytest.approx(start, abs=0.001)
        assert before <= found.interval[1] <= time.time_ns()
    assert first.interval[1] < second.interval[1]


async def test_deltas_add_up_over_an_outage(http: Receiver, serve: Serve, inbox: Inbox) -> None:
    assert isinstance(http, HttpReceiver)
    http.refusal = 403  # one that isn't tried again, and says nothing of the points
    async with busy_app() as app:
        service = await serve(app, **pushing(http, otel_temporality="delta"))
        push = service.exporter.push_metrics
        await run(app, 0, 2)
        assert await push()
        inbox.failures = 2
        await run(app, 4)
        assert not await push()
        await run(app, 6, 8)
        assert not await push()
        await run(app, 10)
        assert await push()
        await run(app, 12)
        assert await push()
        total = (await service.get()).value("flowrra_task_run_duration_seconds_sum", task="shop.pay", outcome="success")
    pushes = [streams(request) for request in inbox.requests]
    counts = [stream(sent, "flowrra.tasks.succeeded", task="shop.pay") for sent in pushes]
    assert [found.value for found in counts] == [2, 4, 1]
    assert {found.temporality for found in counts} == {DELTA}
    times = [stream(sent, "flowrra.task.run.duration", task="shop.pay", outcome="success") for sent in pushes]
    assert [found.point.count for found in times] == [2, 4, 1]
    assert [sum(found.point.bucket_counts) for found in times] == [2, 4, 1]
    assert sum(found.point.sum for found in times) == pytest.approx(total)
    for found in (counts, times):
        starts, ends = zip(*(one.interval for one in found), strict=True)
        assert starts[1:] == ends[:-1]


async def test_with_lowmemory_histograms_alone_are_deltas(http: Receiver, serve: Serve, inbox: Inbox) -> None:
    service = await serve(ContractApp(), **pushing(http, otel_temporality="lowmemory"))
    await service.exporter.push_metrics()
    kinds = {(found.kind, found.temporality) for found in inbox.last().values() if found.monotonic is not False}
    assert kinds == {("histogram", DELTA), ("sum", CUMULATIVE), ("gauge", None)}


async def test_a_resource_says_whose_figures_these_are(
    http: Receiver, serve: Serve, inbox: Inbox, fresh_resource: None
) -> None:
    service = await serve(ContractApp(), **pushing(http))
    await service.exporter.push_metrics()
    told = inbox.resource()
    assert told["service.name"] == "flowrra"
    assert told["process.pid"] == os.getpid()
    assert told["telemetry.sdk.language"] == "python"
    assert uuid.UUID(told["service.instance.id"]).version == 4


async def test_the_environment_says_more_about_the_resource(
    http: Receiver, serve: Serve, inbox: Inbox, fresh_resource: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=shop-1,deployment.environment.name=test")
    service = await serve(ContractApp(), **pushing(http))
    await service.exporter.push_metrics()
    told = inbox.resource()
    assert told["service.name"] == "shop"
    assert told["service.instance.id"] == "shop-1"
    assert told["deployment.environment.name"] == "test"


@pytest.fixture
def fresh_resource() -> Iterator[None]:
    """A process has one resource; these tests want one of their own."""
    _resource_of.cache_clear()
    yield
    _resource_of.cache_clear()


@pytest.mark.filterwarnings(FORK_IS_MEANT)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_another_instance() -> None:
    """Though its parent had figures of its own to send."""
    reading, writing = os.pipe()
    mine = resource().attributes
    child = os.fork()
    if child == 0:
        told = resource().attributes
        os.write(writing, f"{told['service.instance.id']} {told['process.pid']}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        instance, pid = lines.read().split()
    assert instance != mine["service.instance.id"]
    assert int(pid) == child
    assert resource().attributes == mine, "the parent is the same as before"


@pytest.mark.slow
async def test_it_pushes_on_a_period(either: Receiver, serve: Serve, inbox: Inbox) -> None:
    service = await serve(ContractApp(), **pushing(either, otel_interval=0.2))
    await asyncio.to_thread(inbox.wait, 3)
    scrape = await service.get()
    assert (scrape.value("flowrra_otel_exports_total", result="success") or 0) >= 2
    assert scrape.value("flowrra_otel_exports_total", result="failure") == 0
    assert scrape.value("flowrra_otel_last_export_timestamp_seconds") == pytest.approx(time.time(), abs=10)


async def test_the_standard_variables_configure_it(
    http: Receiver, serve: Serve, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", http.endpoint + "/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta")
    await serve(ContractApp())
    await asyncio.to_thread(inbox.wait, 1)
    headers = {name.lower(): value for name, value in inbox.headers[0].items()}
    assert headers["x-tenant"] == "shop"
    assert headers["content-encoding"] == "gzip"
    assert stream(inbox.last(), "flowrra.event_loop.stalls").temporality == DELTA


async def test_an_unreachable_receiver_is_logged_once_counted_and_recovered_from(
    http: Receiver, serve: Serve, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(http, HttpReceiver)
    http.refusal = 403
    service = await serve(ContractApp(), **pushing(http))
    inbox.failures = 3
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert not await service.exporter.push_metrics()
        scrape = await service.get()
        assert await service.exporter.push_metrics()
    assert scrape.value("flowrra_otel_exports_total", result="failure") == 3
    assert scrape.value("flowrra_otel_exports_total", result="success") == 0
    assert scrape.value("flowrra_otel_last_export_timestamp_seconds") is None
    said = [
        record.getMessage() for record in caplog.records if record.name.startswith(("flowrra_exporter", "opentele"))
    ]
    failed, recovered = [text for text in said if "OTLP" in text or "xport" in text]
    assert failed.startswith("pushing metrics over OTLP fails: ")
    assert "403" in failed
    assert recovered == "pushing metrics over OTLP works again"


@pytest.mark.slow
async def test_a_receiver_that_is_busy_is_asked_again(either: Receiver, serve: Serve, inbox: Inbox) -> None:
    service = await serve(ContractApp(), **pushing(either))
    inbox.failures = 1
    assert await service.exporter.push_metrics(10)
    assert inbox.attempts == 2
    assert (await service.get()).value("flowrra_otel_exports_total", result="failure") == 0


async def test_a_receiver_that_hangs_disturbs_neither_the_scrapes_nor_the_app(
    either: Receiver, serve: Serve, inbox: Inbox
) -> None:
    inbox.open.clear()
    async with busy_app() as app:
        service = await serve(app, **pushing(either, otel_interval=0.1))
        await asyncio.to_thread(inbox.wait_for_attempts, 1)
        for _ in range(5):
            scrape = await service.get()
            assert scrape.status == 200
            assert scrape.seconds < DEFAULT_TIMEOUT / 2
        await asyncio.wait_for(run(app, 0, 2, 4), 1)
        assert len([thread for thread in threading.enumerate() if thread.name == "flowrra-exporter-otlp"]) == 1
        inbox.open.set()


@pytest.mark.slow
async def test_a_request_takes_no_longer_than_the_interval(
    http: Receiver, serve: Serve, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As other SDKs read it, these would be ten seconds.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10000")
    inbox.open.clear()
    service = await serve(ContractApp(), **pushing(http, otel_interval=0.2))
    await until_counted(service, "failure", 2)
    inbox.open.set()
    await until_counted(service, "success", 1)


async def until_counted(service: Service, result: str, count: int) -> None:
    async with asyncio.timeout(10):
        while ((await service.get()).value("flowrra_otel_exports_total", result=result) or 0) < count:
            await asyncio.sleep(0.02)


async def test_the_last_figures_are_pushed_at_the_end(either: Receiver, inbox: Inbox) -> None:
    app = busy_app()
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),), **pushing(either))
    async with app, Exporter(app, settings):
        await run(app, 0, 2, 4)
        assert not inbox.requests
    assert stream(inbox.last(), "flowrra.tasks.succeeded", task="shop.pay").value == 3


async def test_the_end_does_not_wait_long_for_a_receiver_that_hangs(
    http: Receiver, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.open.clear()
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),), **pushing(http))
    exporter = Exporter(ContractApp(), settings)
    await exporter.__aenter__()
    started = time.monotonic()
    await asyncio.to_thread(exporter.close, 0.3)
    assert time.monotonic() - started < 2
    assert "the last figures may not have arrived" in caplog.text


@pytest.mark.slow
async def test_while_the_apps_loop_is_blocked_what_is_known_without_it_is_pushed(
    http: Receiver, serve: Serve, inbox: Inbox
) -> None:
    await serve(ContractApp(), **pushing(http, otel_interval=0.3))
    inbox.wait(2)  # here, on the loop itself: that's what blocks it
    sent = inbox.last()
    assert stream(sent, "flowrra.healthy").value == 0
    assert stream(sent, "flowrra.event_loop.stalls").value == 1
    assert ("flowrra.app.running", frozenset()) not in sent


async def test_a_users_registered_metrics_are_pushed_too(
    http: Receiver, serve: Serve, inbox: Inbox, register: Callable[[Any], Any]
) -> None:
    register(Counter("shop_orders", "Orders.", ["kind"], registry=None)).labels("book").inc(3)
    register(Gauge("shop_till_ratio", "Till.", unit="ratio", registry=None)).set(0.5)
    register(Histogram("shop_basket", "Basket.", buckets=(1, 5), registry=None)).observe(3)
    register(Summary("shop_wait_seconds", "Wait.", registry=None)).observe(1.5)
    register(Info("shop_branch", "Branch.", registry=None)).info({"town": "Trier \udc80"})
    service = await serve(ContractApp(), **pushing(http))
    assert await service.exporter.push_metrics()
    sent = inbox.last()
    orders = stream(sent, "shop_orders_total", kind="book")
    assert (orders.value, orders.monotonic, orders.scope) == (3, True, "prometheus_client")
    assert orders.interval[0] / 1e9 == pytest.approx(time.time(), abs=5)
    assert stream(sent, "shop_till_ratio").unit == "1"
    basket = stream(sent, "shop_basket").point
    assert (list(basket.explicit_bounds), list(basket.bucket_counts), basket.sum) == ([1, 5], [0, 1, 0], 3)
    wait = stream(sent, "shop_wait_seconds").point
    assert (list(wait.explicit_bounds), list(wait.bucket_counts), wait.sum) == ([], [1], 1.5)
    assert stream(sent, "shop_branch_info", town="Trier \\udc80").monotonic is False


async def test_a_registered_metric_that_makes_no_sense_costs_only_its_type(
    http: Receiver, serve: Serve, inbox: Inbox, register: Callable[[Any], Any]
) -> None:
    class Nonsense:
        def collect(self) -> Iterator[Any]:
            family = HistogramMetricFamily("shop_nonsense", "No numbers.")
            family.add_metric([], buckets=[("1.0", math.nan), ("+Inf", math.nan)], sum_value=0.0)
            yield family

    register(Nonsense())
    service = await serve(ContractApp(), **pushing(http))
    assert await service.exporter.push_metrics()
    sent = inbox.last()
    assert not [name for name, _ in sent if name == "shop_nonsense"]
    assert math.isnan(stream(sent, "shop_nonsense_bucket", le="1.0").value)
    assert stream(sent, "flowrra.healthy").value == 1


async def test_grpc_without_its_extra_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.metric_exporter", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),), otel_metrics=True, otel_protocol="grpc")
    with pytest.raises(UsageError, match=r"pip install 'flowrra\[otel-grpc\]'"):
        await Exporter(ContractApp(), settings).__aenter__()
