"""The interface of a result backend: the records of tasks, by id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from flowrra.exceptions import ResultNotFoundError
from flowrra.setting_aside import SetAside
from flowrra.task import TaskResult, TaskStatus


class BaseResultBackend(ABC):
    """Keeps one record for each task. Three methods are enough; the others are optional.

    Attributes:
        set_aside: Counts what its lists left out, by kind, as it can't be read.
    """

    set_aside: Sequence[SetAside] = ()

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

    async def wait_for_known(self, task_id: str, timeout: float | None) -> TaskResult:
        """:meth:`wait_for` a task that was submitted: one that is unknown is not waited for.

        Raises:
            ResultNotFoundError: No record is known for that id.
            TimeoutError: It was not complete in time.
        """
        record = await self.get(task_id)
        if record is None:
            raise ResultNotFoundError(task_id)
        return record if record.is_complete else await self.wait_for(task_id, timeout)

    async def delete(self, task_id: str) -> bool:
        """Forget a record; False if there was none."""
        raise NotImplementedError(f"{type(self).__name__} does not delete records")

    async def clear(self) -> int:
        """Forget all records and return how many there were."""
        raise NotImplementedError(f"{type(self).__name__} does not clear its records")

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        """The records with that status, the latest ``submitted_at`` first, those without one last."""
        raise NotImplementedError(f"{type(self).__name__} does not list records")

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            BackendError: It doesn't.
        """

    async def close(self) -> None:
        """Let go of connections."""
