"""Samples to the Prometheus text format 0.0.4 and to OpenMetrics 1.0, from prepared lines.

What comes before a value (name, labels, bucket bounds) is formatted once per label set and kept, and so is
the text of a value that hasn't changed since the last scrape: a scrape joins prepared lines. The sample lines
of the two formats are equal, the comment lines differ. Rendering yields slices of about a millisecond, so
that the caller can give the interpreter lock back in between: a scrape must not slow the app's loop.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import accumulate
from typing import TypeVar

from prometheus_client.samples import Exemplar as ForeignExemplar
from prometheus_client.samples import Sample

from flowrra_exporter.metrics.catalog import TASK_RUN_DURATION, Metric
from flowrra_exporter.metrics.exemplars import Exemplar, Exemplars
from flowrra_exporter.metrics.pacing import SLICE_SECONDS
from flowrra_exporter.metrics.samples import (
    AnyFamily,
    Distribution,
    Family,
    ForeignFamily,
    Labels,
    Number,
    Point,
    served_samples,
)

# Between clock readings: what takes a tenth of a millisecond or two when all of it is new.
_LINES_IN_ONE_GO = 64
_BLOCKS_IN_ONE_GO = 8
_SPARE_PREPARED = 64


class Format(Enum):
    """An output format; its value is the Content-Type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class _Line:
    """A prepared sample line: what stands before the value, and the whole line for the value of the last scrape."""

    __slots__ = ("prefix", "text", "value")

    def __init__(self, metric: Metric, labels: Labels) -> None:
        self.prefix = f"{metric.name}{_label_text(metric.labels, labels)} "
        self.value: Number | None = None
        self.text = b""

    def show(self, value: Number) -> None:
        self.value = value
        figure = value if type(value) is int else format_number(value)
        self.text = f"{self.prefix}{figure}\n".encode()


class _Block:
    """The prepared lines of one histogram: a template with places for the figures.

    It is made of bytes, since those fill in integers much faster than text does.
    """

    __slots__ = ("bounds", "template", "text", "value")

    def __init__(self, metric: Metric, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        le = (*(format_number(float(bound)) for bound in bounds), "+Inf")
        names = (*metric.labels, "le")
        own = _label_text(metric.labels, labels)
        integers = [
            *(f"{metric.name}_bucket{_label_text(names, (*labels, bound))}" for bound in le),
            f"{metric.name}_count{own}",
        ]
        template = "".join(f"{_literal(series)} %d\n" for series in integers)
        self.template = f"{template}{metric.name}_sum{_literal(own)} %b\n".encode()
        self.value: Distribution | None = None
        self.text = b""

    def render(self, value: Distribution) -> bytes:
        if value != self.value:
            self.value = value
            buckets = tuple(accumulate(value.counts))
            self.text = self.template % (*buckets, buckets[-1], format_number(value.sum).encode())
        return self.text

    def render_with(self, value: Distribution, exemplars: Sequence[Exemplar | None]) -> bytes:
        """The lines with an exemplar after each bucket that has one and an observation."""
        lines = self.render(value).split(b"\n")
        for place, exemplar in enumerate(exemplars):
            if exemplar is not None and value.counts[place]:
                lines[place] += exemplar.openmetrics().encode()
        return b"\n".join(lines)


def _literal(text: str) -> str:
    """Text that stands for itself in a template."""
    return text.replace("%", "%%")


_Prepared = TypeVar("_Prepared", _Line, _Block)


class Renderer:
    """Renders families; keeps the prepared lines of what it rendered last.

    Not for several threads at once. What it keeps is bounded by what is served: lines of label sets that are
    gone are dropped when they outnumber the living.

    Args:
        exemplars: Returns what tracing has kept of run durations. They go into OpenMetrics; the text format has no
            place for them.
    """

    def __init__(self, exemplars: Callable[[], Exemplars | None] = lambda: None) -> None:
        self._exemplars = exemplars
        self._lines: dict[str, dict[Labels, _Line]] = {}
        self._blocks: dict[str, dict[Labels, _Block]] = {}

    def render(self, families: Iterable[AnyFamily], format: Format) -> Iterator[bytes]:
        """Yields the exposition in slices that took about a millisecond each to make (UTF-8).

        The families' names must be unique. A family without points is left out.
        """
        pieces: list[bytes] = []
        until = time.perf_counter() + SLICE_SECONDS
        for piece in self._pieces(families, format):
            if piece is not None:
                pieces.append(piece)
            elif time.perf_counter() >= until:
                yield b"".join(pieces)
                pieces.clear()
                until = time.perf_counter() + SLICE_SECONDS
        if format is Format.OPENMETRICS:
            pieces.append(b"# EOF\n")
        yield b"".join(pieces)

    def _pieces(self, families: Iterable[AnyFamily], format: Format) -> Iterator[bytes | None]:
        """Text, with a None every few points: a good moment to look at the clock."""
        for family in families:
            if isinstance(family, Family):
                if family.points:
                    yield _header(family.metric, format).encode()
                    yield from self._own(family, format)
            else:
                for text in _foreign(family, format):
                    yield None if text is None else text.encode()

    def _own(self, family: Family, format: Format) -> Iterator[bytes | None]:
        points, metric = family.points, family.metric
        exemplars = self._exemplars() if metric is TASK_RUN_DURATION and format is Format.OPENMETRICS else None
        is_histogram = metric.type == "histogram"
        step = _BLOCKS_IN_ONE_GO if is_histogram else _LINES_IN_ONE_GO
        for start in range(0, len(points), step):
            some = points[start : start + step]
            yield self._render_blocks(metric, some, exemplars) if is_histogram else self._render_lines(metric, some)
            yield None
        self._forget_the_gone(family)

    def _render_lines(self, metric: Metric, points: list[Point]) -> bytes:
        prepared = self._lines.setdefault(metric.name, {})
        texts = []
        for labels, value in points:
            line = prepared.get(labels)
            if line is None:
                line = prepared[labels] = _Line(metric, labels)
            if value != line.value:
                line.show(value)  # type: ignore[arg-type]  # only histograms have distributions
            texts.append(line.text)
        return b"".join(texts)

    def _render_blocks(self, metric: Metric, points: list[Point], exemplars: Exemplars | None) -> bytes:
        prepared = self._blocks.setdefault(metric.name, {})
        texts = []
        for labels, value in points:
            if not isinstance(value, Distribution):
                raise TypeError(f"{metric.name} is a histogram; got {value!r} instead of a Distribution")
            block = prepared.get(labels)
            if block is None or block.bounds != value.bounds:
                block = prepared[labels] = _Block(metric, labels, value.bounds)
            kept = None if exemplars is None else exemplars.of(labels, value.bounds)
            texts.append(block.render(value) if kept is None else block.render_with(value, kept))
        return b"".join(texts)

    def _forget_the_gone(self, family: Family) -> None:
        if family.metric.type == "histogram":
            _keep_only(self._blocks, family)
        else:
            _keep_only(self._lines, family)


def _keep_only(prepared: dict[str, dict[Labels, _Prepared]], family: Family) -> None:
    kept = prepared[family.metric.name]
    if len(kept) > 2 * len(family.points) + _SPARE_PREPARED:
        prepared[family.metric.name] = {labels: kept[labels] for labels, _ in family.points}


def format_number(value: Number) -> str:
    """A sample's value as both formats want it: ``42``, ``0.25``, ``1e+22``, ``+Inf``, ``NaN``."""
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    return str(int(value))


def escape_label_value(value: str) -> str:
    """A label's value as it stands between the quotes, in both formats.

    A lone surrogate can't be encoded as UTF-8; it becomes the six characters of its escape, ``\\udc80`` for
    one.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _label_text(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = [f'{name}="{escape_label_value(value)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _header(metric: Metric, format: Format) -> str:
    if format is Format.OPENMETRICS:
        return _comments(metric.family_name, metric.type, metric.help, metric.unit, format)
    return _comments(metric.name, "gauge" if metric.type == "info" else metric.type, metric.help, "", format)


def _comments(name: str, type: str, help: str, unit: str, format: Format) -> str:
    help = help.replace("\\", r"\\").replace("\n", r"\n")
    if format is Format.OPENMETRICS:
        help = help.replace('"', r"\"")
    unit_line = f"# UNIT {name} {unit}\n" if unit else ""
    return f"# HELP {name} {help}\n# TYPE {name} {type}\n{unit_line}"


# What prometheus_client collects, as ``foreign_families`` has read it. Any type, any labels, so nothing is prepared;
# the text format knows fewer types, whose samples then form families of their own.

_TEXT_TYPES = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}
_TEXT_SUFFIXES = {"counter": "_total", "info": "_info"}
_OWN_FAMILY_IN_TEXT = ("_gsum", "_gcount")


def _foreign(family: ForeignFamily, format: Format) -> Iterator[str | None]:
    name, samples = family.name, served_samples(family)
    if format is Format.OPENMETRICS:
        yield _comments(name, family.type, family.documentation, family.unit, format)
    else:
        # prometheus_client's own text output does the same: https://github.com/prometheus/client_python
        samples, extra = _split(samples, family)
        name += _TEXT_SUFFIXES.get(family.type, "")
        yield _comments(name, _TEXT_TYPES.get(family.type, family.type), family.documentation, "", format)
    yield from _foreign_samples(samples, format)
    if format is Format.TEXT:
        for suffix, extra_samples in extra.items():
            yield _comments(family.name + suffix, "gauge", family.documentation, "", format)
            yield from _foreign_samples(extra_samples, format)


def _split(samples: list[Sample], family: ForeignFamily) -> tuple[list[Sample], dict[str, list[Sample]]]:
    own: list[Sample] = []
    extra: dict[str, list[Sample]] = {}
    for sample in samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix in _OWN_FAMILY_IN_TEXT:
            extra.setdefault(suffix, []).append(sample)
        else:
            own.append(sample)
    return own, extra


def _foreign_samples(samples: list[Sample], format: Format) -> Iterator[str | None]:
    for sample in samples:
        labels = _label_text(sample.labels, sample.labels.values())
        line = f"{sample.name}{labels} {format_number(float(sample.value))}"
        yield f"{line}{_timestamp(sample, format)}{_exemplar(sample.exemplar, format)}\n"
        yield None


def _timestamp(sample: Sample, format: Format) -> str:
    if sample.timestamp is None:
        return ""
    if format is Format.OPENMETRICS:
        return f" {sample.timestamp}"
    return f" {int(float(sample.timestamp) * 1000)}"


def _exemplar(exemplar: ForeignExemplar | None, format: Format) -> str:
    if exemplar is None or format is Format.TEXT:
        return ""
    labels = _label_text(exemplar.labels, exemplar.labels.values()) or "{}"
    at = "" if exemplar.timestamp is None else f" {exemplar.timestamp}"
    return f" # {labels} {format_number(float(exemplar.value))}{at}"
