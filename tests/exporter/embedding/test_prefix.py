"""Every link of the console leads somewhere, below any prefix, also one that a proxy takes away."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from flowrra_exporter.settings import Settings

from flowrra import Flowrra
from tests.exporter.embedding.servers import WAYS, Client, behind_proxy

SERVERS = pytest.mark.parametrize("server", WAYS)
PREFIXES = pytest.mark.parametrize("prefix", ["", "/internal", "/a/b"])
# Of each path, so many queries are followed: pages sort and filter by links in every combination.
MOST_QUERIES = 3


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action") and value is not None and not value.startswith("data:"):
                self.found.add(value)


async def _crawl(ask: Client) -> dict[str, int]:
    """The status of each page that can be reached from the first one by links, by its path below the prefix."""
    found: dict[str, int] = {}
    queries: Counter[str] = Counter()
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        without_query = path.partition("?")[0]
        if path in found or queries[without_query] >= MOST_QUERIES or without_query == "/api/events":
            continue
        queries[without_query] += 1
        reply = await ask(path)
        found[path] = reply.status
        if not reply.headers.get("Content-Type", "").startswith("text/html"):
            continue
        links = _Links()
        links.feed(reply.body.decode())
        for link in links.found:
            absolute = urldefrag(urljoin(f"{ask.url}{path}", link)).url
            if urlsplit(link).netloc and not absolute.startswith(ask.url):
                continue  # such as to the project's own site
            assert absolute.startswith(f"{ask.url}/"), f"{link} on {path} leads out of {ask.url}"
            waiting.append(absolute.removeprefix(ask.url))
    return found


@asynccontextmanager
async def _app() -> Any:
    app = Flowrra()

    @app.task(name="work, a/b?")
    async def work() -> None: ...

    async with app:
        await app.wait_for_result(await app.submit(work), timeout=5)
        yield app


def _check(found: dict[str, int]) -> None:
    assert {"/", "/names", "/running", "/workers", "/metrics", "/livez", "/api/stats"} <= {
        path.partition("?")[0] for path in found
    }
    # What is asked of the app may say that it isn't ready, such as a probe.
    assert {path: status for path, status in found.items() if status not in (200, 503)} == {}


@pytest.mark.slow
@SERVERS
@PREFIXES
async def test_every_link_leads_somewhere(server: Any, prefix: str) -> None:
    async with _app() as app, server(app, Settings(), prefix) as ask:
        _check(await _crawl(ask))


@pytest.mark.slow
@SERVERS
async def test_every_link_leads_somewhere_behind_a_proxy_that_takes_a_prefix_away(server: Any) -> None:
    async with _app() as app, server(app, Settings(), "/internal") as ask, behind_proxy(ask, "/ops/x", "inner") as out:
        _check(await _crawl(out))
