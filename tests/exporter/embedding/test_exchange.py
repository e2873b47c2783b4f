"""What goes over the socket pair: one request, whatever a client has sent."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes, urljoin

import h11
import pytest
from flowrra_exporter.exchange import Request, encode_request, with_slash
from hypothesis import given
from hypothesis import strategies as st

MOST = 64


def _request(path: str, written: str = "", query: str = "", headers: Iterable[tuple[str, str]] = ()) -> Request:
    return Request("POST", path, query, headers, written or quote(path))


def _events(data: bytes) -> tuple[h11.Request, bytes]:
    """The one request that is there, as another parser reads it; its body."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    server.receive_data(b"")
    request, body = server.next_event(), b""
    assert isinstance(request, h11.Request)
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert server.trailing_data[0] == b""
    return request, body


NAMES = st.sampled_from(
    ["Host", "Origin", "X-Flowrra-Token", "Accept", "content-type", "Cookie", "Content-Length", "Transfer-Encoding"]
)
# Without a space at an end, which no header keeps.
TEXTS = st.text(max_size=30).map(lambda text: f"x{text}x")


@pytest.mark.slow
@given(st.text(max_size=30), st.text(max_size=30), st.lists(st.tuples(NAMES, TEXTS)), st.binary(max_size=MOST))
def test_it_is_one_request_whatever_is_in_it(
    path: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    with_host = [*((name, value) for name, value in headers if name != "Host"), ("Host", "h")]
    request, read = _events(encode_request(_request(f"/{path}", query=query, headers=with_host), body, MOST))
    target, _, asked = request.target.partition(b"?")
    assert unquote_to_bytes(target) == f"/{path}".encode("utf-8", "replace")
    assert bool(asked) == bool(query)
    assert read == body
    names = {name for name, _ in request.headers}
    assert names <= {b"host", b"origin", b"x-flowrra-token", b"accept", b"content-type", b"content-length"}


@given(st.text(max_size=30))
def test_letters_of_a_query_are_what_they_were(query: str) -> None:
    written = query.encode("utf-8", "replace")
    request, _ = _events(
        encode_request(_request("/", query=written.decode("latin-1"), headers=[("Host", "h")]), b"", MOST)
    )
    assert unquote_to_bytes(request.target.partition(b"?")[2]) == unquote_to_bytes(written)


@given(st.text(max_size=20), st.text(max_size=40))
def test_a_path_that_was_written_otherwise_than_the_framework_says_does_not_count(path: str, written: str) -> None:
    request, _ = _events(encode_request(_request(f"/{path}", written, headers=[("Host", "h")]), b"", MOST))
    assert unquote_to_bytes(request.target) == f"/{path}".encode("utf-8", "replace")


@pytest.mark.parametrize(
    ("path", "written", "expected"),
    [
        ("/tasks/a/b", "/internal/tasks/a%2Fb", b"/tasks/a%2Fb"),
        ("/tasks/a/b", "/internal/tasks/a/b", b"/tasks/a/b"),
        ("/tasks/a/b", "http://host/internal/tasks/a%2fb", b"/tasks/a%2fb"),
        ("/tasks/a b", "/tasks/a%20b", b"/tasks/a%20b"),
        ("/tasks/a%b", "/tasks/a%25b", b"/tasks/a%25b"),
        ("/tasks/é", "/tasks/%C3%A9", b"/tasks/%C3%A9"),
        ("/tasks/é", "/tasks/é", b"/tasks/%C3%A9"),
        ("/tasks/a/b", "", b"/tasks/a/b"),
    ],
)
def test_a_slash_within_a_name_stays_one(path: str, written: str, expected: bytes) -> None:
    data = encode_request(Request("GET", path, "", [], written), b"", MOST)
    assert data.split()[1] == expected


def test_of_a_body_that_is_too_large_only_the_size_is_told() -> None:
    head = encode_request(_request("/", headers=[("Content-Length", "3"), ("Host", "h")]), b"x" * (MOST + 1), MOST)
    assert head.endswith(f"Content-Length: {MOST + 1}\r\n\r\n".encode())
    assert head.count(b"Content-Length") == 1


@pytest.mark.parametrize("path", ["/internal", "/a/b", "/a:b", "/http:", "/..%2Fx"])
def test_the_reference_to_the_slash_leads_there_and_nowhere_else(path: str) -> None:
    reference = with_slash(_request("", path, query="a=1&b=//c"))
    assert urljoin(f"http://host{path}", reference) == f"http://host{path}/?a=1&b=//c"
