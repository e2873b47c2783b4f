"""An app on Redis or Valkey, in as many processes as you like. In three terminals, with REDIS_URL set (without it, the
server on localhost):

    flowrra-exporter --web.listen-address=:9464 examples.redis_shop:worker            # and another one on :9465
    flowrra-exporter --web.listen-address=:9470 --observe examples.redis_shop:worker  # takes nothing, sees the queue
    python -m examples.redis_shop 20                                                  # submits 20 orders and waits
"""

from __future__ import annotations

import asyncio
import os
import sys

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def _app(consume: bool) -> Flowrra:
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=URL, namespace="shop"),
            backend=BackendConfig(url=URL, namespace="shop"),
            executor=ExecutorConfig(io_workers=8, consume=consume),
        )
    )

    @app.task(max_retries=2, retry_delay=0.5, timeout=10.0)
    async def ship(order: int) -> str:
        await asyncio.sleep(0.05)
        return f"order {order} shipped by process {os.getpid()}"

    return app


def worker() -> Flowrra:
    """An app that takes tasks from the queue."""
    return _app(consume=True)


async def submit(orders: int) -> None:
    """Submits orders from a process that takes none, and waits until workers have shipped them."""
    async with _app(consume=False) as producer:
        ids = await producer.submit_many([("ship", (order,), {}) for order in range(orders)])
        for task_id in ids:
            result = await producer.wait_for_result(task_id, timeout=60)
            print(result.status, result.result)


if __name__ == "__main__":
    asyncio.run(submit(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
