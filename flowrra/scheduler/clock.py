"""The time that schedulers go by: one clock for all that share a store."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

# Seconds after which the shared clock is looked at again.
LOOK_EVERY = 30.0
# An answer that took no longer (seconds) is good; how often one is asked for, as the first makes the connection.
QUICK = 0.02
TRIES = 2
# Seconds by which clocks may differ unnoticed.
TOLERANCE = 1.0

Ask = Callable[[], Awaitable[float | None]]


class SharedClock:
    """The clock of the store or of the broker, or the host's where there is neither. Between two looks at a shared
    clock its time goes on by the monotonic one, which nobody puts forward or back.

    Args:
        own: The host's clock, in seconds since 1970.
        ask: Returns the shared clock's time, or None if there is no such clock.

    Attributes:
        was_put_back: Whether the time may have been put back since this was set to False.
    """

    def __init__(self, own: Callable[[], float], ask: Ask) -> None:
        self._own = own
        self._ask = ask
        self._shared: tuple[float, float] | None = None  # a time of the shared clock, and of the monotonic one
        self._look_at = 0.0
        self._ahead = 0.0  # the host's clock, ahead of the monotonic one
        self._is_off = False
        self._is_unanswered = False
        self.was_put_back = True  # while nobody looked

    def now(self) -> float:
        """Seconds since 1970."""
        if self._shared is None:
            return self._own()
        at, since = self._shared
        return at + time.monotonic() - since

    def micros(self) -> int:
        """Microseconds since 1970."""
        return round(self.now() * 1e6)

    async def look(self) -> None:
        """Look at the shared clock, if it is time for it or the host's clock has jumped."""
        begun = time.monotonic()
        jump = self._own() - begun - self._ahead
        if begun < self._look_at and abs(jump) < TOLERANCE:
            return
        self._ahead += jump
        self._look_at = begun + LOOK_EVERY
        for _ in range(TRIES):
            asked = time.monotonic()
            shared = await self._asked()
            took = time.monotonic() - asked
            if shared is None or took < QUICK:
                break
        if shared is None:
            self.was_put_back |= self._shared is None and jump < -TOLERANCE
            return
        self.was_put_back |= self._shared is not None and shared - self.now() < -TOLERANCE
        # As if it had been told at the end of its way: so nothing is ever early by it.
        self._shared = shared, asked + took
        self._compare(took)

    async def _asked(self) -> float | None:
        try:
            found = await self._ask()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever store or broker it is of
            if not self._is_unanswered:
                logger.warning("the shared clock can't be read, going on by the last answer error=%r", error)
            self._is_unanswered = True
            return None
        self._is_unanswered = False
        return found

    def _compare(self, uncertainty: float) -> None:
        off = self._own() - self.now()
        is_off = abs(off) > TOLERANCE + uncertainty
        if is_off and not self._is_off:
            logger.warning(
                "this host's clock is %.1f s %s the store's or broker's, which schedules go by; set it, as by NTP",
                abs(off),
                "ahead of" if off > 0 else "behind",
            )
        elif self._is_off and not is_off:
            logger.info("this host's clock agrees with the store's or broker's again")
        self._is_off = is_off
