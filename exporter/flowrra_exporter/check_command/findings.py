"""What a check finds, and how it is printed: one line a finding.

What stands in it may come from a server that nobody trusts, so nothing of it can make lines of its own or steer a
terminal, and secrets in URLs are hidden.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple, TextIO

from flowrra_exporter.logs import mask_secrets

_MOST_CHARACTERS = 400
_MOST_OF_A_KIND = 5


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """One thing that is right or wrong, and what it is about."""

    level: Level
    subject: str
    message: str


def ok(subject: str, message: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, subject, message)


def warning(subject: str, message: str) -> Finding:
    """It works, but isn't as it should be."""
    return Finding(Level.WARNING, subject, message)


def error(subject: str, message: str) -> Finding:
    """It doesn't work, or figures are missing or wrong."""
    return Finding(Level.ERROR, subject, message)


class Rule(NamedTuple):
    """What a piece of an exposition breaks: ``name`` is the same for all that break it, ``message`` says which does."""

    name: str
    level: Level
    message: str


def of_rules(subject: str, broken: Iterable[Rule], all_well: str) -> Iterator[Finding]:
    """The broken rules as findings, of each rule the first few; or that all is well."""
    by_rule: dict[str, list[Rule]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for each in broken:
        counts[each.name] += 1
        if counts[each.name] <= _MOST_OF_A_KIND:
            by_rule[each.name].append(each)
    if not by_rule:
        yield ok(subject, all_well)
    for name, found in by_rule.items():
        for each in found:
            yield Finding(each.level, subject, each.message)
        more = counts[name] - len(found)
        if more:
            yield Finding(found[0].level, subject, f"{name}: {more} more")


class Report:
    """Prints findings as they come, and keeps count. With ``strict`` a warning is as bad as an error."""

    def __init__(self, strict: bool, stream: TextIO | None = None) -> None:
        self._strict = strict
        self._stream = stream or sys.stdout
        self._counts = dict.fromkeys(Level, 0)

    def add(self, findings: Iterable[Finding]) -> None:
        """Prints the findings, each as soon as it's there."""
        for finding in findings:
            self._counts[finding.level] += 1
            self._print(f"{finding.level.value:<8}{printable(f'{finding.subject}: {finding.message}')}")

    @property
    def status(self) -> int:
        """The exit status: 1 if something is wrong, else 0."""
        return int(self._counts[Level.ERROR] > 0 or (self._strict and self._counts[Level.WARNING] > 0))

    def close(self) -> int:
        """Prints what it comes to; returns the exit status."""
        errors, warnings = (
            _counted(self._counts[Level.ERROR], "error"),
            _counted(self._counts[Level.WARNING], "warning"),
        )
        verdict = "failed" if self.status else "passed"
        self._print(f"check {verdict}: {errors}, {warnings}, {self._counts[Level.OK]} ok")
        return self.status

    def _print(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


def printable(text: str) -> str:
    """``text`` in one line of bounded length, without secrets or anything but what can be seen."""
    # Cut before the secrets are looked for: a long text must not cost much.
    text = mask_secrets(" ".join(text[: 4 * _MOST_CHARACTERS].split()))
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
