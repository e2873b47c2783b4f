"""No link of any page leads to nowhere, whatever the app, the observer and the flags have and have not."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from tests.core.apps import final
from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp, MinimalApp
from tests.exporter.web.operator import PASSWORD, USER, operated
from tests.history.test_control import dead_task
from tests.support.servers import ValkeyServer

pytestmark = pytest.mark.slow

ODD = "שם ?a=1&b#c/%25"
MOST = 400


async def crawl(root: str, known: bool = True) -> dict[str, int]:
    """The status of every URL that can be come to from the first page."""
    found: dict[str, int] = {}
    waiting = deque([f"{root}/"])
    auth = (USER, PASSWORD) if known else None
    async with httpx.AsyncClient(auth=auth, follow_redirects=True, timeout=15, trust_env=False) as client:
        while waiting:
            url = waiting.popleft()
            if url in found:
                continue
            async with client.stream("GET", url) as answer:
                found[url] = answer.status_code
                if "text/html" not in answer.headers["Content-Type"]:
                    continue
                text = (await answer.aread()).decode()
                at = str(answer.url)
            hrefs = {unescape(each) for each in re.findall(r'<a [^>]*?href="([^"]*)"', text)}
            links = {urljoin(at, href).partition("#")[0] for href in hrefs}
            assert {urlsplit(link).netloc for link in links} == {urlsplit(root).netloc}
            # A page that doesn't refresh itself has the same links, each with that parameter.
            waiting.extend(sorted(link for link in links if "refresh=" not in link))
            assert len(found) < MOST, "the pages have no end"
    return found


def paths(found: dict[str, int]) -> set[str]:
    """The first parts of the paths that were come to."""
    return {urlsplit(url).path.split("/")[1] for url in found}


def tasks_of(app: Flowrra) -> Flowrra:
    @app.task("add", max_retries=0)
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(ODD, queue="mail", max_retries=0)
    async def odd() -> None:
        raise ValueError("no")

    return app


async def fill(app: Flowrra) -> None:
    """Tasks in every state, with names and ids that have to be quoted."""
    for task_id in ("plain", "a/b", "..", "%25?#&"):
        await final(app, await app.options(task_id=task_id).submit(ODD))
    await final(app, await app.submit("add", 1, 2))
    await app.options(countdown=600).submit("add", 1, 2)


async def plan(app: Flowrra, folder: Path) -> None:
    scheduler = app.create_scheduler(str(folder / "schedules.db"))
    for schedule_id in ("nightly", "a/b ?#%25"):
        await scheduler.schedule_cron("add", "0 3 1 1 *", (len(schedule_id), 2), task_id=schedule_id)


@pytest.fixture
async def in_memory(tmp_path: Path) -> AsyncIterator[Flowrra]:
    app = tasks_of(Flowrra())
    await plan(app, tmp_path)
    async with app:
        await app.scheduler.trigger("nightly")  # type: ignore[union-attr]
        await fill(app)
        yield app


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as found:
        yield found


def shared(server: ValkeyServer, consume: bool) -> Flowrra:
    url = f"redis://127.0.0.1:{server.port}/0"
    executor = ExecutorConfig(io_workers=2, consume=consume)
    return tasks_of(Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), executor)))


PAGES = {"", "names", "tasks", "running", "queues", "dead", "workers", "schedules"}


async def test_of_an_app_in_memory(in_memory: Flowrra, serve: Serve, tmp_path: Path) -> None:
    found = await crawl((await serve(in_memory, **operated(tmp_path))).url)
    assert {url: status for url, status in found.items() if status not in (200, 503)} == {}
    assert paths(found) >= PAGES | {"api", "metrics", "livez", "confirm"}


async def test_without_the_api_and_without_rights(in_memory: Flowrra, serve: Serve) -> None:
    found = await crawl((await serve(in_memory, web_api=False)).url, known=False)
    assert {url: status for url, status in found.items() if status not in (200, 503)} == {}
    assert paths(found) & {"api", "confirm", "actions"} == set()
    assert paths(found) >= PAGES


async def test_of_an_app_on_a_server_and_of_its_observer(server: ValkeyServer, serve: Serve, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"
    async with shared(server, consume=False) as producer:
        await dead_task(producer, url, 1)
        with redis.Redis(port=server.port) as look:  # one that could never be read
            look.hset("flowrra:queue:io:dead:tasks", "odd/dead", b"why\n0|3|0|0|{}")
            look.zadd("flowrra:queue:io:dead", {"odd/dead": 1})
    worker = shared(server, consume=True)
    await plan(worker, tmp_path)
    async with worker:
        await fill(worker)
        assert await crawled(serve, worker, tmp_path) >= PAGES
        observed = shared(server, consume=False)
        observed.create_scheduler(str(tmp_path / "schedules.db"))
        seen = await crawled(serve, observed, tmp_path, observe=True)
        assert seen >= {"", "tasks", "queues", "dead", "workers", "schedules"}
        await observed.scheduler.backend.close()  # type: ignore[union-attr]


async def crawled(serve: Serve, app: Flowrra, folder: Path, **settings: Any) -> set[str]:
    found = await crawl((await serve(app, **operated(folder), **settings)).url)
    assert {url: status for url, status in found.items() if status not in (200, 503)} == {}
    return paths(found)


@pytest.mark.parametrize("app", [MinimalApp(), ContractApp()], ids=["minimal", "contract"])
async def test_of_an_app_that_answers_less(app: Any, serve: Serve) -> None:
    found = await crawl((await serve(app)).url, known=False)
    assert {url: status for url, status in found.items() if status not in (200, 503)} == {}
    assert paths(found) & {"tasks", "dead"} == set()
