"""A process that is stopped and goes on: a debugger, a frozen container, a laptop that slept. Its app is innocent."""

from __future__ import annotations

import json
import signal
import time

from prove.proof import Proof, statuses
from prove.traffic import LIVE, METRICS, READY, Prober, Served, ask

TITLE = "The process is stopped for 20 s (SIGSTOP, SIGCONT): its app isn't blamed for it"
STOPPED = 20.0
BEFORE = 3.0
FAILS_BEFORE = 1.0
AFTER = 12.0
GRACE = 10.0
RATE = 200


def run(proof: Proof) -> None:
    proof.line(
        f"{RATE} tasks a second. A component of the app fails from {FAILS_BEFORE:.0f} s before the stop until just"
    )
    proof.line(f"after it: less than the {GRACE:.0f} s for which it must fail, however long the stop takes.")
    proof.line()
    with Served("prove.targets.steered:manager", f"--probe.failure-grace={GRACE}") as served:
        served.tell(f"steady {RATE}")
        with Prober(served.url, (METRICS, LIVE, READY)) as prober:
            time.sleep(BEFORE)
            ran_before = served.count().tasks
            served.tell("fail")
            time.sleep(FAILS_BEFORE)
            noticed = _shop(served)
            served.signal(signal.SIGSTOP)
            time.sleep(STOPPED)
            served.signal(signal.SIGCONT)
            continued = time.monotonic()
            seen_after = _shop(served)
            served.tell("pass")
            time.sleep(AFTER)
        ran_after = served.count().tasks
        served.tell("rest")
        last = ask(served.url).answer
    _report(proof, prober, continued)
    proof.truth("everything that was asked is answered", not prober.errors, "; ".join(prober.errors[:3]))
    for path in (METRICS, LIVE, READY):
        answers = prober.answers[path]
        proof.truth(
            f"{path} answers 200 all along", {each.answer.status for each in answers} == {200}, statuses(answers)
        )
    stalls = last.value("flowrra_event_loop_stalls_total")
    proof.truth("no stall of the event loop is counted", stalls == 0, stalls)
    blames = [line for line in served.out if "blocked" in line]
    proof.truth("the log doesn't speak of a blocked loop", not blames, "; ".join(blames))
    proof.truth("the failing component was noticed before the stop", noticed.startswith("fails for"), noticed)
    proof.truth("it still hadn't failed for long enough after it", seen_after.startswith("fails for"), seen_after)
    proof.truth("the app is healthy", last.value("flowrra_healthy") == 1)
    enough = ran_after - ran_before > RATE * AFTER / 2
    proof.truth("tasks run again", enough, f"{ran_after - ran_before:,} since just before the stop")


def _shop(served: Served) -> str:
    """What readiness says of the component."""
    answer = ask(served.url, f"{READY}?verbose").answer
    check = json.loads(answer.text)["checks"]["shop"]
    return str(check["message"]) if check["status"] == "ok" else f"failed: {check['message']}"


def _report(proof: Proof, prober: Prober, continued: float) -> None:
    first, last = (0.0, continued - STOPPED), (continued, float("inf"))
    proof.answers("before the stop", prober.between(*first))
    proof.answers("after it", prober.between(*last))
    waited = [each for answers in prober.answers.values() for each in answers if each.at < continued < each.until]
    longest = max((each.answer.seconds for each in waited), default=0.0)
    proof.line(f"asked before it went on, answered afterwards: {len(waited)}, after {longest:.1f} s at the most")
    proof.line()
