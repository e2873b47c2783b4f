"""Estimates how much memory a record takes: near enough to bound what many of them take, and quick."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Sequence
from sys import getsizeof
from typing import Any

from flowrra.copying import SCALARS
from flowrra.task import TaskResult

# Bytes of a record of few and small values: with its id and times, and its places in the backend.
RECORD_SIZE = 1000
# Bytes of a number or a time, and of a short text: to ask each for its own would take longer than all the rest.
SMALL_SIZE = 40
SHORT_SIZE = 80
SHORT_LENGTH = 64
# Arguments that a small record may have, and parts that are added up without looking for what occurs twice.
FEW_ARGUMENTS = 4
FEW_PARTS = 40
# Of a large value only some parts are looked at: so many of one container, so many of these for their own parts, and
# so many in all.
MAX_PARTS = 1000
MAX_DESCENTS = 50
MAX_VISITS = 2000

_TEXTS = frozenset({str, bytes})
SMALL = SCALARS - _TEXTS
_PLAIN = frozenset({dict, list, tuple, set, frozenset})
_SEQUENCES = (list, tuple, set, frozenset, deque)
# What a value may refer to, and doesn't own.
_FOREIGN = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def is_small(record: TaskResult) -> bool:
    """Whether a record is of ``RECORD_SIZE``; to be asked first, as most are."""
    if record.error is not None or record.attempts:
        return False
    result = record.result
    if type(result) not in SMALL and (type(result) not in _TEXTS or len(result) > SHORT_LENGTH):
        return False
    values = (*record.args, *record.kwargs.values()) if record.kwargs else record.args
    for value in values:
        if type(value) not in SMALL and (type(value) not in _TEXTS or len(value) > SHORT_LENGTH):
            return False
    return len(values) <= FEW_ARGUMENTS


def record_size(record: TaskResult) -> int:
    """About how many bytes a record takes, with its arguments, its result, its error and its attempts."""
    size = RECORD_SIZE
    for value in (record.result, *record.args, *record.kwargs.values()):
        size += value_size(value)
    for attempt in record.attempts:
        size += SMALL_SIZE + getsizeof(attempt) + getsizeof(attempt.error) + getsizeof(attempt.traceback)
    return size + (0 if record.error is None else getsizeof(record.error) + getsizeof(record.traceback))


def value_size(value: Any) -> int:
    """About how many bytes a value takes. What several of its parts refer to counts once."""
    kind = type(value)
    if kind in SMALL:
        return SMALL_SIZE
    if kind in SCALARS:
        return getsizeof(value)
    if kind in _PLAIN and len(value) <= FEW_PARTS and (size := _small_size(_parts(value))) is not None:
        return getsizeof(value) + size
    return _sample(value)


def _small_size(values: Sequence[Any]) -> int | None:
    """The bytes of values that are all small; None if one isn't."""
    size = 0
    for value in values:
        kind = type(value)
        if kind in SMALL:
            size += SMALL_SIZE
        elif kind in _TEXTS and len(value) <= SHORT_LENGTH:
            size += SHORT_SIZE
        else:
            return None
    return size


def _sample(value: Any) -> int:
    size = looked_at = 0.0
    visits = 0
    seen = {id(value)}
    # What is to be looked into, the shallowest first; each with the number of objects for which it stands.
    waiting = deque([(value, 1.0)])
    while waiting and visits < MAX_VISITS:
        each, share = waiting.popleft()
        looked_at += share
        size += share * _own_size(each)
        parts = _parts(each)
        if not parts:
            continue
        known = _some(parts, MAX_PARTS)
        visits += len(known)
        share *= len(parts) / len(known)
        scalars, inner = _sizes(known, seen)
        size += share * scalars
        if inner:
            chosen = _some(inner, MAX_DESCENTS)
            share *= len(inner) / len(chosen)
            waiting.extend([(part, share) for part in chosen])
    # The rest is like what was looked at.
    return round(size + size / looked_at * sum([share for _, share in waiting]))


def _some(parts: Sequence[Any], limit: int) -> Sequence[Any]:
    """So many of the parts at the most, evenly spread."""
    return parts if len(parts) <= limit else parts[:: 1 + (len(parts) - 1) // limit]


def _sizes(parts: Sequence[Any], seen: set[int]) -> tuple[int, list[Any]]:
    """The bytes of those parts that have none themselves, and the others; without what was seen before."""
    size = 0
    inner = []
    for part in parts:
        kind = type(part)
        if kind in SMALL:
            size += SMALL_SIZE
        elif (place := id(part)) not in seen:
            seen.add(place)
            if kind in _TEXTS and len(part) <= SHORT_LENGTH:
                size += SHORT_SIZE
            elif kind in SCALARS:
                size += getsizeof(part)
            else:
                inner.append(part)
    return size, inner


def _own_size(value: Any) -> int:
    """The bytes of an object without its parts; also of the buffer that it stands for, such as an array's."""
    if type(value) in _PLAIN:
        return getsizeof(value)
    try:
        return max(getsizeof(value), int(getattr(value, "nbytes", 0)))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - its class counts for itself, and may raise anything
        return object.__sizeof__(value)


def _parts(value: Any) -> Sequence[Any]:
    """What an object consists of."""
    try:
        if isinstance(value, dict):
            return [*value, *value.values()]
        if isinstance(value, _SEQUENCES):
            return list(value)
        return [] if isinstance(value, _FOREIGN) else list(_attributes(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - it was changed meanwhile, or is not what it seems
        return []


def _attributes(value: Any) -> Iterator[Any]:
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        for slot in kind.__dict__.values() if "__slots__" in kind.__dict__ else ():
            # By the descriptor, as a property or __getattr__ could do anything.
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield slot.__get__(value)
                except AttributeError:  # nothing was put there
                    continue
