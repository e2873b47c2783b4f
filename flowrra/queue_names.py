"""The names of queues, wherever they come in: part of keys on a server, of labels and of configurations."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_QUEUE: Final = "default"
MAX_LENGTH = 64
# Queues that are looked at, of those that others have registered at a server.
MAX_QUEUES = 1000

_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_LENGTH}}}")


def is_queue_name(name: object) -> bool:
    """Whether a queue can have that name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def checked_queue(name: object) -> str:
    """The name, if a queue can have it; the default one's is always the same object.

    Raises:
        ValueError: No queue can have it.
    """
    if not (isinstance(name, str) and is_queue_name(name)):
        shown = f"{name!r:.100}" if isinstance(name, str) else f"a {type(name).__name__}"
        raise ValueError(f"A queue's name must have 1 to {MAX_LENGTH} of the characters A-Z a-z 0-9 _ . -, not {shown}")
    return DEFAULT_QUEUE if name == DEFAULT_QUEUE else name
