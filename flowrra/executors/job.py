"""A task while this process has it: waiting, running, or waiting for its next attempt."""

from __future__ import annotations

import asyncio
from enum import Enum

from flowrra.copying import SCALARS, copied
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
        id: Of the task, whatever its code makes of ``task``.
        task: The task as the current attempt sees it.
        record: Its record.
        args, kwargs, priority: What the task was submitted with.
        call: Those as text, if they came from a broker that keeps text.
        ready_at: When it became due, on the monotonic clock.
        taken_at: When it was taken from a broker, on the monotonic clock.
        started_at: When its current attempt began, on the monotonic clock.
        worker: The asyncio task that its current attempt runs in.
        timer: Ends the attempt when its time limit is over.
        interrupt: Why the attempt is being ended, if it is.
        settled: Whether the attempt's outcome has been decided; what comes after that is ignored.
        next_text: The task as it is queued for its next attempt, if a broker keeps it meanwhile.
        exception: The name of the class of what the attempt failed with.
        timed_out: Whether that was its time limit.
    """

    __slots__ = (
        "args",
        "call",
        "definition",
        "exception",
        "has_own_arguments",
        "id",
        "interrupt",
        "kwargs",
        "next_text",
        "priority",
        "ready_at",
        "record",
        "settled",
        "started_at",
        "taken_at",
        "task",
        "telemetry",
        "timed_out",
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
        call: str | None = None,
    ) -> None:
        self.id = task.id
        self.task = task
        self.record = record
        self.args = task.args
        self.kwargs = task.kwargs
        self.priority = task.priority
        self.call = call
        # What nobody can change is the same for the caller, the record and every attempt.
        self.has_own_arguments = bool(task.kwargs) or not SCALARS.issuperset(map(type, task.args))
        self.definition = definition
        self.telemetry = telemetry
        self.ready_at = ready_at
        self.started_at = ready_at
        self.taken_at = ready_at
        self.worker: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.interrupt: Interrupt | None = None
        self.settled = False
        self.next_text = ""
        self.exception: str | None = None
        self.timed_out = False

    def keep_arguments(self) -> None:
        """Keep a copy of the arguments that the caller can't change."""
        self.args = self.record.args = copied(self.args)
        self.kwargs = self.record.kwargs = copied(self.kwargs)

    def renew_arguments(self) -> None:
        """Give the next attempt what was submitted, whatever was done to the arguments of the last one."""
        self.task.args, self.task.kwargs = copied(self.args), copied(self.kwargs)

    def restore_task(self) -> Task:
        """The task as it was submitted, but for what was repeated of it."""
        self.task.id, self.task.name = self.id, self.definition.name
        self.task.args, self.task.kwargs, self.task.priority = self.args, self.kwargs, self.priority
        return self.task
