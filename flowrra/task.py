"""The values that travel: a task on its way to a worker, and the record of what became of it."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from flowrra.copying import SCALARS, copied


class TaskStatus(StrEnum):
    """Where a task stands. Equal to, and printed as, its plain text value."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    RETRYING = "retrying"
    CANCELLED = "cancelled"


# Plain names, as looking up a member of an Enum class takes as long as a function call.
PENDING: Final = TaskStatus.PENDING
RUNNING: Final = TaskStatus.RUNNING
SUCCESS: Final = TaskStatus.SUCCESS
FAILED: Final = TaskStatus.FAILED
RETRYING: Final = TaskStatus.RETRYING
CANCELLED: Final = TaskStatus.CANCELLED

# A tuple: the members are compared by identity, where a set would have to hash them.
COMPLETE_STATUSES: Final = (SUCCESS, FAILED, CANCELLED)


@dataclass(slots=True, init=False)
class TaskResult:
    """The record of one task, from its submission on.

    Attributes:
        task_id: The id that ``submit`` returned.
        status: Where the task stands now.
        task_name: The name it is registered under.
        result: What the function returned; None until it succeeded.
        error: ``"ExceptionType: message"`` of the last failed attempt; None while there is none.
        submitted_at, started_at, finished_at: Timezone-aware UTC; ``started_at`` is the latest attempt's.
        retries: How many attempts have been repeated.
        args, kwargs: What the task was submitted with.
        traceback: The text of the last failed attempt's traceback, bounded in length.
    """

    task_id: str
    status: TaskStatus
    task_name: str | None = None
    result: Any = None
    error: str | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retries: int = 0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    traceback: str | None = None

    # Written out rather than generated: `kwargs=None` means none, and every task makes one of these.
    def __init__(
        self,
        task_id: str,
        status: TaskStatus,
        task_name: str | None = None,
        result: Any = None,
        error: str | None = None,
        submitted_at: datetime | None = None,
        started_at: datetime | None = None,
        finished_at: datetime | None = None,
        retries: int = 0,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        traceback: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.status = status
        self.task_name = task_name
        self.result = result
        self.error = error
        self.submitted_at = submitted_at
        self.started_at = started_at
        self.finished_at = finished_at
        self.retries = retries
        self.args = args
        self.kwargs = {} if kwargs is None else kwargs
        self.traceback = traceback

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will happen to this task."""
        return self.status in COMPLETE_STATUSES

    @property
    def is_success(self) -> bool:
        """Whether the task returned a result."""
        return self.status is TaskStatus.SUCCESS

    @property
    def success(self) -> bool:
        """The same as :attr:`is_success`."""
        return self.is_success

    @property
    def to_dict(self) -> dict[str, Any]:
        """The record as plain values: the status as text, times in ISO 8601.

        ``traceback`` is there only when there is one. A property, as existing callers read it.
        """
        data = {
            "task_id": self.task_id,
            "status": self.status.value,
            "task_name": self.task_name,
            "result": self.result,
            "error": self.error,
            "submitted_at": _to_iso(self.submitted_at),
            "started_at": _to_iso(self.started_at),
            "finished_at": _to_iso(self.finished_at),
            "retries": self.retries,
            "args": self.args,
            "kwargs": self.kwargs,
        }
        if self.traceback is not None:
            data["traceback"] = self.traceback
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TaskResult:
        """Read what :attr:`to_dict` wrote; only ``task_id`` and ``status`` are required.

        Raises:
            KeyError: ``task_id`` or ``status`` is missing.
            ValueError: ``status`` or a time is not one.
        """
        return cls(
            task_id=data["task_id"],
            status=TaskStatus(data["status"]),
            task_name=data.get("task_name"),
            result=data.get("result"),
            error=data.get("error"),
            submitted_at=_from_iso(data.get("submitted_at")),
            started_at=_from_iso(data.get("started_at")),
            finished_at=_from_iso(data.get("finished_at")),
            retries=data.get("retries", 0),
            args=tuple(data.get("args") or ()),
            kwargs=data.get("kwargs"),
            traceback=data.get("traceback"),
        )

    def copy(self) -> TaskResult:
        """A snapshot that later changes of this record, its arguments and its result don't reach."""
        # Without __init__, and without calls for what can't be changed anyway: every reader of a result needs one.
        copy = object.__new__(TaskResult)
        copy.task_id = self.task_id
        copy.status = self.status
        copy.task_name = self.task_name
        result = self.result
        copy.result = result if type(result) in SCALARS else copied(result)
        copy.error = self.error
        copy.submitted_at = self.submitted_at
        copy.started_at = self.started_at
        copy.finished_at = self.finished_at
        copy.retries = self.retries
        args, kwargs = self.args, self.kwargs
        for value in args:
            if type(value) not in SCALARS:
                args = copied(args)
                break
        copy.args = args
        kwargs = kwargs.copy() if kwargs else {}
        for value in kwargs.values() if kwargs else ():
            if type(value) not in SCALARS:
                kwargs = copied(kwargs)
                break
        copy.kwargs = kwargs
        copy.traceback = self.traceback
        return copy


def _to_iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _from_iso(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value)


@dataclass(slots=True)
class Task:
    """One accepted call of a registered function, as it waits for, and is given to, a worker.

    Attributes:
        id: UUID text.
        name: The registered name of the function.
        args, kwargs: What it is called with.
        max_retries: Attempts that may follow a failed first one.
        retry_delay: Seconds between two attempts.
        current_retry: How many attempts went before this one.
        priority: Lower numbers run first.
        cpu_bound: Whether it runs in a process pool.
        timeout: Seconds that one attempt may take; None is no limit.
        backoff: Each further delay is this many times the one before.
        jitter: The fraction, 0 to 1, by which a delay may be shorter or longer by chance.
        headers: Text that travels with the task, such as a trace context.
    """

    id: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    max_retries: int = 3
    retry_delay: float = 1.0
    current_retry: int = 0
    priority: int = 0
    cpu_bound: bool = False
    timeout: float | None = None
    backoff: float = 1.0
    jitter: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def attempt(self) -> int:
        """The number of the current attempt, from 1."""
        return self.current_retry + 1

    def __lt__(self, other: Task) -> bool:
        return self.priority < other.priority


class RunningTask(Protocol):
    """What runs a task, and shows it to its code on demand: few tasks ask for it."""

    def shown(self) -> Task:
        """The task as its own code sees it: what that does to it reaches nobody else."""


running_task: ContextVar[Task | RunningTask | None] = ContextVar("flowrra_running_task", default=None)


def current_task() -> Task | None:
    """The task that the calling code runs in; None outside of one."""
    running = running_task.get()
    return running if running is None or isinstance(running, Task) else running.shown()


class _TaskIds:
    """Random UUIDs (version 4) as text, made 256 at a time; safe from any thread."""

    _BATCH = 256
    # What RFC 9562 fixes of byte 6, the version, and of byte 8, the variant.
    _VERSION = bytes(0x40 | byte & 0x0F for byte in range(256))
    _VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))

    def __init__(self) -> None:
        self._ready: list[str] = []
        # A forked child must not hand out its parent's ids again.
        os.register_at_fork(after_in_child=self._ready.clear)

    def __call__(self) -> str:
        try:
            return self._ready.pop()
        except IndexError:
            ids = self._make()
            task_id = ids.pop()
            self._ready.extend(ids)
            return task_id

    def _make(self) -> list[str]:
        data = bytearray(os.urandom(16 * self._BATCH))
        data[6::16] = data[6::16].translate(self._VERSION)
        data[8::16] = data[8::16].translate(self._VARIANT)
        # Eight groups of four digits each; a UUID has a hyphen after the second, third, fourth and fifth of them.
        text = data.hex("-", 2)
        return [
            f"{text[i : i + 4]}{text[i + 5 : i + 29]}{text[i + 30 : i + 34]}{text[i + 35 : i + 39]}"
            for i in range(0, len(text), 40)
        ]


new_task_id = _TaskIds()
