"""Every exported value against a truth that is counted independently, under a random load.

The tasks themselves, and whoever submits and cancels them, note what happens to each attempt. Whenever nothing is under
way, what a scrape says must be exactly that; and in every scrape under way, the attempts must add up.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.settings import Address, Settings

from flowrra import Config, ExecutorConfig, Flowrra, current_task
from tests.exporter.conftest import Answer, fetch

# A minute, for one, when asked for; a short while in every run.
SECONDS = float(os.environ.get("FLOWRRA_DIFFERENTIAL_SECONDS", "8"))
ROUND = 150
LOCAL = Settings(web_listen_address=(Address("127.0.0.1", 0),))

COUNTERS = (
    "submitted",
    "started",
    "succeeded",
    "failed",
    "retried",
    "cancelled",
    "released",
    "timed_out",
    "redelivered",
    "cancelled_before_start",
)
OUTCOMES = ("succeeded", "failed", "retried", "cancelled", "released")
TASKS = ("quick", "slow", "flaky", "hopeless", "overdue", "endless", "later")


class Truth:
    """What really happened, by task name."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.exceptions: Counter[tuple[str, str]] = Counter()
        self.started_ids: set[str] = set()

    def starts(self) -> Counter[str]:
        """Note that the current task starts an attempt; the counts of its name."""
        task = current_task()
        assert task is not None
        self.started_ids.add(task.id)
        counts = self.counts[task.name]
        counts["started"] += 1
        return counts

    def fails(self, exception: str) -> None:
        """Note that the current attempt fails: for good if it was the last one."""
        task = current_task()
        assert task is not None
        self.counts[task.name]["failed" if task.attempt > task.max_retries else "retried"] += 1
        self.exceptions[task.name, exception] += 1


def make_app(truth: Truth, chance: random.Random) -> Flowrra:
    app = Flowrra(Config(executor=ExecutorConfig(io_workers=8, max_queue_size=10_000)))

    @app.task()
    async def quick() -> None:
        truth.starts()["succeeded"] += 1

    @app.task()
    async def slow() -> None:
        counts = truth.starts()
        await asyncio.sleep(chance.uniform(0.001, 0.03))
        counts["succeeded"] += 1

    @app.task(max_retries=4, retry_delay=0.01, backoff=1.5, jitter=0.5)
    async def flaky() -> None:
        counts = truth.starts()
        await asyncio.sleep(0)
        if chance.random() < 0.5:
            truth.fails("ConnectionError")
            raise ConnectionError("not this time")
        counts["succeeded"] += 1

    @app.task(max_retries=1, retry_delay=0)
    async def hopeless() -> None:
        truth.starts()
        truth.fails("ZeroDivisionError")
        raise ZeroDivisionError

    @app.task(max_retries=1, retry_delay=0.01, timeout=0.02)
    async def overdue() -> None:
        counts = truth.starts()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            counts["timed_out"] += 1
            truth.fails("TaskTimeoutError")
            raise

    @app.task(priority=5)
    async def endless() -> None:
        truth.starts()
        await asyncio.sleep(60)

    @app.task()
    async def later() -> None:
        truth.starts()["succeeded"] += 1

    return app


async def one_round(app: Flowrra, truth: Truth, chance: random.Random) -> None:
    """Submit and cancel at random, until nothing is under way any more."""
    ids: list[str] = []
    doomed: list[tuple[str, str]] = []
    for _ in range(ROUND):
        name = chance.choice(TASKS)
        delay = chance.uniform(0.01, 0.2) if name == "later" else None
        task_id = await app.options(countdown=delay, priority=chance.randrange(3)).submit(name)
        truth.counts[name]["submitted"] += 1
        ids.append(task_id)
        if name == "endless" or (name == "later" and chance.random() < 0.5):
            doomed.append((name, task_id))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.01))
    chance.shuffle(doomed)
    for name, task_id in doomed:
        if await app.cancel_task(task_id):
            truth.counts[name]["cancelled" if task_id in truth.started_ids else "cancelled_before_start"] += 1
    async with asyncio.timeout(30):
        for task_id in ids:
            await app.wait_for_result(task_id)


def identity_holds(scrape: Answer) -> None:
    for name in TASKS:
        started = scrape.value("flowrra_tasks_started_total", task=name)
        ended = [scrape.value(f"flowrra_tasks_{outcome}_total", task=name) for outcome in OUTCOMES]
        running = scrape.value("flowrra_tasks_running", task=name)
        assert None not in (started, running, *ended)
        assert started == sum(value or 0 for value in ended) + (running or 0)
        assert 0 <= (running or 0) <= 8


def agrees(scrape: Answer, truth: Truth) -> None:
    for name in TASKS:
        counts = truth.counts[name]
        served = {key: scrape.value(f"flowrra_tasks_{key}_total", task=name) for key in COUNTERS}
        assert served == {key: counts[key] for key in COUNTERS}, name
        assert scrape.value("flowrra_tasks_running", task=name) == 0
        assert scrape.value("flowrra_tasks_retrying", task=name) == 0
        assert scrape.value("flowrra_task_oldest_running_timestamp_seconds", task=name) is None
        observed = {
            "success": counts["succeeded"],
            "error": counts["failed"] + counts["retried"],
        }
        for outcome, count in observed.items():
            labels = {"task": name, "outcome": outcome}
            assert scrape.value("flowrra_task_run_duration_seconds_count", **labels) == count
            assert scrape.value("flowrra_task_run_duration_seconds_bucket", le="+Inf", **labels) == count
        assert scrape.value("flowrra_task_queue_wait_seconds_count", task=name) == counts["started"]
    for (name, exception), count in truth.exceptions.items():
        assert scrape.value("flowrra_task_exceptions_total", task=name, exception=exception) == count
    for figure in ("pending", "delayed", "in_flight"):
        assert scrape.value(f"flowrra_queue_{figure}_tasks", executor="io", queue="default") == 0
    assert scrape.value("flowrra_queue_oldest_pending_timestamp_seconds", executor="io", queue="default") is None
    assert scrape.value("flowrra_executor_busy_workers", executor="io") == 0
    assert scrape.value("flowrra_executor_worker_restarts_total", executor="io") == 0
    assert scrape.value("flowrra_tasks_pending") == 0


@pytest.mark.slow
async def test_every_exported_value_is_what_happened() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, truth = random.Random(seed), Truth()
    app = make_app(truth, chance)
    quiet_points, scrapes = 0, 0

    async def scrape_all_the_time(url: str) -> None:
        nonlocal scrapes
        while True:
            identity_holds(await asyncio.to_thread(fetch, url))
            scrapes += 1

    async with app, Exporter(app, LOCAL) as exporter:
        (url,) = exporter.urls
        scraper = asyncio.create_task(scrape_all_the_time(url))
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends and not scraper.done():
            await one_round(app, truth, chance)
            # The first scrape may share a collection that was under way before the last task ended; the second can't.
            await asyncio.to_thread(fetch, url)
            agrees(await asyncio.to_thread(fetch, url), truth)
            quiet_points += 1
        scraper.cancel()
        (error,) = await asyncio.gather(scraper, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError), error

    assert quiet_points > 1
    assert scrapes > 10
    totals: Counter[str] = sum(truth.counts.values(), Counter[Any]())
    print(f"{totals['submitted']} tasks, {quiet_points} quiet points, {scrapes} scrapes under way, {dict(totals)}")
    untested = {"released", "redelivered"}  # only a broker can give tasks back, or deliver them again
    assert {key for key in COUNTERS if not totals[key]} == untested
