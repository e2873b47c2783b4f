"""The lists of finished records in memory: by status and name, the latest submitted first."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial

from flowrra.backends.listing import Place, TaskFilter, place_of
from flowrra.backends.submission_order import CHUNK, SubmissionOrder
from flowrra.task import TaskResult, TaskStatus

# A status, and the name of a task.
Kind = tuple[TaskStatus, str | None]

# Records that are put in their places together: each one then takes half a microsecond, and a query waits for no more.
LISTED_AT_ONCE = 512


class FinishedLists:
    """Where finished records stand. They are added from one thread, and asked for from any.

    Args:
        records: Those that there are, by id.

    Attributes:
        latest: Those that have no place yet: whoever adds one calls :meth:`list_latest` once there are
            ``LISTED_AT_ONCE``.
    """

    def __init__(self, records: Mapping[str, TaskResult]) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._orders: dict[Kind, SubmissionOrder] = {}
        self._counts: Counter[Kind] = Counter()
        self.latest: list[TaskResult] = []

    def forked(self) -> None:
        """In a forked child: who held the lock is not there."""
        self._lock = threading.Lock()

    def list_latest(self) -> None:
        """Put the latest in their places."""
        with self._lock:
            latest = self.latest[:]
            del self.latest[: len(latest)]
            groups: dict[Kind, list[Place]] = {}
            status: TaskStatus | None = None
            name: str | None = None
            places: list[Place] = []
            # Many have the status and the name of the one before: then nothing is looked up.
            for record in latest:
                if record.status is not status or record.task_name is not name:
                    status, name = record.status, record.task_name
                    places = groups.setdefault((status, name), [])
                # As place_of() does, without a call: every finished task comes here.
                moment = record.submitted_at
                places.append((0.0 if moment is None else moment.timestamp(), record.task_id))
            for kind, places in groups.items():
                self._counts[kind] += len(places)
                self._orders.setdefault(kind, SubmissionOrder()).add_all(places)
                self._tidy(kind)

    def forget(self, record: TaskResult) -> None:
        """Count a record no more, as it was taken off the others; its place goes later."""
        kind = record.status, record.task_name
        with self._lock:
            self._counts[kind] -= 1
            self._tidy(kind)

    def _tidy(self, kind: Kind) -> None:
        """Drop places of what has gone, once there are many, so that there is never much more than what is there."""
        count, order = self._counts[kind], self._orders.get(kind)
        if not count:
            del self._counts[kind]
            self._orders.pop(kind, None)
        elif order is not None and len(order) > count + CHUNK:
            order.sweep(partial(self._is_there, kind))

    def _is_there(self, kind: Kind, place: Place) -> bool:
        # Its id may stand for another one by now.
        record = self._records.get(place[1])
        return record is not None and kind == (record.status, record.task_name) and place == place_of(record)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self.latest.clear()
            self._orders.clear()
            self._counts.clear()

    def counts(self) -> Counter[Kind]:
        """How many there are of each kind."""
        self.list_latest()
        return +self._counts.copy()

    def behind(self, first: Place | None, wanted: TaskFilter) -> Iterator[Place]:
        """The places behind one, the latest first, of what may be wanted; also of what has gone since.

        Args:
            first: The place; None begins with the latest.
            wanted: Its status, name and times are looked at.
        """
        self.list_latest()
        orders = [
            order
            for (status, name), order in self._orders.copy().items()
            if status in wanted.statuses and wanted.name in (None, name)
        ]
        return heapq.merge(*(order.before(first, wanted.last) for order in orders), reverse=True)
