"""Renews a worker's holds on its tasks, whose visibility timeout is the lease, tells others that it lives and what it
knows, and looks whether they do. From a thread, as a task that blocks the event loop is still being run."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowrra.backoff import Backoff
from flowrra.brokers.base import Announcement, LeasingBroker, Renewal, first_refusal
from flowrra.exceptions import BackendError, ServerUnavailableError
from flowrra.outage import Outage

logger = logging.getLogger(__name__)

# Seconds between two signs of life; a process counts as gone after three of them.
HEARTBEAT = 5.0
HEARTBEATS = 3
# A lease outlives three failed renewals.
RENEWALS_PER_LEASE = 4
# Seconds until a sign of life that is asked for, so that there is one for many who ask.
SOON = 0.05


class Heartbeat:
    """Keeps the leases of one broker's tasks.

    Attributes:
        renewed_at: When the last renewal that succeeded was sent, on the monotonic clock.

    Args:
        broker: The broker.
        kind: Names the executor in the log.
        held: Returns the ids of the tasks that are held now, by the names of their queues; called in the thread.
        queues: Returns the names of the queues that tasks are taken from; called in the thread.
        names: Returns the names of the tasks that this worker knows; called in the thread.
        announcement: Returns what others are to know of this process; None announces nothing.
        on_renewed: Called in the thread with each renewal, and when it was asked for, on the monotonic clock.
        on_failed: Called in the thread with each error that kept one from happening, or this worker from being
            announced.
        on_overdue: Called in the thread with a queue, and the names whose tasks have waited there for too long for a
            worker that knows them.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        kind: str,
        held: Callable[[], Mapping[str, Sequence[str]]],
        queues: Callable[[], Sequence[str]],
        names: Callable[[], list[str]],
        announcement: Callable[[], dict[str, Any]] | None,
        on_renewed: Callable[[Renewal, float], None],
        on_failed: Callable[[BackendError], None],
        on_overdue: Callable[[str, list[str]], None],
    ) -> None:
        self._broker = broker
        self._held = held
        self._queues = queues
        self._names = names
        self._told_names: dict[str, list[str]] = {}
        self._announcement = announcement
        self._on_renewed = on_renewed
        self._on_failed = on_failed
        self._on_overdue = on_overdue
        self.renewed_at = time.monotonic()
        self._interval = min(HEARTBEAT, broker.lease / RENEWALS_PER_LEASE)
        self._renewing = Outage(logger, "leases not renewed", f"executor={kind}")
        self._looking = Outage(logger, "gone workers not looked for", f"executor={kind}")
        self._look_again = Backoff(0.25)
        self._announcing = Outage(logger, "worker not announced", f"executor={kind}")
        self._woken = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._keep, name="flowrra-lease-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End, and withdraw the announcement; blocks until that is done, at most so many seconds."""
        self._is_stopping = True
        self._woken.set()
        self._thread.join(timeout)

    def beat_soon(self) -> None:
        """Renew the leases before it is time to, for what the answer tells; from any thread."""
        self._woken.set()

    async def stop_from_loop(self, timeout: float) -> None:
        """:meth:`stop`, without blocking the running event loop, nor waiting for a thread of its pool: all of them may
        be taken by tasks that block."""
        ended = asyncio.Event()
        stop = (timeout, asyncio.get_running_loop(), ended)
        threading.Thread(target=self._stop_and_tell, args=stop, name="flowrra-lease-end", daemon=True).start()
        await ended.wait()

    def _stop_and_tell(self, timeout: float, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        self.stop(timeout)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(ended.set)

    def _keep(self) -> None:
        contextvars.Context().run(self._beat)
        beat_at, look_at = time.monotonic() + self._interval, 0.0
        while True:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + self._look()
            if self._woken.wait(max(0.0, min(beat_at, look_at) - time.monotonic())):
                self._woken.clear()
                if self._is_stopping:
                    break
                beat_at = min(beat_at, time.monotonic() + SOON)
            if time.monotonic() >= beat_at:
                self._beat()
                beat_at = time.monotonic() + self._interval
        try:
            worker = None if self._announcement is None else self._announcement()["id"]
            self._broker.withdraw(worker, self._queues())
        except Exception as error:  # noqa: BLE001 - it counts as gone a little later, by itself
            logger.warning("worker not withdrawn error=%r", error)

    def _beat(self) -> None:
        # The leases first, and whatever becomes of the announcement: a server without memory refuses only that.
        self._try(self._renew, self._renewing)
        self._try(self._announce, self._announcing)

    def _look(self) -> float:
        """Look for workers that are gone. Returns the seconds until the next look."""
        try:
            pause = self._broker.look_for_gone()
        except ServerUnavailableError as error:  # the next renewal finds that out, too, and tells of it
            logger.debug("gone workers not looked for error=%s", error)
            return self._look_again.next()
        except Exception as error:  # noqa: BLE001 - the thread must not end: all that is held would run again elsewhere
            self._looking.failed(f"{type(error).__name__}: {error}", error)
            return self._look_again.next()
        self._looking.over()
        self._look_again.reset()
        return math.inf if pause is None else pause

    def _renew(self) -> None:
        asked_at = time.monotonic()
        held, renewal = self._held(), Renewal([], [], [])

        def renew(queue: str) -> None:
            for found, told in zip(renewal, self._broker.renew(held.get(queue, ()), queue), strict=True):
                found += told

        # Also where nothing is held: it says that the worker lives.
        refusal = first_refusal(dict.fromkeys((*self._queues(), *held)), renew)
        if refusal is None:
            self.renewed_at = asked_at
        self._on_renewed(renewal, asked_at)
        if refusal is not None:
            raise refusal

    def _announce(self) -> None:
        process = None if self._announcement is None else self._announcement()
        names = self._names()

        def announce(queue: str) -> None:
            nonlocal process
            answer = self._tell(process, None if names == self._told_names.get(queue) else names, queue)
            if not answer.are_names_known:
                answer = self._tell(process, names, queue)
            self._told_names[queue] = names
            if answer.overdue:
                self._on_overdue(queue, answer.overdue)
            process = None  # its process is told once

        refusal = first_refusal(self._queues(), announce)
        if refusal is not None:
            raise refusal

    def _tell(self, process: dict[str, Any] | None, names: list[str] | None, queue: str) -> Announcement:
        return self._broker.announce(process, names, HEARTBEATS * HEARTBEAT, queue)

    def _try(self, work: Callable[[], None], outage: Outage) -> None:
        try:
            work()
        except BackendError as error:
            outage.failed(str(error))
            self._on_failed(error)
        except Exception as error:  # noqa: BLE001 - the thread must not end: all that is held would run again elsewhere
            text = f"{type(error).__name__}: {error}"
            outage.failed(text, error)
            self._on_failed(BackendError(f"{outage.what}: {text}"))
        else:
            outage.over()
