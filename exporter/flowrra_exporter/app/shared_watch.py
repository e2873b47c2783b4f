"""One watch for all who follow what happens from now on.

Each one more would cost the app's loop a connection, and a turn at each change.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping

from flowrra_exporter.app.watch import MOST_WAITING, Event, Mailbox, Watch

# By which key of an event's task the filters of ``watch`` choose.
_FIRST = "before-the-first-"
_KEYS = {"task": "task_id", "name": "task_name", "queue": "queue"}
_LOOK_SECONDS = 1.0
# For so long the watch goes on without readers: a browser whose stream has ended comes back after three.
LINGER_SECONDS = 6.0


class SharedWatch:
    """Watches everything while somebody reads, and gives each reader what it wants. It belongs to the server's loop.

    Args:
        begin: Makes a watch without a filter.
    """

    def __init__(self, begin: Callable[[], Watch]) -> None:
        self._begin = begin
        self._readers: dict[Mailbox, Mapping[str, str]] = {}
        self._latest: deque[Event] = deque(maxlen=MOST_WAITING)
        self._watching: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._lingers = True
        # Stands for the moment before the first event that is at hand.
        self._first_id = self._new_first_id()

    @property
    def position(self) -> str:
        """The id of the latest event, whoever wanted it: who comes back after it has missed nothing."""
        return str(self._latest[-1]["id"]) if self._latest else self._first_id

    def has(self, event_id: str) -> bool:
        """Whether all that came after this event is at hand."""
        return event_id == self._first_id or any(event["id"] == event_id for event in self._latest)

    def is_of_none(self, event_id: str) -> bool:
        """Whether it is the id of no event, but of a moment before the first one."""
        return event_id.startswith(_FIRST)

    @staticmethod
    def _new_first_id() -> str:
        return f"{_FIRST}{uuid.uuid4().hex}"

    def join(self, wanted: Mapping[str, str], after: str | None = None) -> Mailbox:
        """A reader of what happens from now on, or after an event.

        Args:
            wanted: The arguments of ``watch`` that choose tasks.
            after: The id of an event; of what came after one that isn't at hand, the reader is told that it has missed
                it, and nobody knows how much it was.
        """
        reader = Mailbox()
        self._readers[reader] = wanted
        if after is not None:
            self._catch_up(reader, wanted, after)
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="flowrra-exporter:shared-watch")
        return reader

    def leave(self, reader: Mailbox) -> None:
        """A reader reads no more; soon after the last one the watch ends, unless another one comes."""
        self._readers.pop(reader, None)
        if self._readers or self._watching is None:
            return
        if self._lingers and self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._stop)
        elif not self._lingers:
            self._stop()

    def close(self) -> None:
        """Nobody comes back: the watch ends with the last reader."""
        self._lingers = False
        if not self._readers:
            self._stop()

    def _stop(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._watching is not None:
            self._watching.cancel()
            self._forget()

    def _catch_up(self, reader: Mailbox, wanted: Mapping[str, str], after: str) -> None:
        if not self.has(after):
            reader.put({"id": after, "type": "missed", "task": None, "missed": None})
            return
        ids = [self._first_id, *(event["id"] for event in self._latest)]
        for event in list(self._latest)[ids.index(after) :]:
            if _is_wanted(event, wanted):
                reader.put(event)

    async def _watch(self) -> None:
        watch = self._begin()
        watch.open()
        try:
            is_over = False
            while not is_over:
                await watch.wait(_LOOK_SECONDS)
                is_over = watch.is_over  # asked first: what came just before the end is taken
                for event in watch.take():
                    self._give(event)
        finally:
            watch.close()
            if self._watching is asyncio.current_task():  # else everybody has left, and perhaps others have come since
                self._end(watch.error)

    def _give(self, event: Event) -> None:
        if len(self._latest) == MOST_WAITING:
            self._first_id = self._new_first_id()  # the first one is no longer at hand
        self._latest.append(event)
        for reader, wanted in self._readers.items():
            if _is_wanted(event, wanted):
                reader.put(event)

    def _end(self, error: Exception | None) -> None:
        for reader in self._readers:
            reader.end(error)
        self._readers.clear()
        self._forget()

    def _forget(self) -> None:
        self._watching = None
        self._latest.clear()
        self._first_id = self._new_first_id()


def _is_wanted(event: Event, wanted: Mapping[str, str]) -> bool:
    """Whether an event is about such a task; what was missed is everybody's business."""
    task = event.get("task")
    return task is None or all(task.get(_KEYS[name]) == value for name, value in wanted.items())
