"""While the app's event loop is blocked, everything answers at once and tells the truth; afterwards all is well."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import signal
import time
from typing import NamedTuple

import pytest

from tests.exporter.conftest import FREE_PORT, Answer, Command, Run, Serve, fetch, until
from tests.exporter.contract import MinimalApp

BLOCKED = 2.2
THRESHOLD = 1.0


class Round(NamedTuple):
    """The answers of one round of requests, ``at`` so many seconds after the loop was told to block."""

    at: float
    metrics: Answer
    live: Answer
    ready: Answer
    stats: Answer

    @property
    def blocked(self) -> bool:
        return self.metrics.value("flowrra_healthy") == 0

    def live_message(self) -> str:
        return str(json.loads(self.live.text)["checks"]["event_loop"]["message"])


def rounds(command: Command, how: str) -> list[Round]:
    """Blocks the loop and asks everything, again and again, until a good second after the block's end."""
    command.tell(f"{how} {BLOCKED}")
    started = time.monotonic()
    found = []
    while (at := time.monotonic() - started) < BLOCKED + 1.2:
        answers = [command.get(path) for path in ("/metrics", "/livez", "/readyz", "/api/stats")]
        found.append(Round(at, *answers))
        time.sleep(0.02)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["block", "spin"])
def test_a_blocked_loop(run: Run, how: str) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", f"--loop.block-threshold={THRESHOLD}", "told:make")
    command.ready()
    everything = rounds(command, how)

    assert max(answer.seconds for each in everything for answer in each[1:]) < BLOCKED / 2, "none waits for the loop"
    assert {each.metrics.status for each in everything} == {200}

    # Those that were over before the block was, which the next one's beginning tells.
    following = itertools.pairwise(everything)
    during = [each for each, later in following if each.at > 0.3 and later.at < BLOCKED - 0.1]
    assert len(during) > 1
    for each in during:
        scrape = each.metrics
        for collector, success in {"app": 0, "executors": 0, "queue": 0, "health": 0, "tasks": 1, "runtime": 1}.items():
            assert scrape.value("flowrra_collector_success", collector=collector) == success
        assert scrape.value("flowrra_healthy") == 0
        assert scrape.value("flowrra_app_running") is None
        assert scrape.value("flowrra_executor_workers", executor="io") is None
        assert scrape.value("flowrra_queue_pending_tasks", executor="io") is None
        assert scrape.value("flowrra_component_healthy", component="app") is None
        assert scrape.value("flowrra_tasks_submitted_total", task="nap") == 0
        assert (each.ready.status, each.stats.status) == (503, 503)
        assert "event loop blocked for" in each.ready.text
        assert "event loop blocked for" in each.stats.text

    for each in everything:
        if each.at < THRESHOLD - 0.3 or each.at > BLOCKED + 0.5:
            assert each.live.status == 200
        if each in during and each.at > THRESHOLD + 0.5:
            assert each.live.status == 503
            assert each.live_message().startswith("event loop blocked for ")
            said = float(each.live_message().split()[4])
            assert said == pytest.approx(each.at, abs=0.6)

    after = everything[-1]
    assert (after.live.status, after.ready.status, after.stats.status) == (200, 200, 200)
    assert after.metrics.value("flowrra_app_running") == 1
    assert after.metrics.value("flowrra_collector_success", collector="queue") == 1
    begin, end = stall_lines(command)
    assert re.search(rf"level=warning .*event loop blocked for [\d.]+ s: at \S*told\.py:\d+ in {how}: ", begin)
    assert re.search(rf"level=info .*event loop turns again; blocked for [\d.]+ s: at \S*told\.py:\d+ in {how}: ", end)


def stall_lines(command: Command) -> list[str]:
    """Everything that the log says from warnings on, and what it says of stalls, once that has ended."""
    command.wait_for_line("event loop turns again")
    command.get()
    records = [line for line in command.out if line.startswith("time=")]
    return [record for record in records if "level=info" not in record or "event loop turns again" in record]


@pytest.mark.slow
def test_a_stall_is_logged_once_when_it_begins_and_once_when_it_ends(run: Run) -> None:
    """The monitor of flowrra, the watchdog, the collectors, the checks and the page all see it."""
    command = run(f"--web.listen-address={FREE_PORT}", f"--loop.block-threshold={THRESHOLD}", "told:make")
    command.ready()
    command.tell("stuck 3")
    seen = set()
    started = time.monotonic()
    while time.monotonic() - started < 3.5:
        for path in ("/metrics", "/livez?verbose", "/readyz?verbose", "/api/stats", "/api/queues", "/"):
            seen.add((path, command.get(path).status))
        time.sleep(0.02)
    assert {("/livez?verbose", 503), ("/readyz?verbose", 503), ("/api/stats", 503), ("/api/queues", 503)} <= seen

    begin, end = stall_lines(command)
    culprit = r"task stuck \([0-9a-f-]{36}\), at \S*told\.py:\d+ in stuck: time\.sleep\(seconds\)"
    assert re.search(rf"level=warning .*event loop blocked for 1\.\d s: {culprit}", begin)
    took = re.search(rf"level=info .*event loop turns again; blocked for ([\d.]+) s: {culprit}", end)
    assert took is not None
    assert float(took[1]) == pytest.approx(3, abs=0.5)


@pytest.mark.slow
async def test_of_an_app_that_watches_nothing_itself_the_exporter_logs_the_stall(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowrra_exporter")
    service = await serve(MinimalApp(), loop_block_threshold=1.0)
    asking = asyncio.create_task(asyncio.to_thread(ask_for, 2.5, service.url))
    await asyncio.sleep(0.1)
    time.sleep(2.2)
    assert min(await asking) == 0  # while the loop was blocked
    await until(lambda: "turns again" in caplog.text)

    said = [(record.levelname, record.getMessage()) for record in caplog.records if "listening" not in record.msg]
    (warning, begin), (info, end) = said
    place = r"at \S*test_blocked_loop\.py:\d+ in test_of_an_app_that_watches_nothing.*: time\.sleep\(2\.2\)"
    assert (warning, info) == ("WARNING", "INFO")
    assert re.fullmatch(rf"event loop blocked for 1\.\d s: {place}", begin)
    assert re.fullmatch(rf"event loop turns again; blocked for [12]\.\d s: {place}", end)


def ask_for(seconds: float, url: str) -> list[float | None]:
    """Scrapes for so long; whether the app was well, each time."""
    found, started = [], time.monotonic()
    while time.monotonic() - started < seconds:
        found.append(fetch(url).value("flowrra_healthy"))
    return found


@pytest.mark.slow
def test_a_process_that_was_stopped_does_not_blame_its_app(run: Run) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", f"--loop.block-threshold={THRESHOLD}", "told:make")
    command.ready()
    command.signal(signal.SIGSTOP)
    time.sleep(THRESHOLD + 1)
    command.signal(signal.SIGCONT)
    for _ in range(20):
        assert command.get("/livez").status == 200
        time.sleep(0.02)
    assert command.get().value("flowrra_healthy") == 1
    assert "event loop blocked" not in command.log
