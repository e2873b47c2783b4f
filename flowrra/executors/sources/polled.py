"""Brings tasks from a broker to an executor's free workers."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from flowrra.brokers.base import BaseBroker

if TYPE_CHECKING:
    from flowrra.executors.base import BaseTaskExecutor

logger = logging.getLogger(__name__)

POP_TIMEOUT = 1.0
MIN_BACKOFF = 0.1
MAX_BACKOFF = 5.0
FREE_SLOT_CHECK = 0.01


class PolledSource:
    """Takes a task from the broker whenever a worker is free. Survives every failure of the broker, and says so.

    Attributes:
        error: What the broker's last failure was; None if its last answer was a good one.
        restarts: How often it died and was replaced.
    """

    def __init__(self, executor: BaseTaskExecutor, broker: BaseBroker) -> None:
        self._executor = executor
        self._broker = broker
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None
        self.restarts = 0

    def start(self) -> None:
        """Begin on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._feed(), name=f"flowrra-{self._executor.kind}-feeder")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping or task.get_loop().is_closed():
            return
        self.restarts += 1
        logger.error("feeder died, replaced executor=%s", self._executor.kind)
        self.start()

    async def stop(self) -> None:
        """End; a task that is just being taken is still delivered."""
        self._stopping = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=2 * POP_TIMEOUT)
            self._task.cancel()

    async def _feed(self) -> None:
        backoff = MIN_BACKOFF
        while not self._stopping:
            if self._executor.busy_workers + self._executor.pending_count() >= self._executor.workers:
                await asyncio.sleep(FREE_SLOT_CHECK)
                continue
            try:
                task = await self._broker.pop(timeout=POP_TIMEOUT)
            except Exception as error:  # noqa: BLE001 - a broker may raise anything
                self._executor.broker_errors["pop"] += 1
                self.error = f"{type(error).__name__}: {error}"
                logger.warning(
                    "broker not readable, trying again executor=%s in=%.1f error=%r",
                    self._executor.kind,
                    backoff,
                    self.error,
                )
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
                backoff = min(2 * backoff, MAX_BACKOFF)
                continue
            self.error, backoff = None, MIN_BACKOFF
            if task is not None:
                await self._executor.deliver(task)
