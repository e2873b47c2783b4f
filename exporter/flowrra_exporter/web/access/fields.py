"""Reads the keys of one section of a YAML file strictly: each error names the file, the key and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from flowrra_exporter.errors import UsageError

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100
_shown.maxlevel = 2


def shown(value: Any) -> str:
    """A value of the file for an error's text: never all of one that is long, or that has itself in it often."""
    try:
        return f"{_shown.repr(value):.100}"
    except ValueError:  # a number with too many digits to be written in decimal
        return "a number that is too large"


class Fields:
    """The section ``name`` (empty for the top) of the file ``source``. What is never asked for is refused by name."""

    def __init__(self, source: str, name: str, values: Mapping[Any, Any]) -> None:
        self._source = source
        self._name = name
        self._values = {self._text_of(key): value for key, value in values.items()}
        self._asked: set[str] = set()

    def _text_of(self, key: Any) -> str:
        # 007 would be the user 7, and yes the user True.
        if not isinstance(key, str):
            raise UsageError(f"{self._source}: {self._path(shown(key))} is no text; expected it in quotes")
        return key

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def error(self, key: str, problem: str) -> UsageError:
        """An error about the value of ``key``."""
        return UsageError(f"{self._source}: {self._path(key)} {problem}")

    def section(self, key: str, *, secret: bool = False) -> Fields | None:
        """The section under ``key``, None if there is none. What else stands there isn't quoted if it is ``secret``."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            found = f"a {type(value).__name__}" if secret else shown(value)
            raise self.error(key, f"is {found}; expected keys with values")
        return Fields(self._source, self._path(key), value)

    def text(self, key: str, default: str = "", *, secret: bool = False, numbers: bool = False) -> str:
        """The text under ``key``.

        Args:
            key: The key.
            default: What it is without the key.
            secret: It is never quoted in an error.
            numbers: Numbers are text, too.
        """
        value = self._take(key)
        if value is None:
            return default
        if numbers and type(value) in (int, float):
            return shown(value)
        if not isinstance(value, str):
            raise self.error(key, "is no text; expected text" if secret else f"is {shown(value)}; expected text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts under ``key``; empty if there is none."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"is {shown(value)}; expected a list of texts")
        return tuple(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false under ``key``."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is {shown(value)}; expected true or false")
        return value

    def number(self, key: str, default: int) -> int:
        """The whole number under ``key``."""
        value = self._take(key)
        if value is None:
            return default
        if type(value) is not int:
            raise self.error(key, f"is {shown(value)}; expected a whole number")
        return value

    def refuse(self, key: str, reason: str) -> None:
        """Raises if ``key`` has a value: we know what it means, and can't do it."""
        if self._take(key) not in (None, "", []):
            raise self.error(key, f"isn't supported: {reason}")

    def nothing_else(self) -> None:
        """Raises for a key that nobody has asked for."""
        for key in self._values:
            if key not in self._asked:
                raise self.error(key, f"is unknown; expected {', '.join(sorted(self._asked))}")

    def _take(self, key: str) -> Any:
        self._asked.add(key)
        return self._values.get(key)

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key
