"""The tasks that a worker holds by leases."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from flowrra.brokers.base import Outcome
from flowrra.executors.job import Job

logger = logging.getLogger(__name__)


class Holdings:
    """Everything that was taken from a broker and is not settled there.

    Args:
        kind: Names the executor in the log.
        running: The jobs in an attempt, by id; of one whose hold was lost, too.

    Attributes:
        held: The jobs by id. Copied by the heartbeat's thread, in one step.
        leaving: Those of them whose outcome is being told.
        refused: What this worker doesn't know and is handing on, as it came.
    """

    def __init__(self, kind: str, running: Mapping[str, Job]) -> None:
        self._kind = kind
        self._running = running
        self.held: dict[str, Job] = {}
        self.leaving: dict[str, Job] = {}
        self.refused: dict[str, Outcome] = {}

    def clear(self) -> None:
        """Hold nothing."""
        self.held.clear()
        self.leaving.clear()
        self.refused.clear()

    def ids(self) -> list[str]:
        """What is held, from any thread."""
        return list(self.held.copy())

    def ids_by_queue(self) -> dict[str, list[str]]:
        """What is held, by the names of the queues, from any thread."""
        found: dict[str, list[str]] = {}
        for task_id, job in self.held.copy().items():
            found.setdefault(job.task.queue, []).append(task_id)
        return found

    def has_still(self, task_id: str) -> bool:
        """Whether a task whose lease had lapsed came back to the worker that has it: then it goes on. What is given
        back or is to be retried comes anew, perhaps before this worker hears that the server knows."""
        held, leaving = self.held.get(task_id), self.leaving.get(task_id)
        if held is None:
            # Another worker may have had it meanwhile, and given it back.
            held = self._running.get(task_id)
            if held is None or held.settled:
                return False
            self.held[task_id] = held
        elif leaving is held and not held.record.is_complete:
            return False
        held.taken_at = time.monotonic()
        logger.warning("lease had lapsed, and is held again executor=%s id=%s", self._kind, task_id)
        return True

    def let_go(self, task_id: str) -> None:
        """Renew the hold on a task no more, if it is held."""
        self.held.pop(task_id, None)

    def settled(self, task_ids: list[str]) -> None:
        """The broker knows what became of these."""
        for task_id in task_ids:
            self.refused.pop(task_id, None)
            told = self.leaving.pop(task_id, None)
            if told is None or self.held.get(task_id) is told:  # else it has come back already
                self.held.pop(task_id, None)

    def keeps(self, task_id: str, asked_at: float) -> bool:
        """Whether what the broker said of a task at that time (monotonic) is about what is held of it now: it may have
        been given back and taken anew since, and what leaves anyway is its own affair."""
        job = self.held.get(task_id)
        return job is not None and job.taken_at < asked_at and self.leaving.get(task_id) is not job

    def is_leaving(self, task_id: str) -> bool:
        """Whether an outcome of a task is being told, or was left untold as the task had come anew."""
        return task_id in self.leaving or task_id in self.refused

    def lose(self, task_id: str, asked_at: float) -> bool:
        """Hold a task no more that another worker had got at that time; False if that is not about what is held."""
        if not self.keeps(task_id, asked_at):
            return False
        del self.held[task_id]
        return True
