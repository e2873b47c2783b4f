"""The interfaces of a broker: a queue of tasks that several processes may share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.codec import EncodedRecord
from flowrra.exceptions import RequestRefusedError
from flowrra.queue_names import DEFAULT_QUEUE
from flowrra.ranges import SECONDS
from flowrra.setting_aside import SetAside
from flowrra.task import SUCCESS, Attempt, Task, TaskResult, TaskStatus

# Tasks, and bytes of theirs, of one step: a server does nothing else meanwhile, and the network has its limits.
MAX_BATCH = 250
MAX_BATCH_BYTES = 4 * 1024 * 1024
# Seconds for which a broker is asked at most to wait for tasks.
MAX_WAIT = 10.0


class ServerFigures(NamedTuple):
    """What a broker's server said of itself; None is what it doesn't tell.

    Attributes:
        clock_offset: Seconds by which its clock is ahead of this host's.
        memory_used: Bytes that its data takes.
        memory_limit: Bytes that it may take; None also if there is no limit.
    """

    clock_offset: float | None = None
    memory_used: int | None = None
    memory_limit: int | None = None


class BaseBroker(ABC):
    """A shared queue. Lower ``task.priority`` first is the broker's business; so is durability.

    Attributes:
        address: Which server and database it is on, without user and password; empty if it doesn't say.
    """

    address: str = ""

    @abstractmethod
    async def push(self, task: Task) -> None:
        """Add a task. One that has a ``due_at`` came back before its time: it may be taken before that, and whoever
        takes it waits, as long as ``due_at`` is kept with it.

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

    @property
    def server_figures(self) -> ServerFigures:
        """What its server said of itself when :meth:`unfitness` asked it last; nothing is known if it didn't answer."""
        return ServerFigures()

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
        queue: The name of its queue.
        may_have_ended: Whether a task of that id may have been queued before: one that has just ended is known, then.
    """

    task_id: str
    priority: float
    delay: float
    text: str
    record: EncodedRecord | None
    remember: float = 0.0
    queue: str = DEFAULT_QUEUE
    may_have_ended: bool = False

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
        attempts: Those that have ended, oldest first.
        retry_of: The id of the task that it is another run of.
        queue: The name of the queue that it was taken from.
        is_paused: Whether tasks of its name are not to be begun.
        number: By which its outcomes are known: of later deliveries of the task it is greater. 0 is unknown.
    """

    task_id: str
    task: Task | None
    submitted_at: datetime | None
    call: str
    error: str | None
    deliveries: int
    waited: float
    is_cancelled: bool
    attempts: tuple[Attempt, ...] = ()
    retry_of: str | None = None
    queue: str = DEFAULT_QUEUE
    is_paused: bool = False
    number: int = 0


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
            ``text`` (the encoded task) says; ``RELEASE`` gives it back unrun, to its place, or as ``text`` says
            if an attempt had begun; ``NACK`` leaves it to
            workers that know its name, which is ``text``; ``DEAD_LETTER`` gives it up, for the reason in ``text``.
        task_id: Its id.
        delay: Seconds.
        text: See ``verb``.
        record: Its record, if that is to be kept in the same step.
        priority: The task's, for ``RETRY``.
        status: How an attempt ended that is ``COMPLETE``.
        queue: The name of the queue that the task was taken from.
        delivery: The number of the delivery that it is about; 0 if that is unknown.
    """

    verb: Verb
    task_id: str
    delay: float = 0.0
    text: str = ""
    record: EncodedRecord | None = None
    priority: float = 0
    status: TaskStatus | None = None
    queue: str = DEFAULT_QUEUE
    delivery: int = 0

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
        taken: Taken by workers so far, since the queue was made.
        paused: Whether none of its tasks is given out, by request.
        paused_tasks: Those of the pending ones that are not to be begun whatever their queue, as their names are
            paused.
    """

    pending: int
    delayed: int | None
    in_flight: int | None
    dead: int | None
    oldest_pending_at: datetime | None
    unknown: int | None
    taken: int | None = None
    paused: bool | None = None
    paused_tasks: int | None = None

    @property
    def wanted(self) -> int:
        """Those of the pending ones that a free worker would begin."""
        return 0 if self.paused else self.pending - (self.paused_tasks or 0)


def sum_of(figures: Sequence[QueueFigures]) -> QueueFigures:
    """The figures of a queue whose tasks lie in several places; what one place doesn't tell is not known of all. It is
    paused if all of them are."""
    pending, delayed, in_flight, dead, oldest, unknown, taken, paused, paused_tasks = zip(*figures, strict=True)
    return QueueFigures(
        sum(pending),
        _sum(delayed),
        _sum(in_flight),
        _sum(dead),
        min((moment for moment in oldest if moment is not None), default=None),
        _sum(unknown),
        _sum(taken),
        None if None in paused else all(paused),
        _sum(paused_tasks),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


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


class Requests(NamedTuple):
    """What operators want of a worker.

    Attributes:
        paused_queues: Those of its queues whose tasks are not to be begun.
        paused_names: Of tasks that are not to be begun, whatever queue they are in.
        orders: What was said to this worker alone, in order, since it was asked the last time.
    """

    paused_queues: frozenset[str]
    paused_names: frozenset[str]
    orders: list[dict[str, Any]]


class Cancellation(StrEnum):
    """What :meth:`LeasingBroker.cancel` did."""

    CANCELLED = "cancelled"
    RUNNING = "running"
    ASKED = "asked"
    UNKNOWN = "unknown"


class LeasingBroker(BaseBroker):
    """Queues whose workers hold tasks for a limited time, renew their hold, and say what became of them: whatever
    happens to a worker, its tasks are run by another one.

    There is a default queue, and any number of others beside it, each with a name; where a method takes none, it is
    about the default one. A queue is there as soon as a task is submitted to it.

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

    @property
    def cells(self) -> Sequence[LeasingBroker]:
        """The brokers of its partitions, each with the tasks whose ids belong to it; itself alone if it has none."""
        return (self,)

    @abstractmethod
    def with_suffix(self, suffix: str) -> LeasingBroker:
        """The same broker for the queue of that suffix, such as ``:io``: each kind of task has one of its own."""

    async def agree(self) -> None:
        """Return if all processes have the same partitions; at once if that is known already.

        Raises:
            BackendError: They have others, or that could not be found out.
        """

    # ── as any broker ───────────────────────────────────────────────────────────────────────────────────────

    async def push(self, task: Task) -> None:
        """Queue a task. Its record is the caller's business."""
        call = codec.encode_call(task.args, task.kwargs, task.name)
        text = codec.encode_task(task, None, call)
        await self.submit([QueuedTask(task.id, task.priority, 0.0, text, None, queue=task.queue)])

    async def pop(self, timeout: float | None = None) -> Task | None:
        """Take the next task for good: if the caller fails, it is lost. An app's workers take leases instead.

        Raises:
            BackendError: The queue could not be read.
            TypeError, ValueError: The timeout is no number of seconds.
        """
        if timeout is not None:
            SECONDS.check("timeout", timeout)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            deliveries, due_in = await self.take(1)
            for delivery in deliveries:
                await self.settle([Outcome(Verb.COMPLETE, delivery.task_id, status=SUCCESS, delivery=delivery.number)])
                if delivery.task is not None:
                    return delivery.task
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not deliveries:
                await self.wait(min(left, MAX_WAIT if due_in is None else due_in))

    async def size(self) -> int:
        return (await self.figures()).pending

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
        self,
        limit: int,
        max_bytes: int = MAX_BATCH_BYTES,
        *,
        queue: str = DEFAULT_QUEUE,
        name: str = "",
        timeout: float | None = None,
    ) -> tuple[list[Delivery], float | None]:
        """Take up to ``limit`` tasks.

        Args:
            limit: Most tasks; none are given out while the queue is paused.
            max_bytes: Most bytes of them together; a single task may have more.
            queue: The queue's name.
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
    async def recover(self, held: Sequence[str], queue: str = DEFAULT_QUEUE) -> int:
        """Give back what this worker was given of a queue without hearing of it: all but the tasks ``held``.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def wait(self, seconds: float, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> str | None:
        """Return when there may be something to take from one of these queues, at the latest after that time.

        Returns:
            The queue's name; None if there was nothing in time.

        Raises:
            BackendError: The queues could not be read.
        """

    @abstractmethod
    async def settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        """Say what became of tasks that were taken here; with their records, if it keeps those.

        Raises:
            RequestRefusedError: One of the outcomes can't be told; nothing was done.
            BackendError: The server could not be reached; nothing, or all of it, may have been done.
        """

    @abstractmethod
    async def cancel(self, record: TaskResult, *, is_only_if_waiting: bool = False) -> Cancellation:
        """Cancel the task with that (cancelled) record, in the queue that the record names, or ask whoever holds it to,
        unless it is to be cancelled only if nobody does: then the answer is ``ASKED``.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        """The ids of tasks of that name, or any, that wait in a queue: due, delayed, or for a worker that knows them.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def listen(
        self,
        on_cancel: Callable[[str], None],
        queue_of: Callable[[str], str | None] = lambda _: DEFAULT_QUEUE,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        """Hear what is asked of this worker, until this is cancelled.

        Args:
            on_cancel: Called with the id of each task whose holder is asked to cancel it.
            queue_of: Returns the name of the queue of a task that is held here, by its id; None if it isn't.
            on_request: Called whenever :meth:`requests` may have changed.
        """

    @abstractmethod
    async def has(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
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
    async def figures(self, queue: str = DEFAULT_QUEUE) -> QueueFigures:
        """A queue's figures.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def queues(self) -> list[str]:
        """The names of all queues, the default one's first, the others sorted.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def list_dead(self, limit: int | None = None, queue: str = DEFAULT_QUEUE) -> list[dict[str, Any]]:
        """The tasks that were given up, the latest first: ``task_id, task_name, reason, dead_since`` (aware UTC
        datetime), ``deliveries, args, kwargs``; what can't be read of one is None.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def get_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> dict[str, Any] | None:
        """One task that was given up, as in :meth:`list_dead`; None if there is none of that id.

        Raises:
            BackendError: The queue could not be read.
        """

    @abstractmethod
    async def requeue_dead(self, task_id: str, record: TaskResult | None, queue: str = DEFAULT_QUEUE) -> bool:
        """Make a dead task due again, with that record; False if no dead task has that id, or :meth:`claim_dead` said
        that it is run anew.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def claim_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> str | None:
        """Say under which id a dead task is run anew, if nobody has said so before: of several calls the first counts.
        Until it is deleted it stays among the dead ones, and is not requeued.

        Returns:
            The id that counts; None if no dead task has that id.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def release_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> None:
        """Take back what :meth:`claim_dead` said: the dead task is not run anew under that id after all.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def delete_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
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

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        """Give out no task of a queue any more, or do so again. Returns whether that changed anything.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def pause_name(self, name: str, is_paused: bool) -> bool:
        """Let workers begin no task of a name any more, in whatever queue, or let them again. Returns whether that
        changed anything.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def order(self, worker_id: str, order: dict[str, Any]) -> None:
        """Leave an order for the worker whose process has that id. One that doesn't ask within a minute misses it.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    async def requests(self, worker_id: str | None, queues: Sequence[str]) -> Requests:
        """What is wanted of a worker that takes from these queues.

        Raises:
            BackendError: The server could not be reached.
        """

    # ── blocking, for a thread: a blocked event loop must not cost a worker its tasks ───────────────────────────

    @abstractmethod
    def renew(self, task_ids: Sequence[str], queue: str = DEFAULT_QUEUE) -> Renewal:
        """Hold these tasks of a queue for another ``lease`` seconds.

        Raises:
            BackendError: The server could not be reached.
        """

    @abstractmethod
    def announce(
        self,
        worker: dict[str, Any] | None,
        names: Sequence[str] | None,
        seconds: float,
        queue: str = DEFAULT_QUEUE,
    ) -> Announcement:
        """Let others know that this worker of a queue lives, for that time.

        Args:
            worker: What they are to know of its process, by its ``id``; None announces only the worker.
            names: Of the tasks that it knows; None if they are what they were.
            seconds: For how long it counts.
            queue: The queue's name.

        Raises:
            BackendError: The server could not be reached.
        """

    def look_for_gone(self) -> float | None:
        """End the holds of workers of which the server knows that they are gone, and let it know the same of this one.

        Returns:
            Seconds until it is to be called again; None if the broker has no such knowledge, and only the leases tell.

        Raises:
            BackendError: The server could not be reached.
        """
        return None

    @abstractmethod
    def withdraw(self, worker_id: str | None, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> None:
        """Let others know that this worker of these queues has ended, and its process if that was announced, and close
        what the thread had open.

        Raises:
            BackendError: The server could not be reached.
        """


def first_refusal(queues: Iterable[str], work: Callable[[str], None]) -> RequestRefusedError | None:
    """Do something for each of some queues, by its name. What the server refuses is that queue's fault, as when one of
    its keys has the wrong type: it costs no other queue.

    Returns:
        What it refused first; None if it refused nothing.

    Raises:
        BackendError: The server could not be reached.
    """
    refusal = None
    for queue in queues:
        try:
            work(queue)
        except RequestRefusedError as error:
            refusal = refusal or error
    return refusal
