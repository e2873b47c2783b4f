"""Every exported value against an independent truth, for a minute of random submits, failures, retries, cancels and
time-outs: as the test of that name does it for seconds, with more scrapers, each of which remembers its last scrape."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from typing import Any

from flowrra_exporter import Exporter

from prove.proof import Proof
from tests.exporter.conftest import Answer, fetch
from tests.exporter.metrics.test_differential import COUNTERS, LOCAL, OUTCOMES, Truth, agrees, identity_holds, make_app
from tests.exporter.metrics.test_differential import one_round as submit_and_cancel

TITLE = "What a scrape says is what happened: a minute of random tasks beside a truth that is counted independently"
SECONDS = 60.0
SCRAPERS = 3


class Broken(Exception):
    """A scrape said what can't be."""


class Scraper:
    """Scrapes without a pause, and looks whether each scrape can be true by itself and after the one before.

    Attributes:
        scrapes: How many there were.
        samples: How many samples were compared with the scrape before.
    """

    def __init__(self) -> None:
        self.scrapes = 0
        self.samples = 0
        self._before: dict[Any, float] = {}

    async def run(self, url: str) -> None:
        while True:
            scrape = await asyncio.to_thread(fetch, url)
            identity_holds(scrape)
            self._look(scrape)
            self.scrapes += 1

    def _look(self, scrape: Answer) -> None:
        """Counters and buckets never go down, and a bucket holds what the ones below hold."""
        growing = {key: value for key, value in scrape.samples.items() if _grows(key[0])}
        for key, value in growing.items():
            if value < self._before.get(key, 0):
                raise Broken(f"{key} went from {self._before[key]} down to {value}")
        for key, value in growing.items():
            if key[0].endswith("_count") and growing[_everything(key)] != value:
                raise Broken(f"{key} is {value}, and its last bucket {growing[_everything(key)]}")
        self.samples += len(growing)
        self._before = growing


def _grows(name: str) -> bool:
    return name.startswith("flowrra_") and name.endswith(("_total", "_bucket", "_count"))


def _everything(key: tuple[str, frozenset[tuple[str, str]]]) -> tuple[str, frozenset[tuple[str, str]]]:
    return key[0].removesuffix("_count") + "_bucket", key[1] | {("le", "+Inf")}


def run(proof: Proof) -> None:
    logging.disable(logging.ERROR)  # thousands of tasks fail, as they are meant to
    try:
        asyncio.run(_prove(proof))
    finally:
        logging.disable(logging.NOTSET)


async def _prove(proof: Proof) -> None:
    seed = random.randrange(2**32)
    proof.line(f"seed {seed}, {SECONDS:.0f} s, {SCRAPERS} scrapers without a pause")
    proof.line()
    chance, truth, quiet_points = random.Random(seed), Truth(), 0
    scrapers = [Scraper() for _ in range(SCRAPERS)]
    differences: list[str] = []
    app = make_app(truth, chance)
    async with app, Exporter(app, LOCAL) as exporter:
        (url,) = exporter.urls
        running = [asyncio.create_task(scraper.run(url)) for scraper in scrapers]
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends and not any(task.done() for task in running):
            await submit_and_cancel(app, truth, chance)
            # A scrape may share a collection from before the last task ended; that of a second scrape is younger.
            await asyncio.to_thread(fetch, url)
            try:
                agrees(await asyncio.to_thread(fetch, url), truth)
            except AssertionError as error:
                differences.append(f"at quiet point {quiet_points + 1}: {error!r}")
                break
            quiet_points += 1
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    _report(proof, truth, quiet_points, scrapers)
    impossible = [repr(error) for error in ended if not isinstance(error, asyncio.CancelledError)]
    proof.truth("at every quiet point each value is what happened", not differences, "; ".join(differences))
    statement = "in every scrape started = succeeded + failed + retried + cancelled + released + running"
    proof.truth(f"{statement}, and no counter or bucket ever goes down", not impossible, "; ".join(impossible))
    totals = _totals(truth)
    happened = [key for key in COUNTERS if totals[key]]
    proof.truth(
        "there were tasks of every fate",
        {"released", "redelivered"} == set(COUNTERS) - set(happened),
        "released and redelivered need a broker",
    )
    proof.truth("there were enough scrapes to tell", quiet_points > 10 and all(each.scrapes > 50 for each in scrapers))


def _totals(truth: Truth) -> Counter[str]:
    return sum(truth.counts.values(), Counter[str]())


def _report(proof: Proof, truth: Truth, quiet_points: int, scrapers: list[Scraper]) -> None:
    totals = _totals(truth)
    attempts = [(key, f"{totals[key]:,}") for key in ("submitted", "started", *OUTCOMES, "timed_out")]
    attempts.append(("cancelled_before_start", f"{totals['cancelled_before_start']:,}"))
    proof.table(("happened", "times"), attempts)
    scrapes = sum(scraper.scrapes for scraper in scrapers)
    samples = sum(scraper.samples for scraper in scrapers)
    proof.line(
        f"{quiet_points:,} quiet points; {scrapes:,} scrapes under way, {samples:,} counters and buckets in them"
    )
    proof.line()
