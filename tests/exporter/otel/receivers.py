"""Real OTLP receivers for the tests, for HTTP and gRPC, that can refuse, hang, and show what they took."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DELTA, CUMULATIVE = 1, 2


class Stream(NamedTuple):
    """A metric's point, with what belongs to the metric."""

    scope: str
    unit: str
    kind: str
    temporality: int | None
    monotonic: bool | None
    point: Any

    @property
    def value(self) -> float:
        return getattr(self.point, self.point.WhichOneof("value"))

    @property
    def interval(self) -> tuple[int, int]:
        return self.point.start_time_unix_nano, self.point.time_unix_nano


Streams = dict[tuple[str, frozenset[tuple[str, str]]], Stream]


def streams(request: ExportMetricsServiceRequest) -> Streams:
    """The points of a request, by name and attributes; none may come twice."""
    found: Streams = {}
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                for point in data.data_points:
                    key = metric.name, frozenset(attributes(point).items())
                    assert key not in found, f"sent twice: {key}"
                    temporality = getattr(data, "aggregation_temporality", None)
                    monotonic = getattr(data, "is_monotonic", None)
                    found[key] = Stream(scope.scope.name, metric.unit, kind, temporality, monotonic, point)
    return found


def attributes(carrier: Any) -> dict[str, Any]:
    """Attributes as a dict: of a point, a span, a link, a resource."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in carrier.attributes}


class Reply(NamedTuple):
    """What a receiver answers instead of taking a request as a whole.

    Over gRPC ``code`` and ``text`` (and ``retry_after``, None for none); over HTTP ``status``, ``headers`` and
    ``body``. With ``rejected`` or ``message`` it is a partial success on both.
    """

    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    code: str = "OK"
    text: str = ""
    retry_after: int | None = None
    rejected: int = 0
    message: str = ""

    def success(self) -> ExportMetricsServiceResponse:
        found = ExportMetricsServiceResponse()
        if self.rejected or self.message:
            found.partial_success.rejected_data_points = self.rejected
            found.partial_success.error_message = self.message
        return found


Judge = Callable[[ExportMetricsServiceRequest], Reply | None]


class Inbox:
    """What came in, and what is answered: ``failures`` refusals first; nothing while ``open`` isn't set.

    ``judge`` may answer something else to requests for metrics, which are then not kept unless it is a success.
    """

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.spans: list[Any] = []
        self.span_resources: list[dict[str, Any]] = []
        self.attempts = 0
        self.headers: list[Mapping[str, str]] = []
        self.failures = 0
        self.judge: Judge = lambda request: None
        self.open = threading.Event()
        self.open.set()
        self._arrived = threading.Condition()

    def answers(self, headers: Mapping[str, str]) -> bool:
        with self._arrived:
            self.attempts += 1
            self.headers.append(headers)
            self._arrived.notify_all()
        self.open.wait(30)
        with self._arrived:
            self.failures -= 1
            return self.failures < 0

    def take(self, request: Any) -> None:
        with self._arrived:
            if isinstance(request, ExportMetricsServiceRequest):
                self.requests.append(request)
            else:
                for resource in request.resource_spans:
                    self.span_resources.append(attributes(resource.resource))
                    for scope in resource.scope_spans:
                        self.spans.extend(scope.spans)
            self._arrived.notify_all()

    def wait(self, requests: int = 1, seconds: float = 10.0) -> list[ExportMetricsServiceRequest]:
        """The requests, once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= requests, seconds), self.requests
            return list(self.requests)

    def wait_for_spans(self, spans: int, seconds: float = 10.0) -> list[Any]:
        """The spans, once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.spans) >= spans, seconds), self.spans
            return list(self.spans)

    def wait_for_attempts(self, attempts: int, seconds: float = 10.0) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.attempts >= attempts, seconds), self.attempts

    def last(self) -> Streams:
        """The points of the last request."""
        return streams(self.requests[-1])

    def resource(self) -> dict[str, Any]:
        """The resource of the last request."""
        return attributes(self.requests[-1].resource_metrics[0].resource)


class HttpReceiver:
    """OTLP over HTTP with protobuf; refuses with ``refusal``."""

    protocol = "http/protobuf"

    def __init__(self, inbox: Inbox, refusal: int = 503) -> None:
        self.refusal = refusal
        receiver = self
        messages = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/traces": ExportTraceServiceRequest}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                status = 200 if inbox.answers(dict(self.headers)) else receiver.refusal
                if self.path not in messages:
                    status = 404
                request = messages[self.path].FromString(body) if status == 200 else None
                reply = inbox.judge(request) if isinstance(request, ExportMetricsServiceRequest) else None
                reply = reply or Reply(status)
                if request is not None and reply.status == 200:
                    inbox.take(request)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                content = reply.body or reply.success().SerializeToString()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class GrpcReceiver:
    """OTLP over gRPC; refuses with UNAVAILABLE."""

    protocol = "grpc"

    def __init__(self, inbox: Inbox) -> None:
        class Service(MetricsServiceServicer):
            def Export(self, request: Any, context: grpc.ServicerContext) -> ExportMetricsServiceResponse:
                if not inbox.answers(dict(context.invocation_metadata())):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
                reply = inbox.judge(request) or Reply()
                if reply.code != "OK":
                    if reply.retry_after is not None:
                        delay = RetryInfo(retry_delay=Duration(seconds=reply.retry_after))
                        context.set_trailing_metadata([("google.rpc.retryinfo-bin", delay.SerializeToString())])
                    context.abort(grpc.StatusCode[reply.code], reply.text)
                inbox.take(request)
                return reply.success()

        self._server = grpc.server(ThreadPoolExecutor(2))
        add_MetricsServiceServicer_to_server(Service(), self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait(5)


def receiver(kind: type[HttpReceiver] | type[GrpcReceiver], inbox: Inbox) -> Iterator[HttpReceiver | GrpcReceiver]:
    """A receiver until the test ends."""
    opened = kind(inbox)
    yield opened
    inbox.open.set()
    opened.close()
