"""The standard OTLP exporters, for HTTP with protobuf or gRPC, as flags and environment configure them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.export import SpanExporter

from flowrra_exporter.errors import UsageError
from flowrra_exporter.otel.environment import Environment, Signal
from flowrra_exporter.otel.reasons import ExplainedRecords, Explainer, HiddenHeaders
from flowrra_exporter.otel.sender import MetricSender


def metric_sender(environment: Environment, timeout: float) -> MetricSender:
    """What sends metrics; ``timeout`` is in seconds.

    Raises:
        UsageError: It can't be had.
    """
    endpoint = environment.endpoint("metrics")
    explain = Explainer(endpoint, environment.protocol("metrics"))
    with _explained("metrics", explain):
        if environment.protocol("metrics") == "grpc":
            # First what may be missing, to be named if it is.
            from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as _  # noqa: F401, I001
            from flowrra_exporter.otel.grpc_answers import WatchedMetricExporter

            watched = WatchedMetricExporter(endpoint=endpoint, timeout=timeout)
            return MetricSender(watched, watched, explain)
        import requests
        from opentelemetry.exporter.otlp.proto.http import metric_exporter as http

        from flowrra_exporter.otel.http_answers import HttpAnswers

        session = requests.Session()
        answers = HttpAnswers(session, timeout)
        exporter = http.OTLPMetricExporter(
            endpoint=endpoint, timeout=timeout, session=None if environment.brings_session() else session
        )
        return MetricSender(exporter, answers, explain)


def span_exporter(environment: Environment, timeout: float) -> SpanExporter:
    """The exporter for spans; ``timeout`` is in seconds. What it logs has no secrets.

    Raises:
        UsageError: It can't be had.
    """
    endpoint = environment.endpoint("traces")
    explain = Explainer(endpoint, environment.protocol("traces"))
    exporter = _span_exporter(environment.protocol("traces"), endpoint, timeout, explain)
    records = ExplainedRecords(explain)
    for kind in type(exporter).__mro__:
        if kind.__module__.startswith("opentelemetry."):
            logging.getLogger(kind.__module__).addFilter(records)
    return exporter


def _span_exporter(protocol: str, endpoint: str, timeout: float, explain: Explainer) -> SpanExporter:
    with _explained("traces", explain):
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

            return grpc.OTLPSpanExporter(endpoint=endpoint, timeout=timeout)
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

        return http.OTLPSpanExporter(endpoint=endpoint, timeout=timeout)


@contextmanager
def _explained(signal: Signal, explain: Explainer) -> Iterator[None]:
    """Turns what keeps an exporter from being made into a UsageError. Meanwhile no header is logged."""
    reader, hidden = logging.getLogger("opentelemetry.util.re"), HiddenHeaders()
    reader.addFilter(hidden)
    try:
        yield
    except ImportError as error:
        extra = "otel-grpc" if "grpc" in (error.name or "") else "exporter"
        raise UsageError(f"{error.name} is not installed; run: pip install 'flowrra[{extra}]'") from error
    except Exception as error:  # whatever the environment made of it: a wrong word, a certificate that isn't there
        raise UsageError(f"the OTLP exporter for {signal} can't be made: {explain(str(error))}") from error
    finally:
        reader.removeFilter(hidden)
