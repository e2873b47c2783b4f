"""Forks: threads don't survive them, so what was started before one must say so in the child rather than hang."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable

logger = logging.getLogger(__name__)


class ForkGuard:
    """Remembers in which process something was started. ``name`` is what messages call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid: int | None = None
        self._clean_up: Callable[[], None] | None = None

    def arm(self, clean_up: Callable[[], None] | None = None) -> None:
        """It is being started in this process. A child forked from now on logs a warning and calls ``clean_up``."""
        self._pid, self._clean_up = os.getpid(), clean_up
        _armed.add(self)

    def disarm(self) -> None:
        """It was stopped."""
        self._pid = self._clean_up = None
        _armed.discard(self)

    @property
    def inherited(self) -> bool:
        """Whether it was started in another process, and inherited by this one."""
        return self._pid is not None and self._pid != os.getpid()

    def check(self) -> None:
        """Raises RuntimeError, which names the remedy, in a process that inherited it."""
        if self.inherited:
            raise RuntimeError(self.message())

    def message(self) -> str:
        """What is wrong, and the remedy."""
        return (
            f"{self._name} was started in process {self._pid} and inherited by {os.getpid()}, where its threads "
            "don't run; start it after the fork"
        )

    def forked(self) -> None:
        """Called in a child."""
        logger.warning("%s", self.message())
        if self._clean_up is not None:
            self._clean_up()


_armed: weakref.WeakSet[ForkGuard] = weakref.WeakSet()


def _after_fork() -> None:
    for guard in list(_armed):
        guard.forked()


if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
    os.register_at_fork(after_in_child=_after_fork)
