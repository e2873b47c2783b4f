"""The interface of a result backend: the records of tasks, by id."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flowrra.task import TaskResult, TaskStatus


class BaseResultBackend(ABC):
    """Keeps one record for each task. Three methods are enough; the others are optional."""

    @abstractmethod
    async def store(self, task_id: str, result: TaskResult) -> None:
        """Keep ``result`` in place of what was known of the task, and wake whoever waits for its completion.

        The caller goes on changing ``result`` afterwards: a backend that keeps the object keeps up with it.

        Raises:
            BackendError: It could not be stored.
        """

    @abstractmethod
    async def get(self, task_id: str) -> TaskResult | None:
        """The record of a task; None if it is unknown.

        Raises:
            BackendError: The records could not be read.
        """

    @abstractmethod
    async def wait_for(self, task_id: str, timeout: float | None) -> TaskResult:
        """The record of a task once it is complete; the task need not exist yet.

        Args:
            timeout: Seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It was not complete in time.
        """

    async def delete(self, task_id: str) -> bool:
        """Forget a record; False if there was none."""
        raise NotImplementedError(f"{type(self).__name__} does not delete records")

    async def clear(self) -> int:
        """Forget all records and return how many there were."""
        raise NotImplementedError(f"{type(self).__name__} does not clear its records")

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        """The records with that status, the latest ``submitted_at`` first, those without one last."""
        raise NotImplementedError(f"{type(self).__name__} does not list records")

    async def close(self) -> None:  # noqa: B027 - optional: a backend without connections has nothing to close
        """Let go of connections."""
