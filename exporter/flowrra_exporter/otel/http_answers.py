"""Reads what a receiver answers over HTTP. The SDK's exporter tells only whether a request was taken, takes
a redirect for a success, and doesn't read the answer."""

from __future__ import annotations

import io
import math
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from flowrra_exporter.otel.answers import Answer, Verdict, of_http_failure, shortened

_MAX_BODY = 16 * 1024
_PROTOBUF = ("", "application/x-protobuf", "application/octet-stream")


class HttpAnswers:
    """Sees the answers to the requests of one session; ``latest`` has the last one, None if there was none."""

    def __init__(self, session: requests.Session, timeout: float) -> None:
        self.latest: Answer | None = None
        self._timeout = timeout
        session.max_redirects = 0  # for SDKs that follow
        session.hooks["response"].append(self._look)

    def _look(self, response: requests.Response, **_: Any) -> requests.Response:
        """Reads the answer, within bounds of size and time, and passes it on as if it had been read."""
        try:
            body = _read(response, time.monotonic() + self._timeout)
        except (requests.RequestException, ValueError) as error:
            response.close()
            self.latest = Answer(Verdict.AWAY, f"the OTLP receiver's answer can't be read: {error}")
            raise
        self.latest = _answer(response, body)
        response.close()
        return _read_already(response, body)


def _read(response: requests.Response, until: float) -> bytes:
    body = bytearray()
    for byte in response.iter_content(1):
        body += byte
        if len(body) > _MAX_BODY:
            raise ValueError(f"longer than {_MAX_BODY} bytes")
        if time.monotonic() > until:
            raise requests.ReadTimeout("it doesn't come to an end")
    return bytes(body)


def _read_already(response: requests.Response, body: bytes) -> requests.Response:
    found = requests.Response()
    found.status_code, found.reason, found.headers = response.status_code, response.reason, response.headers
    found.url, found.request, found.elapsed = response.url, response.request, response.elapsed
    found.raw = io.BytesIO(body)
    return found


def _answer(response: requests.Response, body: bytes) -> Answer:
    status = response.status_code
    if not 200 <= status < 300:  # the class of the status
        location = response.headers.get("Location", "")
        text = _error_text(response, body)
        return of_http_failure(status, response.reason or "", text, location, _retry_after(response))
    try:
        told = _success(response, body)
    except (DecodeError, json_format.ParseError, ValueError) as error:
        kind = _content_type(response) or "no type"
        return Answer(
            Verdict.AWAY,
            f"who answers {status} is no OTLP receiver: got {kind}, {shortened(str(error))!r};"
            " expected application/x-protobuf with an ExportMetricsServiceResponse",
        )
    partial = told.partial_success
    return Answer(
        Verdict.TAKEN, rejected=max(0, partial.rejected_data_points), message=shortened(partial.error_message)
    )


def _success(response: requests.Response, body: bytes) -> ExportMetricsServiceResponse:
    """Raises ValueError, DecodeError or ParseError if it is something else. An empty answer has nothing to say."""
    kind = _content_type(response)
    told = ExportMetricsServiceResponse()
    if not body.strip():
        return told
    if kind == "application/json":
        json_format.Parse(body, told, ignore_unknown_fields=True)
    elif kind in _PROTOBUF:
        told.ParseFromString(body)
    else:
        raise ValueError(body.decode(errors="replace"))
    return told


def _error_text(response: requests.Response, body: bytes) -> str:
    """What a receiver says to a failure: the message of a google.rpc.Status, or plain text."""
    if _content_type(response) in _PROTOBUF:
        from google.rpc.status_pb2 import Status

        try:
            return shortened(Status.FromString(body).message)
        except DecodeError:
            return ""
    return shortened(body.decode(errors="replace"))


def _content_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _retry_after(response: requests.Response) -> float:
    """The header's seconds, or the time until its date; 0 if it makes no sense."""
    text = response.headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
