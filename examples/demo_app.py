"""The app that `make run` serves: a made-up shop under a load that comes in waves, so that its metrics move.

Its tasks are short and long, succeed, fail, are retried, run out of time, wait for a later time and get cancelled. One
of them makes the mistake of blocking the event loop, and one event subscriber fails now and then.

    flowrra-exporter examples.demo_app:app
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import Any

from prometheus_client import Counter

from flowrra import Config, ExecutorConfig, ExecutorNotRunningError, Flowrra, Reject
from flowrra.events import event_bus

app = Flowrra(Config(executor=ExecutorConfig(io_workers=8)))
_scheduler = app.create_scheduler("sqlite:///:memory:")

# A metric of the app's own: the exporter serves it beside Flowrra's.
orders = Counter("shop_orders", "Orders by how they were paid.", ["method"])


# ── the tasks ───────────────────────────────────────────────────────────────────────────────────────────────


@app.task(max_retries=3, retry_delay=0.5, backoff=2.0, jitter=0.2)
async def send_receipt(order: int) -> str:
    """Short, and the most frequent. The mail server is unreachable now and then."""
    await asyncio.sleep(random.uniform(0.01, 0.08))
    if random.random() < 0.03:
        raise ConnectionError("mail server unreachable")
    return f"receipt of order {order} sent"


@app.task(priority=-10, max_retries=2, retry_delay=1.0, retry_on=ConnectionError)
async def charge_card(order: int, method: str) -> str:
    """Goes before everything else. A declined card is final, a lost connection is worth another attempt."""
    await asyncio.sleep(random.uniform(0.05, 0.25))
    chance = random.random()
    if chance < 0.02:
        raise Reject("card declined")
    if chance < 0.04:
        raise ConnectionError("payment provider hung up")
    orders.labels(method).inc()
    return f"order {order} paid by {method}"


@app.task()
async def resize_image(name: str) -> str:
    """Takes from a tenth of a second to several, most often half of one."""
    await asyncio.sleep(min(8.0, random.lognormvariate(math.log(0.5), 0.8)))
    return name


@app.task(timeout=1.0, max_retries=1, retry_delay=2.0)
async def import_catalog(supplier: str) -> str:
    """Some suppliers answer too late: the attempt runs into its time limit."""
    await asyncio.sleep(3.0 if random.random() < 0.2 else random.uniform(0.1, 0.6))
    return supplier


@app.task()
async def build_report(customer: int) -> str:
    """Long. Customers who lose patience have it cancelled."""
    await asyncio.sleep(random.uniform(3.0, 9.0))
    return f"report for customer {customer}"


@app.task()
async def remind_customer(customer: int) -> str:
    """Submitted for a later time, and often cancelled before: the customer came back."""
    await asyncio.sleep(0.02)
    return f"customer {customer} reminded"


@app.task(priority=10, max_retries=0)
async def sweep_carts() -> int:
    """Runs when nothing else waits."""
    await asyncio.sleep(0.005)
    if random.random() < 0.02:
        raise KeyError("cart")
    return random.randrange(5)


@app.task()
async def count_stock(shelf: str) -> int:
    """Submitted by the clock. Takes longer than the time to the next run now and then, which is skipped then."""
    await asyncio.sleep(3.0 if random.random() < 0.1 else 0.2)
    return random.randrange(100)


@app.task(max_retries=0)
async def export_ledger() -> None:
    """The mistake to look for in the event loop's metrics: a blocking call holds up every other task."""
    time.sleep(1.2)  # noqa: ASYNC251 - this is the mistake


# ── the load ────────────────────────────────────────────────────────────────────────────────────────────────

TICK = 0.1
WAVE = 60.0
# Submissions a second, on average.
RECEIPTS, CARDS, IMAGES, CATALOGS, SWEEPS = 16.0, 6.0, 3.0, 1.5, 4.0
REPORTS, REMINDERS, LEDGERS = 0.3, 0.8, 0.02
# Of long reports and of reminders, this many are cancelled.
IMPATIENCE = 0.5


class Load:
    """Submits and cancels tasks until the app stops."""

    def __init__(self, app: Flowrra) -> None:
        self._app = app
        self._changes_of_mind: list[tuple[float, str]] = []
        self._customers = 0

    async def run(self) -> None:
        """Once in every tick, submit what has come up by then."""
        started = time.monotonic()
        while True:
            wave = 1.0 + 0.9 * math.sin(2 * math.pi * (time.monotonic() - started) / WAVE)
            try:
                await self._submit(TICK * wave)
                await self._cancel()
            except ExecutorNotRunningError:
                return
            await asyncio.sleep(TICK)

    async def _submit(self, seconds: float) -> None:
        submit = self._app.submit
        for _ in range(_arrivals(RECEIPTS * seconds)):
            await submit(send_receipt, self._next_customer())
        for _ in range(_arrivals(CARDS * seconds)):
            await submit(charge_card, self._next_customer(), random.choice(("visa", "mastercard")))
        for _ in range(_arrivals(IMAGES * seconds)):
            await submit(resize_image, f"product-{self._next_customer()}.jpeg")
        for _ in range(_arrivals(CATALOGS * seconds)):
            await submit(import_catalog, random.choice(("north", "south")))
        for _ in range(_arrivals(SWEEPS * seconds)):
            await submit(sweep_carts)
        for _ in range(_arrivals(LEDGERS * seconds)):
            await submit(export_ledger)
        for _ in range(_arrivals(REPORTS * seconds)):
            self._may_change_mind(await submit(build_report, self._next_customer()), within=3.0)
        for _ in range(_arrivals(REMINDERS * seconds)):
            later = self._app.options(countdown=random.uniform(3.0, 12.0))
            self._may_change_mind(await later.submit(remind_customer, self._next_customer()), within=8.0)

    def _next_customer(self) -> int:
        self._customers += 1
        return self._customers

    def _may_change_mind(self, task_id: str, within: float) -> None:
        if random.random() < IMPATIENCE:
            self._changes_of_mind.append((time.monotonic() + random.uniform(1.0, within), task_id))

    async def _cancel(self) -> None:
        now = time.monotonic()
        due = [task_id for at, task_id in self._changes_of_mind if at <= now]
        self._changes_of_mind = [(at, task_id) for at, task_id in self._changes_of_mind if at > now]
        for task_id in due:
            await self._app.cancel_task(task_id)


def _arrivals(expected: float) -> int:
    """How many independent arrivals there are in a span of time that sees `expected` of them on average."""
    count, left = 0, random.expovariate(1.0)
    while left < expected:
        count += 1
        left += random.expovariate(1.0)
    return count


async def _tell_support(event: dict[str, Any]) -> None:
    """An event subscriber that fails sometimes, which no task notices."""
    if event["task"]["status"] == "failed" and random.random() < 0.1:
        raise ConnectionError("the support desk's chat is down")


_load = Load(app)
_running: set[asyncio.Task[None]] = set()


@app.on_startup
async def begin() -> None:
    """Starts the load with the app."""
    await _scheduler.schedule_interval("count_stock", 2, ("front",), max_running=1, description="every two seconds")
    await _scheduler.schedule_cron("count_stock", "* * * * *", ("back",), description="every minute")
    await _scheduler.schedule_cron("count_stock", "@yearly", ("all",), enabled=False)
    event_bus.subscribe(_tell_support)
    _running.add(asyncio.create_task(_load.run(), name="demo-load"))


@app.on_shutdown
async def end() -> None:
    """Ends the load with the app."""
    while _running:
        load = _running.pop()
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    await event_bus.unsubscribe(_tell_support)
