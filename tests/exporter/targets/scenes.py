"""Apps in the states that people on call meet: for the pictures in the docs, and for tests in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable

from flowrra import (
    BackendConfig,
    BrokerConfig,
    Config,
    ExecutorConfig,
    ExecutorNotRunningError,
    Flowrra,
    current_task,
)


def _shop(slots: int = 8, url: str = "", failing: float = 0.01) -> Flowrra:
    """A shop's tasks. ``failing`` is the part of the payments that fail."""
    executor = ExecutorConfig(io_workers=slots)
    app = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), executor) if url else Config(executor=executor))

    @app.task(max_retries=1, retry_delay=0.2)
    async def send_receipt(order: int) -> str:
        """Sends a receipt by mail."""
        await asyncio.sleep(random.uniform(0.02, 0.1))
        if random.random() < 0.02:
            raise ConnectionError("mail server unreachable")
        return f"receipt of order {order} sent"

    @app.task(max_retries=0)
    async def charge_card(order: int, method: str = "visa") -> str:
        """Takes the money."""
        await asyncio.sleep(random.uniform(0.05, 0.3))
        if random.random() < failing:
            raise ConnectionError(f"payment provider hung up on order {order}")
        return f"order {order} paid by {method}"

    @app.task(timeout=30.0)
    async def build_report(customer: int) -> str:
        """Long."""
        await asyncio.sleep(random.uniform(2.0, 12.0))
        return f"report for customer {customer}"

    @app.task()
    async def resize_image(name: str) -> str:
        """Makes a thumbnail."""
        await asyncio.sleep(random.uniform(0.1, 0.9))
        return name

    @app.task()
    async def call_partner() -> None:
        """Asks a partner who never answers, and waits without a limit."""
        await asyncio.Event().wait()

    @app.task()
    async def export_ledger() -> None:
        """Makes the mistake of blocking the event loop."""
        time.sleep(3600)

    return app


def _after_start(app: Flowrra, work: Callable[[], Awaitable[None]]) -> Flowrra:
    """The app, with something that happens once it has started."""
    running: list[asyncio.Task[None]] = []

    async def go_on() -> None:
        await asyncio.sleep(0.2)
        with contextlib.suppress(ExecutorNotRunningError):  # the app stops
            await work()

    def begin() -> None:
        running.append(asyncio.create_task(go_on()))

    app.on_startup(begin)
    app.on_shutdown(lambda: [each.cancel() for each in running])
    return app


async def _orders(app: Flowrra, a_second: float) -> None:
    for order in range(10**9):
        await app.submit("send_receipt", order)
        if order % 3 == 0:
            await app.submit("charge_card", order)
        if order % 7 == 0:
            await app.submit("resize_image", f"photo-{order}.jpg")
        if order % 50 == 0:
            await app.submit("build_report", order)
        await asyncio.sleep(1 / a_second)


def quiet() -> Flowrra:
    """All is well."""
    app = _shop()
    scheduler = app.create_scheduler("sqlite:///:memory:")

    async def work() -> None:
        await scheduler.schedule_interval("build_report", 20, args=(1,), description="Sales of the last minutes")
        await scheduler.schedule_cron("send_receipt", "0 3 * * *", args=(0,), description="Receipts that are still due")
        await scheduler.schedule_cron("resize_image", "30 6 * * 1", args=("all",), enabled=False)
        await _orders(app, 15)

    return _after_start(app, work)


def broken() -> Flowrra:
    """Payments fail, and more comes than is taken."""
    app = _shop(slots=4, failing=0.6)
    return _after_start(app, lambda: _orders(app, 45))


def hung() -> Flowrra:
    """All slots wait for a partner who never answers, and a hundred tasks wait for them."""
    app = _shop(slots=4)

    async def work() -> None:
        for _ in range(4):
            await app.submit("call_partner")
        for order in range(100):
            await app.submit("send_receipt", order)

    return _after_start(app, work)


def blocked() -> Flowrra:
    """A task holds the event loop, after some that did well."""
    app = _shop()

    async def work() -> None:
        for order in range(40):
            await app.submit("send_receipt", order)
        await asyncio.sleep(float(os.environ.get("BLOCKED_AFTER", "2")))
        await app.submit("export_ledger")

    return _after_start(app, work)


def many() -> Flowrra:
    """Two hundred names, some of them long or written from right to left."""
    app = _shop()

    async def work() -> None: ...

    async def fail() -> None:
        raise ValueError("no")

    app.task("شحن_الطلبات_المتأخرة", max_retries=0)(fail)
    app.task("shop.orders.fulfilment." + "reconcile_shipments_with_the_carrier_" * 3, max_retries=0)(fail)
    for number in range(192):
        app.task(f"shop.module_{number % 9}.task_{number:03}")(work)

    async def submit() -> None:
        for definition in app.registry.definitions()[6:]:
            await app.submit(definition.name)
        for _ in range(4):
            await app.submit("شحن_الطلبات_المتأخرة")
        await _orders(app, 10)

    return _after_start(app, submit)


def on_a_server() -> Flowrra:
    """The quiet app, with its queue and results on the server at SHARED_URL."""
    app = _shop(url=os.environ["SHARED_URL"])
    return _after_start(app, lambda: _orders(app, 10))


def operated() -> Flowrra:
    """On the server at SHARED_URL: payments that fail, tasks that were given up, and schedules."""
    url = os.environ["SHARED_URL"]
    app = Flowrra(Config(BrokerConfig(url=url, unknown_ttl=1.0), BackendConfig(url=url), ExecutorConfig(io_workers=4)))
    # An older release, whose tasks no worker knows any more.
    older = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(consume=False)))
    scheduler = app.create_scheduler("sqlite:///:memory:", timezone="Europe/Berlin")

    @app.task("shop.charge_card", max_retries=2, retry_delay=0.2)
    async def charge_card(card: str, amount: float, order: dict[str, object]) -> dict[str, object]:
        await asyncio.sleep(0.05)
        if order["id"] == 4711 or random.random() < 0.2:
            raise ConnectionError(f"payment provider hung up on card {card}")
        return {"paid": amount, "order": order["id"]}

    @app.task("shop.export_year", queue="reports")
    async def export_year(year: int) -> None:
        for row in range(10**9):
            current_task().progress(row % 1200, 1200, f"orders of {year}")
            await asyncio.sleep(0.05)

    @older.task("shop.print_label")
    async def print_label(order: int) -> None: ...

    async def work() -> None:
        await scheduler.schedule_cron(
            "shop.export_year", "0 3 1 1 *", (2025,), task_id="yearly", description="For the tax"
        )
        await scheduler.schedule_interval("shop.charge_card", 3600, ("1234", 9.9, {"id": 1}), task_id="subscriptions")
        await scheduler.schedule_cron(
            "shop.charge_card",
            "*/15 * * * *",
            ("5678", 4.5, {"id": 2}),
            task_id="open-orders",
            timezone="America/New_York",
        )
        await scheduler.trigger("subscriptions")
        async with older:
            for order in range(3):
                await older.submit("shop.print_label", order)
        await app.submit("shop.export_year", 2025)
        for order in range(30):
            await app.submit("shop.charge_card", f"42{order:02}", order * 9.9, {"id": order, "shop": "Berlin"})
        given = ("4242", 129.0, {"id": 4711, "shop": "Berlin"})
        await app.options(task_id="order-4711").submit("shop.charge_card", *given)
        await app.options(countdown=3600, queue="reports").submit("shop.export_year", 2026)

    return _after_start(app, work)
