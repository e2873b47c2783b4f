"""An app whose CPU tasks change metrics of prometheus_client in worker processes.

It submits the task that a line on standard input names, and prints what that returned.
"""

import asyncio
import os
import sys
import threading

from prometheus_client import Counter, Gauge

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend

ORDERS = Counter("shop_orders", "Orders.", ["kind"])
LIVING = Gauge("shop_processes", "Processes.", multiprocess_mode="livesum")
IMPORTS = Gauge("shop_imports", "Set while it is imported.", multiprocess_mode="max")
IMPORTS.set(1)
app = Flowrra(Config(executor=ExecutorConfig(cpu_workers=1), backend=InMemoryBackend()))


@app.task(name="count", cpu_bound=True)
def count() -> int:
    ORDERS.labels("book").inc()
    LIVING.set(1)
    return os.getpid()


@app.task(name="look", cpu_bound=True)
def look() -> int:
    return os.getpid()


@app.task(name="die", cpu_bound=True, max_retries=0)
def die() -> None:
    LIVING.set(1)
    os._exit(1)


async def submit(name: str) -> None:
    record = await app.wait_for_result(await app.submit({"count": count, "look": look, "die": die}[name]))
    print(f"{name}: {record.result}", flush=True)


async def start() -> Flowrra:
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(submit(line.strip()), loop)

    threading.Thread(target=listen, daemon=True).start()
    return app
