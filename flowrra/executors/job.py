"""A task while this process has it: waiting, running, or waiting for its next attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from flowrra.brokers.base import LeasingBroker
from flowrra.copying import SCALARS, copied
from flowrra.rebuilding import rebuilt_call
from flowrra.registry import TaskDefinition
from flowrra.task import Task, TaskResult
from flowrra.telemetry import TaskTelemetry


class Interrupt(Enum):
    """Why an attempt was asked to end before it was done."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"
    TEARDOWN = "teardown"  # of all that is on the event loop, which is about to close


class Job:
    """A task, its record, and the state of its current attempt.

    Attributes:
        task: The task as it was submitted, but for ``current_retry``; its own code never gets hold of it.
        call: Its arguments as text, if it came from a broker that keeps text.
        delivery: The number by which such a broker knows this delivery; 0 if it has none.
        origin: That broker, or the one of its cells that had the task.
        ready_at: When it became due, on the monotonic clock.
        taken_at: When it was taken from a broker, on the monotonic clock.
        started_at: When its current attempt began, on the monotonic clock.
        worker: The asyncio task that its current attempt runs in.
        timer: Ends the attempt when its time limit is over.
        interrupt: Why the attempt is being ended, if it is.
        awaits_retry: Whether this process planned its next attempt, and counts it as such.
        settled: Whether the attempt's outcome has been decided; what comes after that is ignored.
        exception: The name of the class of what the attempt failed with, once it has.
        timed_out: Whether that was its time limit.
        retry_after: Seconds until its next attempt, once it is to be retried.
        is_decoded: Whether its arguments were read as text, and are to become what the function's annotations say.
        view: The task as the code of its current attempt sees it, once that has asked.
        has_changeable_arguments: Whether somebody could change them: then each attempt gets its own.
    """

    __slots__ = (
        "awaits_retry",
        "call",
        "definition",
        "delivery",
        "exception",
        "has_changeable_arguments",
        "interrupt",
        "is_decoded",
        "origin",
        "ready_at",
        "record",
        "retry_after",
        "settled",
        "started_at",
        "taken_at",
        "task",
        "telemetry",
        "timed_out",
        "timer",
        "view",
        "worker",
    )

    # Set when they are there: every task in memory makes one of these, and most never have them.
    call: str
    origin: LeasingBroker
    exception: str | None
    timed_out: bool
    retry_after: float

    def __init__(
        self,
        task: Task,
        record: TaskResult,
        definition: TaskDefinition,
        telemetry: TaskTelemetry,
        ready_at: float,
    ) -> None:
        self.task = task
        self.record = record
        self.definition = definition
        self.telemetry = telemetry
        self.ready_at = ready_at
        self.started_at = ready_at
        self.taken_at = ready_at
        self.delivery = 0
        self.worker: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.interrupt: Interrupt | None = None
        self.awaits_retry = False
        self.settled = False
        self.view: Task | None = None
        self.is_decoded = False
        args = task.args
        self.has_changeable_arguments = bool(task.kwargs or (args and not SCALARS.issuperset(map(type, args))))

    def begin_wait(self, ready_at: float) -> None:
        """Count it as waiting for its next attempt in this process, due then (monotonic)."""
        self.ready_at, self.awaits_retry = ready_at, True
        self.telemetry.count_retry_wait(1)

    def end_wait(self) -> None:
        """Count it no more, if it was: a retry that another process planned was counted there."""
        if self.awaits_retry:
            self.awaits_retry = False
            self.telemetry.count_retry_wait(-1)

    def keep_arguments(self) -> None:
        """Keep a copy of the arguments that the caller can't change."""
        task = self.task
        task.args = self.record.args = copied(task.args)
        task.kwargs = self.record.kwargs = copied(task.kwargs)

    def rebuild_arguments(self, function: Callable[..., Any]) -> None:
        """Make of what was read from a broker what the function's annotations say. The record keeps what was read.

        Raises:
            SerializationError: An argument does not fit its annotation.
        """
        task = self.task
        args, kwargs = rebuilt_call(function, task.args, task.kwargs)
        if args is not task.args:
            task.args, task.kwargs = args, kwargs
            self.has_changeable_arguments = True

    def shown(self) -> Task:
        """The task as the code of its current attempt sees it."""
        if self.view is None:
            task = self.task
            self.view = replace(task, args=copied(task.args), kwargs=copied(task.kwargs), headers=task.headers.copy())
        return self.view
