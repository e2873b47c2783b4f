"""Prometheus' conventions of names: https://prometheus.io/docs/practices/naming/. What breaks them is stored all the
same, so it's a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client import Metric

from flowrra_exporter.check_command.findings import Level, Rule

_BASE_UNITS = {
    "seconds": "nanoseconds microseconds milliseconds minutes hours days weeks ms us ns",
    "bytes": "bits kilobytes megabytes gigabytes terabytes kibibytes mebibytes gibibytes kb mb gb",
    "ratio": "percent percentage",
    "celsius": "fahrenheit kelvin",
    "meters": "kilometers centimeters millimeters inches feet miles",
}
_BASE_UNIT_OF = {unit: base for base, units in _BASE_UNITS.items() for unit in units.split()}
_UNTYPED = "unknown"
_TARGET_LABELS = ("instance", "job")
_CAMEL_CASE = re.compile(r"[a-z][A-Z]")
_RESERVED_SUFFIXES = {
    "_total": ("counter",),
    "_bucket": ("histogram",),
    "_count": ("histogram", "summary"),
    "_sum": ("histogram", "summary"),
}
_RESERVED_LABELS = {"le": "histogram", "quantile": "summary"}


def broken_conventions(families: Iterable[Metric]) -> Iterator[Rule]:
    """The metrics whose names, labels or comments aren't as Prometheus' users expect them."""
    for family in families:
        # The parser has taken the suffix off.
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield from _comments(name, family)
        yield from _name(name, family.type)
        yield from _labels(name, family)


def _broken(rule: str, message: str) -> Rule:
    return Rule(rule, Level.WARNING, message)


def _comments(name: str, family: Metric) -> Iterator[Rule]:
    if not family.documentation:
        yield _broken("no HELP", f"{name} has no HELP")
    if family.type == _UNTYPED:
        yield _broken("no TYPE", f"{name} has no TYPE")


def _name(name: str, type: str) -> Iterator[Rule]:
    for suffix, types in _RESERVED_SUFFIXES.items():
        if name.endswith(suffix) and type != _UNTYPED and type not in types:
            yield _broken(
                "reserved suffix", f"{name} is of type {type}; expected {suffix} of a {' or '.join(types)} only"
            )
    words = name.lower().split("_")
    for word in words:
        if word in _BASE_UNIT_OF:
            yield _broken("no base unit", f"{name} is in {word}; expected the base unit, {_BASE_UNIT_OF[word]}")
    if type in words and type in ("counter", "gauge", "histogram", "summary"):
        yield _broken("type in the name", f"{name} has its type in its name")
    if _CAMEL_CASE.search(name):
        yield _broken("camelCase", f"{name} is in camelCase; expected snake_case")
    if ":" in name:
        yield _broken("colon", f"{name} has a colon; expected those in the names of recording rules only")


def _labels(name: str, family: Metric) -> Iterator[Rule]:
    for label in sorted({label for sample in family.samples for label in sample.labels}):
        if label in _TARGET_LABELS:
            yield _broken("target label", f"{name} has the label {label}, which is the scraped target's")
        if _CAMEL_CASE.search(label):
            yield _broken("camelCase", f"{name} has the label {label}; expected snake_case")
        owner = _RESERVED_LABELS.get(label)
        if owner is not None and family.type not in (owner, _UNTYPED):
            yield _broken("reserved label", f"{name} has the label {label}; expected it of a {owner} only")
    if any(sample.timestamp is not None for sample in family.samples):
        yield _broken("timestamp", f"{name} has timestamps: Prometheus won't see when it is gone")
