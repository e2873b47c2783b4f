"""JSON schemas (draft 2020-12) of the Management API's answers, made from their types and the texts beside these."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

Schema = dict[str, Any]

_PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    Any: {},
}
_ATTRIBUTE = re.compile(r"    (\w+): (.*)")
_ROLE = re.compile(r":\w+:`[~.]?([^`]*)`")


class Schemas:
    """Makes schemas; those of typed dictionaries are collected, and referred to by their names.

    Args:
        hidden: The keys that are left out of answers for those who may not see them, by the name of the type.

    Attributes:
        components: The schemas of typed dictionaries by their names.
    """

    def __init__(self, hidden: Mapping[str, frozenset[str]]) -> None:
        self.components: dict[str, Schema] = {}
        self._hidden = hidden

    def of(self, kind: Any) -> Schema:
        """The schema of a type."""
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if is_typeddict(kind):
            return self._reference(kind)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._either(arguments)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (list, tuple, Sequence):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        raise TypeError(f"no schema is known for {kind!r}")

    def _either(self, kinds: Sequence[Any]) -> Schema:
        found = [self.of(kind) for kind in kinds]
        if all(set(each) == {"type"} for each in found):
            return {"type": [each["type"] for each in found]}
        return {"anyOf": found}

    def _reference(self, kind: Any) -> Schema:
        name = kind.__name__
        if name not in self.components:
            self.components[name] = {}  # it may refer to itself
            self.components[name] = self._object(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: Any) -> Schema:
        hints = get_type_hints(kind, vars(sys.modules[kind.__module__]), include_extras=True)
        hidden = self._hidden.get(kind.__name__, frozenset())
        texts = _texts_of(kind)
        properties, required = {}, []
        for name, hint in hints.items():
            optional = get_origin(hint) is NotRequired
            schema = self.of(get_args(hint)[0] if optional else hint)
            text = texts.get(name, "")
            if name in hidden:
                text = f"{text} Left out for clients that may not see task data.".strip()
            elif not optional:
                required.append(name)
            properties[name] = {**schema, "description": text} if text else schema
        found: Schema = {"type": "object", "properties": properties, "required": required}
        return {**found, "description": summary} if (summary := _summary(kind)) else found


def _summary(kind: Any) -> str:
    """The first paragraph of what is said of a type."""
    return _plain((kind.__doc__ or "").partition("\n\n")[0])


def _texts_of(kind: Any) -> dict[str, str]:
    """What is said of the keys of a type, and of those that it's derived from."""
    texts: dict[str, str] = {}
    for base in getattr(kind, "__orig_bases__", ()):
        if is_typeddict(base):
            texts |= _texts_of(base)
    name = ""
    # Python 3.13 keeps docstrings without the indentation of their code, those before with it.
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].splitlines():
        if found := _ATTRIBUTE.fullmatch(line):
            name, texts[found[1]] = found[1], found[2]
        elif name and line.strip():
            texts[name] = f"{texts[name]} {line.strip()}"
    return {key: _plain(text) for key, text in texts.items()}


def _plain(text: str) -> str:
    return " ".join(_ROLE.sub(r"\1", text).replace("``", "`").split())
