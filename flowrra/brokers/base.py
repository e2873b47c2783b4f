"""The interfaces of a broker: a queue of tasks that several processes may share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from flowrra.backends.base import BaseResultBackend
from flowrra.codec import EncodedRecord
from flowrra.setting_aside import SetAside
from flowrra.task import Task, TaskResult, TaskStatus

# Tasks, and bytes of theirs, of one step: a server does nothing else meanwhile, and the network has its limits.
MAX_BATCH = 250
MAX_BATCH_BYTES = 4 * 1024 * 1024


class BaseBroker(ABC):
    """A shared queue. Lower ``task.priority`` first is the broker's business; so is durability."""

    @abstractmethod
    async def push(self, task: Task) -> None:
        """Add a task.

        Raises:
            BackendError: The task could not be queued.
        """

    @abstractmethod
    async def pop(self, timeout: float | None = None) -> Task | None:
        """Take the next task.

        Args:
            timeout: Seconds to wait for one; None waits for as long as it takes.

        Returns:
            The task, or None if there was none in time.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def size(self) -> int:
        """How many tasks wait.

        Raises:
            BackendError: The queue could not be read.
        """

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            BackendError: It doesn't.
        """

    async def unfitness(self) -> dict[str, str | None]:
        """What makes its server unfit to keep tasks: by a short name of each reason, what to do about it; empty if the
        server is fit, None if that can't be known. Nothing for a broker without a server.

        Raises:
            BackendError: It doesn't answer.
        """
        return {}

    async def close(self) -> None:
        """Let go of connections."""


class QueuedTask(NamedTuple):
    """A task to be queued.

    Attributes:
        task_id: Its id.
        priority: Lower numbers first.
        delay: Seconds until it is due.
        text: The task, encoded.
        record: Its record, if that is to be kept in the same step.
        remember: Seconds for which the same id is refused, even if nothing else is known of it any more.
    """

    task_id: str
    priority: float
    delay: float
    text: str
    record: EncodedRecord | None
    remember: float = 0.0

    def size(self) -> int:
        """About how many bytes are sent."""
        return len(self.text) + (0 if self.record is None else len(self.record.text))


@dataclass(slots=True)
class Delivery:
    """A task that a worker has taken.

    Attributes:
        task_id: Its id.
        task: The task; None if what was queued can't be read.
        submitted_at: When it was submitted, if that is known.
        call: Its arguments as text; see :func:`flowrra.codec.encode_call`.
        error: Why it can't be read.
        deliveries: How often it was given to a worker that was not heard of any more.
        waited: Seconds since it has been due, by the broker's clock.
        is_cancelled: Whether it is to be cancelled rather than run.
    """

    task_id: str
    task: Task | None
    submitted_at: datetime | None
    call: str
    error: str | None
    deliveries: int
    waited: float
    is_cancelled: bool


class Verb(StrEnum):
    """What a worker says of a task that it was given."""

    RUNNING = "running"
    COMPLETE = "complete"
    RETRY = "retry"
    RELEASE = "release"
    NACK = "nack"
    DEAD_LETTER = "dead_letter"


class Outcome(NamedTuple):
    """What became of a task that a worker was given.

    Attributes:
        verb: ``RUNNING`` changes only its record; ``COMPLETE`` ends it; ``RETRY`` has it run again after ``delay``, as
            ``text`` (the encoded task) says; ``RELEASE`` gives it back unrun, to its place; ``NACK`` leaves it to
            workers that know its name, which is ``text``; ``DEAD_LETTER`` gives it up, for the reason in ``text``.
        task_id: Its id.
        delay: Seconds.
        text: See ``verb``.
        record: Its record, if that is to be kept in the same step.
        priority: The task's, for ``RETRY``.
        status: How an attempt ended that is ``COMPLETE``.
    """

    verb: Verb
    task_id: str
    delay: float = 0.0
    text: str = ""
    record: EncodedRecord | None = None
    priority: float = 0
    status: TaskStatus | None = None

    def size(self) -> int:
        """About how many bytes are sent."""
        return len(self.text) + (0 if self.record is None else len(self.record.text))


class Verdict(StrEnum):
    """What a broker made of an :class:`Outcome`.

    ``SETTLED``: it is as it was said. ``KNOWN``: it had been said before, and the answer was lost. ``LATE``: another
    worker has the task, and what that one says counts. ``OVER``: the task had ended before. ``LOST``: the broker does
    not know the task, as after a failover that lost writes; its record was kept, and what is to run again will.
    """

    SETTLED = "settled"
    KNOWN = "known"
    LATE = "late"
    OVER = "over"
    LOST = "lost"


class QueueFigures(NamedTuple):
    """A queue's figures, as of one moment. None is what a broker doesn't tell.

    Attributes:
        pending: Due and waiting to be taken.
        delayed: Not due yet.
        in_flight: Held by workers.
        dead: Given up.
        oldest_pending_at: Since when the longest waiting one has been due.
        unknown: Waiting for a worker that knows their names.
    """

    pending: int
    delayed: int | None
    in_flight: int | None
    dead: int | None
    oldest_pending_at: datetime | None
    unknown: int | None


class Renewal(NamedTuple):
    """What became of a worker's holds when it renewed them.

    Attributes:
        lost: Ids that another worker has got, or that are over.
        cancelled: Ids that it is to cancel.
        missing: Ids that the broker doesn't know, as after a failover that lost writes.
    """

    lost: list[str]
    cancelled: list[str]
    missing: list[str]


class Announcement(NamedTuple):
    """What a broker answers to an announcement.

    Attributes:
        are_names_known: Whether it knows the names of the worker's tasks; if not, they have to be told.
        overdue: Names whose tasks have waited for too long for a worker that knows them.
    """

    are_names_known: bool
    overdue: list[str]


class Cancellation(StrEnum):
    """What :meth:`LeasingBroker.cancel` did."""

    CANCELLED = "cancelled"
    RUNNING = "running"
    ASKED = "asked"
    UNKNOWN = "unknown"


class LeasingBroker(BaseBroker):
    """A queue whose workers hold tasks for a limited time, renew their hold, and say what became of them: whatever
    happens to a worker, its tasks are run by another one.

    Attributes:
        lease: Seconds for which a task is held unless the hold is renewed.
        max_deliveries: How often a task is given to a worker that is not heard of any more before it is given up.
        namespace: What all its names begin with.
        unknown_ttl: Seconds for which a task waits for a worker that knows its name, while none that lives does.
        set_aside: Counts what its lists left out, by kind, as it can't be read.
    """

    set_aside: Sequence[SetAside] = ()

    lease: float
    max_deliveries: int
    namespace: str
    unknown_ttl: float

    @abstractmethod
    def with_suffix(self, suffix: str) -> LeasingBroker:
        """The same broker for the queue of that suffix, such as ``:io``: each kind of task has one of its own."""

    # ── on an event loop ────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def keeps_records_of(self, results: BaseResultBackend) -> bool:
        """Whether it can keep the records of that backend in the same step as the tasks."""

    @abstractmethod
    async def submit(self, entries: Sequence[QueuedTask]) -> list[bool]:
        """Queue tasks, each unless its id is known already; with their records, if it keeps those.

        Returns:
            For each, whether it was new.

        Raises:
            BackendError: They could not be queued.
        """

    @abstractmethod
    async def take(
        self, limit: int, max_bytes: int = MAX_BATCH_BYTES, *, name: str = "", timeout: float | None = None
    ) -> tuple[list[Delivery], float | None]:
        """Take up to ``limit`` tasks.

        Args:
            limit: Most tasks.
            max_bytes: Most bytes of them together; a single task may have more.
            name: Of the tasks that are wanted, among those that wait for a worker that knows them; "" for the next ones
                of those that are due or wait for this worker.
            timeout: Seconds to wait for the answer; None is the broker's own limit.

        Returns:
            The tasks, and in how many seconds more may be due; None if nothing is foreseen.

        Raises:
            RequestTimeoutError: The answer did not come in time.
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def recover(self, held: Sequence[str]) -> int:
        """Give back what this worker was given without hearing of it: all but the tasks ``held``.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Return when there may be something to take, at the latest after that time.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Say what became of tasks that were taken here; with their records, if it keeps those.

        Raises:
            RequestRefusedError: One of the outcomes can't be told; nothing was done.
            BackendError: The server could not be reached; nothing, or all of it, may have been done.
        """

    @abstractmethod
    async def cancel(self, record: TaskResult) -> Cancellation:
        """Cancel the task with that (cancelled) record, or ask whoever holds it to.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def listen(self, on_cancel: Callable[[str], None]) -> None:
        """Call ``on_cancel`` with the id of each task whose holder is asked to cancel it, until this is cancelled."""

    @abstractmethod
    async def has(self, task_id: str) -> bool:
        """Whether a task waits or is held: whether anything is still to come of it.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def clock(self) -> float:
        """The server's time, in seconds since 1970.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def figures(self) -> QueueFigures:
        """The queue's figures.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def list_dead(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The tasks that were given up, the latest first: ``task_id, task_name, reason, dead_since`` (aware UTC
        datetime), ``deliveries, args, kwargs``; what can't be read of one is None.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def requeue_dead(self, task_id: str, record: TaskResult | None) -> bool:
        """Make a dead task due again, with that record; False if no dead task has that id.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def delete_dead(self, task_id: str) -> bool:
        """Forget a dead task; False if there was none.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def list_workers(self) -> list[dict[str, Any]]:
        """What was announced by :meth:`announce` and still counts.

        Raises:
            BackendError: The server could not be reached.
        """

    # ── blocking, for a thread: a blocked event loop must not cost a worker its tasks ───────────────────────────

    @abstractmethod
    def renew(self, task_ids: Sequence[str]) -> Renewal:
        """Hold these tasks for another ``lease`` seconds.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    def announce(self, worker: dict[str, Any] | None, names: Sequence[str] | None, seconds: float) -> Announcement:
        """Let others know that this worker lives, for that time.

        Args:
            worker: What they are to know of its process, by its ``id``; None announces only the worker.
            names: Of the tasks that it knows; None if they are what they were.
            seconds: For how long it counts.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    def withdraw(self, worker_id: str | None) -> None:
        """Let others know that this worker has ended, and its process if that was announced, and close what the thread
        had open.

        Raises:
            BackendError: The server could not be reached.
        """
