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


class Lifecycle:
    """Holds the current status.

    Replacing it is one assignment, so readers in other threads see a whole one.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self.status = Status(Phase.STARTING, "the app is starting")

    def running(self) -> None:
        """The app was started. A shutdown that has begun meanwhile stays a shutdown."""
        with self._changing:
            if self.status.phase is Phase.STARTING:
                self.status = Status(Phase.RUNNING, "the app has started")

    def draining(self) -> None:
        """A shutdown was asked for."""
        with self._changing:
            self.status = Status(Phase.DRAINING, "shutting down: running tasks are being finished")

    def stopped(self) -> None:
        """The app was stopped."""
        self.status = Status(Phase.STOPPED, "the app has stopped")

    def failed(self, reason: str) -> None:
        """The app, or its event loop, ended on its own."""
        self.status = Status(Phase.FAILED, reason)
