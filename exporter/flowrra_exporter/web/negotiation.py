"""Reads Accept and Accept-Encoding (RFC 9110, sections 12.4 and 12.5).

Whatever a client sends, there is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from flowrra_exporter.metrics.exposition import Format

_VERSIONS = {Format.TEXT: ("0.0.4",), Format.OPENMETRICS: ("1.0.0", "0.0.1")}
_MAX_HEADER_LENGTH = 8192
_MAX_RANGES = 50


class _Range(NamedTuple):
    """One element of a list header: a media range or a coding, with its parameters and quality."""

    value: str
    parameters: dict[str, str]
    quality: float


def choose_format(accept: str) -> Format:
    """The exposition format that the Accept header asks for most; the text format where that is no help.

    The quality of a format is that of the most specific range that covers it. OpenMetrics must be asked for
    by name: a tie between formats goes to the more specific range, then to the text format, unless
    OpenMetrics stands first.
    """
    best, best_rank = Format.TEXT, (0.0, -1, 0)
    ranges = list(_ranges(accept))
    for format in (Format.TEXT, Format.OPENMETRICS):
        rank = _rank(format, ranges)
        if rank > best_rank:
            best, best_rank = format, rank
    return best


def prefers_text(accept: str) -> bool:
    """Whether the client would rather have plain text (or HTML, as a browser) than JSON; JSON if it doesn't care."""
    ranges = list(_ranges(accept))
    text = max(_preference("text/plain", ranges), _preference("text/html", ranges))
    return text[0] > 0 and text > _preference("application/json", ranges)


def _preference(media_type: str, ranges: list[_Range]) -> tuple[float, int]:
    """Quality and specificity (0 ``*/*``, 1 ``text/*``, 2 the type) of the most specific range that fits."""
    forms = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    fitting = [(forms.index(each.value), each.quality) for each in ranges if each.value in forms]
    if not fitting:
        return (0.0, -1)
    specificity, quality = max(fitting)
    return (quality, specificity)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes a gzip body."""
    qualities = {coding.value: coding.quality for coding in _ranges(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _rank(format: Format, ranges: list[_Range]) -> tuple[float, int, int]:
    """Quality, specificity and place (earlier is higher) of the most specific range that fits."""
    covering = [
        (specificity, -place, candidate.quality)
        for place, candidate in enumerate(ranges)
        if (specificity := _specificity(format, candidate)) >= 0
    ]
    if not covering:
        return (0.0, -1, 0)
    specificity, place, quality = max(covering)
    return (quality, specificity, place) if quality > 0 else (0.0, -1, 0)


def _specificity(format: Format, candidate: _Range) -> int:
    """0 for ``*/*``, 1 for ``text/*``, 2 for the type, 3 with its version; -1 if the range doesn't cover the format."""
    media_type = format.value.partition(";")[0]
    if candidate.value in ("*/*", "*"):
        return 0
    if candidate.value == f"{media_type.partition('/')[0]}/*":
        return 1
    if candidate.value != media_type:
        return -1
    version = candidate.parameters.get("version")
    if version is None:
        return 2
    return 3 if version in _VERSIONS[format] else -1


def _ranges(header: str) -> Iterator[_Range]:
    for element in header[:_MAX_HEADER_LENGTH].split(",")[:_MAX_RANGES]:
        value, *parts = (part.strip().lower() for part in element.split(";"))
        if value:
            parameters = dict(_parameter(part) for part in parts)
            yield _Range(value, parameters, _quality(parameters.get("q", "1")))


def _parameter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
