"""The status page and the failures in the JSON API: what they show, and what they never show."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from uuid import UUID

import pytest
from flowrra_exporter.metrics.samples import Distribution
from flowrra_exporter.paths import API_PATHS
from flowrra_exporter.web.page import sections
from flowrra_exporter.web.page.figures import Estimate, quantile
from flowrra_exporter.web.responses import AUTHENTICATED, json_safe, shows_task_data

from flowrra import Flowrra
from tests.exporter.conftest import Serve

HOSTILE = "<script>alert('x')</script>\"'\n\u202eevil"
VOID = {"meta", "link", "rect"}


class Page(HTMLParser):
    """The elements with their attributes, and the text; fails for tags that don't match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["script"], ["style"]):
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]

    def links(self) -> set[str]:
        """The paths that are linked to, as they are where the page is served at the root."""
        return {urljoin("/", each["href"] or "") for each in self.attributes("a")}


async def app_with(*outcomes: tuple[str, bool], secret: str = "s3cret-argument") -> Flowrra:
    """A running app whose tasks of these names have succeeded or failed once."""
    app = Flowrra()

    async def work(argument: str, good: bool) -> None:
        if not good:
            raise ValueError(f"told {argument}")

    for name, _ in outcomes:
        app.task(name, max_retries=0)(work)
    await app.start()
    for name, good in outcomes:
        await app.wait_for_result(await app.submit(name, secret, good), timeout=5)
    return app


async def test_the_page_shows_what_the_scrape_says(serve: Serve) -> None:
    app = await app_with(("charge", True), ("refund", False))
    try:
        service = await serve(app)
        scrape = await service.get("/metrics")
        answer = await service.get("/")
        page = Page(answer.text)
        assert answer.status == 200
        for name in ("charge", "refund"):
            assert scrape.value("flowrra_tasks_started_total", task=name) == 1
            assert name in page.text
        assert "ValueError × 1" in page.text  # noqa: RUF001
        assert "Healthy" in page.text
        assert "1 in all, 0 retried" in page.text
    finally:
        await app.stop()


async def test_names_are_text_whatever_they_contain(serve: Serve) -> None:
    app = await app_with((HOSTILE, False))
    try:
        answer = await (await serve(app)).get("/")
        assert "<script>alert" not in answer.text
        page = Page(answer.text)
        assert len(page.attributes("script")) == 1
        assert "<script>alert('x')</script>" in page.text
    finally:
        await app.stop()


async def test_a_page_of_a_thousand_tasks_is_bounded_and_says_so(serve: Serve) -> None:
    app = Flowrra()

    async def work() -> None: ...

    for number in range(1000):
        app.task(f"task_{number:04}")(work)
    async with app:
        answer = await (await serve(app, max_series=100_000)).get("/")
    page = Page(answer.text)
    assert "And 800 more" in page.text
    assert len(set(re.findall(r"task_\d{4}", page.text))) == sections.MOST_TASKS
    assert len(answer.body) < 500_000


async def test_it_can_be_read_by_its_structure(serve: Serve) -> None:
    app = await app_with(("charge", False))
    try:
        page = Page((await (await serve(app)).get("/")).text)
    finally:
        await app.stop()
    tags = [tag for tag, _ in page.elements]
    assert page.attributes("html")[0]["lang"] == "en"
    assert [tags.count(tag) for tag in ("header", "main", "footer", "nav", "h1")] == [1] * 5
    assert tags.index("h1") < tags.index("h2")
    assert tags.count("caption") == tags.count("table") > 0
    assert all(each.get("scope") in ("row", "col") for each in page.attributes("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


async def test_nothing_on_it_comes_from_elsewhere(serve: Serve) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get("/")
    page = Page(answer.text)
    targets = [each[key] for _, each in page.elements for key in ("src", "href") if each.get(key)]
    assert targets
    for target in targets:
        parts = urlsplit(str(target))
        assert (parts.scheme, parts.netloc) in (("", ""), ("data", "")), target
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_refreshing_can_be_stopped(serve: Serve) -> None:
    async with Flowrra() as app:
        service = await serve(app)
        assert 'http-equiv="refresh"' in (await service.get("/")).text
        page = Page((await service.get("/?refresh=off")).text)
    assert not page.attributes("script")
    assert all("http-equiv" not in each for each in page.attributes("meta"))


async def test_without_the_api_its_routes_and_links_are_gone(serve: Serve) -> None:
    async with Flowrra() as app:
        with_api, without = await serve(app), await serve(app, web_api=False)
        assert set(API_PATHS) <= Page((await with_api.get("/")).text).links()
        assert not set(API_PATHS) & Page((await without.get("/")).text).links()
        for path in API_PATHS:
            assert (await without.get(path)).status == 404
            assert (await with_api.get(path)).status == 200
            assert (await with_api.get(path, "POST")).status == 405


async def test_arguments_and_errors_stay_out_of_page_and_api(serve: Serve) -> None:
    app = await app_with(("charge", False))
    try:
        service = await serve(app)
        page, api = await service.get("/"), await service.get("/api/failures")
    finally:
        await app.stop()
    assert "s3cret-argument" not in page.text + api.text
    (failure,) = json.loads(api.text)["failures"]
    assert failure["task_name"] == "charge"
    assert not {"error", "arguments"} & set(failure)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "٣"])
async def test_a_limit_that_makes_no_sense_is_refused(serve: Serve, limit: str) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get(f"/api/failures?limit={quote(limit)}")
    assert answer.status == 400
    assert "1 to 100" in answer.text


@pytest.mark.parametrize(("on", "proved", "shown"), [(True, True, True), (True, None, False), (False, True, False)])
def test_task_data_needs_the_switch_and_the_proof(on: bool, proved: Any, shown: bool) -> None:
    request: Any = {} if proved is None else {AUTHENTICATED: proved}
    assert shows_task_data(request, on) is shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(days=1), "1 day, 0:00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (b"a", "b'a'"),
        ((1, {"a"}), [1, ["a"]]),
    ],
    ids=repr,
)
def test_what_json_lacks_is_readable_in_the_api(value: Any, text: Any) -> None:
    assert json.loads(json.dumps(json_safe({"args": [value]}))) == {"args": [text]}


async def test_an_app_that_tells_little_gets_a_page_that_says_so(serve: Serve) -> None:
    class Minimal:
        async def get_stats(self) -> dict[str, Any]:
            return {"app": {"running": True}, "executors": {}, "tasks": {}}

        async def health_check(self) -> dict[str, Any]:
            return {"healthy": True, "components": {}}

    page = Page((await (await serve(Minimal())).get("/")).text)
    assert "This app can't list its failed tasks." in page.text


def test_a_quantile_is_interpolated_and_says_when_it_lies_beyond() -> None:
    state = Distribution((1.0, 2.0), (2, 2, 0), 5.0)
    assert quantile(0.75, [state]) == Estimate(1.5)
    assert quantile(0.9, [Distribution((1.0, 2.0), (0, 0, 5), 50.0)]) == Estimate(2.0, beyond=True)
    assert quantile(0.5, [None]) is None
