"""What was read from a shared server and is none of ours: left out of an answer, counted, and said once in a while."""

from __future__ import annotations

import logging
import math
import time

logger = logging.getLogger(__name__)

# Seconds between two lines about the same kind of thing.
SAID_EVERY = 60.0


class SetAside:
    """Counts what can't be read of one kind, such as "record".

    Args:
        kind: What it should be.

    Attributes:
        count: How many were left out so far; one that is read again counts again.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.count = self._unsaid = 0
        self._said_at = -math.inf

    def add(self, name: str, reason: str) -> None:
        """One more, called ``name``."""
        self.count += 1
        self._unsaid += 1
        if time.monotonic() - self._said_at >= SAID_EVERY:
            logger.warning(
                "%s not readable, left out name=%.200r reason=%.200s times=%d", self._kind, name, reason, self._unsaid
            )
            self._unsaid, self._said_at = 0, time.monotonic()
