"""The replicas of a primary, and when one of them may be about to become the primary itself."""

from __future__ import annotations

import time

# Seconds after a replica has left in which nothing counts as confirmed by the others. Sentinels that have promoted one
# tell the next one about a second later.
HOLD = 3.0


class Replicas:
    """How many replicas a primary has, as it said last.

    One that leaves may have been made the primary, as by ``SENTINEL FAILOVER``. Until the former primary is told, it
    goes on with the replicas that are left, and what these confirm is gone when they follow the new one. So nothing
    counts that is confirmed in the time in which they would be told to; if they stay, there was no failover.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self._primary = b""
        self.count = 0
        # As many as there were before one left.
        self._full = 0
        self._left_at: float | None = None

    def hold(self, said: bytes) -> float:
        """Seconds for which nothing is to count as confirmed; 0 if it does.

        Args:
            said: What the primary answers to ``INFO replication``.
        """
        fields = dict(line.split(b":", 1) for line in said.splitlines() if b":" in line)
        primary, count, now = (
            fields.get(b"master_replid", b""),
            int(fields.get(b"connected_slaves", 0)),
            time.monotonic(),
        )
        if primary != self._primary or count >= self._full:
            self._primary, self._full, self._left_at = primary, count, None
        elif self._left_at is None or count < self.count:
            self._left_at = now
        elif now - self._left_at >= HOLD:
            self._full, self._left_at = count, None
        self.count = count
        return 0.0 if self._left_at is None else HOLD - (now - self._left_at)
