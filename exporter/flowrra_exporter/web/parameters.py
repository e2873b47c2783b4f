"""What clients may say with a request: each parameter's name, what counts as a value of it, and what it is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_TEXT = 512
# Characters of an id, which flowrra doesn't bound: nearly as many as a request's line has room for.
MAX_ID = 8000
# Characters of an event's id: that of an app whose tasks are spread over partitions has about fifteen for each of them.
_MAX_EVENT_ID = 2048
# RFC 3339, 5.6. Of its forms the one that everybody writes.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class BadValue(Exception):
    """What a client sent makes no sense; the text says what was wrong, and what was expected.

    Attributes:
        parameter: The name of the parameter.
    """

    def __init__(self, parameter: str, text: str) -> None:
        super().__init__(text)
        self.parameter = parameter


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        expected: Completes "expected …" in the text of an error.
        schema: The kind as JSON Schema.
        read: Makes a value of a text. Raises ValueError for a text that is none.
    """

    expected: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]

    def read_json(self, value: Any) -> Any:
        """Makes a value of what stands in JSON. Raises ValueError for what is none."""
        if self.schema["type"] == "string":
            if not isinstance(value, str):
                raise ValueError(value)
            return self.read(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValueError(value)
        return self.read(str(int(value)))


def _read_time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper())


def text_up_to(most: int) -> Kind:
    """Texts of 1 to ``most`` characters."""

    def read(text: str) -> str:
        if not 1 <= len(text) <= most:
            raise ValueError(text)
        text.encode()  # a lone surrogate, which JSON can write, is no text
        return text

    return Kind(f"a text of 1 to {most} characters", {"type": "string", "minLength": 1, "maxLength": most}, read)


def whole(least: int, most: int) -> Kind:
    """Whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
            raise ValueError(text)
        return int(text)

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Kind(f"a whole number from {least} to {most}", schema, read)


def one_of(*words: str) -> Kind:
    """Some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return Kind(f"one of {', '.join(words)}", {"type": "string", "enum": list(words)}, read)


TEXT = text_up_to(MAX_TEXT)
# Its schema has no greatest length: what has room in a request depends on how many bytes the characters take there.
ID = Kind(text_up_to(MAX_ID).expected, {"type": "string", "minLength": 1}, text_up_to(MAX_ID).read)
EVENT_ID = text_up_to(_MAX_EVENT_ID)
TIME = Kind(
    "a time as in RFC 3339, such as 2030-01-31T12:00:00Z", {"type": "string", "format": "date-time"}, _read_time
)


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: Its name, which the method of the Management API has, too.
        kind: What it may be.
        text: What it is for.
        required: Whether it has to be there.
        default: What holds without it; None is left to the method.
    """

    name: str
    kind: Kind
    text: str
    required: bool = False
    default: Any = None

    @property
    def schema(self) -> dict[str, Any]:
        """It as JSON Schema."""
        return dict(self.kind.schema) if self.default is None else {**self.kind.schema, "default": self.default}


def read_texts(parameters: Sequence[Parameter], given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of what stands in a query or a form.

    Raises:
        BadValue: A parameter is unknown, is missing, comes twice, or has no value that it may have.
    """
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise BadValue(name, f"{name[:50]!r} is there {names.count(name)} times; expected it once")
    return _read(parameters, dict(given), lambda kind, text: kind.read(text))


def read_json(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of what stands in a JSON object; null is none, as it may have been meant for something. Raises what
    ``read_texts`` raises."""
    return _read(parameters, given, lambda kind, value: kind.read_json(value))


def _read(
    parameters: Sequence[Parameter], given: Mapping[str, Any], read: Callable[[Kind, Any], Any]
) -> dict[str, Any]:
    _refuse_unknown([parameter.name for parameter in parameters], given)
    values = {}
    for parameter in parameters:
        name, kind = parameter.name, parameter.kind
        if name in given:
            try:
                values[name] = read(kind, given[name])
            except (ValueError, OverflowError):
                raise BadValue(name, f"{name} is {str(given[name])[:50]!r}; expected {kind.expected}") from None
        elif parameter.required:
            raise BadValue(name, f"{name} is missing; expected {kind.expected}")
        elif parameter.default is not None:
            values[name] = parameter.default
    return values


def _refuse_unknown(known: Collection[str], given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise BadValue(name, f"there is no parameter {name[:50]!r}; expected {', '.join(known) or 'none'}")
