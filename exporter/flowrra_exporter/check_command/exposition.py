"""Reads the text format 0.0.4 strictly, line by line, and goes on after a mistake: a lint is to name them all.

https://prometheus.io/docs/instrumenting/exposition_formats/. The parsers of prometheus_client are asked as well
(`formats`), but the one is lenient and the other stops at the first mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from flowrra_exporter.check_command.findings import Level, Rule

TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"\\": "\\", '"': '"', "n": "\n"}
_SPACE = re.compile(r"[ \t]*")
# Possessive, so that the lines of a hostile server cost no more than their length.
_VALUE = re.compile(
    r"[ \t]*([+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[+-]?[0-9]++)?|[+-]?inf(?:inity)?|nan)"
    r"(?:[ \t]++(-?[0-9]++))?[ \t]*",
    re.IGNORECASE,
)

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One sample line. `labels` are in the order of their names."""

    line: int
    name: str
    labels: Labels
    value: float
    has_timestamp: bool

    def label(self, name: str) -> str | None:
        """The value of a label, None if it has none of this name."""
        return dict(self.labels).get(name)

    def without(self, name: str) -> Labels:
        """The labels but this one."""
        return tuple(pair for pair in self.labels if pair[0] != name)


@dataclass
class Family:
    """The samples of one metric with what is said about it. A `type` or `help` that isn't given is None."""

    name: str
    type: str | None = None
    help: str | None = None
    samples: list[Sample] = field(default_factory=list)


class _Malformed(ValueError):
    """A line that isn't in the format; the text says why."""


class Exposition:
    """What an answer in the text format holds; `broken` are the rules of the format that it breaks."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Family] = {}
        self.broken: list[Rule] = []
        self.series = 0
        self._seen: dict[tuple[str, Labels], int] = {}
        self._current: Family | None = None
        self._ended: set[str] = set()
        for number, line in enumerate(text.split("\n"), 1):
            self._read(number, line)
        if text and not text.endswith("\n"):
            self._break("last line", "the last line doesn't end with a line feed")

    def samples(self, name: str) -> Iterator[Sample]:
        """The samples of this name."""
        family = self.families.get(name)
        return (sample for sample in (family.samples if family else ()) if sample.name == name)

    def _break(self, rule: str, message: str) -> None:
        self.broken.append(Rule(rule, Level.ERROR, message))

    def _read(self, number: int, line: str) -> None:
        try:
            if line.startswith("#"):
                self._comment(number, line)
            elif line.strip(" \t"):
                self._add(_sample(number, line))
        except _Malformed as malformed:
            self._break("malformed line", f"line {number}: {malformed}: {line:.100}")

    def _comment(self, number: int, line: str) -> None:
        words = line[1:].lstrip(" \t").split(" ", 2)
        if words[0] not in ("HELP", "TYPE"):
            return
        name = words[1].strip() if len(words) > 1 else ""
        if not _NAME.fullmatch(name):
            raise _Malformed(f"{words[0]} of no metric")
        text = words[2].strip() if len(words) > 2 else ""
        family = self._family(name)
        if words[0] == "HELP":
            if family.help is not None:
                self._break("second HELP", f"line {number}: {name} has a second HELP")
            family.help = text
            return
        if text not in TYPES:
            raise _Malformed(f"type {text!r:.40}; expected one of {', '.join(TYPES)}")
        if family.type is not None:
            self._break("second TYPE", f"line {number}: {name} has a second TYPE")
        elif family.samples:
            self._break("late TYPE", f"line {number}: the TYPE of {name} follows its samples")
        family.type = text

    def _family(self, name: str) -> Family:
        return self.families.setdefault(name, Family(name))

    def _add(self, sample: Sample) -> None:
        self.series += 1
        first = self._seen.setdefault((sample.name, sample.labels), sample.line)
        if first != sample.line:
            self._break("duplicate series", f"line {sample.line}: {series_name(sample)} stands in line {first} already")
        family = self._family_of(sample.name)
        if family is not self._current:
            if family.name in self._ended:
                self._break("split metric", f"line {sample.line}: {family.name} goes on after other metrics")
            if self._current is not None:
                self._ended.add(self._current.name)
            self._current = family
        family.samples.append(sample)

    def _family_of(self, name: str) -> Family:
        if name not in self.families:
            for type, suffixes in _SUFFIXES.items():
                for suffix in suffixes:
                    base = self.families.get(name.removesuffix(suffix))
                    if base is not None and base.type == type and name.endswith(suffix):
                        return base
        return self._family(name)


def series_name(sample: Sample) -> str:
    """The series as one would write it in a query."""
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels)
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def series_of(line: str) -> tuple[str, Labels]:
    """The name and labels that a sample line of either format begins with. ValueError if it doesn't."""
    name = _NAME.match(line)
    if name is None:
        raise _Malformed("it doesn't begin with the name of a metric")
    return name[0], _labels(line, name.end())[0]


def _sample(number: int, line: str) -> Sample:
    start = len(line) - len(line.lstrip(" \t"))
    name = _NAME.match(line, start)
    if name is None:
        raise _Malformed("it doesn't begin with the name of a metric")
    labels, end = _labels(line, name.end())
    value = _VALUE.fullmatch(line, end)
    if value is None or not line.startswith((" ", "\t", "{"), name.end()):
        raise _Malformed("no value, or more than a value and a timestamp in milliseconds")
    return Sample(number, name[0], labels, float(value[1]), value[2] is not None)


def _labels(line: str, start: int) -> tuple[Labels, int]:
    """The labels, and where they end."""
    at = _after_space(line, start)
    if not line.startswith("{", at):
        return (), start
    at += 1
    labels: dict[str, str] = {}
    while not line.startswith("}", _after_space(line, at)):
        label = _LABEL.match(line, at)
        if label is None:
            raise _Malformed('the labels aren\'t name="value", separated by commas')
        if label[1] in labels:
            raise _Malformed(f"the label {label[1]} stands there twice")
        labels[label[1]] = _unescaped(label[2])
        at = label.end()
        if line.startswith(",", at):
            at += 1
        elif not line.startswith("}", at):
            raise _Malformed("the labels don't end with }")
    return tuple(sorted(labels.items())), line.index("}", at) + 1


def _after_space(line: str, start: int) -> int:
    space = _SPACE.match(line, start)
    return start if space is None else space.end()


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text

    def character(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPED:
            raise _Malformed(f'{found[0]} is no escape; expected \\\\, \\" or \\n')
        return _ESCAPED[found[1]]

    return _ESCAPE.sub(character, text)
