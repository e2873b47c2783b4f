"""Lua scripts, each put together from files in ``flowrra/lua``."""

from __future__ import annotations

import re
from functools import cached_property
from hashlib import sha1
from importlib.resources import files

# A function, up to the first ``end`` that is not indented, or a constant in one line.
_DEFINITION = re.compile(r"^local (?:function (\w+)\(.*?^end|([A-Z_]+) = [^\n]*)\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_]\w*")


class Script:
    """A Lua script that runs as one atomic step on the server, and is sent in full only to one that doesn't know it.

    It is put together when it is first used: a process needs few of them.

    Args:
        *names: Files in ``flowrra/lua``, without the ending; each one may use what those before it define.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    @cached_property
    def text(self) -> str:
        """What the server is sent."""
        folder = files("flowrra") / "lua"
        parts = [(folder / f"{name}.lua").read_text(encoding="utf-8") for name in self._names]
        return _without_unused(_COMMENT.sub("", "\n".join(parts)))

    @cached_property
    def digest(self) -> str:
        """The name by which the server knows it; nothing is guarded by it."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def records_key(namespace: str) -> str:
    """The key that a script names which is about the records of a namespace alone: it needs rights to nothing but what
    begins with ``<namespace>:``."""
    return f"{namespace}:records"


def _without_unused(text: str) -> str:
    """A script without the functions and constants that nothing behind them uses. The server makes each of them anew at
    every call, which would take as long as a small script does."""
    kept: list[str] = []
    used: set[str] = set()

    def keep(part: str) -> None:
        kept.append(part)
        used.update(_NAME.findall(part))

    begin = len(text)
    for definition in reversed(list(_DEFINITION.finditer(text))):
        keep(text[definition.end() : begin])
        begin = definition.start()
        if (definition[1] or definition[2]) in used:
            keep(definition[0])
    keep(text[:begin])
    return "".join(reversed(kept))
