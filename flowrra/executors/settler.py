"""Tells a broker what became of the tasks that were taken from it: many at a time, and for as long as it takes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Callable

from flowrra import codec
from flowrra.brokers.base import LeasingBroker, Outcome, Verb
from flowrra.exceptions import BackendError
from flowrra.executors.job import Job
from flowrra.task import RUNNING

logger = logging.getLogger(__name__)

MAX_BATCH = 250
MIN_BACKOFF = 0.05
MAX_BACKOFF = 1.0
# Seconds: only of attempts that last longer is the running state written at all.
RUNNING_AFTER = 0.02


class Settler:
    """Collects outcomes while a request is under way, and sends them together with the next one. An outcome that can't
    be told is told again: the worker's hold is renewed meanwhile.

    Args:
        broker: Whose tasks they are.
        kind: Names the executor in the log.
        on_told: Called after each request with the ids of the tasks that are not this worker's any more.
        on_error: Called with each failure, and with None when there is none any more.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        kind: str,
        on_told: Callable[[list[str]], None],
        on_error: Callable[[BackendError | None], None],
    ) -> None:
        self._broker = broker
        self._kind = kind
        self._on_told = on_told
        self._on_error = on_error
        self._waiting: deque[Outcome] = deque()
        self._started: dict[str, Job] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self.is_failing = False

    @property
    def backlog(self) -> int:
        """How many outcomes have still to be told."""
        return len(self._waiting)

    def add(self, outcome: Outcome) -> None:
        """Tell an outcome soon."""
        self._started.pop(outcome.task_id, None)
        self._waiting.append(outcome)
        if self._sender is None or self._sender.done():
            loop = asyncio.get_running_loop()
            self._sender = loop.create_task(self._send_all(), context=contextvars.Context())

    def mark_running(self, job: Job) -> None:
        """Tell that an attempt is under way, unless it is over soon."""
        self._started[job.task.id] = job
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(RUNNING_AFTER, self._tell_running, context=contextvars.Context())

    def _tell_running(self) -> None:
        self._timer = None
        started, self._started = self._started, {}
        for job in started.values():
            if job.record.status is RUNNING and not job.settled:
                self.add(Outcome(Verb.RUNNING, job.task.id, record=codec.encode_record(job.record)))

    async def _send_all(self) -> None:
        backoff = MIN_BACKOFF
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            try:
                settled = await self._broker.settle(batch)
            except BackendError as error:
                self._waiting.extendleft(reversed(batch))
                self.is_failing = True
                self._on_error(error)
                logger.warning(
                    "outcomes not told, will be told again executor=%s waiting=%d in=%.2f error=%s",
                    self._kind,
                    len(self._waiting),
                    backoff,
                    error,
                )
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
                backoff = min(2 * backoff, MAX_BACKOFF)
                continue
            except Exception:  # one of them can't be sent at all: the others must not wait for it
                ids = [outcome.task_id for outcome in batch]
                logger.exception("outcomes not told, their tasks will run again executor=%s ids=%s", self._kind, ids)
                self._on_told(ids)
                continue
            if self.is_failing:
                self.is_failing = False
                self._on_error(None)
            backoff = MIN_BACKOFF
            self._report(batch, settled)

    def _report(self, batch: list[Outcome], settled: list[bool]) -> None:
        for outcome, was_ours in zip(batch, settled, strict=True):
            if not was_ours and outcome.verb is not Verb.RUNNING:
                logger.warning(
                    "outcome came too late, the task was given to another worker executor=%s id=%s outcome=%s",
                    self._kind,
                    outcome.task_id,
                    outcome.verb,
                )
        self._on_told([outcome.task_id for outcome in batch if outcome.verb is not Verb.RUNNING])

    async def flush(self, timeout: float) -> None:
        """Return when everything was told, or after that time."""
        if self._sender is None or self._sender.done():
            return
        _, late = await asyncio.wait({self._sender}, timeout=timeout)
        if late:
            logger.error(
                "outcomes not told, their tasks will run again executor=%s count=%d", self._kind, len(self._waiting)
            )
            self._sender.cancel()
            await asyncio.wait({self._sender})

    def close(self) -> None:
        """Forget what was not told, so that it can begin anew."""
        self._sender = None  # over, or of an event loop that is gone
        self._waiting.clear()
        self.is_failing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._started.clear()
