"""The values that travel: a task on its way to a worker, and the record of what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

from flowrra.copying import SCALARS, copied
from flowrra.queue_names import DEFAULT_QUEUE


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


# So many attempts of a task are remembered; of those before the last one, so much of what they failed with.
MAX_ATTEMPTS: Final = 10
MAX_KEPT_ERROR: Final = 1_024
MAX_KEPT_TRACEBACK: Final = 4_096


class AttemptEnd(StrEnum):
    """How an attempt ended: as a task does; or it was given back by a worker that stopped; or its worker was not heard
    of any more."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class Attempt(NamedTuple):
    """An attempt that has ended.

    Attributes:
        number: Which one it was, from 1.
        worker: The id of the app that ran it; None if that is unknown.
        started_at, finished_at: Timezone-aware UTC; None if that is unknown.
        outcome: How it ended.
        error: ``"ExceptionType: message"``, bounded in length; None if there was none.
        traceback: The text of its traceback, bounded in length; None if there was none.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    finished_at: datetime | None
    outcome: AttemptEnd
    error: str | None = None
    traceback: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attempt as plain values: the outcome as text, times in ISO 8601."""
        return {
            **self._asdict(),
            "outcome": self.outcome.value,
            "started_at": _to_iso(self.started_at),
            "finished_at": _to_iso(self.finished_at),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Attempt:
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError: ``number`` or ``outcome`` is missing.
            ValueError: The outcome or a time is not one.
        """
        return cls(
            data["number"],
            data.get("worker"),
            _from_iso(data.get("started_at")),
            _from_iso(data.get("finished_at")),
            AttemptEnd(data["outcome"]),
            data.get("error"),
            data.get("traceback"),
        )


# Letters of what a task says of its progress.
MAX_PROGRESS_MESSAGE: Final = 200
# Greater numbers are no longer exact.
LARGEST_PROGRESS: Final = 2**53


class Progress(NamedTuple):
    """How far a running task is.

    Attributes:
        done: How much it has done, in whatever it counts.
        total: Of how much; None if that is unknown.
        message: For people; at most 200 letters.
        at: When it said so; timezone-aware UTC.
    """

    done: float
    total: float | None
    message: str
    at: datetime

    def to_dict(self) -> dict[str, Any]:
        """The progress as plain values: the time in ISO 8601."""
        return {**self._asdict(), "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Progress:
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError, ValueError: One is not what it should be.
        """
        return cls(*_checked_progress(data["done"], data["total"], data["message"]), datetime.fromisoformat(data["at"]))


def _checked_progress(done: Any, total: Any, message: Any) -> tuple[float, float | None, str]:
    for what, number in (("done", done), ("total", 0 if total is None else total)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{what} must be a number, not a {type(number).__name__}")
        if not 0 <= number <= LARGEST_PROGRESS:
            raise ValueError(f"{what} must be between 0 and {LARGEST_PROGRESS:g}, not {number}")
    if not isinstance(message, str):
        raise TypeError(f"message must be a text, not a {type(message).__name__}")
    return done, total, message[:MAX_PROGRESS_MESSAGE].encode(errors="replace").decode()


class _FieldsAsVars:
    """Has slots, and shows its fields in ``vars()`` all the same: a broker or a view of one's own may read them there.
    What is done to that dict reaches nobody."""

    __slots__ = ()

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]


@dataclass(slots=True, init=False)
class TaskResult(_FieldsAsVars):
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
        worker: The id of the app that runs, or ran, the latest attempt; None before the first.
        attempts: Those before the latest, oldest first, at most nine.
        retry_of: The id of the task that this one is another run of.
        progress: What the latest attempt has told of its progress; None if it has not.
        queue: The name of the queue that it was submitted to.
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
    worker: str | None = None
    attempts: tuple[Attempt, ...] = ()
    retry_of: str | None = None
    progress: Progress | None = None
    queue: str = DEFAULT_QUEUE

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
        worker: str | None = None,
        attempts: tuple[Attempt, ...] = (),
        retry_of: str | None = None,
        progress: Progress | None = None,
        queue: str = DEFAULT_QUEUE,
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
        self.worker = worker
        self.attempts = attempts
        self.retry_of = retry_of
        self.progress = progress
        self.queue = queue

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

        ``traceback``, ``worker``, ``attempts``, ``retry_of`` and ``progress`` are there only when there is one. A
        property, as existing callers read it.
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
            "queue": self.queue,
        }
        if self.traceback is not None:
            data["traceback"] = self.traceback
        if self.worker is not None:
            data["worker"] = self.worker
        if self.attempts:
            data["attempts"] = [attempt.to_dict() for attempt in self.attempts]
        if self.retry_of is not None:
            data["retry_of"] = self.retry_of
        if self.progress is not None:
            data["progress"] = self.progress.to_dict()
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
            worker=data.get("worker"),
            attempts=tuple(map(Attempt.from_dict, data.get("attempts") or ())),
            retry_of=data.get("retry_of"),
            progress=None if data.get("progress") is None else Progress.from_dict(data["progress"]),
            queue=data.get("queue") or DEFAULT_QUEUE,
        )

    @property
    def attempt_number(self) -> int:
        """The number of the latest attempt, from 1; of the first one, before it begins."""
        return self.attempts[-1].number + 1 if self.attempts else 1

    @property
    def tells_of_attempt(self) -> bool:
        """Whether its own times are those of an attempt, which is not among those before."""
        if self.started_at is None or self.status in (PENDING, RETRYING):
            return False
        # Of a task that came to its end while it waited for another attempt, the latest one is the one before.
        return not self.attempts or self.attempts[-1].started_at != self.started_at

    @property
    def attempts_begun(self) -> int:
        """How many attempts have begun, those included that are remembered no more."""
        before = self.attempts[-1].number if self.attempts else 0
        # Records of flowrra 0.1.8 have no attempts.
        return max(before, self.retries) + self.tells_of_attempt

    @property
    def attempt_finished_at(self) -> datetime | None:
        """When the latest attempt ended; None while it runs, before the first, and if that is unknown."""
        if self.tells_of_attempt:
            return self.finished_at
        return self.attempts[-1].finished_at if self.attempts else None

    def end_attempt(self, outcome: AttemptEnd, finished_at: datetime | None) -> None:
        """Remember the latest attempt among those before: another one follows."""
        error, traceback = self.error, self.traceback
        ended = Attempt(
            self.attempt_number,
            self.worker,
            self.started_at,
            finished_at,
            outcome,
            error if error is None or len(error) <= MAX_KEPT_ERROR else error[:MAX_KEPT_ERROR] + "…",
            # The end of it says most.
            traceback if traceback is None else traceback[-MAX_KEPT_TRACEBACK:],
        )
        self.attempts = (*self.attempts, ended)[1 - MAX_ATTEMPTS :]

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
        args = self.args
        copy.args = args if not args or SCALARS.issuperset(map(type, args)) else copied(args)
        kwargs = self.kwargs
        if not kwargs:
            copy.kwargs = {}
        elif SCALARS.issuperset(map(type, kwargs.values())):
            copy.kwargs = kwargs.copy()
        else:
            copy.kwargs = copied(kwargs)
        copy.traceback = self.traceback
        copy.worker = self.worker
        copy.attempts = self.attempts
        copy.retry_of = self.retry_of
        copy.progress = self.progress
        copy.queue = self.queue
        return copy


def _to_iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _from_iso(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value)


@dataclass(slots=True)
class Task(_FieldsAsVars):
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
        queue: The name of the queue that it was submitted to.
        due_at: When it becomes due, in seconds since the epoch (``time.time()``), where it is given to a broker that
            can only push and pop before that; None if it is due.
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
    queue: str = DEFAULT_QUEUE
    # A number, as the other fields that a broker of one's own may write as JSON.
    due_at: float | None = None

    @property
    def attempt(self) -> int:
        """The number of the current attempt, from 1."""
        return self.current_retry + 1

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the task is that the calling code runs in; see :func:`current_task`.

        It is seen in the task's record, in events and on pages. It costs next to nothing: at most two reports of a task
        are kept each second, the latest at the end of each half.

        Args:
            done: How much it has done, in whatever it counts.
            total: Of how much; None if that is unknown.
            message: For people; what is beyond 200 letters is cut off.

        Raises:
            RuntimeError: The calling code runs in no task. A thread that it started does so only with its context, as
                in ``asyncio.to_thread``.
            TypeError, ValueError: A number is none, or not between 0 and 2**53; or the message is no text.
        """
        running, report = running_task.get(), progress_report.get()
        if running is None or report is None:
            raise RuntimeError("Only code that runs in a task can tell its progress, in the context of that task")
        progress = Progress(*_checked_progress(done, total, message), datetime.now(UTC))
        shown = running if isinstance(running, Task) else running.shown()
        # A thread may outlive its attempt, and tell of it while the next one runs.
        if self.id != shown.id or self.current_retry == shown.current_retry:
            report(running, progress)

    def __lt__(self, other: Task) -> bool:
        return self.priority < other.priority

    def __reduce__(self) -> tuple[Callable[..., Task], tuple[Any, ...]]:
        # Without the names of the fields, which take most of the time: each call of a worker process is pickled.
        return Task, _values_of(self)


_values_of: Callable[[Task], tuple[Any, ...]] = attrgetter(*(each.name for each in fields(Task)))


class RunningTask(Protocol):
    """What runs a task, and shows it to its code on demand: few tasks ask for it."""

    def shown(self) -> Task:
        """The task as its own code sees it: what that does to it reaches nobody else."""


running_task: ContextVar[Task | RunningTask | None] = ContextVar("flowrra_running_task", default=None)
# Takes what the running task tells of its progress.
progress_report: ContextVar[Callable[[Task | RunningTask, Progress], None] | None] = ContextVar(
    "flowrra_progress_report", default=None
)


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
    _LINE = b"........-....-....-....-............\n"
    # Where the digits stand in it.
    _PLACES = tuple(place for place, letter in enumerate(_LINE) if letter == ord("."))

    def __init__(self) -> None:
        self._ready: list[str] = []
        # A forked child must not hand out its parent's ids again.
        os.register_at_fork(after_in_child=self._ready.clear)

    def take(self) -> str:
        """The next one."""
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
        digits = data.hex().encode()
        lines = bytearray(self._LINE * self._BATCH)
        # A digit of all of them at once: one by one they would take three times as long.
        for column, place in enumerate(self._PLACES):
            lines[place :: len(self._LINE)] = digits[column::32]
        return lines.decode().split()


# A method, as an instance that is called takes longer.
new_task_id: Final = _TaskIds().take
