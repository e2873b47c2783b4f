"""Copies values, so that who changes one does not change another's: arguments for an attempt, results for a reader.

Plain data is copied deeply. What stands for something besides its value, such as an event, a lock, a connection or a
function, is shared.
"""

from __future__ import annotations

import datetime
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from operator import is_
from types import SimpleNamespace
from typing import Any
from uuid import UUID

# Values of exactly these classes can't be changed: they are their own copies.
SCALARS = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        Decimal,
        Fraction,
        UUID,
    }
)
_CONTAINERS = (list, dict, set, frozenset, tuple, bytearray, deque, UserDict, UserList, ChainMap, SimpleNamespace)
# A class that has one of these declares its fields: a dataclass, or one of attrs, pydantic 1 or msgspec.
_DECLARATIONS = ("__dataclass_fields__", "__attrs_attrs__", "__fields__", "__struct_fields__")
# An object of SQLAlchemy's stands for a row and belongs to a session.
_MAPPED = "_sa_class_manager"
# As in the copy module: copies by the id of the original, and under its own id a list of what must not be freed
# meanwhile, as another object could get the same id.
Memo = dict[int, Any]


def copied(value: Any) -> Any:
    """A copy that has nothing changeable in common with the original; shared references and cycles stay what they are.

    What can't be copied is shared: no value makes this raise.
    """
    kind = type(value)
    if kind in SCALARS:
        return value
    try:
        # Most are flat, and need none of what the others need.
        if kind is dict and SCALARS.issuperset(map(type, value.values())) and SCALARS.issuperset(map(type, value)):
            return value.copy()
        if kind in (list, tuple) and SCALARS.issuperset(map(type, value)):
            return value if kind is tuple else value.copy()
        return _copy(value, {})
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - nested too deeply, changed by another thread meanwhile, or hostile
        return value


def _copy(value: Any, memo: Memo) -> Any:
    kind = type(value)
    if kind in SCALARS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    # All in one function: a level of nesting costs as many frames as functions, and Python limits their number.
    if kind is dict:
        if SCALARS.issuperset(map(type, value.values())) and SCALARS.issuperset(map(type, value)):
            memo[id(value)] = copy = value.copy()
            return copy
        memo[id(value)] = copy = {}
        for key, each in value.items():
            copy[_copy(key, memo)] = _copy(each, memo)
        return copy
    if kind is list:
        if SCALARS.issuperset(map(type, value)):
            memo[id(value)] = items = value.copy()
            return items
        memo[id(value)] = items = []
        for each in value:
            items.append(_copy(each, memo))
        return items
    if kind is tuple:
        if SCALARS.issuperset(map(type, value)):
            return value
        items = []
        for each in value:
            items.append(_copy(each, memo))
        # A cycle may have led here meanwhile.
        copy = value if all(map(is_, items, value)) else tuple(items)
        return memo.setdefault(id(value), copy)
    copier = _copier(kind)  # type: ignore[arg-type] # a class can be hashed; where not, the value is shared
    return value if copier is None else copier(value, memo)


@lru_cache(maxsize=1024)
def _copier(kind: type) -> Callable[[Any, Memo], Any] | None:
    """What copies the values of a class; None if they are shared."""
    if issubclass(kind, type) or hasattr(kind, _MAPPED):
        return None
    if hasattr(kind, "__deepcopy__"):
        return _by_its_own_method
    if kind in (set, frozenset):
        return _copied_set
    if issubclass(kind, _CONTAINERS) or any(hasattr(kind, each) for each in _DECLARATIONS):
        return _rebuilt
    return None


def _copied_set(value: Any, memo: Memo) -> Any:
    if not SCALARS.issuperset(map(type, value)):
        return _rebuilt(value, memo)
    return memo.setdefault(id(value), value.copy())


def _by_its_own_method(value: Any, memo: Memo) -> Any:
    return _copied_by(lambda: value.__deepcopy__(memo), value, memo)


def _rebuilt(value: Any, memo: Memo) -> Any:
    return _copied_by(lambda: _rebuild(value, memo), value, memo)


def _copied_by(make: Callable[[], Any], value: Any, memo: Memo) -> Any:
    """What is made, or the value itself if it can't be: that is no reason to share what is beside it."""
    try:
        return memo.setdefault(id(value), make())
    except (KeyboardInterrupt, RecursionError):
        raise
    except BaseException:  # noqa: BLE001 - the methods of a user's class may raise anything
        memo[id(value)] = value
        return value


def _rebuild(value: Any, memo: Memo) -> Any:
    """A copy made of the parts that an object's ``__reduce_ex__`` names, as ``copy.deepcopy`` makes it."""
    parts = value.__reduce_ex__(4)
    if isinstance(parts, str):  # it is the only one of its name
        return value
    kept: list[Any] = memo.setdefault(id(memo), [])
    kept.append(parts)
    make, args, state, items, pairs = (*parts, None, None, None)[:5]
    copy = memo.setdefault(id(value), make(*(_copy(each, memo) for each in args)))
    if state is not None:
        _restore(copy, _copy(state, memo))
    # What a class gives out as its items may be made for that.
    for item in items or ():
        kept.append(item)
        copy.append(_copy(item, memo))
    for key, each in pairs or ():
        kept += (key, each)
        copy[_copy(key, memo)] = _copy(each, memo)
    return copy


def _restore(copy: Any, state: Any) -> None:
    if hasattr(copy, "__setstate__"):
        copy.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        copy.__dict__.update(attributes)
    for name, each in (slots or {}).items():
        object.__setattr__(copy, name, each)  # also of a frozen class
