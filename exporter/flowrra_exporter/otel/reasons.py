"""Makes reasons out of what libraries say when a receiver can't be talked to: without secrets, with hints."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

from flowrra_exporter.logs import mask_secrets

# What is said when HTTP/1.1 meets HTTP/2, which gRPC speaks, and the other way round.
_GRPC_THERE = re.compile(r"BadStatusLine\('?\\x00|HTTP/0\.9")
_GRPC_PERHAPS = re.compile(r"RemoteDisconnected|Connection reset")
_HTTP_THERE = re.compile(r"http1\.x|Failed parsing HTTP/2|Received http2 header with status|Missing :status", re.I)
_GRPC_PORT = 4317


class Explainer:
    """Explains what was said of one endpoint."""

    def __init__(self, endpoint: str, protocol: str) -> None:
        self._secrets = _secrets(endpoint)
        self._protocol = protocol
        self._port = _port(endpoint)

    def __call__(self, text: str) -> str:
        """``text`` without the endpoint's secrets; and if another protocol seems to be spoken there, with that."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = mask_secrets(text)
        hint = self._hint(text)
        return f"{text} ({hint})" if hint else text

    def _hint(self, text: str) -> str:
        if self._protocol == "grpc":
            is_http = _HTTP_THERE.search(text)
            return "is it a receiver for OTLP over HTTP? then: --otel.protocol=http/protobuf" if is_http else ""
        is_grpc = _GRPC_THERE.search(text) or (self._port == _GRPC_PORT and _GRPC_PERHAPS.search(text))
        return "is it a receiver for OTLP over gRPC? then: --otel.protocol=grpc" if is_grpc else ""


class ExplainedRecords(logging.Filter):
    """Explains what a library logs by itself, in the records of its loggers."""

    def __init__(self, explain: Explainer) -> None:
        super().__init__()
        self._explain = explain

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        explained = self._explain(text)
        if explained != text:
            # A traceback would have the same text as it was.
            record.msg, record.args, record.exc_info, record.exc_text = explained, (), None, None
        return True


class HiddenHeaders(logging.Filter):
    """Hides what the SDK says a header of the environment's is that it can't read: most of these are secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.args = ("***",) if record.args else record.args
        return True


def _secrets(endpoint: str) -> list[str]:
    parts = urlsplit(endpoint)
    user = parts.netloc.rpartition("@")[0]
    found = {user, user.partition(":")[2], parts.query, *(pair.partition("=")[2] for pair in parts.query.split("&"))}
    return sorted(filter(None, found), key=len, reverse=True)


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint).port
    except ValueError:
        return None
