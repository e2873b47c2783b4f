"""`python -m prove.targets.misbehaving TASKS RESULTS FOLDER`: a worker whose tasks do what none should, to their
arguments, results, errors and clean-up. When it is told to end it writes down what it has counted.

TASKS and RESULTS are the addresses of two servers, or of one twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.management import FlowrraManager
from tests.settlement.misbehaviour import CASES

LEASE = 4.0
SLOTS = 8
COUNTERS = ("started", "succeeded", "failed", "retried", "cancelled", "released", "running")


def config_of(tasks: str | None, results: Any, *, consume: bool = True) -> Config:
    """A configuration for a broker's address, or None for memory, and a result backend's address or instance."""
    return Config(
        broker=None if tasks is None else BrokerConfig(url=tasks, lease=LEASE),
        backend=BackendConfig(url=results) if isinstance(results, str) else results,
        executor=ExecutorConfig(io_workers=SLOTS, cpu_workers=1, consume=consume),
    )


def with_misbehaving_tasks(app: Flowrra) -> Flowrra:
    """The app with each misbehaviour on the event loop and in a process, and with one that cleans up slowly."""
    for case in CASES:
        app.task(name=case.name, max_retries=1, retry_delay=0.05)(_on_the_loop(case.func))
        app.task(name=f"cpu_{case.name}", cpu_bound=True, max_retries=1, retry_delay=0.05)(case.func)

    @app.task(name="slow_clean_up", max_retries=1, retry_delay=0.05, timeout=0.2)
    async def slow_clean_up(order: Any, items: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    return app


def _on_the_loop(func: Callable[..., Any]) -> Callable[..., Any]:
    async def task(order: Any, items: Any) -> Any:
        await asyncio.sleep(0.02)
        return func(order, items)

    return task


async def work(tasks: str, results: str, folder: Path) -> None:
    app = with_misbehaving_tasks(Flowrra(config_of(tasks, results)))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with app:
        await told.wait()
    stats = await FlowrraManager(app).get_task_stats()
    counted = {name: {key: numbers[key] for key in COUNTERS} for name, numbers in stats.items()}
    (folder / f"{os.getpid()}.counted").write_text(json.dumps(counted), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
