"""OpenTelemetry in the command: switched on by flags or variables, ended with the process, not there when off."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.transport import metric_sender, span_exporter
from flowrra_exporter.settings import Settings, load_settings

from tests.exporter.conftest import Run
from tests.exporter.otel.receivers import GrpcReceiver, HttpReceiver, Inbox, attributes, receiver

LISTEN = "--web.listen-address=127.0.0.1:0"


@pytest.mark.slow
def test_the_last_figures_and_spans_arrive_before_the_process_ends(
    http: HttpReceiver | GrpcReceiver, inbox: Inbox, run: Run
) -> None:
    command = run(
        LISTEN,
        "--otel.metrics",
        "--otel.traces",
        f"--otel.endpoint={http.endpoint}",
        "told:make",
        OTEL_SERVICE_NAME="shop",
    )
    command.ready()
    for _ in range(3):
        command.tell("submit 0")
    command.wait_for_line("submitted 3")
    command.signal()
    assert command.wait() == 0
    assert "level=warning" not in command.log  # though the app's loop is over when they are collected
    started = inbox.last()["flowrra.tasks.started", frozenset({("task", "nap")})]
    assert started.value == 3
    assert inbox.resource()["service.name"] == "shop"
    assert {tuple(resource.items()) for resource in inbox.span_resources} == {tuple(inbox.resource().items())}
    sent = {span.span_id: span for span in inbox.spans if span.name == "send nap"}
    processed = [span for span in inbox.spans if span.name == "process nap"]
    assert len(sent) == len(processed) == 3
    for span in processed:
        assert sent[span.parent_span_id].trace_id == span.trace_id
        assert [(link.trace_id, link.span_id) for link in span.links] == [(span.trace_id, span.parent_span_id)]
        assert attributes(span)["messaging.flowrra.outcome"] == "success"


@pytest.mark.slow
def test_a_tracer_provider_that_the_app_has_set_is_used(
    http: HttpReceiver | GrpcReceiver, inbox: Inbox, run: Run
) -> None:
    command = run(LISTEN, "--otel.traces", "traced:make", OTEL_EXPORTER_OTLP_ENDPOINT=http.endpoint)
    command.ready()
    command.tell("submit 0")
    spans = inbox.wait_for_spans(2)
    assert sorted(span.name for span in spans) == ["process nap", "send nap"]
    assert {resource["service.name"] for resource in inbox.span_resources} == {"the user's own"}
    assert not inbox.requests
    assert "Overriding" not in command.log  # what the SDK says to a second provider


@pytest.mark.slow
def test_a_receiver_that_hangs_holds_the_end_up_within_the_shutdowns_time(
    http: HttpReceiver | GrpcReceiver, inbox: Inbox, run: Run
) -> None:
    inbox.open.clear()
    command = run(
        LISTEN,
        "--shutdown.timeout=4",
        "--otel.metrics",
        "--otel.traces",
        f"--otel.endpoint={http.endpoint}",
        "told:make",
    )
    command.ready()
    command.tell("submit 0")
    command.wait_for_line("submitted 1")
    started = time.monotonic()
    command.signal()
    assert command.wait() == 0
    assert time.monotonic() - started < 4
    assert "the last figures may not have arrived" in command.log
    assert "the last spans may not have arrived" in command.log


@pytest.mark.slow
def test_spans_that_arrive_are_not_said_to_be_missing_though_the_metrics_hang(
    http: HttpReceiver | GrpcReceiver, run: Run
) -> None:
    metrics = Inbox()
    metrics.open.clear()
    for hanging in receiver(HttpReceiver, metrics):
        command = run(
            LISTEN,
            "--shutdown.timeout=4",
            "--otel.metrics",
            "--otel.traces",
            "told:make",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{hanging.endpoint}/v1/metrics",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{http.endpoint}/v1/traces",
        )
        command.ready()
        command.tell("submit 0")
        command.wait_for_line("submitted 1")
        command.signal()
        assert command.wait() == 0
        assert "the last figures may not have arrived" in command.log
        assert "the last spans" not in command.log


SECRET = "s3cret"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_no_secret_of_the_endpoint_is_logged_whatever_goes_wrong(run: Run, protocol: str) -> None:
    place = f"user:{SECRET}@127.0.0.1:1" if protocol == "grpc" else f"user:{SECRET}@127.0.0.1:1/?token={SECRET}"
    command = run(
        LISTEN,
        "--shutdown.timeout=8",
        "--otel.metrics",
        "--otel.traces",
        f"--otel.protocol={protocol}",
        "told:make",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{place}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1.5",
        OTEL_METRIC_EXPORT_INTERVAL="200",
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    command.ready()
    command.tell("submit 0")
    command.wait_for_line("pushing metrics over OTLP fails")
    command.wait_for_line("encountered while exporting")
    command.signal()
    command.wait()
    assert SECRET not in command.log
    assert SECRET not in "\n".join(command.err)


@pytest.mark.parametrize("make", [metric_sender, span_exporter])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_header_that_cannot_be_read_is_said_to_be_wrong_without_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    make: Callable[[Environment, float], Any],
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"tenant=a,authorization: Bearer {SECRET}")
    make(Environment(Settings(otel_protocol=protocol), {}), 1.0)
    assert "Header format invalid!" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "spoken", "hint"),
    [
        (GrpcReceiver, "http/protobuf", "--otel.protocol=grpc"),
        (HttpReceiver, "grpc", "--otel.protocol=http/protobuf"),
    ],
    ids=["http-to-grpc", "grpc-to-http"],
)
def test_the_wrong_protocol_for_spans_is_named(
    inbox: Inbox, run: Run, kind: type[HttpReceiver] | type[GrpcReceiver], spoken: str, hint: str
) -> None:
    for other in receiver(kind, inbox):
        command = run(
            *(LISTEN, "--otel.traces", f"--otel.protocol={spoken}", f"--otel.endpoint={other.endpoint}", "told:make"),
            OTEL_BSP_SCHEDULE_DELAY="200",
        )
        command.ready()
        command.tell("submit 0")
        command.wait_for_line(f"then: {hint}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://h:4318/?token={SECRET}",
        f"h:4318?token={SECRET}",
        f"http://h:4318/#{SECRET}",
        f"ftp://user:{SECRET}@h",
    ],
)
@pytest.mark.parametrize("command", [(), ("check",)], ids=["print-config", "check"])
def test_an_endpoint_that_is_refused_is_not_printed_with_its_secret(
    run: Run, endpoint: str, command: tuple[str, ...]
) -> None:
    ended = run(*(command or ("--print-config",)), f"--otel.endpoint={endpoint}", "plain:app")
    assert ended.wait() != 0
    shown = ended.log + "\n".join(ended.err)
    assert "--otel.endpoint: got" in shown
    assert SECRET not in shown


def test_the_path_of_a_signal_comes_before_the_query() -> None:
    found = environment(OTEL_EXPORTER_OTLP_ENDPOINT="https://c:1/otlp/?token=t")
    assert found.endpoint("metrics") == "https://c:1/otlp/v1/metrics?token=t"


@pytest.mark.slow
def test_an_app_without_middlewares_runs_untraced_and_the_log_says_so(run: Run) -> None:
    command = run(LISTEN, "--otel.traces", "plain:duck")
    command.ready()
    command.wait_for_line("no spans are made: this app has no add_middleware")


OFF = """
import asyncio, sys
from flowrra import Flowrra
from flowrra_exporter import Exporter
from flowrra_exporter.settings import Address, Settings

async def main():
    app = Flowrra()
    @app.task()
    async def job(): pass
    async with app, Exporter(app, Settings(web_listen_address=(Address("127.0.0.1", 0),))) as exporter:
        await app.wait_for_result(await app.submit(job), 5)
        assert not await exporter.push_metrics()

asyncio.run(main())
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "grpc", "requests")))
"""


@pytest.mark.slow
def test_switched_off_nothing_of_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--otel.endpoint=localhost:4318", "--otel.endpoint: got 'localhost:4318'; expected a URL"),
        ("--otel.endpoint=http://host:99999", "--otel.endpoint: got 'http://…'; expected a URL"),
        ("--otel.protocol=http/json", "--otel.protocol: got 'http/json'; expected 'http/protobuf' or 'grpc'"),
        ("--otel.interval=0", "--otel.interval: got '0'; expected a number of seconds above 0"),
        ("--otel.temporality=total", "--otel.temporality: got 'total'; expected one of cumulative, delta, lowmemory"),
    ],
)
def test_a_flag_with_a_wrong_value_is_one_clear_line(run: Run, flag: str, expected: str) -> None:
    command = run(flag, "plain:app")
    assert command.wait() == 2
    (line,) = command.err
    assert expected in line


@pytest.mark.parametrize(
    "wrong",
    [{"otel_endpoint": "collector"}, {"otel_protocol": "json"}, {"otel_temporality": ""}, {"otel_interval": -1.0}],
)
def test_wrong_settings_inside_a_program_are_an_error_as_well(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]


def environment(*, flags: dict[str, list[str]] | None = None, **variables: str) -> Environment:
    return Environment(load_settings(flags or {}, variables), variables)


def test_metrics_are_off_unless_a_flag_or_the_standard_variable_says_so() -> None:
    assert not environment().metrics_on()
    assert not environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318").metrics_on()
    assert environment(OTEL_METRICS_EXPORTER="console, otlp").metrics_on()
    assert environment(FLOWRRA_EXPORTER_OTEL_METRICS="true").metrics_on()
    assert environment(flags={"otel_metrics": ["true"]}).metrics_on()
    assert not environment(OTEL_METRICS_EXPORTER="otlp", FLOWRRA_EXPORTER_OTEL_METRICS="false").metrics_on()


@pytest.mark.parametrize(
    "variables", [{"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "TRUE"}], ids=lambda one: next(iter(one))
)
def test_what_the_environment_forbids_stays_off_and_the_log_says_why(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not environment(flags={"otel_metrics": ["true"]}, **variables).metrics_on()
    assert f"no metrics are pushed: {next(iter(variables))} is" in caplog.text


def test_traces_are_off_unless_the_flag_says_so() -> None:
    assert not environment(OTEL_TRACES_EXPORTER="otlp").traces_on()
    assert environment(flags={"otel_traces": ["true"]}).traces_on()
    assert not environment(flags={"otel_traces": ["true"]}, OTEL_SDK_DISABLED="true").traces_on()


def test_flags_win_over_the_standard_variables() -> None:
    found = environment(
        flags={
            "otel_endpoint": ["http://flag:1"],
            "otel_protocol": ["grpc"],
            "otel_interval": ["5"],
            "otel_temporality": ["delta"],
        },
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://variable:2/v1/metrics",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="lowmemory",
    )
    assert found.endpoint("metrics") == "http://flag:1"
    assert (found.protocol("metrics"), found.interval(), found.temporality()) == ("grpc", 5, "delta")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://localhost:4318/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1/otlp/"}, "https://c:1/otlp/v1/metrics"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://c:1/in"}, "https://c:1/in"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"},
            "http://c:1",
        ),
        ({"FLOWRRA_EXPORTER_OTEL_ENDPOINT": "http://c:1/v1/metrics"}, "http://c:1/v1/metrics"),
    ],
)
def test_the_endpoint_is_where_the_specification_has_it(variables: dict[str, str], expected: str) -> None:
    assert environment(**variables).endpoint("metrics") == expected


@pytest.mark.parametrize("signal", ["metrics", "traces"])
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_{}_ENDPOINT"])
def test_an_endpoint_that_is_no_url_is_ignored_and_not_logged(
    caplog: pytest.LogCaptureFixture, variable: str, signal: Literal["metrics", "traces"]
) -> None:
    name = variable.format(signal.upper())
    found = environment(**{name: "http://user:s3cret@[collector"})
    assert found.endpoint(signal) == f"http://localhost:4318/v1/{signal}"
    assert f"{name} is ignored: got 'http://…'; expected a URL" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_variable_that_makes_no_sense_is_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    found = environment(
        OTEL_METRIC_EXPORT_INTERVAL="soon",
        OTEL_EXPORTER_OTLP_TIMEOUT="-1",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="total",
    )
    assert (found.interval(), found.timeout("metrics")) == (60, 10)
    assert (found.protocol("metrics"), found.temporality()) == ("http/protobuf", "cumulative")
    assert (
        "OTEL_METRIC_EXPORT_INTERVAL is ignored: got 'soon'; expected a number of milliseconds above 0" in caplog.text
    )
    assert caplog.text.count("http/json") == 1
    for word in ("OTEL_EXPORTER_OTLP_TIMEOUT", "total"):
        assert word in caplog.text
