"""Which numbers are taken, wherever they come in: none that a later part of the way could not hold."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

# The bounds of what a task says of itself: numbers that every part of the way can hold. The first is 100 years.
MAX_DELAY = 100 * 365 * 24 * 3600.0
MAX_RETRIES = 2**31 - 1
MAX_BACKOFF = 1e9
MAX_PRIORITY = sys.float_info.max

MAX_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from ``least`` to ``most``.

    Attributes:
        least, most: Both are in it, unless ``is_open``: then ``least`` isn't.
        is_whole: Whether only integers are.
        is_open: Whether numbers have to be more than ``least``.
        unit: What they count, for the message.
    """

    least: float
    most: float
    is_whole: bool = False
    is_open: bool = False
    unit: str = ""

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is not in this range.

        Args:
            name: What it is the value of, for the message.
            value: The value.

        Raises:
            TypeError: It is no number, or no integer where only those are taken. True and False are none.
            ValueError: It is a number outside of the range, or none at all, as NaN is.
        """
        kinds = int if self.is_whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{name} must be {'an integer' if self.is_whole else 'a number'}, not {shown(value)}")
        # What is no number compares as False.
        if not (self.least <= value <= self.most and not (self.is_open and value == self.least)):
            raise ValueError(f"{name} must be {self}, not {shown(value)}")

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.least == -self.most:
            return f"finite, between {self.least:g} and {self.most:g}{unit}"
        least = "positive" if self.is_open else "non-negative" if self.least == 0 else f"at least {self.least:g}{unit}"
        return f"{least} and finite, at most {self.most:g}{unit}"


def check_wait(name: str, seconds: object) -> None:
    """Refuse what is no time to wait for something. One below 0 is over already, as of a deadline that has passed; None
    and infinity have no end. NaN would make every timer of the event loop late.

    Args:
        name: What it is the value of, for the message.
        seconds: The value.

    Raises:
        TypeError: It is no number. True and False are none.
        ValueError: It is NaN, or more than 100 years.
    """
    if seconds is None or seconds == math.inf:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {shown(seconds)}")
    if not -MAX_DELAY <= seconds <= MAX_DELAY:
        raise ValueError(f"{name} must be a number of seconds, at most {MAX_DELAY:g}, not {shown(seconds)}")


def shown(value: object) -> str:
    """A value for a message, whatever it is: its ``repr``, bounded in length."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - it is user code, or a number of too many digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


SECONDS = Range(0, MAX_DELAY, unit="seconds")
SOME_SECONDS = Range(0, MAX_DELAY, is_open=True, unit="seconds")
COUNT = Range(1, sys.maxsize, is_whole=True)
RETRIES = Range(0, MAX_RETRIES, is_whole=True)
BACKOFF = Range(0, MAX_BACKOFF)
JITTER = Range(0, 1)
PRIORITY = Range(-MAX_PRIORITY, MAX_PRIORITY)
WHOLE_PRIORITY = Range(-MAX_PRIORITY, MAX_PRIORITY, is_whole=True)
