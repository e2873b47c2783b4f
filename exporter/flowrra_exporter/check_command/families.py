"""What holds within one metric: its buckets add up, its counts never fall below 0, its labels are its own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from flowrra_exporter.check_command.exposition import Family, Labels, Sample, series_name
from flowrra_exporter.check_command.findings import Level, Rule


def broken_figures(families: Iterable[Family]) -> Iterator[Rule]:
    """The metrics whose samples contradict their type, or each other."""
    for family in families:
        if family.type == "histogram":
            yield from _histogram(family)
        elif family.type == "summary":
            yield from _summary(family)
        elif family.type == "counter":
            yield from _counts(family.samples)


def _broken(rule: str, message: str) -> Rule:
    return Rule(rule, Level.ERROR, message)


def _counts(samples: Iterable[Sample]) -> Iterator[Rule]:
    for sample in samples:
        if math.isnan(sample.value) or sample.value < 0:
            yield _broken("impossible count", f"{series_name(sample)} is {sample.value:g}; expected 0 or more")


def _histogram(family: Family) -> Iterator[Rule]:
    buckets: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    others: dict[str, dict[Labels, float]] = defaultdict(dict)
    for sample in family.samples:
        if sample.name != f"{family.name}_bucket":
            others[sample.name.removeprefix(family.name)][sample.labels] = sample.value
            continue
        bound = _number(sample.label("le"))
        if bound is None:
            yield _broken("bucket without a bound", f"{series_name(sample)} has no number in its label le")
        else:
            buckets[sample.without("le")].append((bound, sample.value))
    if "" in others:
        yield _broken("sample of a histogram", f"{family.name} is a histogram; expected _bucket, _sum and _count only")
    for labels in dict.fromkeys((*buckets, *others["_count"], *others["_sum"])):
        name = series_name(Sample(0, family.name, labels, 0.0, False))
        yield from _one_histogram(name, sorted(buckets[labels]), others["_count"].get(labels))
        if labels not in others["_sum"]:
            yield _broken("histogram without a sum", f"{name} has no _sum")


def _one_histogram(name: str, buckets: list[tuple[float, float]], count: float | None) -> Iterator[Rule]:
    if not buckets or buckets[-1][0] != math.inf:
        yield _broken("histogram without +Inf", f'{name} has no bucket le="+Inf"')
    elif count is not None and buckets[-1][1] != count:
        yield _broken("count of a histogram", f"{name} has _count {count:g} and bucket +Inf {buckets[-1][1]:g}")
    if count is None:
        yield _broken("histogram without a count", f"{name} has no _count")
    for (lower, fewer), (upper, more) in pairwise(buckets):
        if more < fewer or math.isnan(more):
            yield _broken("falling buckets", f"{name}: bucket {upper:g} has {more:g}, bucket {lower:g} has {fewer:g}")


def _summary(family: Family) -> Iterator[Rule]:
    yield from _counts(sample for sample in family.samples if sample.name == f"{family.name}_count")
    for sample in family.samples:
        if sample.name == family.name:
            quantile = _number(sample.label("quantile"))
            if quantile is None or not 0 <= quantile <= 1:
                yield _broken("quantile", f"{series_name(sample)} has no number from 0 to 1 in its label quantile")


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number
