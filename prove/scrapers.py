"""Many scrapers of one app: what they cost its tasks at Prometheus' usual pace, and what happens without a pause."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from statistics import median
from urllib.parse import urlsplit

from benchmarks.harness import decimals, spread, thousands
from prove.connection import Connection, Reply
from prove.proof import Proof, statuses
from prove.traffic import LIVE, METRICS, READY, Count, Prober, Served, ask

TITLE = "200 scrapers every 15 s for a minute, then 50 without a pause: tasks and probes go on"
SCRAPERS = 200
INTERVAL = 15.0
# Short phases with and without scrapes by turns, because a machine's speed drifts; a minute of each.
PHASE = 7.5
PAIRS = 8
LOADS = {"steady 1000": "1,000 tasks a second that wait for 5 ms", "saturate": "as many tasks as the loop can do"}
GOAL = 2.0

GREEDY = 50
GREEDY_SECONDS = 30.0
SETTLE = 10.0


def run(proof: Proof) -> None:
    with Served("prove.targets.steered:manager") as served:
        series = ask(served.url).answer.value("flowrra_exporter_series") or 0
        proof.line(f"{thousands(series)} series, gzip, OpenMetrics, connections that are kept: as Prometheus scrapes")
        proof.line()
        for load, description in LOADS.items():
            served.tell(load)
            asyncio.run(_patient(proof, served, description))
            served.tell("rest")
        time.sleep(1)  # for the last batch
        ran, samples = served.count().tasks, ask(served.url).answer.samples
        counted = sum(value for (name, _), value in samples.items() if name == "flowrra_tasks_succeeded_total")
        proof.truth("what is served is what has run", counted == ran, f"{ran:,} tasks, {counted:,.0f} served")
        proof.line()
    with Served("prove.targets.steered:manager") as served:
        served.tell("steady 1000")
        _greedy(proof, served)


async def _patient(proof: Proof, served: Served, load: str) -> None:
    """Phases with and without scrapes by turns, and what the tasks lose."""
    host, port = _address(served)
    connections = [await Connection.open(host, port) for _ in range(SCRAPERS)]
    replies: list[Reply] = []
    lost, costs, rates = [], [], []
    await _phase(served, [], replies)  # the load begins
    turn = 0
    for pair in range(PAIRS):
        scraping = [connections[(turn + number) % SCRAPERS] for number in range(round(PHASE / INTERVAL * SCRAPERS))]
        turn += len(scraping)
        order = ([], scraping) if pair % 2 else (scraping, [])
        first, second = [await _phase(served, each, replies) for each in order]
        without, with_scrapes = (first, second) if pair % 2 else (second, first)
        rates.append((without.rate, with_scrapes.rate))
        lost.append(100 * (1 - with_scrapes.rate / without.rate))
        costs.append(1000 * (with_scrapes.processor - with_scrapes.tasks * without.cost) / len(scraping))
    for connection in connections:
        connection.close()
    proof.line(f"Load: {load}; {PAIRS} phases of {PHASE} s with scrapes, and as many without, by turns")
    proof.line()
    header = ("", "tasks/s [least…most]")
    rows = [
        (name, spread([pair[place] for pair in rates], thousands))
        for place, name in enumerate(("without scrapes", f"{SCRAPERS / INTERVAL:.1f} scrapes a second"))
    ]
    proof.table(header, rows)
    times = sorted(1000 * reply.seconds for reply in replies)
    proof.line(f"{len(replies):,} scrapes: median {median(times):.1f} ms, slowest {times[-1]:.1f} ms")
    form = decimals(1)
    proof.line(f"processor time of the process that a scrape adds: {spread(costs, form)} ms")
    proof.goal(f"less than {GOAL:.0f} % of the tasks lost", f"{spread(lost, form)} %", median(lost) < GOAL)
    proof.truth("every scrape is answered 200, in full", all(reply.status == 200 for reply in replies))
    proof.truth("each of the scrapers has scraped", turn >= SCRAPERS * PAIRS * PHASE / INTERVAL, f"{turn:,} times")
    proof.line()


class _Phase:
    """A phase between two counts: tasks a second, and processor seconds a task, of the process as a whole."""

    def __init__(self, start: Count, end: Count) -> None:
        self.tasks = end.tasks - start.tasks
        self.processor = end.processor - start.processor
        self.rate = self.tasks / (end.at - start.at)
        self.cost = self.processor / self.tasks


async def _phase(served: Served, scraping: list[Connection], replies: list[Reply]) -> _Phase:
    """A phase in which these connections scrape one after the other, evenly spread."""
    start = await asyncio.to_thread(served.count)
    began, scrapes = time.monotonic(), []
    for number, connection in enumerate(scraping):
        await asyncio.sleep(began + number * PHASE / len(scraping) - time.monotonic())
        scrapes.append(asyncio.create_task(connection.get(METRICS)))
    replies.extend(await asyncio.gather(*scrapes))
    await asyncio.sleep(began + PHASE - time.monotonic())
    return _Phase(start, await asyncio.to_thread(served.count))


def _greedy(proof: Proof, served: Served) -> None:
    """Scrapers that ask again as soon as they were answered, whatever the answer."""
    ask(served.url)
    before = served.descriptors(), served.megabytes(), len(served.out)
    counts = [served.count()]
    with Prober(served.url, (LIVE, READY)) as prober:
        replies = asyncio.run(_closed_loops(served, counts))
    peak = served.megabytes()
    after = _settled(served, before[0])
    proof.line(f"{GREEDY} scrapers without a pause for {GREEDY_SECONDS:.0f} s; 1,000 tasks a second")
    proof.line()
    proof.answers("probes meanwhile", prober.answers)
    statuses_seen = {status: [each for each in replies if each.status == status] for status in (200, 503)}
    rows = []
    for status, some in statuses_seen.items():
        times = sorted(1000 * reply.seconds for reply in some) or [0.0]
        rows.append((str(status), thousands(len(some)), f"{median(times):.1f}", f"{times[-1]:.1f}"))
    proof.table(("scrapes", "answers", "median ms", "slowest ms"), rows)
    steps = [later.tasks - earlier.tasks for earlier, later in pairwise(counts)]
    proof.table(
        ("", "before", "at the end", "afterwards"),
        [
            ("descriptors", str(before[0]), "", str(after)),
            ("MB in memory", f"{before[1]:.1f}", f"{peak:.1f}", f"{served.megabytes():.1f}"),
            ("lines of log", str(before[2]), "", str(len(served.out))),
        ],
    )
    proof.line(f"tasks in each second: {spread(steps, thousands)}")
    others = len(replies) - sum(map(len, statuses_seen.values()))
    proof.truth("every scrape is answered, with 200 or 503", others == 0)
    refused = statuses_seen[503]
    proof.truth(
        "past the cap it's 503, and says when to come again", bool(refused) and all(r.retry_after for r in refused)
    )
    proof.truth("scrapes go on", bool(statuses_seen[200]))
    probes = [asked for answers in prober.answers.values() for asked in answers]
    fine = not prober.errors and {asked.answer.status for asked in probes} == {200}
    proof.truth("every probe is answered 200", fine, statuses(probes))
    proof.truth("tasks go on in every second", min(steps) > 0)
    proof.truth("all descriptors come back", after <= before[0], f"{before[0]} before, {after} afterwards")
    proof.truth("a scrape afterwards is answered 200", ask(served.url).answer.status == 200)


async def _closed_loops(served: Served, counts: list[Count]) -> list[Reply]:
    host, port = _address(served)
    ends = time.monotonic() + GREEDY_SECONDS
    replies: list[Reply] = []

    async def scraper() -> None:
        connection = await Connection.open(host, port)
        while time.monotonic() < ends:
            replies.append(await connection.get(METRICS))
        connection.close()

    scrapers = [asyncio.create_task(scraper()) for _ in range(GREEDY)]
    while time.monotonic() < ends:
        await asyncio.sleep(1)
        counts.append(await asyncio.to_thread(served.count))
    await asyncio.gather(*scrapers)
    return replies


def _settled(served: Served, descriptors: int) -> int:
    """How many descriptors are open once it's no more than that, or after a while."""
    deadline = time.monotonic() + SETTLE
    while (found := served.descriptors()) > descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _address(served: Served) -> tuple[str, int]:
    parts = urlsplit(served.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
