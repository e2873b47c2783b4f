"""A stall: the app's event loop doesn't turn. For how long, which task holds it up, and at which line of code."""

from __future__ import annotations

import linecache
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.management import Management
from flowrra_exporter.logs import ThrottledWarning, mask_secrets

logger = logging.getLogger(__name__)

_failed = ThrottledWarning(logger, "get_runtime_stats() failed %d times")

# From the beginning of a line: a line that repeats the words would take the square of its length.
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)(?:\n +(.+))?', re.MULTILINE)
_PLACE = "{}:{} in {}: {}"


class Stall(NamedTuple):
    """A stall, as far as it is known.

    Attributes:
        at: When it was seen, in UTC.
        seconds: For how long the loop had not turned.
        task: The task that held the loop up, as ``NAME (ID)``.
        line: Where its thread was, as ``FILE:LINE in FUNCTION: SOURCE``.
    """

    at: datetime | None
    seconds: float
    task: str
    line: str

    @property
    def culprit(self) -> str:
        """``task NAME (ID), at FILE:LINE in FUNCTION: SOURCE``, as far as it's known."""
        return ", ".join([*([f"task {self.task}"] if self.task else []), *([f"at {self.line}"] if self.line else [])])


def read_runtime_stats(management: Management | None) -> Mapping[str, Any]:
    """What ``get_runtime_stats`` says, without a turn of the app's loop; nothing if it can't be asked."""
    if management is None or not management.has("get_runtime_stats"):
        return {}
    try:
        return dict(management.read("get_runtime_stats"))
    except Exception as error:  # noqa: BLE001 - whatever the app raises; said now and then
        _failed.warn(error=error)
        return {}


def current_stall(loop: AppLoop, runtime: Mapping[str, Any]) -> Stall:
    """The stall of a loop that is silent now. ``runtime`` is what ``get_runtime_stats`` says."""
    known = past_stall(runtime.get("blocking")) or Stall(None, 0.0, "", "")
    line = known.line or mask_secrets(current_line(loop.thread))
    return known._replace(seconds=max(known.seconds, loop.silence), line=line)


def past_stall(found: Any) -> Stall | None:
    """What ``get_runtime_stats`` says of a stall."""
    if not isinstance(found, Mapping):
        return None
    at, task = found.get("at"), found.get("task")
    named = f"{task.get('name')} ({task.get('id')})" if isinstance(task, Mapping) else ""
    seen = at.astimezone(UTC) if isinstance(at, datetime) else None
    line = mask_secrets(innermost(str(found.get("stack") or "")))
    return Stall(seen, float(found.get("seconds") or 0.0), mask_secrets(named), line)


def current_line(thread: threading.Thread) -> str:
    """The line of code that a thread is at, as ``FILE:LINE in FUNCTION: SOURCE``; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno).strip()
    return _PLACE.format(code.co_filename, frame.f_lineno, code.co_name, source)


def innermost(stack: str) -> str:
    """The last frame of a stack as a traceback prints it, in one line: ``shop.py:7 in f: source``."""
    frames = list(_FRAME.finditer(stack))
    return "" if not frames else _PLACE.format(*frames[-1].groups(""))
