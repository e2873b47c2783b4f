"""Names of metrics and labels as every Prometheus reads them.

prometheus_client takes any UTF-8 in a name; written out in the newer quoted syntax, one such name would cost an older
Prometheus the whole scrape. So names are escaped as prometheus_client itself does by default, and where that makes two
names one, as Prometheus' scheme does that keeps them apart:
https://prometheus.io/docs/instrumenting/escaping_schemes/.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

_NO_METRIC_CHARACTER = re.compile(r"[^a-zA-Z0-9_:]")
_NO_LABEL_CHARACTER = re.compile(r"[^a-zA-Z0-9_]")
_LEADING_DIGIT = re.compile(r"^[0-9]")


@lru_cache(maxsize=4096)
def metric_name(name: str) -> str:
    """The name of a metric with an underscore for each character that the formats don't know ("underscores")."""
    return _LEADING_DIGIT.sub("_", _NO_METRIC_CHARACTER.sub("_", name))


@lru_cache(maxsize=4096)
def label_name(name: str) -> str:
    """The same for the name of a label, which has no colon either."""
    return _LEADING_DIGIT.sub("_", _NO_LABEL_CHARACTER.sub("_", name))


def spelled_out(name: str) -> str:
    """A name in which each character says which one it was ("values"): ``U__a_2e_b`` for ``a.b``."""
    return "U__" + "".join(map(_spelled, name))


def _spelled(character: str) -> str:
    if character == "_":
        return "__"
    if character.isascii() and character.isalpha():
        return character
    return f"_{ord(character):x}_"


def label_names(names: Iterable[str]) -> dict[str, str]:
    """Names of labels that occur together, each with its valid name: no two have the same one, and none a reserved."""
    escaped = {name: label_name(name) for name in names}
    taken = Counter(escaped.values())
    return {
        name: spelled_out(name) if valid != name and (taken[valid] > 1 or valid.startswith("__")) else valid
        for name, valid in escaped.items()
    }
