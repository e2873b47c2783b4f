"""Where the app stands between start and stop, as probes and pages see it.

Written by one thread, read by others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
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

    Attributes:
        has_started: Whether the app has been running, whatever it does by now.
    """

    def __init__(self, observes: bool = False) -> None:
        self._changing = threading.Lock()
        self._sentences = _OF_AN_OBSERVER if observes else _OF_THE_APP
        self._asked: Callable[[], bool] | None = None
        self._status = Status(Phase.STARTING, self.sentence(Phase.STARTING))
        self.has_started = False

    @property
    def status(self) -> Status:
        """Where the app stands now."""
        if self._status.phase is Phase.STARTING and self._asked is not None and self._asked():
            self.running()
        return self._status

    def sentence(self, phase: Phase) -> str:
        """What is said of a phase; not for FAILED, which has a reason."""
        return self._sentences[phase]

    def ask(self, has_started: Callable[[], bool]) -> None:
        """The app is started by others, before or after; from when ``has_started`` says so on, it is running."""
        self._asked = has_started

    def running(self) -> None:
        """The app was started. A shutdown that has begun meanwhile stays a shutdown."""
        with self._changing:
            if self._status.phase is Phase.STARTING:
                self._status = Status(Phase.RUNNING, self.sentence(Phase.RUNNING))
                self.has_started = True

    def draining(self) -> None:
        """A shutdown was asked for."""
        self.status  # noqa: B018 - an app that has started by now has done so before the shutdown
        with self._changing:
            self._status = Status(Phase.DRAINING, self.sentence(Phase.DRAINING))

    def stopped(self) -> None:
        """The app was stopped."""
        self._status = Status(Phase.STOPPED, self.sentence(Phase.STOPPED))

    def failed(self, reason: str) -> None:
        """The app, or its event loop, ended on its own."""
        self._status = Status(Phase.FAILED, reason)
