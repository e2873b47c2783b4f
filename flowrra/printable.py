"""Writes what a terminal would act on, or show as a line of its own, as escapes."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line of text, in which everything that a terminal would act on is written as an escape."""
    return text if text.isprintable() else "".join(map(_printable, text))


def printable_lines(text: str, indent: str = "") -> str:
    """The same of text of several lines, which stay lines; each is indented."""
    return "\n".join(indent + printable(line) for line in text.split("\n"))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
