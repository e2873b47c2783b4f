"""Values that JSON lacks, written as what it has: ``{"__flowrra__": "date", "value": "2026-01-02"}`` is a date.

A tag stands for one of the types below and never names a class, so that nothing that is read makes anything but plain
values. Data classes, pydantic's models and enumerations are written as plain data, from which an annotation rebuilds
them; see ``rebuilding.py``.
"""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from flowrra.ranges import shown

logger = logging.getLogger(__name__)

_Moment = TypeVar("_Moment", datetime, time)

MARK = "__flowrra__"
# Levels of nesting of what needs a tag: it is then as surely read as it was written, however deep in other code.
MAX_DEPTH = 100

_LEAVES = frozenset({type(None), bool, int, float, str})
_TEXT = frozenset({str})
_ZONE_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")
# Python's own reading takes an offset of less than a second for none
_TINY_OFFSET = re.compile(r"([+-])00:00:00\.([0-9]{6})$")


class ItemsOfSet(list[Any]):
    """What a set was written as, where its items are no items of one before an annotation has rebuilt them: a data
    class is written as a dict.

    Attributes:
        kind: What is to be made of them.
    """

    kind: type = set


class ItemsOfFrozenset(ItemsOfSet):
    """The same of a frozenset."""

    kind = frozenset


class Unread(dict[str, Any]):
    """A tag that can't be read here, as it was found. It is written as the same tag again."""


class UnwritableError(TypeError):
    """A value, or something in it, can't be written.

    Args:
        reason: Why, as what follows its place.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = ""

    def __str__(self) -> str:
        return f"{self.place or 'it'} {self.reason}"

    def within(self, place: str) -> UnwritableError:
        """The same, seen from one level further out."""
        self.place = place + self.place
        return self


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────


def is_plain(value: Any) -> bool:
    """Whether a value is what JSON has, so that there is nothing to be done for it. (A dict that looks like a tag is
    plain, too: whoever writes the JSON can find :data:`MARK` in the text faster than in the value.)"""
    # One frame a level, and no calls for what is flat: this is on the way of every task that has a list or a dict.
    kind = type(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return kind in _LEAVES
    if _LEAVES.issuperset(map(type, items)):
        return True
    for item in items:  # noqa: SIM110 - a generator would be one more frame
        if type(item) not in _LEAVES and not is_plain(item):
            return False
    return True


def are_plain(values: Iterable[Any]) -> bool:
    """:func:`is_plain` of all of them."""
    return _LEAVES.issuperset(map(type, values)) or all(map(is_plain, values))


class Writer:
    """Writes values as what JSON has.

    Attributes:
        declared: The class of a value it has met that only an annotation can rebuild; None if it has met none.
    """

    __slots__ = ("declared",)

    def __init__(self) -> None:
        self.declared: type | None = None

    def write(self, value: Any, depth: int = 0) -> Any:
        """The value as None, booleans, numbers, text, lists, and dicts with text as keys.

        Raises:
            UnwritableError: It, or something in it, can't be written.
            Exception: Whatever the methods of a user's class raise.
        """
        kind = type(value)
        if kind in _LEAVES:
            return value
        if depth > MAX_DEPTH:
            raise UnwritableError(f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
        return _way_of(kind)(self, value, depth + 1)  # type: ignore[arg-type] # a class can be hashed

    def items(self, values: Iterable[Any], depth: int) -> list[Any]:
        """Some values."""
        found = []
        for index, value in enumerate(values):
            try:
                found.append(self.write(value, depth))
            except UnwritableError as error:
                raise error.within(f"[{index}]") from None
        return found

    def entries(self, values: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        """Some values by their keys, which must be text: JSON would silently make text of others."""
        found = {}
        for key, value in values:
            if not isinstance(key, str):
                raise UnwritableError(f"has the key {shown(key)} ({type(key).__qualname__}), and keys must be text")
            try:
                found[key] = self.write(value, depth)
            except UnwritableError as error:
                raise error.within(f"[{shown(key)}]") from None
        return found


Way = Callable[[Writer, Any, int], Any]


def is_declared(kind: type) -> bool:
    """Whether only an annotation can rebuild what a class's values are written as. (A member of an enumeration of text
    or numbers, or a named tuple, is equal to that.)"""
    return _way_of(kind) in (_write_enum, _write_dataclass, _write_model)


def is_model(kind: type) -> bool:
    """Whether a class is one of pydantic's, of version 2."""
    pydantic = sys.modules.get("pydantic")  # not imported: then nobody can have made one
    return hasattr(kind, "model_dump") and issubclass(kind, getattr(pydantic, "BaseModel", ()))


@lru_cache(maxsize=1024)
def _way_of(kind: type) -> Way:
    """How the values of a class are written."""
    if issubclass(kind, str | int | float):
        return _write_as_it_is
    if issubclass(kind, Enum):
        return _write_enum
    if dataclasses.is_dataclass(kind):
        return _write_dataclass
    if is_model(kind):
        return _write_model
    for base, way in _WAYS.items():
        if issubclass(kind, base):
            return way
    return _refuse


def _tag(name: str, value: Any, **more: Any) -> dict[str, Any]:
    return {MARK: name, "value": value, **more}


def _refuse(_: Writer, value: Any, __: int) -> Any:
    raise UnwritableError(f"is an instance of {type(value).__qualname__}")


def _write_as_it_is(_: Writer, value: Any, __: int) -> Any:
    return value


def _write_list(writer: Writer, value: Any, depth: int) -> Any:
    return writer.items(value, depth)


def _write_dict(writer: Writer, value: Any, depth: int) -> Any:
    found = writer.entries(value.items(), depth)
    return _tag("dict", found) if MARK in found else found


def _write_tuple(writer: Writer, value: Any, depth: int) -> Any:
    return _tag("tuple", writer.items(value, depth))


def _write_set(writer: Writer, value: Any, depth: int) -> Any:
    of_items = Writer()
    # In an order of its own, so that equal sets are written equally.
    items = sorted(of_items.items(value, depth), key=repr)
    name = "set" if isinstance(value, set) else "frozenset"
    try:
        set_of(set, list(map(read, items)))
    except ValueError as error:
        raise UnwritableError(f"is a {name} that could not be read: {error}") from None
    except TypeError:
        if of_items.declared is None:  # and no annotation could make of them what they were
            raise UnwritableError(f"is a {name} of items that are written as what can't be in one") from None
    writer.declared = writer.declared or of_items.declared
    return _tag(name, items)


def _write_items_of_set(writer: Writer, value: Any, depth: int) -> Any:
    return _tag("set" if value.kind is set else "frozenset", writer.items(value, depth))


def _scalar(base: type, write: Callable[[Any], dict[str, Any]]) -> Way:
    """How to write the values of a class that holds no others; those of derived classes if that is all they say."""

    def way(_: Writer, value: Any, __: int) -> Any:
        tag = write(value)
        if type(value) is base or read(tag) == value:
            return tag
        raise UnwritableError(f"is an instance of {type(value).__qualname__}, and more than a {base.__name__}")

    return way


def _datetime_tag(value: datetime) -> dict[str, Any]:
    return _tag("datetime", datetime.isoformat(value), **_zone_and_fold(value))


def _time_tag(value: time) -> dict[str, Any]:
    return _tag("time", time.isoformat(value), **_zone_and_fold(value))


def _zone_and_fold(value: datetime | time) -> dict[str, Any]:
    zone = value.tzinfo
    found: dict[str, Any] = {"fold": 1} if value.fold else {}
    return {**found, "zone": zone.key} if isinstance(zone, ZoneInfo) and zone.key else found


def _base64(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


_WAYS: dict[type, Way] = {
    Unread: _write_as_it_is,
    ItemsOfSet: _write_items_of_set,
    list: _write_list,
    dict: _write_dict,
    tuple: _write_tuple,
    set: _write_set,
    frozenset: _write_set,
    datetime: _scalar(datetime, _datetime_tag),
    date: _scalar(date, lambda value: _tag("date", date.isoformat(value))),
    time: _scalar(time, _time_tag),
    timedelta: _scalar(timedelta, lambda value: _tag("timedelta", [value.days, value.seconds, value.microseconds])),
    UUID: _scalar(UUID, lambda value: _tag("uuid", UUID.__str__(value))),
    Decimal: _scalar(Decimal, lambda value: _tag("decimal", Decimal.__str__(value))),
    bytes: _scalar(bytes, lambda value: _tag("bytes", _base64(value))),
    bytearray: _scalar(bytearray, lambda value: _tag("bytearray", _base64(value))),
}


def _write_enum(writer: Writer, value: Any, depth: int) -> Any:
    writer.declared = writer.declared or type(value)
    return writer.write(value.value, depth)


def _write_dataclass(writer: Writer, value: Any, depth: int) -> Any:
    writer.declared = writer.declared or type(value)
    fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    found = writer.entries(fields, depth)
    return _tag("dict", found) if MARK in found else found


def _write_model(writer: Writer, value: Any, depth: int) -> Any:
    kind = type(value)
    writer.declared = writer.declared or kind
    fields = dumped(value, "python")
    try:
        return writer.write(fields, depth)
    except UnwritableError:
        # A field is of a class that pydantic knows as text, such as a URL, or shows as another text, such as a secret.
        found = dumped(value, "json")
        for name, field in fields.items() if isinstance(fields, dict) else ():
            with contextlib.suppress(UnwritableError):
                found[name] = writer.write(field, depth + 1)
        if validated(kind, read(found)) != value:
            raise
        return found


def dumped(model: Any, mode: str) -> Any:
    """A pydantic model's fields by their names."""
    return model.model_dump(mode=mode, by_alias=False, round_trip=True, warnings=False)


def validated(kind: Any, fields: Any) -> Any:
    """The pydantic model that has these fields.

    Raises:
        Exception: What its validators raise.
    """
    return kind.model_validate(fields, **_by_name(kind))


@lru_cache(maxsize=1024)
def _by_name(kind: Any) -> dict[str, bool]:
    # Before pydantic 2.11 a field with an alias has no other name, unless its model says so.
    return {"by_name": True} if "by_name" in inspect.signature(kind.model_validate).parameters else {}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def read(value: Any) -> Any:
    """What was written as this.

    Raises:
        ValueError: A tag is unknown, or what it marks is not what it says. It quotes nothing of what was read: it is
            shown to people who may not see that.
        RecursionError: It is nested too deeply.
    """
    kind = type(value)
    if kind is list:
        return [read(item) for item in value]
    if kind is dict:
        return _read_tag(value) if MARK in value else read_values(value)
    return value


def read_values(values: dict[str, Any], read: Callable[[Any], Any] = read) -> dict[str, Any]:
    """A dict that is no tag, whatever it looks like."""
    return {key: read(value) for key, value in values.items()}


def read_what_can_be(value: Any) -> Any:
    """:func:`read`, but what is no value of its tag is left as :class:`Unread`: what is beside it is not lost.

    Raises:
        RecursionError: It is nested too deeply.
    """
    kind = type(value)
    if kind is list:
        return [read_what_can_be(item) for item in value]
    if kind is not dict:
        return value
    if MARK not in value:
        return read_values(value, read_what_can_be)
    try:
        return _read_tag(value)
    except ValueError:
        return Unread(value)


def _read_tag(tag: dict[str, Any]) -> Any:
    name = tag[MARK]
    reader = _READERS.get(name) if isinstance(name, str) else None
    if reader is None:
        raise ValueError("something is marked as of a type that is not known here")
    more = {key: value for key, value in tag.items() if key not in (MARK, "value")}
    try:
        return reader(tag["value"], **more)
    except (ValueError, TypeError, KeyError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"what is marked as {name} is none: {type(error).__name__}") from None


def _read_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list was expected")
    return [read(item) for item in value]


def _read_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a dict was expected")
    return read_values(value)


def _read_set(raw: type[ItemsOfSet], value: Any) -> Any:
    items = _read_list(value)
    try:
        return set_of(raw.kind, items)
    except TypeError:  # one can't be hashed
        return raw(items)


def set_of(kind: type, items: list[Any]) -> Any:
    """A set of what was read.

    Raises:
        TypeError: An item can't be in a set.
        ValueError: Most of them are equal, or collide: chosen for that, they would take hours.
    """
    if 2 * len(set(map(hash, items))) < len(items):
        raise ValueError("most of its items are equal, or collide")
    return kind(items)


def _read_iso(kind: type[_Moment], value: str) -> _Moment:
    """``kind.fromisoformat``, with any offset."""
    found = _TINY_OFFSET.search(value)
    if found is None:
        return kind.fromisoformat(value)
    offset = timedelta(microseconds=int(found[1] + found[2]))
    return kind.fromisoformat(value[: found.start()]).replace(tzinfo=timezone(offset))


def _read_datetime(value: str, zone: str | None = None, fold: int = 0) -> datetime:
    moment = _read_iso(datetime, value).replace(fold=_checked_fold(fold))
    if zone is None:
        return moment
    if moment.tzinfo is None:
        raise ValueError("it has a zone, and no offset")
    if (found := _zone(zone)) is None:
        return moment
    in_zone = moment.replace(tzinfo=found)
    # Where the zone's rules have changed meanwhile, the instant stays what it was.
    return in_zone if in_zone.utcoffset() == moment.utcoffset() else moment.astimezone(found)


def _read_time(value: str, zone: str | None = None, fold: int = 0) -> time:
    found = _read_iso(time, value).replace(fold=_checked_fold(fold))
    if zone is None:
        return found
    if (tzinfo := _zone(zone)) is None:
        raise ValueError(f"there is no time zone {zone!r} here")
    return found.replace(tzinfo=tzinfo)


def _checked_fold(fold: Any) -> int:
    if fold not in (0, 1):
        raise ValueError("its fold is neither 0 nor 1")
    return int(fold)


@lru_cache(maxsize=1024)
def _zone(key: str) -> ZoneInfo | None:
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError("its time zone has no name of one")
    try:
        return ZoneInfo(key)
    except (ValueError, KeyError, OSError, ImportError) as error:
        logger.warning("time zone not known here, its times keep their offsets only zone=%s error=%s", key, error)
        return None


def _read_timedelta(value: Any) -> timedelta:
    if not (isinstance(value, list) and len(value) == 3 and all(type(each) is int for each in value)):
        raise TypeError("three whole numbers were expected")
    return timedelta(*value)


def _read_bytes(value: str) -> bytes:
    return binascii.a2b_base64(value, strict_mode=True)


_READERS: dict[str, Callable[..., Any]] = {
    "dict": _read_dict,
    "tuple": lambda value: tuple(_read_list(value)),
    "set": partial(_read_set, ItemsOfSet),
    "frozenset": partial(_read_set, ItemsOfFrozenset),
    "datetime": _read_datetime,
    "date": date.fromisoformat,
    "time": _read_time,
    "timedelta": _read_timedelta,
    "uuid": UUID,
    "decimal": lambda value: Decimal(_text(value)),
    "bytes": _read_bytes,
    "bytearray": lambda value: bytearray(_read_bytes(value)),
}


# The classes of all that is read.
READ_TYPES = frozenset(
    {
        *(type(None), bool, int, float, str, list, dict, tuple, set, frozenset, ItemsOfSet, ItemsOfFrozenset, Unread),
        *(datetime, date, time, timedelta, UUID, Decimal, bytes, bytearray),
    }
)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text was expected")
    return value
