"""Answers as JSON: what belongs to users' tasks is left out, or bounded, as it may be anything.

Passwords in URLs are masked in each text before it becomes JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date
from enum import Enum
from typing import Any

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.web.responses import MAX_DEPTH, json_safe

# Values that can be anything, by their keys.
_OF_USERS = ("args", "kwargs", "result")
# Characters and items that each of them has room for, all that is in it together.
_ROOM = 16_384
# Characters past that room that are read for what comes before them: a password is told by the @ behind it.
_MARGIN = 1024
_MAX_DEPTH = 16
# An answer may be a page, that has a list, of records.
_SLICED_LEVELS = 3
_CUT = "…"


async def render(answer: Any, hidden: frozenset[str]) -> str:
    """The answer as JSON, made in slices between which the app has the interpreter.

    Args:
        answer: What a method of the Management API answered.
        hidden: Keys that are left out, wherever they stand.
    """
    pieces: list[str] = []
    await _write(answer, hidden, pieces, Pacer(), _SLICED_LEVELS)
    return "".join(pieces)


async def _write(value: Any, hidden: frozenset[str], pieces: list[str], pacer: Pacer, levels: int) -> None:
    if levels and isinstance(value, Mapping):
        shown = {mask_secrets(str(key)): item for key, item in value.items() if key not in hidden}
        pieces.append("{")
        for number, (key, item) in enumerate(shown.items()):
            pieces.append(f"{', ' if number else ''}{json.dumps(key)}: ")
            if key in _OF_USERS:
                pieces.append(json.dumps(_fitted(item)))
            else:
                await _write(item, hidden, pieces, pacer, levels - 1)
            await pacer.pause_if_due()
        pieces.append("}")
    elif levels and isinstance(value, list | tuple):
        pieces.append("[")
        for number, item in enumerate(value):
            pieces.append(", " if number else "")
            await _write(item, hidden, pieces, pacer, levels - 1)
            await pacer.pause_if_due()
        pieces.append("]")
    else:
        pieces.append(json.dumps(json_safe(without(value, hidden))))


def without(answer: Any, hidden: frozenset[str], depth: int = 0) -> Any:
    """The answer without these keys, wherever they stand in it, and with room for just so much of what is a user's.

    What lies deeper than anything of ours is left out, as ``json_safe`` does: what a stranger announced has no end.
    """
    if depth > MAX_DEPTH:
        return _CUT
    if isinstance(answer, Mapping):
        shown = {key: value for key, value in answer.items() if key not in hidden}
        return {
            key: _fitted(value) if key in _OF_USERS else without(value, hidden, depth + 1)
            for key, value in shown.items()
        }
    if isinstance(answer, list | tuple):
        return [without(each, hidden, depth + 1) for each in answer]
    return answer


def _fitted(value: Any) -> Any:
    try:
        return _Room().fit(value, 0)
    except Exception as error:  # noqa: BLE001 - it's the user's object, and may fail in any way
        return f"<{type(value).__name__} that can't be read: {type(error).__name__}>"


class _Room:
    """What is left of the room for a value."""

    def __init__(self) -> None:
        self._left = _ROOM

    def fit(self, value: Any, depth: int) -> Any:
        """As much of the value as there is room for, as JSON knows it."""
        self._left -= 1
        if self._left <= 0 or depth > _MAX_DEPTH:
            return _CUT
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            # JavaScript, and most else that reads JSON, holds no more digits.
            return int(value) if abs(value) < 2**53 else self._text(str(value) if abs(value) < 2**999 else _CUT)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, Enum):
            return self.fit(value.value, depth + 1)
        if isinstance(value, date):
            return value.isoformat()  # as the user has it, be it without an offset
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth)
        return self._text(value if isinstance(value, str) else repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found = {}
        for key, item in value.items():
            if self._left <= 0:
                found[_CUT] = _CUT
                break
            found[self._text(str(key))] = self.fit(item, depth + 1)
        return found

    def _list(self, value: Any, depth: int) -> list[Any]:
        found = []
        for item in value:
            found.append(self.fit(item, depth + 1))
            if self._left <= 0:
                break
        return found

    def _text(self, text: str) -> str:
        room = max(0, self._left)
        self._left -= len(text)
        masked = mask_secrets(text[: room + _MARGIN])
        return masked if len(text) <= room else masked[:room] + _CUT
