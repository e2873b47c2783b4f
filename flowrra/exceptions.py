"""Every error that Flowrra raises.

All of them survive pickling, since an error may have to cross a process boundary.
"""

from __future__ import annotations

from typing import Any


class FlowrraError(Exception):
    """Base of every error that Flowrra raises."""


class TaskNotFoundError(FlowrraError):
    """No task is registered under that name.

    Args:
        task_name: The name.
        hint: What to do about it, if that is known.
    """

    def __init__(self, task_name: str, hint: str = "") -> None:
        super().__init__(f"Task '{task_name}' not registered" + (f": {hint}" if hint else ""))
        self.task_name = task_name
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_name, self.hint)


class NoTasksRegisteredError(TaskNotFoundError, RuntimeError):
    """A task was submitted to an app that has no task at all; also a RuntimeError, as in earlier releases."""


class ResultNotFoundError(FlowrraError, LookupError, ValueError):
    """No record is known for that task id: it never existed, or its result has expired."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task '{task_id}' not found: it was never submitted, or its result has expired")
        self.task_id = task_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id,)


class TaskTimeoutError(FlowrraError, TimeoutError):
    """A wait for a result, or an attempt with a time limit, took longer than allowed.

    Args:
        task_id: The task that was not done in time.
        timeout: The limit, in seconds.
    """

    def __init__(self, task_id: str, timeout: float | None) -> None:
        super().__init__(f"Task '{task_id}' did not complete within {timeout}s")
        self.task_id = task_id
        self.timeout = timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id, self.timeout)


class ExecutorNotRunningError(FlowrraError):
    """A task was submitted before start() or after stop()."""

    def __init__(self) -> None:
        super().__init__("Executor is not running. Call start() first.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class SubmittedInWorkerProcessError(ExecutorNotRunningError):
    """A CPU-bound task tried to submit a task, or to cancel one: its app does not run in its process."""

    def __init__(self) -> None:
        FlowrraError.__init__(
            self,
            "A CPU-bound task runs in a worker process, where its app does not run: it can't submit tasks. Return what "
            "they need, and submit them from an async task that awaits the result",
        )


class BackendError(FlowrraError):
    """A result backend or a broker could not do what it was asked.

    Attributes:
        may_be_queued: Whether a task that was to be queued may be queued all the same: it was sent, and the answer was
            lost, or replicas have not confirmed it.
    """

    may_be_queued = False


class ServerUnavailableError(BackendError):
    """A server could not be reached, or can do nothing just now; the same request may succeed later."""


class RequestRefusedError(BackendError):
    """A server refused a request for what was in it, such as a value that it can't store; another one may succeed."""


class RequestTimeoutError(ServerUnavailableError):
    """A server did not answer a request in time."""


class NotReplicatedError(ServerUnavailableError):
    """A server wrote what it was asked to write, and fewer replicas than wanted have confirmed it in time.

    It may be lost with the server, and it may stay: a task may run. Submitted again with its id
    (``app.options(task_id=…)``) it is queued once. What was cancelled, requeued, deleted, paused or resumed is so, and
    may not be after a failover.
    """


class PartialSubmissionError(BackendError):
    """Only some of many tasks were queued.

    Args:
        reason: What went wrong.
        queued: Ids of the tasks that are queued, in the order of the calls; without partitions they are the first ones.
        unsure: Ids of those that may be queued: the server's answer was lost. Submitted again with their ids
            (``app.options(task_id=…)``) each is queued once. What is in neither list was not sent.
    """

    def __init__(self, reason: str, queued: list[str], unsure: list[str]) -> None:
        super().__init__(f"{reason} ({len(queued)} tasks are queued, of {len(unsure)} it is not known)")
        self.reason = reason
        self.queued = queued
        self.unsure = unsure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.queued, self.unsure)


class Reject(FlowrraError):
    """Raised by a task to fail at once, whatever retries it has left; so does an exception group of nothing else."""


class SerializationError(Reject, BackendError):
    """What a task was called with, or what it returned or raised, can't be written down: as JSON for a server, or as a
    pickle for a worker process. Never retried."""


class TaskImportError(Reject):
    """A worker process can't find the function of a CPU-bound task. Never retried."""


class WorkerLostError(FlowrraError):
    """The worker process of a CPU-bound task could not be started, or ended before the task did."""
