"""The interface of a result backend: the records of tasks, by id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence

from flowrra.backends.listing import Page, TaskFilter, page_of, place_of
from flowrra.changes import Change
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
            ServerUnavailableError, OSError: The records can't be reached now. An outcome is stored again later.
            BackendError: This one can't be stored; so says any other error. A task whose result can't be has failed.
        """

    async def store_new(self, task_id: str, result: TaskResult) -> bool:
        """:meth:`store` the record of a submission, unless there is one that says more: any but that of the same
        submission, or of one that was refused. A backend that can't find that out in the same step just stores it.

        Returns:
            Whether it was stored.

        Raises:
            BackendError: It could not be stored.
        """
        await self.store(task_id, result)
        return True

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
            TypeError, ValueError: The timeout is no number of seconds.
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

    async def find(self, wanted: TaskFilter, limit: int, cursor: str | None = None) -> Page:
        """A page of the records that are meant, the latest submitted first.

        What stands behind a cursor stays there whatever finishes, begins and goes meanwhile. A page may be shorter than
        it could be, and even empty, before the last one: where no list of just those records is kept, only so many
        others are looked at for one page.

        Args:
            wanted: Which records are meant.
            limit: Most records of the page.
            cursor: Of the page before; None is the first page.

        Raises:
            BackendError: The records could not be read.
            ValueError: The cursor is none.
        """
        records = [each for status in wanted.statuses for each in await self.list_by_status(status)]
        first, last = wanted.first(cursor), wanted.last
        places = sorted(((place_of(record), record) for record in records), key=lambda each: each[0], reverse=True)
        return page_of(
            (each for each in places if (first is None or each[0] < first) and each[0][0] >= last), wanted, limit
        )

    async def count(self) -> Mapping[tuple[TaskStatus, str | None], int]:
        """How many records there are of each status and name; what is 0 may be left out.

        Raises:
            BackendError: The records could not be read.
        """
        counts: Counter[tuple[TaskStatus, str | None]] = Counter()
        for status in TaskStatus:
            counts.update((status, record.task_name) for record in await self.list_by_status(status))
        return counts

    async def unlist_expired(self) -> None:
        """Count records no more that have expired, where that does not happen by itself.

        Raises:
            BackendError: The server could not be reached, or refused.
        """

    async def claim_retry(self, task_id: str, new_id: str) -> str:
        """Say under which id a task is run anew, if nobody has said so before: of several calls the first counts.

        Returns:
            The id that counts.

        Raises:
            BackendError: The server could not be reached.
        """
        return new_id

    async def release_retry(self, task_id: str, new_id: str) -> None:
        """Take back what :meth:`claim_retry` said: the task is not run anew under that id after all.

        Raises:
            BackendError: The server could not be reached.
        """

    async def retried_as(self, task_id: str) -> str | None:
        """The id under which a task was run anew; None if it was not.

        Raises:
            BackendError: The server could not be reached.
        """
        return None

    def watch(self, after: str | None) -> AsyncGenerator[Change, None] | None:
        """The changes of tasks of all processes, from now on or after one; None if it knows of none.

        Raises:
            BackendError: The server could not be reached at first.
            ValueError: ``after`` is no id of a change.
        """
        return None

    @property
    def watchers(self) -> int:
        """How many watch from this process."""
        return 0

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            BackendError: It doesn't.
        """

    async def close(self) -> None:
        """Let go of connections."""
