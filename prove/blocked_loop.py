"""The app's event loop blocked for a minute, once asleep and once busy: what everybody is answered meanwhile."""

from __future__ import annotations

import time

from prove.proof import Proof, statuses
from prove.traffic import LIVE, METRICS, READY, Asked, Prober, Served, ask

TITLE = "The app's event loop is blocked for 60 s: everything answers, and says so; afterwards all is well"
BLOCKED = 60.0
THRESHOLD = 5.0
AROUND = 3.0
STATS = "/api/stats"
PATHS = (METRICS, LIVE, READY, STATS)
REASON = "event loop blocked for"
# What may pass between a moment and the exporter's knowing of it: the heartbeat, and a busy machine.
SLACK = 1.0


def run(proof: Proof) -> None:
    for how, said in {"block": "in time.sleep()", "spin": "by Python code that never waits"}.items():
        proof.line(f"Blocked {said}")
        proof.line()
        _prove(proof, how)
        proof.line()


def _prove(proof: Proof, how: str) -> None:
    with Served("told:make", f"--loop.block-threshold={THRESHOLD}") as served:
        for _ in range(3):
            served.tell("submit 0")
        served.wait_for_line("^submitted 3$")
        with Prober(served.url, PATHS) as prober:
            time.sleep(AROUND)
            start = time.monotonic()
            served.tell(f"{how} {BLOCKED}")
            served.tell("submit 0")
            time.sleep(BLOCKED)
            end = time.monotonic()
            served.wait_for_line("^submitted 4$", AROUND + SLACK)
            time.sleep(AROUND)
        last = ask(served.url)
        during = prober.between(start + SLACK, end - SLACK)
        proof.answers("while blocked", during)
        proof.truth("everything that was asked is answered", not prober.errors, "; ".join(prober.errors[:3]))
        _during(proof, during, start)
        _after(proof, prober.between(end + SLACK, end + 60), last, served)


def _during(proof: Proof, during: dict[str, list[Asked]], start: float) -> None:
    scrapes = [asked.answer for asked in during[METRICS]]
    proof.truth("/metrics answers 200", _all(during[METRICS], 200))
    honest = [
        scrape.value("flowrra_healthy") == 0 and scrape.value("flowrra_app_running") is None for scrape in scrapes
    ]
    proof.truth("flowrra_healthy is 0, and what needs the loop is absent", all(honest))
    counted = {scrape.value("flowrra_tasks_succeeded_total", task="nap") for scrape in scrapes}
    proof.truth("the task counters are served as they are", counted == {3.0}, sorted(map(str, counted)))
    early = [asked for asked in during[LIVE] if asked.until < start + THRESHOLD - SLACK]
    late = [asked for asked in during[LIVE] if asked.at > start + THRESHOLD + SLACK]
    proof.truth("/livez answers 200 up to the threshold", _all(early, 200), statuses(early))
    proof.truth("/livez answers 503 past it", _all(late, 503), statuses(late))
    told = all(REASON in asked.answer.text for path in (READY, STATS) for asked in during[path])
    unready = _all(during[READY], 503) and _all(during[STATS], 503)
    proof.truth("/readyz and the JSON API answer 503 and say why", unready and told)


def _after(proof: Proof, after: dict[str, list[Asked]], last: Asked, served: Served) -> None:
    proof.truth("afterwards everything answers 200", all(_all(answers, 200) for answers in after.values()))
    value = last.answer.value
    well = (
        value("flowrra_healthy"),
        value("flowrra_app_running"),
        value("flowrra_collector_success", collector="queue"),
    )
    proof.truth("the app is healthy, and all is collected again", well == (1, 1, 1), well)
    run = value("flowrra_tasks_succeeded_total", task="nap")
    proof.truth("the task that was submitted meanwhile has run", run == 4, run)
    stalls = value("flowrra_event_loop_stalls_total")
    proof.truth("one stall is counted", stalls == 1, stalls)
    blames = [line for line in served.out if REASON in line and "told.py" in line]
    proof.truth("the log names the line of code, once", len(blames) == 1, len(blames))


def _all(asked: list[Asked], status: int) -> bool:
    return bool(asked) and all(each.answer.status == status for each in asked)
