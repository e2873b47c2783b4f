"""The result of one check of a probe."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: Its name.
        ok: Whether it has passed.
        message: For humans.
        probes: The probes that it can fail.
        failing_since: When it was first seen to fail, in UTC.
        detail: What only those who ask for it are told: which code it is.
    """

    name: str
    ok: bool
    message: str
    probes: tuple[str, ...] = ()
    failing_since: datetime | None = None
    detail: str = ""
