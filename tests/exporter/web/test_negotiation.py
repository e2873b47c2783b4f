"""Which format a scraper gets, by RFC 9110; and that no header whatever makes a scrape fail."""

from __future__ import annotations

import pytest
from flowrra_exporter.metrics.exposition import Format
from flowrra_exporter.web.negotiation import accepts_gzip, choose_format
from hypothesis import given
from hypothesis import strategies as st

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS_2 = (
    f"{OPENMETRICS};version=1.0.0,{OPENMETRICS};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT_FIRST = f"text/plain;version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5,*/*;q=0.2"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/plain", Format.TEXT),
        ("text/*", Format.TEXT),
        (BROWSER, Format.TEXT),
        (OPENMETRICS, Format.OPENMETRICS),
        (OPENMETRICS.upper(), Format.OPENMETRICS),
        (f"{OPENMETRICS}; version=1.0.0", Format.OPENMETRICS),
        (f'{OPENMETRICS}; version="1.0.0"', Format.OPENMETRICS),
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        (PROMETHEUS_3_TEXT_FIRST, Format.TEXT),
        (f"{OPENMETRICS};q=0.4, text/plain;q=0.5", Format.TEXT),
        (f"{OPENMETRICS};q=0.5, text/plain;q=0.4", Format.OPENMETRICS),
        (f"{OPENMETRICS}, text/plain", Format.OPENMETRICS),
        (f"text/plain, {OPENMETRICS}", Format.TEXT),
        (f"{OPENMETRICS};q=0", Format.TEXT),
        (f"{OPENMETRICS};q=0, */*", Format.TEXT),
        ("text/plain;q=0, */*", Format.OPENMETRICS),
        (f"{OPENMETRICS};version=2.0.0, text/plain;q=0.1", Format.TEXT),
        (f"{OPENMETRICS};version=abc", Format.TEXT),
        ("text/plain;version=abc", Format.TEXT),
        (f"{OPENMETRICS};q=nonsense", Format.TEXT),
        (f"{OPENMETRICS};q=nan", Format.TEXT),
        ("application/json", Format.TEXT),
        (";;;,,,q=;=", Format.TEXT),
        ("," * 100_000, Format.TEXT),
    ],
)
def test_the_format_by_accept(accept: str, expected: Format) -> None:
    assert choose_format(accept) is expected


@given(st.text(max_size=200) | st.text(alphabet="*/;,=q.0159 texplain", max_size=200))
def test_any_accept_gets_an_answer(accept: str) -> None:
    assert choose_format(accept) in Format
    assert accepts_gzip(accept) in (True, False)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("GZIP", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br", False),
    ],
)
def test_gzip_by_accept_encoding(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected
