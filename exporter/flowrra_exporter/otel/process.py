"""When this process was started: since then at the latest, its counters count."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED_AT = time.time()
_START_FIELD = 19  # of what follows the program's name in /proc/self/stat, see proc(5)


def started_at() -> float:
    """The process's start as a Unix time in seconds; without a /proc, when this module was imported."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return _booted_at() + int(after_name[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _IMPORTED_AT


def _booted_at() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise ValueError("/proc/stat has no btime")
