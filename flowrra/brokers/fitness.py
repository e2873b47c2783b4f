"""Whether a broker's server is fit to keep tasks: looked at from time to time, and warned of once.

What makes it unfit is known by short names, the reasons, with the text that says what to do about it: empty where the
server is fit, None where that can't be known.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping

from flowrra.supervision import Supervised

logger = logging.getLogger(__name__)

# Seconds between two looks, and after one that failed; for how long a look may take; and that always are between two.
INTERVAL = 180.0
RETRY_INTERVAL = 10.0
TIMEOUT = 2.0
MIN_PAUSE = 1.0

Reasons = Mapping[str, str | None]


class FitnessMonitor:
    """Knows whether a server is fit, and warns of each reason against it once, and again only if it was gone meanwhile.

    Args:
        look: Asks the server, as :meth:`flowrra.brokers.BaseBroker.unfitness` does.

    Attributes:
        known: What the last look has shown; empty if there was none, or it failed.
    """

    def __init__(self, look: Callable[[], Awaitable[Reasons]]) -> None:
        self._look = look
        self.known: Reasons = {}
        self._stale_at = 0.0
        # Held while one looks: others, perhaps on other loops, take what is known.
        self._looking = threading.Lock()
        self._warned: set[str] = set()
        self._complaint = ""
        self._watching = Supervised(
            self._watch,
            "flowrra-broker-fitness",
            RETRY_INTERVAL,
            lambda error: logger.error("watching the broker's fitness died, replaced error=%r", error),
        )

    async def reasons(self) -> Reasons:
        """What is known; asks the server if that is old. On whichever event loop; never raises for the server."""
        # Later than the monitor itself would look, if it runs.
        if time.monotonic() >= self._stale_at + RETRY_INTERVAL:
            await self.look()
        return self.known

    async def look(self) -> None:
        """Ask the server, unless somebody does so just now."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            known: Reasons = {}
            complaint = ""
            try:
                async with asyncio.timeout(TIMEOUT):
                    known = await self._look()
            except Exception as error:  # noqa: BLE001 - a broker may be a user's own; whatever it raises is the answer
                complaint = f"{type(error).__name__}: {error}"
            if any(text is None for text in known.values()):
                complaint = "the server doesn't tell"
            self._stale_at = time.monotonic() + (INTERVAL if known else RETRY_INTERVAL)
            self.known = known
            self._complain(complaint)
            self._warn(known)
        finally:
            self._looking.release()

    def _complain(self, complaint: str) -> None:
        """Say once why it isn't known whether the server is fit. That it is away is a warning of who needs it."""
        if complaint and not self._complaint:
            unknown = ", ".join(sorted(reason for reason, text in self.known.items() if text is None))
            logger.info("broker's fitness not known reasons=%s why=%s", unknown or "all", complaint)
        self._complaint = complaint

    def _warn(self, known: Reasons) -> None:
        for reason, text in known.items():
            if text and reason not in self._warned:
                self._warned.add(reason)
                logger.warning("broker unfit for tasks reason=%s: %s", reason, text)
            elif text == "" and reason in self._warned:
                self._warned.discard(reason)
                logger.info("broker fit again reason=%s", reason)

    def start(self) -> None:
        """Look now and from time to time, on the running event loop."""
        self._watching.start()

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(max(MIN_PAUSE, self._stale_at - time.monotonic()))

    async def stop(self) -> None:
        """Look no more."""
        await self._watching.stop()
