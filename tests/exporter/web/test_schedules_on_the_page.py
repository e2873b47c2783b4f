"""Schedules on their page, in the JSON API and in the probes."""

from __future__ import annotations

import json
import re

from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp, MinimalApp, broken
from tests.exporter.web.test_console import Page


async def test_the_page_of_an_app_without_a_scheduler_says_nothing_of_schedules(serve: Serve) -> None:
    for app, has_one in ((MinimalApp(), False), (ContractApp(), False), (ContractApp(), True)):
        if isinstance(app, ContractApp) and not has_one:
            app.scheduler = app.schedule_runs = None
        service = await serve(app)
        assert ("./schedules" in (await service.get("/")).text) == has_one
        assert (await service.get("/schedules")).status == (200 if has_one else 404)


async def test_the_page_says_that_schedules_are_not_known_while_their_store_is_away(serve: Serve) -> None:
    app = ContractApp()
    app.before["get_scheduler_stats"] = broken
    text = (await (await serve(app)).get("/schedules")).text
    assert "get_scheduler_stats() failed: ConnectionError" in text
    section = Page(text.partition('id="schedules"')[2].partition("</section>")[0]).text
    assert re.search(r"Scheduler\s*running", section)
    assert "Overdue" not in section


async def test_the_page_says_nothing_of_a_scheduler_that_nobody_can_ask(serve: Serve) -> None:
    app = ContractApp()
    app.before["get_scheduler_stats"] = broken
    app.schedule_runs = None
    section = (
        (await (await serve(app)).get("/schedules")).text.partition('id="schedules"')[2].partition("</section>")[0]
    )
    assert "get_scheduler_stats() failed: ConnectionError" in section
    assert "running" not in section


async def test_the_api_lists_schedules(serve: Serve) -> None:
    answer = await (await serve(ContractApp())).get("/api/schedules")
    assert answer.status == 200
    assert [each["id"] for each in json.loads(answer.text)] == ["nightly", "often"]


async def test_the_api_does_not_list_a_great_many_schedules(serve: Serve) -> None:
    app = ContractApp()
    app.scheduler["total_schedules"] = 100_000
    service = await serve(app)
    before = app.calls.get("list_schedules", 0)
    answer = await service.get("/api/schedules")
    assert (answer.status, json.loads(answer.text)["detail"]) == (
        503,
        "there are 100000 schedules; at most 2000 are listed here",
    )
    assert app.calls.get("list_schedules", 0) == before


async def test_the_api_says_that_an_app_has_no_schedules_to_list_and_that_the_store_is_away(serve: Serve) -> None:
    assert (await (await serve(MinimalApp())).get("/api/schedules")).status == 404
    app = ContractApp()
    app.before["get_scheduler_stats"] = broken
    answer = await (await serve(app)).get("/api/schedules")
    assert (answer.status, json.loads(answer.text)["detail"]) == (503, "list_schedules() failed: ConnectionError")


async def test_an_unhealthy_scheduler_fails_readiness_and_not_liveness(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app, probe_failure_grace=0.0)
    app.health["healthy"] = False
    app.health["components"]["scheduler"] = {"healthy": False, "message": "its store doesn't answer"}
    ready = await service.get("/readyz?verbose")
    assert ready.status == 503
    assert "scheduler" in ready.text
    assert (await service.get("/livez")).status == 200
    scrape = await service.get()
    assert scrape.value("flowrra_component_healthy", component="scheduler") == 0
