"""Renews a worker's holds on its tasks, whose visibility timeout is the lease, and tells others that it lives and what
it knows. From a thread, as a task that blocks the event loop is still being run."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from flowrra.brokers.base import Announcement, LeasingBroker, Renewal
from flowrra.exceptions import BackendError

logger = logging.getLogger(__name__)

# Seconds between two signs of life; a process counts as gone after three of them.
HEARTBEAT = 5.0
HEARTBEATS = 3
# A lease outlives three failed renewals.
RENEWALS_PER_LEASE = 4


class Heartbeat:
    """Keeps the leases of one broker's tasks.

    Attributes:
        renewed_at: When the last renewal that succeeded was sent, on the monotonic clock.

    Args:
        broker: The broker.
        held: Returns the ids of the tasks that are held now; called in the thread.
        names: Returns the names of the tasks that this worker knows; called in the thread.
        announcement: Returns what others are to know of this process; None announces nothing.
        on_renewed: Called in the thread with each renewal, or with the error that kept it from happening.
        on_overdue: Called in the thread with the names whose tasks have waited for too long for a worker that knows
            them.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        held: Callable[[], list[str]],
        names: Callable[[], list[str]],
        announcement: Callable[[], dict[str, Any]] | None,
        on_renewed: Callable[[Renewal | BackendError], None],
        on_overdue: Callable[[list[str]], None],
    ) -> None:
        self._broker = broker
        self._held = held
        self._names = names
        self._told_names: list[str] | None = None
        self._announcement = announcement
        self._on_renewed = on_renewed
        self._on_overdue = on_overdue
        self.renewed_at = time.monotonic()
        self._interval = min(HEARTBEAT, broker.lease / RENEWALS_PER_LEASE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="flowrra-lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End, and withdraw the announcement; blocks until that is done, at most so many seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _keep(self) -> None:
        contextvars.Context().run(self._beat)
        while not self._stopping.wait(self._interval):
            self._beat()
        try:
            worker = None if self._announcement is None else self._announcement()["id"]
            self._broker.withdraw(worker)
        except Exception as error:  # noqa: BLE001 - it counts as gone a little later, by itself
            logger.warning("worker not withdrawn error=%r", error)

    def _beat(self) -> None:
        # The leases first, and whatever becomes of the announcement: a server without memory refuses only that.
        self._try("leases not renewed", self._renew)
        self._try("worker not announced", self._announce)

    def _renew(self) -> None:
        sent_at = time.monotonic()
        renewal = self._broker.renew(self._held())
        self.renewed_at = sent_at
        self._on_renewed(renewal)

    def _announce(self) -> None:
        process = None if self._announcement is None else self._announcement()
        names = self._names()
        answer = self._tell(process, None if names == self._told_names else names)
        if not answer.are_names_known:
            answer = self._tell(process, names)
        self._told_names = names
        if answer.overdue:
            self._on_overdue(answer.overdue)

    def _tell(self, process: dict[str, Any] | None, names: list[str] | None) -> Announcement:
        return self._broker.announce(process, names, HEARTBEATS * HEARTBEAT)

    def _try(self, failure: str, work: Callable[[], None]) -> None:
        try:
            work()
        except BackendError as error:
            logger.warning("%s, will be tried again in=%.1f error=%s", failure, self._interval, error)
            self._on_renewed(error)
        except Exception as error:  # the thread must not end: all tasks that are held would run again elsewhere
            logger.exception("%s, will be tried again in=%.1f", failure, self._interval)
            self._on_renewed(BackendError(f"{failure}: {type(error).__name__}: {error}"))
