"""Probes in detail: single checks, text and JSON, exclusion, hysteresis, queue limits, and the second port."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.probes.check import Check
from flowrra_exporter.probes.hysteresis import Hysteresis
from flowrra_exporter.settings import Address, Settings
from flowrra_exporter.web.negotiation import prefers_text

from tests.exporter.conftest import FREE_PORT, Run, Serve, Service, fetch, until
from tests.exporter.contract import ContractApp, never

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
DOWN = {"healthy": False, "message": "connection refused"}
UP = {"healthy": True, "message": "answering"}


class BrokerApp(ContractApp):
    """An app with a broker that can be reached or not."""

    def __init__(self, reachable: bool = True) -> None:
        super().__init__()
        self.reachable(reachable)

    def reachable(self, reachable: bool) -> None:
        self.health["healthy"] = reachable
        self.health["components"]["broker"] = UP if reachable else DOWN


async def until_status(service: Service, path: str, status: int) -> None:
    async with asyncio.timeout(10):
        while (await service.get(path)).status != status:
            await asyncio.sleep(0.02)


# Single checks, exclusion, forms.


async def test_each_check_has_a_path_of_its_own(serve: Serve) -> None:
    service = await serve(BrokerApp(reachable=False))
    paths = ("/livez/app", "/livez/event_loop", "/startupz/startup", "/readyz/health_check", "/readyz/shutdown")
    assert [(await service.get(path)).status for path in paths] == [200] * 5
    assert (await service.get("/readyz/broker")).status == 503
    assert (await service.get("/readyz/broker", "HEAD")).status == 503


async def test_an_unknown_check_is_404_with_those_that_there_are(serve: Serve) -> None:
    service = await serve(BrokerApp())
    for accept in ("*/*", "text/plain"):
        answer = await service.get("/livez/broker", Accept=accept)
        assert answer.status == 404
        assert "it has: app, event_loop" in answer.text
    assert (await service.get("/readyz/nothing")).status == 404


async def test_a_component_that_cannot_be_known_yet_fails_instead_of_being_unknown(serve: Serve) -> None:
    service = await serve(BrokerApp())
    service.exporter.lifecycle.draining()
    assert (await service.get("/readyz/broker")).status == 503


@pytest.mark.parametrize("query", ["exclude=broker", "exclude=app&exclude=broker", "exclude=app,broker"])
async def test_an_excluded_check_fails_nothing(serve: Serve, query: str) -> None:
    service = await serve(BrokerApp(reachable=False))
    assert (await service.get("/readyz")).status == 503
    answer = await service.get(f"/readyz?{query}")
    assert answer.status == 200
    assert "broker" not in json.loads(answer.text)["checks"]


async def test_verbose_text_is_that_of_kube_apiserver(serve: Serve) -> None:
    service = await serve(BrokerApp(reachable=False))
    failed = await service.get("/readyz?verbose", Accept="text/plain")
    assert failed.status == 503
    assert "[+]app ok\n" in failed.text
    assert "[-]broker failed: connection refused\n" in failed.text
    assert failed.text.endswith("readyz check failed\n")
    passed = await service.get("/readyz?verbose&exclude=broker,typo", Accept="text/plain")
    assert passed.status == 200
    assert "[+]broker excluded: ok\n" in passed.text
    assert 'warn: some health checks cannot be excluded: no matches for "typo"\n' in passed.text
    assert passed.text.endswith("readyz check passed\n")
    assert (await service.get("/livez", Accept="text/plain")).text == "ok\n"


async def test_verbose_json_names_the_probes_and_since_when_a_check_fails(serve: Serve) -> None:
    service = await serve(BrokerApp(reachable=False))
    checks = json.loads((await service.get("/readyz?verbose")).text)["checks"]
    assert checks["broker"]["probes"] == ["readyz"]
    assert checks["broker"]["failing_since"].endswith("+00:00")
    assert checks["event_loop"]["probes"] == ["livez", "readyz"]
    assert checks["app"]["failing_since"] is None


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        *((accept, False) for accept in ("", "*/*", "application/json", "application/json, text/plain, */*", "x/y")),
        *((accept, True) for accept in ("text/plain", "text/*", BROWSER, "application/json;q=0.5, text/plain")),
        ("text/plain;q=0", False),
    ],
)
async def test_json_unless_text_is_preferred(serve: Serve, accept: str, text: bool) -> None:
    assert prefers_text(accept) is text
    service = await serve(ContractApp())
    for path in ("/livez", "/readyz", "/startupz", "/healthz"):
        answer = await service.get(path, Accept=accept)
        assert answer.headers["Content-Type"].startswith("text/plain" if text else "application/json")
        assert answer.headers["Vary"] == "Accept"


# Hysteresis.


async def test_a_blip_does_not_fail_readiness_but_shows_in_the_health_check(serve: Serve) -> None:
    app = BrokerApp()
    service = await serve(app, probe_failure_grace=60.0)
    assert (await service.get("/readyz")).status == 200
    app.reachable(False)
    during = await service.get("/readyz?verbose", Accept="text/plain")
    assert during.status == 200
    assert "[+]broker ok: fails for 0.0 s, counts after 60 s: connection refused" in during.text
    assert (await service.get("/healthz")).status == 503
    app.reachable(True)
    assert "fails for" not in (await service.get("/readyz?verbose", Accept="text/plain")).text


@pytest.mark.slow
async def test_a_failure_that_lasts_fails_readiness_without_another_probe(serve: Serve) -> None:
    app = BrokerApp()
    service = await serve(app, probe_failure_grace=0.3)
    assert (await service.get("/readyz")).status == 200
    app.reachable(False)
    assert (await service.get("/readyz")).status == 200  # the last probe: from here on the exporter asks by itself
    asked = app.calls["health_check"]
    await until(lambda: app.calls["health_check"] > asked)
    app.before["health_check"] = never
    assert (await service.get("/readyz/broker")).status == 503  # the verdict fell before this probe
    del app.before["health_check"]
    app.reachable(True)
    assert (await service.get("/readyz")).status == 503
    await until_status(service, "/readyz", 200)


async def test_a_shutdown_of_the_app_itself_counts_at_once(serve: Serve) -> None:
    app = BrokerApp()
    service = await serve(app, probe_failure_grace=60.0)
    assert (await service.get("/readyz")).status == 200
    app.health["components"]["app"] = {"healthy": False, "message": "stopping"}
    assert (await service.get("/readyz")).status == 503


def verdicts(smoothing: Hysteresis, monkeypatch: pytest.MonkeyPatch, story: list[tuple[float, bool]]) -> list[bool]:
    """The verdicts of a check that is evaluated at these times with these outcomes."""
    found = []
    for at, ok in story:
        monkeypatch.setattr("flowrra_exporter.probes.hysteresis.time.monotonic", lambda at=at: at)
        found += [check.ok for check in smoothing.judge([Check("broker", ok, "")])]
    return found


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_the_verdict_turns_after_the_same_time_however_often_it_is_asked(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    times = [index * step for index in range(int(12 / step))]
    story = [(-1.0, True), *((at, False) for at in times)]
    found = verdicts(Hysteresis(4.0), monkeypatch, story)[1:]
    assert next(at for at, ok in zip(times, found, strict=True) if not ok) == 4.0


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(Hysteresis(5.0), monkeypatch, [(0, True), (1, False), (600, False)]) == [True, True, True]


def test_a_flapping_check_keeps_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [(0.0, True), *((float(at), at % 2 == 0) for at in range(1, 30))]
    assert set(verdicts(Hysteresis(3.0), monkeypatch, story)) == {True}


def test_before_the_first_pass_each_outcome_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [(0.0, False), (1.0, True), (2.0, False)]
    assert verdicts(Hysteresis(5.0), monkeypatch, story) == [False, True, True]


# Queue limits.


async def test_a_queue_that_is_too_long_or_too_old_fails_readiness(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app, probe_max_pending=6, probe_max_queue_age=60.0)
    checks = json.loads((await service.get("/readyz")).text)["checks"]
    assert checks["queue_depth"] == {"status": "failed", "message": "io: 7 tasks wait, at most 6 may"}
    assert checks["queue_age"]["status"] == "failed"
    assert (await service.get("/livez")).status == 200


@pytest.mark.parametrize("offset", [-120.0, 120.0, None])
@pytest.mark.parametrize(("waited", "status", "shown"), [(5, 200, r"[5-9]\.\d s"), (90, 503, r"9\d s")])
async def test_a_queues_age_is_measured_by_the_clock_of_the_broker(
    serve: Serve, offset: float | None, waited: int, status: int, shown: str
) -> None:
    """This host's may be two minutes off; the console counts as the probe does."""
    app = ContractApp()
    by_broker = datetime.now(UTC) + timedelta(seconds=offset or 0)
    app.queues["io"] |= {"clock_offset": offset, "oldest_pending_at": by_broker - timedelta(seconds=waited)}
    service = await serve(app, probe_max_queue_age=60.0)
    age = await service.get("/readyz/queue_age")
    assert age.status == status
    assert (f"a task waits for {waited}." in age.text) is (status == 503)
    for page, before in (("/", "the oldest for "), ("/queues", "<span>")):
        assert re.search(before + shown, (await service.get(page)).text), page


@pytest.mark.slow
async def test_what_is_not_known_of_a_queue_fails_nothing(serve: Serve) -> None:
    app = ContractApp()
    app.queues["io"] |= {"pending": None, "oldest_pending_at": None}
    service = await serve(app, probe_max_pending=6, probe_max_queue_age=60.0)
    assert (await service.get("/readyz")).status == 200
    app.before["list_queues"] = never
    slow = await service.get("/readyz/queue_depth")
    assert (slow.status, slow.seconds < 1.0) == (200, True)
    assert "not known: list_queues did not answer" in slow.text


# The second port.


async def test_the_second_port_serves_the_probes_and_nothing_else(serve: Serve) -> None:
    service = await serve(ContractApp(), probe_listen_address=(Address("127.0.0.1", 0),))
    (url,) = service.exporter.probe_urls
    answers = {}
    for path in ("/livez", "/readyz", "/startupz", "/healthz", "/readyz/app", "/", "/metrics", "/api/stats"):
        answers[path] = (await asyncio.to_thread(fetch, url, path)).status
    assert list(answers.values()) == [200] * 5 + [404] * 3
    assert (await asyncio.to_thread(fetch, url, "/")).text == "404: there is nothing at this path\n"
    assert (await service.get("/livez")).status == 200  # on the main port, too


async def test_a_second_port_that_is_taken_is_refused_and_the_first_given_back(serve: Serve) -> None:
    taken = Address("127.0.0.1", int((await serve(ContractApp())).url.rpartition(":")[2]))
    with pytest.raises(UsageError, match=f"cannot listen on {taken}"):
        await serve(ContractApp(), probe_listen_address=(taken,))


@pytest.mark.parametrize(
    "arguments", [{"probe_failure_grace": -1.0}, {"probe_max_pending": 0}, {"probe_max_queue_age": 0.0}]
)
def test_limits_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        Settings(**arguments)


# A loop that is really blocked.


@pytest.mark.slow
@pytest.mark.parametrize(("how", "task"), [("block", ""), ("stuck", r"task stuck \([0-9a-f-]{36}\), ")])
def test_verbose_liveness_names_the_line_and_the_task_that_block(run: Run, how: str, task: str) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "--loop.block-threshold=0.5", "told:make")
    command.ready()
    command.tell(f"{how} 4")
    deadline = time.monotonic() + 4
    while command.get("/livez").status == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    live = command.get("/livez?verbose", Accept="text/plain")
    line = next(line for line in live.text.splitlines() if line.startswith("[-]event_loop failed: event loop blocked"))
    assert re.search(
        rf"event loop blocked for [\d.]+ s: {task}at .*told\.py:\d+ in {how}: time\.sleep\(seconds\)$", line
    )
    assert live.text.endswith("livez check failed\n")
    plain = command.get("/livez")
    assert plain.status == 503
    assert "told.py" not in plain.text
    assert "told.py" in command.get("/readyz?verbose").text


# An executor that is stuck.


def stuck_app(is_stuck: object) -> ContractApp:
    app = ContractApp()
    app.runtime["stuck"] = {"io": is_stuck, "cpu": False}
    return app


@pytest.mark.parametrize(("is_stuck", "status"), [(True, 503), (False, 200)])
async def test_liveness_follows_a_stuck_executor_if_that_is_wanted(serve: Serve, is_stuck: bool, status: int) -> None:
    service = await serve(stuck_app(is_stuck), probe_fail_when_stuck=True)
    answer = await service.get("/livez/progress?verbose")
    assert answer.status == (await service.get("/livez")).status == status
    assert ("tasks that hang hold all slots of: io" in answer.text) is is_stuck
    assert (await service.get("/readyz")).status == 200, "nothing gets better without requests"


async def test_by_default_a_stuck_executor_fails_no_probe(serve: Serve) -> None:
    service = await serve(stuck_app(True))
    assert (await service.get("/livez")).status == 200
    assert (await service.get("/livez/progress")).status == 404


@pytest.mark.parametrize("stuck", ["missing", None, "no mapping"])
async def test_an_app_that_does_not_tell_whether_it_is_stuck_is_alive(serve: Serve, stuck: object) -> None:
    app = ContractApp()
    if stuck != "missing":
        app.runtime["stuck"] = stuck
    service = await serve(app, probe_fail_when_stuck=True)
    answer = await service.get("/livez/progress?verbose")
    assert answer.status == 200
    assert "not known" in answer.text


@pytest.mark.slow
def test_a_process_whose_slots_all_hang_is_not_alive_if_that_is_wanted(run: Run) -> None:
    """By a task that ignores its time limit."""
    command = run(f"--web.listen-address={FREE_PORT}", "--probe.fail-when-stuck", "busy:app", FIRST="overstay")
    command.ready()
    assert command.get("/livez").status == 200
    command.wait_for_line("executor stuck, .* executor=io slots=1 hanging=overstay ")
    assert command.get("/livez/progress").status == command.get("/livez").status == 503
    assert command.get("/readyz").status == command.get("/healthz").status == 200
    assert "degraded: tasks wait, and all 1 workers are in tasks that hang: overstay" in command.get("/healthz").text
    assert command.get().value("flowrra_executor_stuck", executor="io") == 1
