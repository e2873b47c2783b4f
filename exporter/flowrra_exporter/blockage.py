"""What blocks the app's event loop: the task, if known, and the line of code."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from flowrra_exporter.app_loop import AppLoop
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.management import Management
from flowrra_exporter.watchdog import where

logger = logging.getLogger(__name__)

# From the beginning of a line: a line that repeats the words would take the square of its length.
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in (.+)(?:\n +(.+))?', re.MULTILINE)


def describe_blockage(loop: AppLoop, management: Management | None) -> str:
    """``task NAME (ID), at FILE:LINE in FUNCTION: SOURCE``, as far as it's known. Needs no turn of the loop."""
    blocking = _blocking(management)
    task = blocking.get("task")
    named = f"task {task.get('name')} ({task.get('id')})" if isinstance(task, Mapping) else ""
    line = innermost(str(blocking.get("stack") or "")) or where(loop.thread)
    return mask_secrets(", ".join(part for part in (named, line and f"at {line}") if part))


def _blocking(management: Management | None) -> Mapping[str, Any]:
    if management is None or not management.has("get_runtime_stats"):
        return {}
    try:
        found = management.read("get_runtime_stats").get("blocking")
    except Exception:
        logger.warning("get_runtime_stats() failed", exc_info=True)
        return {}
    return found if isinstance(found, Mapping) else {}


def innermost(stack: str) -> str:
    """The last frame of a stack as a traceback prints it, in one line: ``shop.py:7 in f: source``."""
    frames = list(_FRAME.finditer(stack))
    return "" if not frames else "{}:{} in {}: {}".format(*frames[-1].groups(""))
