"""flowrra on Redis, in the present and in the published version; see redis_engine.py."""

from __future__ import annotations

import asyncio
import contextlib
import time

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, TaskStatus, __version__

SLOTS = 10
IS_PUBLISHED = __version__ == "0.1.8"


class Counter:
    """Counts to a number, and tells when it is reached."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.reached = asyncio.Event()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.reached.set()


def build(url: str, consume: bool = True, counter: Counter | None = None) -> Flowrra:
    options = {} if consume or IS_PUBLISHED else {"consume": False}
    executor = ExecutorConfig(io_workers=SLOTS, **options)
    app = Flowrra(Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url), executor=executor))

    @app.task()
    async def no_op(number: int) -> int:
        if counter is not None:
            counter.count()
        return number

    app.no_op = no_op  # type: ignore[attr-defined]
    return app


async def submit(url: str, count: int) -> float:
    app = build(url, consume=False)
    if IS_PUBLISHED:  # it can't submit without running tasks; what it would run is kept from it
        app._io_executor._running = app._running = True
        return await _submit_all(app, count)
    async with app:
        return await _submit_all(app, count)


async def _submit_all(app: Flowrra, count: int) -> float:
    await app.submit(app.no_op, 0)  # connects
    started = time.perf_counter()
    for number in range(1, count):
        await app.submit(app.no_op, number)
    return time.perf_counter() - started


if not IS_PUBLISHED:

    async def submit_many(url: str, count: int) -> float:
        app = build(url, consume=False)
        async with app:
            await app.get_result("none")  # connects
            started = time.perf_counter()
            await app.submit_many((app.no_op, (number,), {}) for number in range(count))
            return time.perf_counter() - started


async def drain(url: str, count: int) -> float:
    counter = Counter(count)
    app = build(url, counter=counter)
    started = time.perf_counter()
    async with app:
        await counter.reached.wait()
        # Acknowledged as well: nothing pending is left. The published version took them for good when it took them.
        while not IS_PUBLISHED and await app.results.list_by_status(TaskStatus.PENDING, 1):
            await asyncio.sleep(0.001)
        return time.perf_counter() - started


async def serve(url: str) -> None:
    async with build(url):
        await asyncio.Event().wait()


async def latency(url: str, count: int) -> list[float]:
    app = build(url, consume=False)
    if IS_PUBLISHED:
        app._io_executor._running = app._running = True
        return await _round_trips(app, count)
    async with app:
        return await _round_trips(app, count)


async def _round_trips(app: Flowrra, count: int) -> list[float]:
    seconds = []
    for number in range(count + 1):
        started = time.perf_counter()
        task_id = await app.submit(app.no_op, number)
        with contextlib.suppress(TimeoutError):  # the published version loses some wake-ups
            await app.wait_for_result(task_id, timeout=1.0)
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)
    return seconds[1:]  # the first one connects
