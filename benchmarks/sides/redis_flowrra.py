"""flowrra on Redis, in the present and in the published version; see redis_engine.py."""

from __future__ import annotations

import asyncio
import contextlib

from redis_work import Spent, Work, seconds_of_each, stopwatch, until

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, TaskStatus, __version__

SLOTS = 10
# Over how many the queue is spread if nothing else is said.
PARTITIONS = 1
IS_PUBLISHED = __version__ == "0.1.8"


def build(
    url: str, consume: bool = True, slots: int = SLOTS, work: Work | None = None, partitions: int | None = None
) -> Flowrra:
    partitions = PARTITIONS if partitions is None else partitions
    options = {} if consume or IS_PUBLISHED else {"consume": False}
    spread = {} if partitions == 1 else {"partitions": partitions}
    executor = ExecutorConfig(io_workers=slots, **options)
    broker, backend = BrokerConfig(url=url, **spread), BackendConfig(url=url, **spread)
    app = Flowrra(Config(broker=broker, backend=backend, executor=executor))
    run = (work or Work()).run

    @app.task()
    async def no_op(number: int) -> int:
        return await run(number)

    app.no_op = no_op  # type: ignore[attr-defined]
    return app


async def submit(url: str, count: int) -> Spent:
    app = build(url, consume=False)
    if IS_PUBLISHED:  # it can't submit without running tasks; what it would run is kept from it
        app._io_executor._running = app._running = True
        return await _submit_all(app, count)
    async with app:
        return await _submit_all(app, count)


async def _submit_all(app: Flowrra, count: int) -> Spent:
    await app.submit(app.no_op, 0)  # connects
    spent = stopwatch()
    for number in range(1, count):
        await app.submit(app.no_op, number)
    return spent()


if not IS_PUBLISHED:

    async def submit_many(url: str, count: int) -> Spent:
        app = build(url, consume=False)
        async with app:
            await app.get_result("none")  # connects
            spent = stopwatch()
            await app.submit_many((app.no_op, (number,), {}) for number in range(count))
            return spent()


async def drain(url: str, count: int, slots: int, seconds: float) -> Spent:
    work = Work(count, seconds)
    app = build(url, slots=slots, work=work)
    spent = stopwatch()
    async with app:
        await work.all_ran()
        # Acknowledged as well: each has its result. The published version took them for good when it took them.
        if not IS_PUBLISHED:
            await until(lambda: have_succeeded(app, count))
        return spent()


async def have_succeeded(app: Flowrra, count: int) -> bool:
    """Whether so many tasks have their results."""
    counts = await app.results.count()
    return sum(number for (status, _), number in counts.items() if status == TaskStatus.SUCCESS) == count


async def serve(url: str) -> None:
    async with build(url):
        await asyncio.Event().wait()


async def latency(url: str, count: int) -> list[float]:
    app = build(url, consume=False)

    async def round_trip(number: int) -> None:
        task_id = await app.submit(app.no_op, number)
        with contextlib.suppress(TimeoutError):  # the published version loses some wake-ups
            await app.wait_for_result(task_id, timeout=1.0)

    if IS_PUBLISHED:
        app._io_executor._running = app._running = True
        return await seconds_of_each(count, round_trip)
    async with app:
        return await seconds_of_each(count, round_trip)
