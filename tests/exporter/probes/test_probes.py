"""Probes, the JSON API and the page: the right status code first, then JSON that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.exporter.conftest import Answer, Serve
from tests.exporter.contract import ContractApp, MinimalApp, broken, never

PROBES = ("/livez", "/readyz", "/startupz", "/healthz")
API = ("/api/stats", "/api/health", "/api/tasks")


def body(answer: Answer) -> Any:
    kind = "problem+json" if answer.text.startswith('{"type": ') else "json"
    assert answer.headers["Content-Type"] == f"application/{kind}; charset=utf-8"
    return json.loads(answer.text)


@pytest.mark.parametrize("path", PROBES)
async def test_every_probe_of_a_healthy_app_is_200(serve: Serve, path: str) -> None:
    assert (await (await serve(ContractApp())).get(path)).status == 200


@pytest.mark.parametrize("path", PROBES[:3])
async def test_a_probe_names_its_checks(serve: Serve, path: str) -> None:
    answer = body(await (await serve(ContractApp())).get(path))
    assert answer["status"] == "ok"
    assert answer["checks"]
    for check in answer["checks"].values():
        assert check["status"] == "ok"
        assert check["message"]


async def test_readiness_fails_with_the_component_that_is_unhealthy(serve: Serve) -> None:
    app = ContractApp()
    app.health["healthy"] = False
    app.health["components"]["broker"] = {"healthy": False, "message": "connection refused"}
    service = await serve(app)
    ready = await service.get("/readyz")
    assert ready.status == 503
    assert body(ready)["checks"]["broker"] == {"status": "failed", "message": "connection refused"}
    assert body(ready)["checks"]["app"]["status"] == "ok"


async def test_liveness_and_startup_do_not_depend_on_other_services(serve: Serve) -> None:
    app = ContractApp()
    app.health = {"healthy": False, "components": {"broker": {"healthy": False, "message": "gone"}}}
    service = await serve(app)
    assert [(await service.get(path)).status for path in PROBES] == [200, 503, 200, 503]


async def test_unhealthy_without_a_culprit_is_unhealthy_all_the_same(serve: Serve) -> None:
    app = MinimalApp()
    app.health["healthy"] = False
    assert (await (await serve(app)).get("/readyz")).status == 503


@pytest.mark.slow
@pytest.mark.parametrize(("what", "reason"), [(never, "did not answer within"), (broken, "ConnectionError")])
async def test_a_health_check_that_hangs_or_fails_fails_readiness_in_time(serve: Serve, what: Any, reason: str) -> None:
    app = ContractApp()
    app.before["health_check"] = what
    service = await serve(app)
    ready = await service.get("/readyz")
    assert (ready.status, ready.seconds < 1.0) == (503, True)
    assert reason in body(ready)["checks"]["health_check"]["message"]
    assert "connection lost" not in ready.text  # an error's text may hold anything
    assert (await service.get("/livez")).status == 200


async def test_healthz_has_the_shape_of_the_documented_health_endpoint(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    assert body(await service.get("/healthz")) == {
        "status": "healthy",
        "timestamp": "2026-01-02T03:04:05+00:00",
        "details": {"app": {"healthy": True, "message": "App is running"}, "cpu_executor": None},
    }
    app.health["healthy"] = False
    unhealthy = await service.get("/healthz")
    assert (unhealthy.status, body(unhealthy)["status"]) == (503, "unhealthy")


async def test_during_the_shutdown_readiness_fails_and_liveness_does_not(serve: Serve) -> None:
    service = await serve(ContractApp())
    service.exporter.lifecycle.draining()
    ready = await service.get("/readyz")
    assert ready.status == 503
    assert body(ready)["checks"]["shutdown"]["status"] == "failed"
    assert (await service.get("/livez")).status == 200
    assert (await service.get("/startupz")).status == 200
    assert (await service.get("/metrics")).value("flowrra_app_running") == 1


async def test_liveness_fails_once_the_app_has_died(serve: Serve) -> None:
    service = await serve(ContractApp())
    service.exporter.lifecycle.failed("the app's event loop ended: SystemExit: 3")
    live = await service.get("/livez")
    assert live.status == 503
    assert "SystemExit: 3" in body(live)["checks"]["app"]["message"]


# The JSON API.


async def test_the_api_answers_what_the_management_api_answers(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    assert body(await service.get("/api/stats")) == app.stats
    assert body(await service.get("/api/tasks")) == await app.list_registered_tasks()
    health = body(await service.get("/api/health"))
    assert health == {**app.health, "timestamp": "2026-01-02T03:04:05+00:00"}


async def test_a_query_that_the_app_does_not_know_is_404(serve: Serve) -> None:
    answer = await (await serve(MinimalApp())).get("/api/tasks")
    assert (answer.status, body(answer)) == (
        404,
        {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "this app has no list_registered_tasks()",
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize(("what", "reason"), [(never, "did not answer"), (broken, "failed: ConnectionError")])
async def test_a_query_that_cannot_be_answered_is_503(serve: Serve, what: Any, reason: str) -> None:
    app = ContractApp()
    app.before["get_stats"] = what
    answer = await (await serve(app)).get("/api/stats")
    assert (answer.status, answer.seconds < 1.0) == (503, True)
    assert reason in body(answer)["detail"]


async def test_what_json_does_not_know_is_made_plain(serve: Serve) -> None:
    app = ContractApp()
    app.stats = {"delay": float("inf"), "names": {"a"}, 5: (1, 2), "odd": object, "none": None}
    answer = body(await (await serve(app)).get("/api/stats"))
    assert answer == {"delay": None, "names": ["a"], "5": [1, 2], "odd": "<class 'object'>", "none": None}


# HTTP.


@pytest.mark.parametrize("path", ["/metrics", "/", *PROBES, *API])
async def test_head_has_the_status_and_no_body(serve: Serve, path: str) -> None:
    answer = await (await serve(ContractApp())).get(path, "HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/api/stats", "/livez"])
async def test_nothing_can_be_changed(serve: Serve, path: str, method: str) -> None:
    answer = await (await serve(ContractApp())).get(path, method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//metrics", "/../etc/passwd", "/%2e%2e/", "/api/", "/%00"])
async def test_other_paths_are_404_with_a_clear_text(serve: Serve, path: str) -> None:
    answer = await (await serve(ContractApp())).get(path)
    assert answer.status == 404
    assert "there is nothing at this path" in answer.text


async def test_errors_of_the_api_are_json(serve: Serve) -> None:
    service = await serve(ContractApp())
    assert body(await service.get("/api/nothing"))["status"] == 404
    assert body(await service.get("/nothing", Accept="application/json"))["status"] == 404
