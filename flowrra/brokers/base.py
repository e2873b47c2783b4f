"""The interface of a broker: a queue of tasks that several processes may share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flowrra.task import Task


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

    async def close(self) -> None:  # noqa: B027 - optional: a broker without connections has nothing to close
        """Let go of connections."""
