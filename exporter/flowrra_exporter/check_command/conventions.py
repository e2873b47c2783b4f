"""Prometheus' conventions of names: https://prometheus.io/docs/practices/naming/. What breaks them is stored all the
same, so it's a warning; but for labels that Prometheus drops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from flowrra_exporter.check_command.exposition import Family
from flowrra_exporter.check_command.findings import Level, Rule

_BASE_UNITS = {
    "seconds": "nanoseconds microseconds milliseconds minutes hours days weeks ms us ns",
    "bytes": "bits kilobytes megabytes gigabytes terabytes kibibytes mebibytes gibibytes kb mb gb",
    "ratio": "percent percentage",
    "celsius": "fahrenheit kelvin",
    "meters": "kilometers centimeters millimeters inches feet miles",
}
_BASE_UNIT_OF = {unit: base for base, units in _BASE_UNITS.items() for unit in units.split()}
_TARGET_LABELS = ("instance", "job")
_CAMEL_CASE = re.compile(r"[a-z][A-Z]")
_RESERVED_SUFFIXES = {
    "_total": ("counter",),
    "_bucket": ("histogram",),
    "_count": ("histogram", "summary"),
    "_sum": ("histogram", "summary"),
}
_RESERVED_LABELS = {"le": "histogram", "quantile": "summary"}


def broken_conventions(families: Iterable[Family]) -> Iterator[Rule]:
    """The metrics whose names, labels or comments aren't as Prometheus' users expect them."""
    for family in families:
        yield from _comments(family)
        yield from _name(family)
        yield from _labels(family)


def _broken(rule: str, message: str) -> Rule:
    return Rule(rule, Level.WARNING, message)


def _comments(family: Family) -> Iterator[Rule]:
    if not family.help:
        yield _broken("no HELP", f"{family.name} has no HELP")
    if family.type is None:
        yield _broken("no TYPE", f"{family.name} has no TYPE")


def _name(family: Family) -> Iterator[Rule]:
    name, type = family.name, family.type
    if type == "counter" and not name.endswith("_total"):
        yield _broken("counter without _total", f"{name} is a counter; expected a name that ends with _total")
    for suffix, types in _RESERVED_SUFFIXES.items():
        if name.endswith(suffix) and type is not None and type not in types:
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


def _labels(family: Family) -> Iterator[Rule]:
    for label in sorted({label for sample in family.samples for label, _ in sample.labels}):
        if label in _TARGET_LABELS:
            yield _broken("target label", f"{family.name} has the label {label}, which is the scraped target's")
        if label.startswith("__"):
            message = f"{family.name} has the label {label}; those with __ are Prometheus' own, and dropped"
            yield Rule("reserved label", Level.ERROR, message)
        if _CAMEL_CASE.search(label):
            yield _broken("camelCase", f"{family.name} has the label {label}; expected snake_case")
        owner = _RESERVED_LABELS.get(label)
        if owner is not None and family.type not in (owner, None):
            yield _broken("reserved label", f"{family.name} has the label {label}; expected it of a {owner} only")
    if any(sample.has_timestamp for sample in family.samples):
        yield _broken("timestamp", f"{family.name} has timestamps: Prometheus won't see when it is gone")
