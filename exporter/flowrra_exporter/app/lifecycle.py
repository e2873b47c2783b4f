"""Where the app stands between start and stop, as probes and pages see it.

Written by one thread, read by others.
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """The app's phases, in order; FAILED can follow any."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Status(NamedTuple):
    """A phase, and a sentence about it for humans."""

    phase: Phase
    message: str


_OF_THE_APP = {
    Phase.STARTING: "the app is starting",
    Phase.RUNNING: "the app has started",
    Phase.DRAINING: "shutting down: running tasks are being finished",
    Phase.STOPPED: "the app has stopped",
}
_OF_AN_OBSERVER = {
    Phase.STARTING: "the observer is starting",
    Phase.RUNNING: "the observer has started",
    Phase.DRAINING: "shutting down",
    Phase.STOPPED: "the observer has stopped",
}


class Lifecycle:
    """Holds the current status. Replacing it is one assignment, so readers in other threads see a whole one.

    Args:
        observes: It is the status of what observes an app, not of an app.
    """

    def __init__(self, observes: bool = False) -> None:
        self._changing = threading.Lock()
        self._sentences = _OF_AN_OBSERVER if observes else _OF_THE_APP
        self.status = Status(Phase.STARTING, self.sentence(Phase.STARTING))

    def sentence(self, phase: Phase) -> str:
        """What is said of a phase; not for FAILED, which has a reason."""
        return self._sentences[phase]

    def running(self) -> None:
        """The app was started. A shutdown that has begun meanwhile stays a shutdown."""
        with self._changing:
            if self.status.phase is Phase.STARTING:
                self.status = Status(Phase.RUNNING, self.sentence(Phase.RUNNING))

    def draining(self) -> None:
        """A shutdown was asked for."""
        with self._changing:
            self.status = Status(Phase.DRAINING, self.sentence(Phase.DRAINING))

    def stopped(self) -> None:
        """The app was stopped."""
        self.status = Status(Phase.STOPPED, self.sentence(Phase.STOPPED))

    def failed(self, reason: str) -> None:
        """The app, or its event loop, ended on its own."""
        self.status = Status(Phase.FAILED, reason)
