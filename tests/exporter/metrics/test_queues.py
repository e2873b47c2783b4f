"""Queues by name, wherever the exporter shows them: metrics, probes, page and JSON API."""

from __future__ import annotations

import json
from typing import Any

from tests.exporter.conftest import Serve
from tests.exporter.contract import ContractApp


class Named(ContractApp):
    """An app with a queue beside the default one, which is paused."""

    async def list_queues(self) -> Any:
        default, *_ = await super().list_queues()
        return [default, {**default, "queue": "mail", "pending": 70, "paused": True}]


class Older(ContractApp):
    """An app that knows no queues by name."""

    list_queues = None  # type: ignore[assignment]


async def test_each_has_its_own_series(serve: Serve) -> None:
    scrape = await (await serve(Named())).get()
    found = {
        queue: [
            scrape.value(f"flowrra_queue_{figure}", executor="io", queue=queue)
            for figure in ("pending_tasks", "paused")
        ]
        for queue in ("default", "mail")
    }
    assert found == {"default": [7, 0], "mail": [70, 1]}
    labels = {"executor": "io", "queue": "mail", "broker": "memory", "namespace": "flowrra", "server": ""}
    assert scrape.value("flowrra_queue_info", **labels) == 1
    assert scrape.value("flowrra_broker_unfit", reason="eviction") == 1


async def test_the_server_is_part_of_where_a_queue_is_and_empty_where_the_app_does_not_tell(serve: Serve) -> None:
    app = ContractApp()
    place = {"executor": "io", "queue": "default", "broker": "RedisBroker", "namespace": "shop"}
    app.queues["io"] |= {"broker": "RedisBroker", "namespace": "shop", "server": "valkey:6379/2"}
    service = await serve(app)
    assert (await service.get()).value("flowrra_queue_info", **place, server="valkey:6379/2") == 1
    del app.queues["io"]["server"]
    assert (await service.get()).value("flowrra_queue_info", **place, server="") == 1


async def test_those_of_an_app_without_names_are_the_default_ones(serve: Serve) -> None:
    service = await serve(Older(), probe_max_pending=6)
    scrape = await service.get()
    assert scrape.value("flowrra_queue_pending_tasks", executor="io", queue="default") == 7
    assert scrape.value("flowrra_collector_success", collector="queue") == 1
    assert json.loads((await service.get("/readyz")).text)["checks"]["queue_depth"]["status"] == "failed"


async def test_limits_hold_for_each_and_a_paused_one_may_be_old(serve: Serve) -> None:
    app = Named()
    service = await serve(app, probe_max_pending=6, probe_max_queue_age=60.0)
    checks = json.loads((await service.get("/readyz")).text)["checks"]
    assert checks["queue_depth"]["message"] == (
        "io: 7 tasks wait, at most 6 may; io, mail: 70 tasks wait, at most 6 may"
    )
    assert checks["queue_age"]["message"].startswith("io: a task waits for")
    assert "mail" not in checks["queue_age"]["message"]


async def test_the_page_and_the_api_show_all(serve: Serve) -> None:
    service = await serve(Named())
    page = (await service.get("/queues", Accept="text/html")).text
    assert ">mail</bdi>" in page
    assert ">paused<" in page
    listed = json.loads((await service.get("/api/all-queues")).text)
    assert [(each["queue"], each["pending"]) for each in listed] == [("default", 7), ("mail", 70)]
    assert json.loads((await service.get("/api/queues")).text)["io"]["pending"] == 7


async def test_a_queue_that_is_nonsense_fails_its_collector_alone(serve: Serve) -> None:
    app = ContractApp()

    async def list_queues() -> Any:
        return ["mail"]

    app.list_queues = list_queues  # type: ignore[method-assign]
    scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_collector_success", collector="queue") == 0
    assert scrape.value("flowrra_collector_success", collector="executors") == 1
