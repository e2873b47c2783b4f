"""The console and the failures in the JSON API: what they show, and what they never show."""

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
from flowrra_exporter.web.console.figures import Estimate, quantile
from flowrra_exporter.web.responses import AUTHENTICATED, json_safe, shows_task_data

from flowrra import Flowrra
from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp, MinimalApp

HOSTILE = "<script>alert('x')</script>\"'\n\u202eevil"
VOID = {"hr", "input", "link", "meta"}


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
        page, names = Page(answer.text), Page((await service.get("/names")).text)
        assert answer.status == 200
        for name in ("charge", "refund"):
            assert scrape.value("flowrra_tasks_started_total", task=name) == 1
            assert name in names.text
        assert "ValueError × 1" in names.text  # noqa: RUF001
        assert "Healthy" in page.text
        assert "1 in all, 0 retried" in page.text
    finally:
        await app.stop()


async def test_an_executor_that_is_stuck_is_what_stands_out(serve: Serve) -> None:
    app = ContractApp()
    app.stats["executors"]["io"]["stuck"] = True
    app.health["components"]["io_executor"] = {"healthy": True, "message": "degraded: all hang", "degraded": True}
    service = await serve(app)
    page = Page((await service.get("/")).text)
    assert "Executor io stuck" in page.text
    assert "Tasks that hang hold all slots, and 7 tasks wait behind them: all hang." in page.text
    assert "of 4, all stuck: io" in page.text
    assert [each["class"] for each in page.attributes("div") if each.get("class") == "bad"] == ["bad"]
    assert "stuck" in page.text
    assert (await service.get("/metrics")).value("flowrra_executor_stuck", executor="io") == 1


async def test_an_executor_that_gets_on_has_no_red_tile(serve: Serve) -> None:
    page = Page((await (await serve(ContractApp())).get("/")).text)
    assert not [each for each in page.attributes("div") if each.get("class") == "bad"]
    assert "stuck" not in page.text


async def test_names_are_text_whatever_they_contain(serve: Serve) -> None:
    app = await app_with((HOSTILE, False))
    try:
        service = await serve(app)
        for path in ("/", "/names", "/names?q=%3Cscript%3Ealert"):
            answer = await service.get(path)
            assert "<script>alert" not in answer.text
            page = Page(answer.text)
            assert len(page.attributes("script")) == 1
            assert "<script>alert('x')</script>" in page.text
    finally:
        await app.stop()


async def test_a_thousand_names_are_paged_and_found_by_a_part_of_their_name(serve: Serve) -> None:
    app = Flowrra()

    async def work() -> None: ...

    for number in range(1000):
        app.task(f"task_{number:04}")(work)
    async with app:
        service = await serve(app)
        first, last, found = [
            await service.get(f"/names{query}") for query in ("", "?sort=-name&page=40", "?q=TASK_012")
        ]
    assert names_on(first.text) == [f"task_{number:04}" for number in range(25)]
    assert "1 to 25 of 1,000 names" in Page(first.text).text
    assert names_on(last.text) == [f"task_{number:04}" for number in reversed(range(25))]
    assert names_on(found.text) == [f"task_{number:04}" for number in range(120, 130)]
    assert len(first.body) < 100_000


def names_on(text: str) -> list[str]:
    """The task names that stand on a page, in order."""
    return re.findall(r">(task_\d{4})<", text)


PATHS = ("/", "/names", "/running", "/queues", "/workers")


@pytest.mark.parametrize("path", PATHS)
async def test_it_can_be_read_by_its_structure(serve: Serve, path: str) -> None:
    app = await app_with(("charge", False))
    try:
        page = Page((await (await serve(app)).get(path)).text)
    finally:
        await app.stop()
    tags = [tag for tag, _ in page.elements]
    assert page.attributes("html")[0]["lang"] == "en"
    assert [tags.count(tag) for tag in ("header", "main", "footer", "h1")] == [1] * 4
    assert [each["aria-label"] for each in page.attributes("nav")] == ["Pages", "Endpoints"]
    assert tags.index("h1") < tags.index("h2")
    assert tags.count("caption") == tags.count("table")
    assert all(each.get("scope") in ("row", "col") for each in page.attributes("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    (current,) = (each for each in page.attributes("a") if each.get("aria-current") == "page")
    assert urljoin(path, current["href"] or "") == path


@pytest.mark.slow
async def test_every_link_leads_somewhere(serve: Serve) -> None:
    for app in (await app_with(("charge", False)), ContractApp(), MinimalApp()):
        service = await serve(app)
        seen, ahead = set(), {"/"}
        while ahead:
            path = ahead.pop()
            seen.add(path)
            answer = await service.get(path, Accept="text/html")
            assert answer.status == 200, path
            if "html" in answer.headers["Content-Type"]:
                hrefs = (each["href"] or "" for each in Page(answer.text).attributes("a"))
                ahead |= {urljoin(path, href).partition("#")[0] for href in hrefs} - seen
        assert {"/", "/metrics"} < seen
        if isinstance(app, Flowrra):
            await app.stop()


async def test_a_page_that_the_app_lacks_is_not_there(serve: Serve) -> None:
    answer = await (await serve(MinimalApp())).get("/names")
    assert answer.status == 404
    assert "nothing to show here" in answer.text


async def test_nothing_on_it_comes_from_elsewhere(serve: Serve) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get("/")
    page = Page(answer.text)
    assert "form-action 'self'" in answer.headers["Content-Security-Policy"]
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


async def test_what_became_of_tasks_within_the_last_seconds(serve: Serve) -> None:
    app = await app_with(("charge", False))
    try:
        service = await serve(app)
        found = json.loads((await service.get("/api/task-stats?window=60")).text)["charge"]
        refused = [await service.get(f"/api/task-stats?window={window}") for window in ("0", "3601", "x", "1.5", "")]
    finally:
        await app.stop()
    assert (found["failed"], found["failure_ratio"]) == (1, 1.0)
    assert 0 < found["window"] < 60
    assert [answer.status for answer in refused] == [400] * 5
    assert all("1 to 3600" in answer.text for answer in refused)


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
