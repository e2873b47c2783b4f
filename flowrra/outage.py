"""What fails again and again, in the log: its beginning, a line from time to time, and its end."""

from __future__ import annotations

import logging
import math
import time

# Seconds between two lines about one outage, and between the beginnings of two that are said at once.
SAID_EVERY = 30.0


class Outage:
    """Says of something that it fails, in few lines however often it is tried. One that begins soon after another is
    said only if it lasts: what comes and goes would fill the log, too.

    Args:
        logger: Where it is said.
        what: What fails, as the beginning of a sentence: "broker not readable".
        about: Whose it is, in the log's form: "executor=io".
        level: Of all lines but that of the end, which is at info.

    Attributes:
        what: The same.
    """

    def __init__(self, logger: logging.Logger, what: str, about: str = "", *, level: int = logging.WARNING) -> None:
        self._logger = logger
        self.what = what
        self._about = f" {about}" if about else ""
        self._level = level
        self._began_at: float | None = None
        self._said_at = -math.inf
        self._times = 0
        self._is_said = False

    def failed(self, error: str = "", cause: BaseException | None = None, times: int = 1) -> None:
        """It failed, once more.

        Args:
            error: Why, as text; empty if that is said already.
            cause: Its traceback is logged with the first line; None logs none.
            times: How many times more.
        """
        now = time.monotonic()
        is_first = self._began_at is None
        if self._began_at is None:
            self._began_at, self._times = now, 0
        self._times += times
        if now - self._said_at < SAID_EVERY:
            return
        self._said_at, self._is_said = now, True
        reason = f" error={error}" if error else ""
        if is_first:
            self._logger.log(self._level, "%s%s times=%d%s", self.what, self._about, times, reason, exc_info=cause)
            return
        text, seconds = "still: %s%s times=%d seconds=%.0f%s", now - self._began_at
        self._logger.log(self._level, text, self.what, self._about, self._times, seconds, reason)

    def over(self) -> None:
        """It succeeded. For what succeeds most of the time, this costs next to nothing."""
        if self._began_at is None:
            return
        if self._is_said:
            seconds = time.monotonic() - self._began_at
            self._logger.info("over: %s%s times=%d seconds=%.1f", self.what, self._about, self._times, seconds)
        self._began_at, self._is_said = None, False
