"""While the app's event loop is blocked, everything answers at once and tells the truth; afterwards all is well."""

from __future__ import annotations

import itertools
import json
import signal
import time
from typing import NamedTuple

import pytest

from tests.exporter.conftest import FREE_PORT, Answer, Command, Run

BLOCKED = 2.2
THRESHOLD = 1.0
QUICK = 0.2


class Round(NamedTuple):
    """The answers of one round of requests, `at` so many seconds after the loop was told to block."""

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

    times = sorted(answer.seconds for each in everything for answer in each[1:])
    # All of them, on a machine that has nothing else to do; one that is busy may let a few wait for the processor.
    assert times[int(0.98 * len(times)) - 1] < QUICK
    assert times[-1] < 1
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
    command.wait_for_line(rf"event loop blocked for .* at .*told\.py:\d+ in {how}: ")
    command.wait_for_line("event loop answers again")


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
