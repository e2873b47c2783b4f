"""A task while this process has it: waiting, running, or waiting for its next attempt."""

from __future__ import annotations

import asyncio
from enum import Enum

from flowrra.registry import TaskDefinition
from flowrra.task import Task, TaskResult
from flowrra.telemetry import TaskTelemetry


class Interrupt(Enum):
    """Why an attempt was asked to end before it was done."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"


class Job:
    """A task, its record, and the state of its current attempt.

    Attributes:
        ready_at: When it became due, on the monotonic clock.
        taken_at: When it was taken from a broker, on the monotonic clock.
        started_at: When its current attempt began, on the monotonic clock.
        worker: The asyncio task that its current attempt runs in.
        timer: Ends the attempt when its time limit is over.
        interrupt: Why the attempt is being ended, if it is.
        settled: Whether the attempt's outcome has been decided; what comes after that is ignored.
    """

    __slots__ = (
        "definition",
        "interrupt",
        "ready_at",
        "record",
        "settled",
        "started_at",
        "taken_at",
        "task",
        "telemetry",
        "timer",
        "worker",
    )

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
        self.worker: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.interrupt: Interrupt | None = None
        self.settled = False
