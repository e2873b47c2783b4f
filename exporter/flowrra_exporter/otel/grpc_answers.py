"""Reads what a receiver answers over gRPC. The SDK's exporter tells only whether a request was taken, sends again
what may not be sent again, and doesn't read the answer."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

from flowrra_exporter.otel.answers import RETRYABLE_CODES, Answer, Verdict, of_grpc_failure, shortened


class FinalAnswer(Exception):
    """A failure after which the request may not be sent again; not an RpcError, so that the SDK doesn't."""


class _Seen:
    """A stub whose answers are seen."""

    def __init__(self, stub: Any, exporter: WatchedMetricExporter) -> None:
        self._stub = stub
        self._exporter = exporter

    def Export(self, *arguments: Any, **options: Any) -> Any:  # the stub's name for it
        try:
            told = self._stub.Export(*arguments, **options)
        except grpc.RpcError as error:
            code, retry_after = error.code().name, _retry_after(error)
            answer = of_grpc_failure(code, shortened(error.details() or ""), retry_after)
            self._exporter.latest = answer
            if code in RETRYABLE_CODES or retry_after is not None:
                raise
            raise FinalAnswer(answer.reason) from error
        partial = told.partial_success
        rejected, message = max(0, partial.rejected_data_points), shortened(partial.error_message)
        self._exporter.latest = Answer(Verdict.TAKEN, rejected=rejected, message=message)
        return told


class WatchedMetricExporter(OTLPMetricExporter):
    """The SDK's exporter; ``latest`` has the last answer, None if there was none.

    It makes a new stub for each channel, and keeps it as ``_client``; there is no public way to it.
    """

    latest: Answer | None = None

    @property
    def _client(self) -> Any:
        return self._seen

    @_client.setter
    def _client(self, stub: Any) -> None:
        self._seen = None if stub is None else _Seen(stub, self)


def _retry_after(error: Any) -> float | None:
    """The seconds that a receiver asks for, None if it doesn't."""
    told = dict(error.trailing_metadata() or ()).get("google.rpc.retryinfo-bin")
    if told is None:
        return None
    delay = RetryInfo.FromString(told).retry_delay
    return max(0.0, float(delay.seconds + delay.nanos / 1e9))
