"""Judges whether an executor gets on. It is stuck while each of its slots is held by an attempt that should have ended
long ago, and tasks wait for one."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from flowrra.executors.job import Job
from flowrra.executors.sources.base import TaskSource
from flowrra.executors.workers import CANCEL_GRACE, Workers, wall_clock
from flowrra.supervision import cancel_until_ended, spawn

logger = logging.getLogger(__name__)

# Seconds between two looks, and for which the broker may take to tell what waits.
LOOK_EVERY: Final = 5.0
ASK_TIMEOUT: Final = 0.5
# An attempt hangs once it has lasted so many times as long as any finished one of its name, and so many seconds.
TIMES_LONGEST: Final = 10
AT_LEAST: Final = 60.0


class Hanging(NamedTuple):
    """The attempts of one task name that hang, and since when the oldest of them has been running."""

    name: str
    attempts: int
    since: datetime

    def __str__(self) -> str:
        return f"{self.name} ({self.attempts}, since {self.since:%Y-%m-%dT%H:%M:%SZ})"


class HangMonitor:
    """Looks every few seconds whether an executor is stuck, and logs when that begins and ends.

    Args:
        workers: What runs the attempts.
        source: Knows what waits elsewhere.
        on_look: Called at every look, for what else is to be done every few seconds.
    """

    def __init__(self, workers: Workers, source: TaskSource, on_look: Callable[[], None]) -> None:
        self._workers = workers
        self._source = source
        self._on_look = on_look
        # Whether a task waited in the broker when it was asked last: only while all attempts hang, and none waits here.
        self._one_waits_there = False
        self._stuck_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def hanging(self) -> list[Hanging]:
        """The attempts that hold all slots while tasks wait, by task name; empty if the executor is not stuck. Plain
        numbers, from any thread."""
        jobs = self._jobs_that_hang()
        if not jobs or not (self._workers.queue.size or self._one_waits_there):
            return []
        by_name: dict[str, list[Job]] = {}
        for job in jobs:  # the longest running first
            by_name.setdefault(job.definition.name, []).append(job)
        return [Hanging(name, len(found), wall_clock(found[0].started_at)) for name, found in by_name.items()]

    def _jobs_that_hang(self) -> list[Job]:
        """What runs, if all slots are taken and each by an attempt that hangs; else nothing. Nobody waits for a slot of
        an executor that drains."""
        workers = self._workers
        if workers.is_draining or len(workers.running) < workers.slots:
            return []
        jobs, now = workers.running_jobs(), time.monotonic()
        return jobs if all(now - job.started_at > _most_seconds(job) for job in jobs) else []

    def start(self) -> None:
        """Look from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._one_waits_there, self._stuck_since = False, None
        self._set_timer()

    def _set_timer(self) -> None:
        # A timer, and no task that sleeps: most of the time there is nothing to look at.
        self._timer = self._loop.call_later(LOOK_EVERY, self._begin_look, context=contextvars.Context())

    def _begin_look(self) -> None:
        self._set_timer()
        self._on_look()
        is_due = self._stuck_since is not None or self._jobs_that_hang()
        if is_due and (self._looking is None or self._looking.done()):
            self._looking = spawn(self.look())

    async def stop(self) -> None:
        """Look no more."""
        self.abandon()
        looking, self._looking = self._looking, None
        if looking is not None:
            await cancel_until_ended(looking)

    def abandon(self) -> None:
        """The event loop is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def look(self) -> None:
        """Ask the broker what waits there, if that matters, and log what has changed."""
        self._one_waits_there = await self._look_whether_one_waits_there()
        hanging = self.hanging()
        if hanging and self._stuck_since is None:
            self._stuck_since = time.monotonic()
            text = "executor stuck, all slots are in tasks that hang while others wait executor=%s slots=%d hanging=%s"
            logger.error(text, self._workers.kind, self._workers.slots, ", ".join(map(str, hanging)))
        elif not hanging and self._stuck_since is not None:
            seconds, self._stuck_since = time.monotonic() - self._stuck_since, None
            logger.info("executor gets on again executor=%s seconds=%.0f", self._workers.kind, seconds)

    async def _look_whether_one_waits_there(self) -> bool:
        if self._workers.queue.size or not self._jobs_that_hang():
            return False
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await self._source.has_startable()
        except (Exception, SystemExit):  # noqa: BLE001 - who takes from the broker says that it is away; what it told last holds
            return self._one_waits_there


def _most_seconds(job: Job) -> float:
    """How long an attempt may last before it hangs. A name that has finished nothing yet has no longest run."""
    most = max(AT_LEAST, TIMES_LONGEST * job.telemetry.longest_run)
    return most if job.task.timeout is None else min(most, job.task.timeout + CANCEL_GRACE)
