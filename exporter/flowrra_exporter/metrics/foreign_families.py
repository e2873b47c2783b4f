"""Reads what the collectors of a prometheus_client registry yield, so that every format can serve it.

A user's collector can yield anything. What is read here is plain: valid names, texts that UTF-8 can carry, figures that
are numbers, and samples that are what the type of their family promises. What can't be served is left out by itself and
said (``LeftOut``); samples that don't fit the type of their family are served without it, as ``unknown``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample

from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import valid_names
from flowrra_exporter.metrics.catalog import CATALOG, RESERVED_NAMES
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.metrics.samples import ForeignFamily, series_of

# Why a time series is left out.
REASONS = ("no_family", "name", "label", "value", "timestamp", "size", "native_histogram", "duplicate", "name_taken")
# What follows the name of a family in the names of its samples, by type.
SUFFIXES = {
    "counter": ("_total", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    "info": ("_info",),
    "gauge": ("",),
    "stateset": ("",),
    "unknown": ("",),
}
# Of one sample's labels together. An OTLP receiver takes no more than a few MiB at once.
MAX_LABEL_CHARACTERS = 4096

_MAX_HELP_CHARACTERS = 4096
_MAX_NAME_CHARACTERS = 512
_MAX_EXEMPLAR_CHARACTERS = 128  # OpenMetrics
# Seconds: in milliseconds still a number of 64 bits.
_MAX_TIME = 1e12
_MAX_COUNT = 2**63
_Labels = tuple[tuple[str, str], ...]


class _Unfit(ValueError):
    """What can't be served: why, by one of REASONS, and in words."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class LeftOut:
    """How many time series were left out, by metric and reason, and for each pair what was wrong the first time."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], int] = {}
        self.examples: dict[tuple[str, str], str] = {}

    def add(self, metric: str, reason: str, example: str, series: int = 1) -> None:
        """Notes that ``series`` time series of ``metric`` are left out."""
        key = metric, reason
        self.series[key] = self.series.get(key, 0) + series
        self.examples.setdefault(key, example)

    def copy(self) -> LeftOut:
        """Another one with the same notes."""
        other = LeftOut()
        other.series, other.examples = dict(self.series), dict(self.examples)
        return other


class Found(NamedTuple):
    """A family as it was read. ``raw_name`` is the name that its collector gave it."""

    raw_name: str
    family: ForeignFamily


def read_family(raw: Any, left_out: LeftOut, pace: Callable[[], None] = lambda: None) -> list[Found]:
    """What a collector yielded as families that can be served: usually one, none if nothing can be.

    Args:
        yielded: What the collector yielded.
        left_out: Is told what can't be served.
        pace: Is called between the samples, and may raise to end the reading.
    """
    try:
        name, type, samples = raw.name, raw.type, raw.samples
        help, unit = _text(raw.documentation or ""), _text(getattr(raw, "unit", "") or "")
    except Exception as error:  # noqa: BLE001 - a user's object may raise anything
        left_out.add(_shown(raw), "no_family", f"it is no family of metrics: {_shown(error)}")
        return []
    shown = _shown(name)
    try:
        valid = _metric_name(name)
    except _Unfit as unfit:
        left_out.add(shown, unfit.reason, str(unfit), max(1, _length(samples)))
        return []
    if not isinstance(type, str) or type not in SUFFIXES:
        type = "unknown"
    if type in ("counter", "info"):
        valid = valid.removesuffix(SUFFIXES[type][0])
    read = _Reading(shown, left_out, pace).read(samples)
    return [
        Found(name if family.name == valid else family.name, family)
        for family in families_of(valid, type, help[:_MAX_HELP_CHARACTERS], unit, read, left_out)
    ]


class _Reading:
    """Reads the samples of one family, called ``metric`` in messages."""

    def __init__(self, metric: str, left_out: LeftOut, pace: Callable[[], None]) -> None:
        self._metric = metric
        self._left_out = left_out
        self._pace = pace
        self._names: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    def read(self, samples: Any) -> list[Sample]:
        found = list(self._each(samples))
        # First all of them: a label must have the same valid name in each sample.
        names: dict[str, None] = {}
        for sample in found:
            if sample.labels:
                names.update(dict.fromkeys(sample.labels))
        self._labels = valid_names.label_names(names)
        if all(name == valid for name, valid in self._labels.items()):
            return found
        return [
            sample._replace(labels={self._labels[label]: value for label, value in sample.labels.items()})
            for sample in found
        ]

    def _each(self, samples: Any) -> Iterator[Sample]:
        """The samples with figures and texts made plain, but their labels' own names."""
        try:
            for raw in samples:
                self._pace()
                try:
                    yield self._sample(raw)
                except _Unfit as unfit:
                    self._left_out.add(self._metric, unfit.reason, str(unfit))
        except Exception as error:  # noqa: BLE001 - ``samples`` may be anything
            self._left_out.add(self._metric, "no_family", f"its samples can't be read: {_shown(error)}")

    def _sample(self, raw: Any) -> Sample:
        try:
            raw_name, raw_labels, value = raw.name, raw.labels, raw.value
            timestamp, exemplar = raw.timestamp, raw.exemplar
            native = getattr(raw, "native_histogram", None)
        except Exception as error:
            raise _Unfit("no_family", f"{_shown(raw)} is no sample: {_shown(error)}") from error
        if native is not None:
            raise _Unfit("native_histogram", "neither format can carry a native histogram")
        name = self._names.get(raw_name) if isinstance(raw_name, str) else None
        if name is None:
            name = self._names[raw_name] = _metric_name(raw_name)
        labels = _labels(raw_labels)
        return Sample(name, labels, _value(value), _time(timestamp), self._exemplar(exemplar))

    def _exemplar(self, raw: Any) -> Exemplar | None:
        """An exemplar; None for one that can't be served, which its sample can be without."""
        if raw is None:
            return None
        try:
            labels = _labels(raw.labels)
            names = valid_names.label_names(labels)
            labels = {names[name]: value for name, value in labels.items()}
            if sum(len(name) + len(value) for name, value in labels.items()) > _MAX_EXEMPLAR_CHARACTERS:
                raise _Unfit("exemplar", f"its labels have more than {_MAX_EXEMPLAR_CHARACTERS} characters")
            return Exemplar(labels, _value(raw.value), _time(raw.timestamp))
        except Exception as error:  # noqa: BLE001 - a user's object may raise anything
            self._left_out.add(self._metric, "exemplar", f"an exemplar can't be served: {_shown(error)}", 0)
            return None


def _text(value: Any) -> str:
    """A text that UTF-8 can carry: a lone surrogate becomes its escape."""
    text = value if type(value) is str else str(value)
    return text if text.isascii() and type(text) is str else text.encode(errors="backslashreplace").decode()


def _shown(value: Any) -> str:
    """A user's object in a message."""
    try:
        if isinstance(value, BaseException):
            return mask_secrets(_text(f"{type(value).__name__}: {value}"))[:200]
        return mask_secrets(_text(value) if isinstance(value, str) else _text(repr(value)))[:200]
    except Exception:  # noqa: BLE001 - it may raise anything
        return type(value).__name__


def _length(samples: Any) -> int:
    try:
        return len(samples)
    except Exception:  # noqa: BLE001 - it may raise anything
        return 0


def _metric_name(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise _Unfit("name", f"{_shown(raw)!r} names no metric; expected a text")
    if len(raw) > _MAX_NAME_CHARACTERS:
        raise _Unfit("size", f"its name has {len(raw)} characters; expected no more than {_MAX_NAME_CHARACTERS}")
    return valid_names.metric_name(raw)


def _labels(raw: Any) -> dict[str, str]:
    """The labels under the names that they were given."""
    if not raw:
        return {}
    try:
        labels = {name: _text(value) for name, value in raw.items()}
    except Exception as error:
        raise _Unfit("label", f"its labels can't be read: {_shown(error)}") from error
    for name in labels:
        if not isinstance(name, str) or not name or name.startswith("__"):
            raise _Unfit("label", f"a label is called {_shown(name)!r}; expected a text that doesn't begin with __")
    size = sum(len(name) + len(value) for name, value in labels.items())
    if size > MAX_LABEL_CHARACTERS:
        raise _Unfit("size", f"its labels have {size} characters; expected no more than {MAX_LABEL_CHARACTERS}")
    return labels


def _value(raw: Any) -> float:
    try:
        return float(raw)
    except Exception as error:
        raise _Unfit("value", f"a value is {_shown(raw)}; expected a number") from error


def _time(raw: Any) -> float | None:
    if raw is None:
        return None
    try:
        seconds = math.nan if isinstance(raw, str | bytes) else float(raw)
    except Exception as error:
        raise _Unfit("timestamp", f"a timestamp is {_shown(raw)}; expected seconds") from error
    if not -_MAX_TIME < seconds < _MAX_TIME:
        raise _Unfit("timestamp", f"a timestamp is {_shown(raw)}; expected seconds since 1970")
    return seconds


# Families, and what their types promise:


def families_of(
    name: str, type: str, help: str, unit: str, samples: Iterable[Sample], left_out: LeftOut
) -> list[ForeignFamily]:
    """The family of these samples, and one of type unknown for each name of a sample that doesn't belong to it.

    So are all of them, if a family isn't what its type promises.
    """
    names = {name + suffix for suffix in SUFFIXES[type]}
    seen: set[tuple[str, _Labels]] = set()
    own: list[Sample] = []
    others: list[Sample] = []
    for sample in samples:
        series = series_key(sample)
        if series in seen:
            left_out.add(name, "duplicate", f"it has {sample.name} with the labels {dict(series[1])} twice")
            continue
        seen.add(series)
        (own if sample.name in names else others).append(sample)
    own = [sample for sample in own if not _is_created(name, type, sample) or _is_time(sample.value)]
    arranged = _arranged(name, type, own)
    if arranged is None:
        others = [*(sample for sample in own if not _is_created(name, type, sample)), *others]
        arranged = []
    by_name: dict[str, list[Sample]] = {}
    for sample in others:
        by_name.setdefault(sample.name, []).append(sample)
    found = [(name, type, unit, arranged)] if arranged else []
    found += [(other, "unknown", "", some) for other, some in by_name.items()]
    return [
        _family(name, type, help, unit, _with_fitting_exemplars(type, samples, left_out))
        for name, type, unit, samples in found
    ]


def series_key(sample: Sample) -> tuple[str, _Labels]:
    """What Prometheus tells series apart by: an empty label is none."""
    labels = sample.labels
    return sample.name, tuple(sorted((label, value) for label, value in labels.items() if value)) if labels else ()


def group_key(name: str, type: str, sample: Sample) -> Hashable:
    """What the samples of one histogram, summary or state set have in common: all labels but the one within it."""
    without = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile", "stateset": name}.get(type)
    if without is None:
        return series_key(sample)
    return tuple(sorted((label, value) for label, value in sample.labels.items() if value and label != without))


def _is_created(name: str, type: str, sample: Sample) -> bool:
    return "_created" in SUFFIXES[type] and sample.name == f"{name}_created"


def _is_time(seconds: float) -> bool:
    return 0 <= seconds < _MAX_TIME


def _family(name: str, type: str, help: str, unit: str, samples: list[Sample]) -> ForeignFamily:
    family = Metric(name, help, type)
    family.unit = unit if unit and name.endswith(f"_{unit}") and type not in ("info", "stateset") else ""
    family.samples = samples
    return family


def _with_fitting_exemplars(type: str, samples: list[Sample], left_out: LeftOut) -> list[Sample]:
    """OpenMetrics has exemplars of totals and of buckets alone."""
    suffix = {"counter": "_total", "histogram": "_bucket", "gaugehistogram": "_bucket"}.get(type)
    for place, sample in enumerate(samples):
        if sample.exemplar is not None and (suffix is None or not sample.name.endswith(suffix)):
            left_out.add(sample.name, "exemplar", "an exemplar is neither of a counter nor of a bucket", 0)
            samples[place] = sample._replace(exemplar=None)
    return samples


def _arranged(name: str, type: str, samples: Sequence[Sample]) -> list[Sample] | None:
    """The samples in the order in which OpenMetrics wants them, group by group; None if they aren't of this type."""
    if type in ("gauge", "unknown"):
        return list(samples)
    groups: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(group_key(name, type, sample), []).append(sample)
    arrange = _ARRANGE[type]
    found: list[Sample] = []
    for group in groups.values():
        arranged = arrange(name, group) if len({sample.timestamp for sample in group}) == 1 else None
        if arranged is None:
            return None
        found += arranged
    return found


def _counter(_name: str, group: list[Sample]) -> list[Sample] | None:
    return group if all(sample.value >= 0 for sample in group) else None


def _info(_name: str, group: list[Sample]) -> list[Sample] | None:
    return group if all(sample.value == 1 and sample.timestamp is None for sample in group) else None


def _stateset(name: str, group: list[Sample]) -> list[Sample] | None:
    return group if all(name in sample.labels and sample.value in (0, 1) for sample in group) else None


def _summary(name: str, group: list[Sample]) -> list[Sample] | None:
    parts = _by_suffix(name, group)
    quantiles = parts.get("", [])
    fits = (
        all(0 <= _number(sample.labels.get("quantile")) <= 1 and not sample.value < 0 for sample in quantiles)
        and all(_is_count(sample.value) for sample in parts.get("_count", ()))
        and all(sample.value >= 0 for sample in parts.get("_sum", ()))
    )
    return group if fits else None


def _histogram(name: str, group: list[Sample]) -> list[Sample] | None:
    """The buckets from the lowest up, then count and sum."""
    parts = _by_suffix(name, group)
    buckets = [(_number(sample.labels.get("le")), sample) for sample in parts.pop("_bucket", ())]
    buckets.sort(key=lambda bucket: bucket[0])
    bounds = [bound for bound, _ in buckets]
    if not bounds or any(map(math.isnan, bounds)) or bounds[-1] != math.inf or len(set(bounds)) != len(bounds):
        return None
    values = [sample.value for _, sample in buckets]
    if not all(map(_is_count, values)) or values != sorted(values):
        return None
    count = parts.get("_count") or parts.get("_gcount")
    sums = parts.get("_sum") or parts.get("_gsum")
    if (count is None) != (sums is None):
        return None
    if count is not None and sums is not None:
        total, is_negative = sums[0].value, bounds[0] < 0
        if count[0].value != values[-1] or math.isnan(total):
            return None
        if (is_negative and "_sum" in parts) or (total < 0 and not is_negative):
            return None
    last = buckets[-1][1]
    buckets[-1] = math.inf, last._replace(labels={**last.labels, "le": "+Inf"})  # however it was written
    return [*(sample for _, sample in buckets), *(sample for some in parts.values() for sample in some)]


def _by_suffix(name: str, group: Sequence[Sample]) -> dict[str, list[Sample]]:
    parts: dict[str, list[Sample]] = {}
    for sample in group:
        parts.setdefault(sample.name.removeprefix(name), []).append(sample)
    return parts


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def _is_count(value: float) -> bool:
    return 0 <= value < _MAX_COUNT and value.is_integer()


_ARRANGE: dict[str, Callable[[str, list[Sample]], list[Sample] | None]] = {
    "counter": _counter,
    "info": _info,
    "stateset": _stateset,
    "summary": _summary,
    "histogram": _histogram,
    "gaugehistogram": _histogram,
}


# Families together:


class Gathered:
    """The families of one collector as it yields them; those of one name and type become one."""

    def __init__(self, left_out: LeftOut) -> None:
        self._left_out = left_out
        self._found: dict[tuple[str, str, str], Found] = {}
        self._groups: dict[tuple[str, str, str], set[Hashable]] = {}

    def __iter__(self) -> Iterator[Found]:
        return iter(self._found.values())

    def add(self, found: Found) -> None:
        """Adds what was read. A series that is there already is left out."""
        key = found.raw_name, found.family.name, found.family.type
        same = self._found.setdefault(key, found)
        if same is not found:
            groups = self._groups.setdefault(key, set())
            same.family.samples += _new_samples(same.family, found.family, groups, self._left_out)


def _new_samples(same: ForeignFamily, family: ForeignFamily, groups: set[Hashable], left_out: LeftOut) -> list[Sample]:
    """The samples of ``family`` that can join ``same``, whose groups are kept in ``groups`` from the first time on."""
    name, type = same.name, same.type
    if not groups:
        groups.update(group_key(name, type, sample) for sample in same.samples)
    new = [sample for sample in family.samples if group_key(name, type, sample) not in groups]
    if len(new) < len(family.samples):
        left_out.add(name, "duplicate", "the same series is there already", len(family.samples) - len(new))
    groups.update(group_key(name, type, sample) for sample in new)
    return new


def _claimed(name: str, type: str) -> set[str]:
    """All names that a family takes from others, whether it has such samples or not."""
    return {name, *(name + suffix for suffix in SUFFIXES[type])}


_OURS = RESERVED_NAMES.union(*(_claimed(metric.family_name, metric.type) for metric in CATALOG))


async def merged(found: Sequence[tuple[Found, LeftOut]]) -> list[ForeignFamily]:
    """The families of several collectors, each with where to say what is left out; those of one name become one.

    Where names are the same only by their escaping, they are told apart. Where one takes the name of one before it that
    has another type, or a name of ours, it's left out.
    """
    pacer = Pacer()
    raw_names: dict[str, set[str]] = {}
    for each, _ in found:
        raw_names.setdefault(each.family.name, set()).add(each.raw_name)
    merging = _Merging()
    for each, left_out in found:
        await pacer.pause_if_due()
        family = each.family
        own_names = (family.name, family.name + SUFFIXES[family.type][0])
        if len(raw_names[family.name]) > 1 and each.raw_name not in own_names:
            family = _renamed(family, valid_names.spelled_out(each.raw_name))
        merging.add(family, each.raw_name, left_out)
    return list(merging.families.values())


def _renamed(family: ForeignFamily, name: str) -> ForeignFamily:
    old, type = family.name, family.type

    def label(each: str) -> str:
        return name if type == "stateset" and each == old else each

    samples = [
        sample._replace(
            name=name + sample.name.removeprefix(old),
            labels={label(each): value for each, value in sample.labels.items()},
        )
        for sample in family.samples
    ]
    return _family(name, type, family.documentation, "", samples)


class _Merging:
    def __init__(self) -> None:
        self.families: dict[str, ForeignFamily] = {}
        self._owners: dict[str, str] = {}
        self._groups: dict[str, set[Hashable]] = {}

    def add(self, family: ForeignFamily, raw_name: str, left_out: LeftOut) -> None:
        same = self.families.get(family.name)
        if same is not None and same.type == family.type:
            self._join(same, family, left_out)
            return
        names = _claimed(family.name, family.type)
        taken = names & _OURS or names & self._owners.keys()
        if taken:
            name = min(taken)
            owner = self._owners.get(name, "Flowrra")
            left_out.add(raw_name, "name_taken", f"its name is taken: {name} belongs to {owner}", series_of(family))
            return
        self.families[family.name] = family
        self._owners.update(dict.fromkeys(names, family.name))

    def _join(self, same: ForeignFamily, family: ForeignFamily, left_out: LeftOut) -> None:
        name = same.name
        groups = self._groups.get(name)
        if groups is None:
            # Not into the first one's own list: that is what its collector has found, and will be merged again.
            groups = self._groups[name] = set()
            same = self.families[name] = _family(name, same.type, same.documentation, same.unit, [*same.samples])
        same.samples += _new_samples(same, family, groups, left_out)
