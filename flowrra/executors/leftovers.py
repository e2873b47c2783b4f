"""What a stop leaves undone: the tasks that it cancelled, which are lost, and those that it gave back to the broker."""

from __future__ import annotations

import logging
from typing import Final, Literal

logger = logging.getLogger(__name__)

# How the stop found a task: due, delayed (a retry is, too), or in an attempt.
State = Literal["waiting", "delayed", "running"]
STATES: Final[tuple[State, ...]] = ("waiting", "delayed", "running")
# So many ids of each are said.
MOST_IDS: Final = 5


class Leftovers:
    """The tasks of one executor that its stops did not finish.

    Args:
        kind: Names the executor in the log.

    Attributes:
        lost: How many were cancelled since the start of the process, by how the stop found them.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.lost: dict[str, int] = dict.fromkeys(STATES, 0)
        self._lost_ids: dict[str, State] = {}
        self._returned_ids: dict[str, State] = {}

    def lose(self, state: State, task_id: str) -> None:
        """A task is cancelled; one that is told twice counts once."""
        if task_id not in self._lost_ids:
            self._lost_ids[task_id] = state
            self.lost[state] += 1

    def give_back(self, state: State, task_id: str) -> None:
        """A task is the broker's again, at once or when its lease ends."""
        self._returned_ids[task_id] = state

    def tell(self) -> None:
        """Say what this stop has left."""
        if self._lost_ids:
            logger.warning("tasks lost at the stop, cancelled executor=%s %s", self._kind, _summary(self._lost_ids))
        if self._returned_ids:
            logger.info("tasks left to other workers executor=%s %s", self._kind, _summary(self._returned_ids))
        self._lost_ids, self._returned_ids = {}, {}


def _summary(ids: dict[str, State]) -> str:
    parts = []
    for state in STATES:
        found = [task_id for task_id, each in ids.items() if each == state]
        parts.append(f"{state}={len(found)}")
        if found:
            parts.append(f"{state}_ids={','.join(found[:MOST_IDS])}{',…' if len(found) > MOST_IDS else ''}")
    return " ".join(parts)
