"""What a receiver's answer to a request means, over HTTP and gRPC.

The specification tells apart what may be sent again and what may not, and lets a receiver take a request but
reject some of its points: https://opentelemetry.io/docs/specs/otlp/#failures. An answer about the receiver itself
(no access, no such path) says nothing about the points.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

# Characters of what a receiver says that are passed on.
MAX_MESSAGE = 300

_AWAY_STATUSES = frozenset(
    {
        # May be sent again, by the specification.
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
        # About the receiver, not about the points.
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.PAYMENT_REQUIRED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.NOT_ACCEPTABLE,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UPGRADE_REQUIRED,
        HTTPStatus.NOT_IMPLEMENTED,
        HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    }
)
# gRPC codes after which a request may be sent again; RESOURCE_EXHAUSTED too, if the receiver says when.
RETRYABLE_CODES = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})
_RECEIVER_CODES = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"})


class Verdict(Enum):
    """What became of a request.

    TAKEN, REFUSED for what is in it, or neither: the receiver is AWAY, or doesn't do its work.
    """

    TAKEN = "taken"
    REFUSED = "refused"
    AWAY = "away"


class Answer(NamedTuple):
    """What became of a request, and why.

    Attributes:
        rejected: How many of the points a receiver didn't take that took the request.
        message: What the receiver said to that.
        retry_after: For how many seconds it wants to be left alone.
    """

    verdict: Verdict
    reason: str = ""
    rejected: int = 0
    message: str = ""
    retry_after: float = 0.0


def of_http_failure(status: int, reason: str, text: str, location: str, retry_after: float) -> Answer:
    """The answer of a status that isn't 200 to 299; ``text`` is what the receiver says to it."""
    said = f"the OTLP receiver answers {status} {reason}".rstrip() + (f": {text}" if text else "")
    if status < HTTPStatus.BAD_REQUEST:
        where = f" to {location}" if location else ""
        said = f"the OTLP receiver answers {status}, and sends on{where}; that isn't followed: give it as the endpoint"
        return Answer(Verdict.AWAY, said)
    if status in _AWAY_STATUSES:
        return Answer(Verdict.AWAY, said, retry_after=retry_after)
    return Answer(Verdict.REFUSED, said)


def of_grpc_failure(code: str, details: str, retry_after: float | None) -> Answer:
    """The answer of a gRPC status by its name; ``retry_after`` is None if the receiver gives no time."""
    said = f"the OTLP receiver answers {code}: {details}"
    throttled = code == "RESOURCE_EXHAUSTED" and retry_after is not None
    if throttled or code in RETRYABLE_CODES or code in _RECEIVER_CODES:
        return Answer(Verdict.AWAY, said, retry_after=retry_after or 0.0)
    return Answer(Verdict.REFUSED, said)


def shortened(text: str) -> str:
    """``text`` in one line of at most MAX_MESSAGE characters."""
    return " ".join(text[: 4 * MAX_MESSAGE].split())[:MAX_MESSAGE]
